// What happens to the page, and to the cursor over a reload.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gateway } from './support/gateway.js';
import { follow, pause, until } from './support/scene.js';
import { createStorage, openWindow } from './support/window.js';

const QUIET = { transports: ['fetch'] };
const LONG = { ...QUIET, retryMs: 60_000, maxRetryMs: 60_000 };

for (const [away, back] of [
  ['pagehide', ({ tell }) => tell('pageshow', { persisted: true })],
  ['freeze', ({ page }) => page('resume')],
]) {
  test(`${away}: the connection is closed, and goes on from the cursor when the page is back`, async (t) => {
    const gateway = await Gateway.start(t);
    const window = openWindow(t);
    const { source, opened, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, QUIET);
    await opened();
    gateway.publish(1);
    await got(1);
    if (away === 'freeze') window.page('freeze');
    else window.tell('pagehide', { persisted: true });
    assert.equal(source.readyState, 0);
    await until('no stream', () => gateway.streams.size === 0);
    gateway.publish(2);
    const asked = gateway.requests.length;
    await pause(100);
    assert.equal(gateway.requests.length, asked, 'nothing happens meanwhile');
    back(window);
    gateway.publish(3);
    await got(3);
    assert.deepEqual(data, ['1', '2', '3']);
    assert.equal(of('open')[1].replay, 'complete');
    assert.equal(of('error').length, 0);
  });
}

test('what was learned of a proxy outlives a page that stands still', async (t) => {
  const gateway = await Gateway.start(t);
  const window = openWindow(t);
  gateway.faults.events = () => true;
  const { transport, opened } = follow(t, `${gateway.url}/events?topic=a`, { transports: ['fetch', 'poll'], firstFrameMs: 2_000 });
  await transport('poll');
  const asked = gateway.count('events');
  window.page('freeze');
  window.page('resume');
  await opened(2);
  assert.equal(gateway.count('events'), asked);
});

test('a page that is shown for the first time is not opened twice', async (t) => {
  const gateway = await Gateway.start(t);
  const window = openWindow(t);
  const { opened } = follow(t, `${gateway.url}/events?topic=a`, QUIET);
  window.tell('pageshow', { persisted: false });
  await opened();
  window.page('resume');
  window.page('visibilitychange', 'visible');
  await pause(50);
  assert.equal(gateway.count('events'), 1);
});

test('closed is closed, whatever happens to the page', async (t) => {
  const gateway = await Gateway.start(t);
  const window = openWindow(t);
  const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, QUIET);
  await opened();
  source.close();
  window.tell('pagehide', { persisted: true });
  window.tell('pageshow', { persisted: true });
  window.tell('online');
  window.page('freeze');
  window.page('resume');
  await pause(50);
  assert.equal(gateway.count('events'), 1);
  assert.equal(source.readyState, 2);
});

for (const [what, come] of [
  ['online', ({ tell }) => tell('online')],
  ['visible again', ({ page }) => page('visibilitychange', 'visible')],
]) {
  test(`${what}: a pending reconnect is made`, async (t) => {
    const gateway = await Gateway.start(t);
    const window = openWindow(t);
    gateway.faults.events = (_, response) => response.destroy();
    const { opened, of } = follow(t, `${gateway.url}/events?topic=a`, LONG);
    await until('the error', () => of('error').length);
    gateway.faults = {};
    window.page('visibilitychange', 'hidden');
    come(window);
    await opened();
  });
}

test('online: what a refusal asked for is still waited for', async (t) => {
  const gateway = await Gateway.start(t);
  const window = openWindow(t);
  const at = [];
  gateway.faults.events = (_, response) => at.push(Date.now()) < 2 && gateway.problem(response, 429, 'rate_limited', { 'Retry-After': '2' });
  const { source, of, opened } = follow(t, `${gateway.url}/events?topic=a`, QUIET);
  await until('the error', () => of('error').length);
  window.tell('online');
  await opened();
  assert.ok(at[1] - at[0] >= 1_990, `came back after ${at[1] - at[0]} ms`);
  assert.equal(source.readyState, 1);
});

