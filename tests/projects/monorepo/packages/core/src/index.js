export const name = 'core'
