// One connection for all tabs: here, for sources of one process, with a BroadcastChannel of their own each.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gateway } from './support/gateway.js';
import { follow, pause, until } from './support/scene.js';
import { createChannels, createLocks, createStorage, openWindow } from './support/window.js';

let scenes = 0;

/** Tabs of one origin: `open(options)` is a new one. */
async function origin(t, settings) {
  const gateway = await Gateway.start(t, settings);
  const locks = createLocks();
  // The channels of a process are one origin.
  const share = `scene-${process.pid}-${++scenes}`;
  const open = (options = {}, query = '') =>
    follow(t, `${gateway.url}/events?topic=a${query}`, {
      transports: ['fetch'],
      share,
      silenceMs: 4_000,
      ...options,
      env: { locks, ...options.env },
    });
  return { gateway, locks, open, share, name: `tidegate:${share}` };
}

/** Whether every tab has had `data`, once and in order. */
async function had(tabs, data) {
  for (const tab of tabs) await tab.got(data.length);
  await pause(20);
  for (const [index, tab] of tabs.entries()) assert.deepEqual(tab.data, data, `tab ${index}`);
}

test('all tabs have one connection, and all get everything', async (t) => {
  const { gateway, open } = await origin(t);
  const tabs = [open(), open(), open()];
  for (const tab of tabs) await tab.opened();
  gateway.publish(1);
  gateway.publish('2', { event: 'message' });
  await had(tabs, ['1', '2']);
  assert.equal(gateway.count('events'), 1);
  for (const { source } of tabs) {
    assert.deepEqual([source.readyState, source.transport, source.connection], [1, 'fetch', 'c1']);
    assert.equal(source.lastEventId, gateway.head);
  }
});

test('topic handlers and types work in every tab, also those that the leader does not know', async (t) => {
  const { gateway, open } = await origin(t);
  const handled = [];
  const leader = open();
  await leader.opened();
  const follower = open({ topics: { a: (event) => handled.push([event.type, event.data]) } });
  await follower.opened();
  const typed = [];
  follower.source.addEventListener('created', (event) => typed.push(event.data));
  gateway.publish('x', { event: 'created' });
  await until('both', () => typed.length && handled.length);
  assert.deepEqual([typed, handled], [['x'], [['created', 'x']]]);
});

test('a tab that joins late starts now, or where it was', async (t) => {
  const { gateway, open } = await origin(t);
  const leader = open();
  await leader.opened();
  gateway.publish(1);
  const second = gateway.publish(2);
  gateway.publish(3);
  await leader.got(3);
  const now = open();
  await now.opened();
  assert.equal(now.of('open')[0].replay, 'none');
  const before = open({ lastEventId: second });
  const newest = open({ last: 2 });
  const all = open({ lastEventId: 'earliest' });
  await had([before], ['3']);
  await had([newest], ['2', '3']);
  await had([all], ['1', '2', '3']);
  await until('one connection again', () => gateway.streams.size === 1);
  gateway.publish(4);
  await had([leader], ['1', '2', '3', '4']);
  await had([now], ['4']);
  await had([before], ['3', '4']);
  await had([newest], ['2', '3', '4']);
  await had([all], ['1', '2', '3', '4']);
  assert.equal(gateway.streams.size, 1);
});

test('a tab that reloads gets what it missed, and follows again', async (t) => {
  const { gateway, open } = await origin(t);
  const leader = open();
  const env = { sessionStorage: createStorage() };
  await leader.opened();
  const one = open({ env, persist: true });
  await one.opened();
  gateway.publish(1);
  await one.got(1);
  one.source.close();
  gateway.publish(2);
  await leader.got(2);
  const two = open({ env, persist: true });
  await had([two], ['2']);
  await until('one connection again', () => gateway.streams.size === 1);
  gateway.publish(3);
  await had([two], ['2', '3']);
});

