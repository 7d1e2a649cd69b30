test('api')
