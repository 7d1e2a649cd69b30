test('core')
