// How long to wait before the next connect.

/**
 * After a connection that was open: what the gateway said (`retry`, which it draws for each connection). After failures:
 * drawn evenly from between that and twice as much for each failure in a row, so that a crowd spreads. Never less than what
 * a refusal asked for.
 * @param {{ retryMs: number, maxRetryMs: number }} settings
 */
export function createBackoff({ retryMs, maxRetryMs }) {
  let failures = 0;
  let told;
  return {
    /** The gateway has said when to come back, in ms. */
    told(ms) {
      if (ms >= 0) told = ms;
    },
    opened() {
      failures = 0;
    },
    /** In ms. */
    delay(failed, atLeast = 0) {
      const base = told ?? retryMs * (0.67 + 0.66 * Math.random());
      if (failed) failures++;
      const most = Math.max(base, Math.min(maxRetryMs, base * 2 ** failures));
      return Math.max(atLeast, base + Math.random() * (most - base));
    },
  };
}