test('online: an open connection is replaced by a fresh one, without loss', async (t) => {
  const gateway = await Gateway.start(t);
  const window = openWindow(t);
  const { opened, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, QUIET);
  await opened();
  gateway.publish(1);
  await got(1);
  // The old path is dead, and nobody has noticed.
  for (const stream of gateway.streams) Object.assign(stream, { event() {}, beat: undefined });
  gateway.publish(2);
  window.tell('online');
  await opened(2);
  gateway.publish(3);
  await got(3);
  assert.deepEqual(data, ['1', '2', '3']);
  assert.equal(of('error').length, 0);
  await until('one stream', () => gateway.streams.size === 1);
});

test('a page that was asleep judges silence by the clock, after reading what had come', async (t) => {
  const gateway = await Gateway.start(t);
  const window = openWindow(t);
  const { opened, got, of } = follow(t, `${gateway.url}/events?topic=a`, { ...QUIET, silenceMs: 60_000 });
  await opened();
  const { now } = Date;
  t.after(() => (Date.now = now));
  // Heartbeats come: it was only asleep.
  Date.now = () => now() + 600_000;
  window.page('visibilitychange', 'visible');
  await until('a heartbeat', () => gateway.streams.size);
  await pause(200);
  assert.equal(of('error').length, 0);
  // None come: the other end has given it up.
  for (const stream of gateway.streams) stream.beat = undefined;
  // With this the client has read what was on its way.
  gateway.publish(1);
  await got(1);
  Date.now = () => now() + 1_200_000;
  window.page('visibilitychange', 'visible');
  await until('the silence to be noticed', () => of('error').length);
  assert.equal(of('error')[0].code, 'silence');
  await opened(2);
});

test('the cursor outlives a reload', async (t) => {
  const gateway = await Gateway.start(t);
  const env = { sessionStorage: createStorage() };
  const one = follow(t, `${gateway.url}/events?topic=a`, { ...QUIET, env, persist: true });
  await one.opened();
  gateway.publish(1);
  await one.got(1);
  one.source.close();
  gateway.publish(2);
  const two = follow(t, `${gateway.url}/events?topic=a`, { ...QUIET, env, persist: true, last: 10 });
  await two.got(1);
  assert.deepEqual(two.data, ['2']);
  assert.equal(two.of('open')[0].replay, 'complete');
  const other = follow(t, `${gateway.url}/events?topic=a`, { ...QUIET, env, persist: 'other' });
  await other.opened();
  assert.equal(other.of('open')[0].replay, 'none');
  assert.deepEqual([...env.sessionStorage.items.keys()], [`tidegate:${gateway.url}/events?topic=a`, 'tidegate:other']);
});

test('a cursor that was kept before the first event is kept as well', async (t) => {
  const gateway = await Gateway.start(t);
  const env = { sessionStorage: createStorage() };
  const one = follow(t, `${gateway.url}/events?topic=a`, { ...QUIET, env, persist: true });
  await one.opened();
  one.source.close();
  gateway.publish(1);
  const two = follow(t, `${gateway.url}/events?topic=a`, { ...QUIET, env, persist: true });
  await two.got(1);
  assert.deepEqual(two.data, ['1']);
});

test('where storage is forbidden or full it works without', async (t) => {
  const gateway = await Gateway.start(t);
  const forbidden = {
    get sessionStorage() {
      throw new DOMException('no', 'SecurityError');
    },
  };
  const full = { sessionStorage: { getItem: () => null, setItem() { throw new DOMException('full', 'QuotaExceededError'); } } };
  for (const env of [forbidden, full, { sessionStorage: undefined }]) {
    const { source, opened, got } = follow(t, `${gateway.url}/events?topic=a`, { ...QUIET, env, persist: true });
    await opened();
    gateway.publish(1);
    await got(1);
    source.close();
  }
});
