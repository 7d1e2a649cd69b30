export const name = 'ui'
