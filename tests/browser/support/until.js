// Waiting with an end: every wait of these tests is bounded, and says what it waited for when it gives up.

import { setTimeout as sleep } from 'node:timers/promises';

export { sleep };

/** Resolves like `promise`, or fails after `within` milliseconds with a message that names `what`. */
export async function bounded(what, promise, within) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${within} ms in vain for ${what}`)), within);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Asks `probe` until it gives something truthy, and returns that.
 * `seen` describes, for the message, what was there instead when the time was over.
 */
export async function until(what, probe, { within = 15_000, every = 40, seen } = {}) {
  const end = performance.now() + within;
  for (;;) {
    const left = Math.max(1, end - performance.now());
    const found = await bounded(what, Promise.resolve(probe()), left + 1_000);
    if (found) return found;
    if (performance.now() >= end) {
      const instead = seen ? `; instead: ${JSON.stringify(await seen())}` : '';
      throw new Error(`waited ${within} ms in vain for ${what}${instead}`);
    }
    await sleep(every);
  }
}
