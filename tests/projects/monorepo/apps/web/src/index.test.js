test('web')
