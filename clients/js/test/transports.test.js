// From one transport to another and back, with one cursor.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { EventSource } from './support/event_source.js';
import { Gateway } from './support/gateway.js';
import { assertPauses, follow, pause, until, watchTimers } from './support/scene.js';

const env = { EventSource, WebSocket };
// Long enough for what is not held back, on a machine that stands still now and then.
const ALL = { env, transports: ['sse', 'ws', 'poll'], firstFrameMs: 2_000 };

/** A proxy that keeps what it gets: with the head, or all. */
const buffers = {
  'its body': (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.flushHeaders();
    return true;
  },
  'its head as well': () => true,
};

for (const native of [true, false]) {
  const first = native ? 'sse' : 'fetch';
  for (const [what, holds] of Object.entries(buffers)) {
    test(`${first}: where a proxy keeps ${what}, it goes to WebSocket`, async (t) => {
      const gateway = await Gateway.start(t);
      gateway.faults.events = holds;
      const { source, transport, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, {
        ...ALL,
        env: native ? env : { WebSocket },
      });
      await transport('ws');
      gateway.publish(1);
      await got(1);
      assert.deepEqual(data, ['1']);
      assert.equal(of('error')[0].code, 'silent');
      assert.equal(source.readyState, 1);
      assert.equal(EventSource.open.size, 0);
    });
  }
}

test('where WebSockets do not get through either, it goes to long polling at once', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.faults.events = buffers['its body'];
  for (const fault of ['refuse', 'hold']) {
    gateway.faults.ws = () => fault;
    const { source, transport, got } = follow(t, `${gateway.url}/events?topic=a`, { ...ALL, retryMs: 60_000 });
    await transport('poll');
    gateway.publish(1);
    await got(1);
    source.close();
  }
});

test('the cursor goes along: nothing is lost and nothing comes twice', async (t) => {
  const gateway = await Gateway.start(t);
  const { source, opened, transport, got, data } = follow(t, `${gateway.url}/events?topic=a`, { ...ALL, env: { WebSocket } });
  await opened();
  gateway.publish(1);
  await got(1);
  gateway.faults.events = buffers['its body'];
  gateway.cut();
  gateway.publish(2);
  await transport('ws');
  gateway.publish(3);
  await got(3);
  gateway.faults.ws = () => 'refuse';
  gateway.cut();
  gateway.publish(4);
  await transport('poll');
  gateway.publish(5);
  await got(5);
  assert.deepEqual(data, ['1', '2', '3', '4', '5']);
  assert.equal(source.lastEventId, gateway.head);
});

test('later the better transport takes over, while events go on', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.faults.events = buffers['its body'];
  const { source, transport, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, { ...ALL, upgradeMs: 60 });
  let published = 0;
  const publishing = setInterval(() => gateway.publish(++published), 1);
  t.after(() => clearInterval(publishing));
  await transport('ws');
  await until('a trial that fails', () => gateway.count('events') >= 2);
  assert.equal(source.transport, 'ws');
  gateway.faults.events = undefined;
  await transport('sse');
  await until('some more events', () => data.length > 50);
  clearInterval(publishing);
  gateway.publish('last');
  await until('the last event', () => data.at(-1) === 'last');
  const numbers = data.slice(0, -1).map(Number);
  assert.deepEqual(numbers, numbers.map((_, index) => numbers[0] + index), 'each once, in order');
  assert.equal(of('error').length, 1, 'a trial that fails is no error');
  await until('one connection', () => gateway.streams.size === 1);
});

test('a trial is repeated less and less often', async (t) => {
  const gateway = await Gateway.start(t);
  const asked = watchTimers(t);
  const pauses = [40, 80, 160, 320, 640];
  const at = [];
  gateway.faults.events = (to, response) => (at.push(Date.now()) > 1 ? gateway.problem(response, 503, 'connection_limit') : buffers['its body'](to, response));
  const { transport } = follow(t, `${gateway.url}/events?topic=a`, { ...ALL, upgradeMs: 40 });
  await transport('ws');
  await until('five trials', () => at.length >= 6);
  assertPauses(pauses, asked, at);
});

test('a network that is down is not taken for a bad transport at first', async (t) => {
  const gateway = await Gateway.start(t);
  const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, ALL);
  await opened();
  let times = 0;
  gateway.faults.events = (_, response) => ++times <= 1 && response.destroy();
  gateway.cut();
  await opened(2);
  assert.equal(source.transport, 'sse');
  assert.equal(gateway.count('ws'), 0);
});

