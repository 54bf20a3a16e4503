import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAfter } from '../src/cursor.js';

test('cursors are compared as two numbers of 64 bits', () => {
  assert.ok(isAfter('1732096700000-4', '1732096700000-3'));
  assert.ok(isAfter('1732096700000-10', '1732096700000-9'));
  assert.ok(isAfter('10000000000000-0', '9999999999999-18446744073709551615'));
  assert.ok(isAfter('1-18446744073709551615', '1-18446744073709551614'));
  assert.ok(!isAfter('1-18446744073709551614', '1-18446744073709551615'));
  assert.ok(!isAfter('1-1', '1-1'));
  assert.ok(!isAfter('0-0', '1-0'));
});

test('everything is after no cursor, and nothing is no cursor after anything', () => {
  for (const none of [undefined, '']) {
    assert.ok(isAfter('0-0', none));
    assert.ok(!isAfter(none, '1-0'));
    assert.ok(!isAfter(none, none));
  }
});

test('a cursor of another form is the same or another one', () => {
  assert.ok(isAfter('a.1-2_b.3-4', 'a.1-2_b.3-3'));
  assert.ok(!isAfter('a.1-2_b.3-4', 'a.1-2_b.3-4'));
});
