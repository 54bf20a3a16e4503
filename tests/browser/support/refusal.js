// What a refusal that a page survives looks like, from both ends of the wire.

import assert from 'node:assert/strict';

/** The `retry:` of a refusal is some 5 s, longer than the usual one, so that a crowd spreads; a busy machine adds to it. */
export const COMES_BACK_MS = 30_000;

/**
 * Waits for the n-th `$refused`, and asserts that it says `code` and `status`, leaves the page its `cursor`, and came as a
 * stream; returns the exchange.
 */
export async function refused({ gateway, proxy, page }, { code, status, cursor }, times = 1) {
  await page.until(`$refused, ${times} in all`, () => page.of('$refused').length >= times, { within: COMES_BACK_MS });
  const told = page.of('$refused')[times - 1];
  assert.deepEqual({ code: told.data.code, status: told.data.status }, { code, status });
  assert.equal(told.id, cursor ?? '', 'a refusal leaves the cursor where it was');
  const exchange = proxy.streams.filter(({ responseHeaders }) => responseHeaders?.['tidegate-refused'])[times - 1];
  assert.equal(exchange.status, 200, 'any other status would be the last word to an EventSource');
  assert.equal(exchange.responseHeaders['tidegate-refused'], code);
  assert.equal(exchange.frames.length, 1, 'a refusal is one frame');
  assert.ok(Number(exchange.frames[0].retry) >= 3_000, `retry: ${exchange.frames[0].retry} is longer than the usual time`);
  assert.ok((await gateway.refusals(code)) >= times, 'and it is counted as what it is');
  return exchange;
}

/** The page is live again, with the one `EventSource` it began with, which was not dead for a moment. */
export function assertSurvived(page) {
  assert.equal(page.sources, 1, 'nothing in the page helped');
  assert.deepEqual(page.errors.filter((state) => state !== 'CONNECTING'), [], 'the browser never gave up');
  assert.equal(page.state, 'OPEN');
}