test('the leader closes: another one leads, and nobody misses or doubles anything', async (t) => {
  const { gateway, open } = await origin(t);
  const tabs = [open(), open(), open(), open()];
  for (const tab of tabs) await tab.opened();
  let published = 0;
  const publishing = setInterval(() => gateway.publish(++published), 2);
  t.after(() => clearInterval(publishing));
  for (let closed = 0; closed < 3; closed++) {
    const { length } = tabs[3].data;
    await until('more events', () => tabs[3].data.length > length + 10);
    tabs[closed].source.close();
    const old = closed + 1;
    await until('another connection', () => gateway.count('events') > old && gateway.streams.size >= 1);
  }
  const { length } = tabs[3].data;
  await until('more events', () => tabs[3].data.length > length + 10);
  clearInterval(publishing);
  gateway.publish('last');
  await until('the last event', () => tabs[3].data.at(-1) === 'last');
  for (const { data } of tabs) {
    const numbers = data.filter((text) => text !== 'last').map(Number);
    assert.deepEqual(numbers, numbers.map((_, index) => numbers[0] + index), 'each once, in order');
  }
  assert.equal(tabs[3].data.length, published + 1 - (Number(tabs[3].data[0]) - 1));
  await until('one connection', () => gateway.streams.size === 1);
});

test('the leader goes without a word: what its messages did not bring comes from the next', async (t) => {
  const { gateway, open, locks, name } = await origin(t);
  // A tab that crashed: its lock is given back, its channel is silent.
  let crash;
  const crashed = locks.request(name, { signal: undefined }, () => new Promise((resolve) => (crash = resolve)));
  const channel = new BroadcastChannel(name);
  t.after(() => channel.close());
  const early = gateway.publish(1);
  const tabs = [open(), open()];
  await pause(50);
  // It had led for a while; its last message has reached only one of them.
  channel.postMessage({ type: 'open', replay: 'none', transport: 'fetch', prev: early, cursor: early });
  for (const tab of tabs) await tab.opened();
  const second = gateway.publish(2);
  const message = { type: 'event', id: second, topic: 'a', event: 'message', data: '2', prev: early, cursor: second };
  const [ahead] = tabs;
  // As if only the first had heard it: the second is told of a later one, and finds the hole.
  channel.postMessage({ ...message });
  for (const tab of tabs) await tab.got(1);
  gateway.publish(3);
  const fourth = gateway.publish(4);
  channel.postMessage({ type: 'cursor', prev: gateway.log[2].id, cursor: gateway.log[2].id });
  await until('links of their own', () => gateway.count('events') >= 2);
  crash();
  await crashed;
  await had(tabs, ['2', '3', '4']);
  assert.equal(ahead.source.lastEventId, fourth);
  await until('one connection', () => gateway.streams.size === 1);
  gateway.publish(5);
  await had(tabs, ['2', '3', '4', '5']);
});

test('a new leader resumes from the earliest cursor of all tabs', async (t) => {
  const { gateway, open, locks, name } = await origin(t);
  // A new leader waits for answers for no longer than they usually take.
  const env = { BroadcastChannel: createChannels() };
  let crash;
  locks.request(name, { signal: undefined }, () => new Promise((resolve) => (crash = resolve)));
  const channel = new env.BroadcastChannel(name);
  t.after(() => channel.close());
  const start = gateway.head;
  const tabs = [open({ env }), open({ env })];
  await pause(50);
  channel.postMessage({ type: 'open', replay: 'none', transport: 'fetch', prev: start, cursor: start });
  for (const tab of tabs) await tab.opened();
  // Somebody else is behind: a tab that this test plays.
  const behind = gateway.publish(1);
  const ahead = gateway.publish(2);
  for (const [data, prev, cursor] of [['1', start, behind], ['2', behind, ahead]]) {
    channel.postMessage({ type: 'event', id: cursor, topic: 'a', event: 'message', data, prev, cursor });
  }
  for (const tab of tabs) await tab.got(2);
  const heard = [];
  channel.onmessage = ({ data }) => {
    heard.push(data);
    if (data.type === 'who') channel.postMessage({ type: 'mine', cursor: behind });
  };
  crash();
  await until('the new connection', () => gateway.count('events'));
  assert.equal(gateway.requests.find(({ route }) => route === 'events').query.get('lastEventId'), behind);
  await until('what the one behind needs', () => heard.some(({ type, data }) => type === 'event' && data === '2'));
  gateway.publish(3);
  await had(tabs, ['1', '2', '3']);
});

