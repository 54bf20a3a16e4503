// Cursors: how far in the log somebody is.
//
// `<milliseconds>-<sequence>`, two numbers of 64 bits, which a JavaScript number cannot hold: they are compared as text.
// A cursor of another form (the gateway may make it longer one day) is only ever equal or not.

const FORM = /^(\d+)-(\d+)$/;

/** Decimal numbers without leading zeros: the longer one is the greater. */
const compare = (a, b) => a.length - b.length || (a < b ? -1 : +(a > b));

/**
 * Whether `id` is after `cursor`. Everything is after no cursor.
 * @param {string | undefined} id
 * @param {string | undefined} cursor
 */
export function isAfter(id, cursor) {
  const [one, other] = [FORM.exec(id), FORM.exec(cursor)];
  if (!one || !other) return !!id && id !== cursor;
  return (compare(one[1], other[1]) || compare(one[2], other[2])) > 0;
}
