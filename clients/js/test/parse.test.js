// The format of HTML, 9.2.6; cases after those of web-platform-tests, eventsource/format-*.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frameReader } from '../src/parse.js';

/** The frames of a stream, and the same however it is cut. */
function frames(text) {
  const read = (pieces) => {
    const found = [];
    const take = frameReader((frame) => found.push(frame));
    pieces.forEach(take);
    return found;
  };
  const whole = read([text]);
  assert.deepEqual(read([...text]), whole, 'cut everywhere');
  for (let at = 1; at < text.length; at++) assert.deepEqual(read([text.slice(0, at), text.slice(at)]), whole, `cut at ${at}`);
  return whole;
}

test('LF, CR and CRLF end lines, also mixed', () => {
  const expected = [{ id: '1', event: 'a', data: 'x\ny' }];
  assert.deepEqual(frames('id: 1\nevent: a\ndata: x\ndata: y\n\n'), expected);
  assert.deepEqual(frames('id: 1\revent: a\rdata: x\rdata: y\r\r'), expected);
  assert.deepEqual(frames('id: 1\r\nevent: a\r\ndata: x\r\ndata: y\r\n\r\n'), expected);
  assert.deepEqual(frames('id: 1\revent: a\ndata: x\r\ndata: y\r\n\n'), expected);
});

test('one space after the colon is none of the value', () => {
  assert.deepEqual(frames('data:x\ndata:  y\ndata: z:\n\n'), [{ data: 'x\n y\nz:' }]);
});

test('a field without a colon is empty', () => {
  assert.deepEqual(frames('data\ndata\n\nid\n\n'), [{ data: '\n' }, { id: '' }]);
});

test('comments and unknown fields are passed over', () => {
  assert.deepEqual(frames(': keepalive\n\n:\ndata: x\n: y\n\n'), [{ data: 'x' }]);
});

test('retry is digits, and an id has no NUL', () => {
  assert.deepEqual(frames('retry: 10\nretry: 10s\nid: 1\nid: 2\0\ndata\n\n'), [{ retry: 10, id: '1', data: '' }]);
});

test('blank and trailing lines of data survive', () => {
  assert.deepEqual(frames('data:\ndata: x\ndata:\ndata:\n\n'), [{ data: '\nx\n\n' }]);
});

test('U+2028 and the like end no line', () => {
  assert.deepEqual(frames('data: a\u2028b\u2029c\u0085d\n\n'), [{ data: 'a\u2028b\u2029c\u0085d' }]);
});

test('what is not ended by a blank line is no frame', () => {
  assert.deepEqual(frames('data: x\n\ndata: y\n'), [{ data: 'x' }]);
});

test('the topic is a field like others', () => {
  assert.deepEqual(frames('id: 1-0\ntopic: users/1\ndata: x\n\n'), [{ id: '1-0', topic: 'users/1', data: 'x' }]);
});