test('where event streams are broken off at once, another transport is tried', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.faults.events = (_, response) => response.destroy();
  const { transport, got } = follow(t, `${gateway.url}/events?topic=a`, ALL);
  await transport('ws');
  gateway.publish(1);
  await got(1);
});

test('a gateway that was away is found again by whatever comes first', async (t) => {
  const gateway = await Gateway.start(t);
  const { opened, got, data } = follow(t, `${gateway.url}/events?topic=a`, { ...ALL, maxRetryMs: 40 });
  await opened();
  gateway.publish(1);
  await got(1);
  Object.assign(gateway.faults, { events: (_, response) => response.destroy(), poll: (_, response) => response.destroy(), ws: () => 'refuse' });
  gateway.cut();
  await until('every transport to be tried twice', () => gateway.count('ws') > 1 && gateway.count('poll') > 1);
  gateway.publish(2);
  gateway.faults = {};
  await opened(2);
  await got(2);
  assert.deepEqual(data, ['1', '2']);
});

test('a lesser transport that is not offered is not tried again', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.faults.events = (_, response) => response.destroy();
  gateway.faults.ws = () => 'refuse';
  gateway.faults.poll = (_, response) => gateway.problem(response, 404, 'not_found');
  const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, { ...ALL, maxRetryMs: 40 });
  await until('a poll', () => gateway.count('poll'));
  await until('the others, twice more', () => gateway.count('ws') > 2);
  assert.equal(gateway.count('poll'), 1);
  assert.equal(source.readyState, 0);
  gateway.faults = {};
  await opened();
});

test('a connection that falls silent is replaced', async (t) => {
  for (const transport of ['sse', 'fetch', 'ws', 'poll']) {
    const gateway = await Gateway.start(t);
    const { source, opened, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, {
      env,
      transports: [transport],
      silenceMs: 300,
    });
    await opened();
    await until('a waiting stream', () => gateway.streams.size);
    await pause(500);
    assert.equal(of('error').length, 0, `${transport}: heartbeats are enough`);
    // The other end has gone without a word.
    gateway.mute = true;
    if (transport === 'poll') {
      const asked = gateway.count('poll');
      gateway.faults.poll = () => true;
      await until('the next poll', () => gateway.count('poll') > asked);
    }
    for (const stream of gateway.streams) Object.assign(stream, { beat: undefined, event() {}, control() {} });
    gateway.publish(1);
    await until('the silence to be noticed', () => of('error').length);
    assert.equal(of('error')[0].code, 'silence');
    gateway.faults = {};
    gateway.mute = false;
    await got(1);
    assert.deepEqual(data, ['1']);
    source.close();
  }
});

test('a path that falls silent twice is left', async (t) => {
  const gateway = await Gateway.start(t);
  // Two silences are in a row where the second comes within four times this.
  const { transport, opened, of } = follow(t, `${gateway.url}/events?topic=a`, { ...ALL, silenceMs: 1_500 });
  for (const times of [1, 2]) {
    await opened(times);
    await until('a stream', () => gateway.streams.size);
    for (const stream of gateway.streams) stream.beat = undefined;
    await until('the silence to be noticed', () => of('error').length >= times);
  }
  await transport('ws');
});

test('a slow gateway is waited for, as long as it is the only one', async (t) => {
  const gateway = await Gateway.start(t);
  let times = 0;
  gateway.faults.events = (_, response) => {
    if (++times > 3) return false;
    setTimeout(() => response.destroy(), 300);
    return true;
  };
  const { opened } = follow(t, `${gateway.url}/events?topic=a`, { transports: ['fetch'], firstFrameMs: 60 });
  await opened();
});

test('several topics: an EventSource is asked for envelopes, the others are not', async (t) => {
  const gateway = await Gateway.start(t);
  for (const transport of ['sse', 'fetch', 'ws', 'poll']) {
    gateway.requests.length = 0;
    const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport], topics: ['b'] });
    await opened();
    const { query } = gateway.requests.find((request) => request.query);
    assert.equal(query.get('envelope'), transport === 'sse' ? 'json' : null);
    assert.deepEqual(query.getAll('topic'), ['a', 'b']);
    assert.equal(query.get('heartbeat'), transport === 'sse' || transport === 'fetch' ? 'event' : null);
    source.close();
  }
});
