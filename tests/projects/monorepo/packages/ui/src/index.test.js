test('ui')
