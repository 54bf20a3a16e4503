// What can be said of a list of events: that it is in order, and that it is the one that was published.

import assert from 'node:assert/strict';
import { isDeepStrictEqual } from 'node:util';

const EVENT_ID = /^(\d+)-(\d+)$/;

/** Whether `one` lies after `other` in the log: ids compare as two unsigned 64-bit numbers. */
export function isAfter(one, other) {
  const [a, b] = [parse(one), parse(other)];
  return a[0] > b[0] || (a[0] === b[0] && a[1] > b[1]);
}

/** Fails unless the ids increase from each to the next. */
export function assertIncreasing(ids) {
  ids.forEach((id, at) => {
    if (at > 0) assert.ok(isAfter(id, ids[at - 1]), `id ${id} came after ${ids[at - 1]}`);
  });
}

/** Fails at the first place where two lists differ, and shows that place alone: the lists are long. */
export function assertSame(seen, expected) {
  const at = expected.findIndex((item, n) => !isDeepStrictEqual(item, seen[n]));
  if (at >= 0) {
    const around = (list) => JSON.stringify(list.slice(Math.max(0, at - 1), at + 2));
    assert.fail(`${seen.length} seen, ${expected.length} expected, different from number ${at} on:\nseen ${around(seen)}\nexpected ${around(expected)}`);
  }
  assert.equal(seen.length, expected.length, `more than expected: ${JSON.stringify(seen.slice(expected.length, expected.length + 3))}`);
}

function parse(id) {
  const parts = EVENT_ID.exec(id);
  assert.ok(parts, `${JSON.stringify(id)} is no event id`);
  return [BigInt(parts[1]), BigInt(parts[2])];
}
