// What tests share: a source that is closed at the end, what it has told, and waiting for it.

import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';

/** The module under test: the sources, or what `TIDEGATE_CLIENT` names. */
export const { TidegateSource } = await import(process.env.TIDEGATE_CLIENT ?? '../../src/index.js');

const WITHIN_MS = 30_000;
export const OWN = ['open', 'error', 'gap', 'live', 'end', 'expiring', 'state'];

/**
 * Settings that make a test short; what is judged is never how long something took. A first frame that does not come is a matter
 * of the tests that hold one back: where everything is answered, a machine that stands still must not look like a proxy.
 */
export const QUICK = { firstFrameMs: 60_000, silenceMs: 2_000, upgradeMs: 60_000, retryMs: 20, maxRetryMs: 200 };

/** Waits until `condition` gives something. */
export async function until(what, condition, seen = () => '') {
  for (const end = Date.now() + WITHIN_MS; ; ) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}; seen: ${JSON.stringify(seen())}`);
    await pause(5);
  }
}

/**
 * How long each timer was set for, in order, from now to the end of the test; chance draws the middle of every range. What a
 * client asks for is not what a busy machine makes of it.
 */
export function watchTimers(test) {
  const { setTimeout } = globalThis;
  const { random } = Math;
  const asked = [];
  globalThis.setTimeout = (act, ms, ...more) => {
    asked.push(ms);
    return setTimeout(act, ms, ...more);
  };
  Math.random = () => 0.5;
  test.after(() => {
    globalThis.setTimeout = setTimeout;
    Math.random = random;
  });
  return asked;
}

/** Exactly these pauses were asked for, in this order, and kept between the moments `at`. */
export function assertPauses(pauses, asked, at) {
  assert.deepEqual(asked.filter((ms) => pauses.includes(ms)), pauses);
  const kept = at.slice(1).map((time, index) => time - at[index]);
  assert.ok(pauses.every((ms, index) => kept[index] >= ms - 2), `${kept}`);
}

/** A source that writes down what it tells: `told` (`{ type, ... }`), `data` of the events. */
export function follow(test, url, options = {}, types = []) {
  const source = new TidegateSource(url, { ...QUICK, ...options });
  const told = [];
  const data = [];
  for (const type of OWN) source.addEventListener(type, ({ isTrusted, ...event }) => told.push({ type, ...event }));
  for (const type of ['message', ...types]) source.addEventListener(type, (event) => data.push(event.data));
  test.after(() => source.close());
  return {
    source,
    told,
    data,
    of: (type) => told.filter((event) => event.type === type),
    opened: (times = 1) => until(`${times} opens`, () => told.filter(({ type }) => type === 'open').length >= times, () => told),
    transport: (name) => until(`transport ${name}`, () => source.readyState === 1 && source.transport === name, () => told),
    state: (state) => until(`state ${state}`, () => source.readyState === state, () => told),
    got: (count) => until(`${count} events`, () => data.length >= count, () => ({ data, told })),
  };
}

export { pause };
