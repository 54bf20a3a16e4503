// Cursors: how far in the log somebody is.
//
// `<milliseconds>-<sequence>`, two numbers of 64 bits, which a JavaScript number cannot hold: they are compared as text. A
// cursor of another form (the gateway may make it longer one day) is only ever the same or another one.

/** As text that is ordered as the cursors are; 2^64 has 20 digits. */
const rank = (cursor) =>
  /^\d+-\d+$/.test(cursor) &&
  cursor
    .split('-')
    .map((number) => number.padStart(20, '0'))
    .join();

/**
 * Whether `id` is after `cursor`. Everything is after no cursor.
 * @param {string | undefined} id
 * @param {string | undefined} cursor
 */
export function isAfter(id, cursor) {
  const [one, other] = [rank(id), rank(cursor)];
  return one && other ? one > other : !!id && id !== cursor;
}
