const ms = require('ms')
console.log(ms('2 days'), require('semver').valid('1.2.3'))
