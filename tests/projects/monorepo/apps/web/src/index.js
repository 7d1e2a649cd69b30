export const name = 'web'