test('no leader is heard: a tab serves itself, and follows when there is one', async (t) => {
  const { gateway, open, locks, name } = await origin(t);
  let release;
  locks.request(name, { signal: undefined }, () => new Promise((resolve) => (release = resolve)));
  const alone = open({ silenceMs: 200 });
  await alone.opened();
  gateway.publish(1);
  await alone.got(1);
  const other = open({ silenceMs: 200 });
  await other.opened();
  release();
  await until('one connection', () => gateway.streams.size === 1);
  gateway.publish(2);
  await had([alone], ['1', '2']);
  await had([other], ['2']);
});

test('a leader whose page is frozen hands over, and follows when it is back', async (t) => {
  const window = openWindow(t);
  const { gateway, open } = await origin(t);
  const leader = open();
  await leader.opened();
  // Only that page has this window.
  globalThis.document = undefined;
  const follower = open();
  await follower.opened();
  globalThis.document = window.document;
  gateway.publish(1);
  await had([leader, follower], ['1']);
  window.page('freeze');
  assert.equal(leader.source.readyState, 0);
  await until('the other leads', () => gateway.count('events') === 2 && gateway.streams.size === 1);
  gateway.publish(2);
  await had([follower], ['1', '2']);
  window.page('resume');
  gateway.publish(3);
  await had([leader, follower], ['1', '2', '3']);
  await until('one connection', () => gateway.streams.size === 1);
});

test('the end, and a final refusal, close all tabs', async (t) => {
  for (const what of ['end', 'refusal']) {
    const { gateway, open } = await origin(t);
    const tabs = [open(), open()];
    for (const tab of tabs) await tab.opened();
    if (what === 'end') gateway.say('end', { topic: 'a' }, '9000-0');
    else {
      gateway.faults.events = (_, response) => gateway.problem(response, 403, 'forbidden');
      gateway.cut();
    }
    for (const tab of tabs) {
      await tab.state(2);
      assert.equal(tab.of('error').at(-1).code, what === 'end' ? 'finished' : 'forbidden');
    }
  }
});

test('errors, gaps and reconnects of the leader are told in every tab', async (t) => {
  const { gateway, open } = await origin(t);
  const tabs = [open(), open()];
  for (const tab of tabs) await tab.opened();
  gateway.verdict = { replay: 'gap', reason: 'lost' };
  gateway.cut();
  for (const tab of tabs) {
    await tab.opened(2);
    assert.equal(tab.of('error').length, 1);
    await until('the gap', () => tab.of('gap').length);
    assert.equal(tab.source.readyState, 1);
  }
});

test('close() leaves no lock, channel or timer, of a leader and of a follower', async (t) => {
  const { gateway, open, locks, name } = await origin(t);
  const channels = new Set();
  class Channel extends BroadcastChannel {
    constructor(of) {
      super(of);
      channels.add(this);
    }
    close() {
      channels.delete(this);
      super.close();
    }
  }
  const tabs = [open({ env: { BroadcastChannel: Channel } }), open({ env: { BroadcastChannel: Channel } })];
  for (const tab of tabs) await tab.opened();
  for (const { source } of tabs.reverse()) source.close();
  await until('no lock', () => locks.queues.get(name).length === 0);
  await until('no stream', () => gateway.streams.size === 0);
  assert.equal(channels.size, 0);
  gateway.publish(1);
  await pause(50);
  assert.deepEqual(tabs.map(({ data }) => data), [[], []]);
  assert.equal(gateway.count('events'), 1);
});

test('where locks or channels are missing, each tab has its own connection', async (t) => {
  const { gateway, open } = await origin(t);
  for (const env of [{ locks: undefined }, { BroadcastChannel: undefined }]) {
    const tab = open({ env });
    await tab.opened();
    gateway.publish(1);
    await tab.got(1);
    tab.source.close();
  }
});
