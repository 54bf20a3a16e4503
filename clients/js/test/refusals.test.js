// What the client does about refusals, and how it comes back.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { EventSource } from './support/event_source.js';
import { Gateway } from './support/gateway.js';
import { assertPauses, follow, pause, until, watchTimers } from './support/scene.js';

const env = { EventSource, WebSocket };

/** An event stream of one frame. */
const refused = (response, problem, retry) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  response.end(`retry: ${retry}\nid: 1000-0\nevent: $refused\ndata: ${JSON.stringify({ type: 'urn:x', detail: 'why', ...problem, retry })}\n\n`);
  return true;
};

for (const [transport, name] of [['sse', 'sse'], ['fetch', 'fetch'], ['poll', 'poll']]) {
  for (const [status, code] of [[400, 'topic_invalid'], [401, 'unauthorized'], [403, 'forbidden'], [404, 'not_found']]) {
    test(`${name}: ${status} is final, and its problem is told`, async (t) => {
      const gateway = await Gateway.start(t);
      const route = transport === 'poll' ? 'poll' : 'events';
      gateway.faults[route] = (_, response) => gateway.problem(response, status, code);
      const { source, state, of } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
      await state(2);
      const last = of('error').at(-1);
      assert.deepEqual([last.status, last.code, last.detail], [status, code, `because of ${code}`]);
      const asked = gateway.requests.length;
      await pause(100);
      assert.equal(gateway.requests.length, asked);
      assert.equal(source.readyState, 2);
      assert.equal(EventSource.open.size, 0);
    });
  }

  test(`${name}: 204 ends it`, async (t) => {
    const gateway = await Gateway.start(t);
    const nothing = (_, response) => response.writeHead(204).end();
    Object.assign(gateway.faults, { events: nothing, poll: nothing });
    const { state, of } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    await state(2);
    assert.equal(of('error').at(-1).code, 'finished');
  });

  test(`${name}: 503 is survived, and Retry-After is waited for`, async (t) => {
    const gateway = await Gateway.start(t);
    const at = [];
    const busy = (_, response) => at.push(Date.now()) < 2 && gateway.problem(response, 503, 'connection_limit', { 'Retry-After': '1' });
    Object.assign(gateway.faults, { events: busy, poll: busy });
    const { opened, of } = follow(t, `${gateway.url}/events?topic=a`, { transports: [transport] });
    await opened();
    assert.ok(at[1] - at[0] >= 990, `came back after ${at[1] - at[0]} ms`);
    assert.deepEqual([of('error')[0].status, of('error')[0].code], [503, 'connection_limit']);
  });
}

for (const transport of ['sse', 'fetch']) {
  test(`${transport}: $refused is survived, told as an error, and moves nothing`, async (t) => {
    const gateway = await Gateway.start(t);
    let times = 0;
    gateway.faults.events = (_, response) => ++times <= 3 && refused(response, { status: 503, code: 'draining' }, 30);
    const { source, opened, of } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    await opened();
    const errors = of('error');
    assert.equal(errors.length, 3);
    for (const { status, code, detail } of errors) assert.deepEqual([status, code, detail], [503, 'draining', 'why']);
    assert.equal(source.transport, transport);
  });

  test(`${transport}: an expired cookie is survived`, async (t) => {
    const gateway = await Gateway.start(t);
    let times = 0;
    gateway.faults.events = (_, response) => ++times <= 6 && refused(response, { status: 401, code: 'unauthorized' }, 5);
    const { opened } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    await opened();
    assert.equal(times, 7);
  });
}

for (const transport of ['sse', 'fetch']) test(`${transport}: the retry of $refused is the least that is waited`, async (t) => {
  const gateway = await Gateway.start(t);
  const at = [];
  gateway.faults.events = (_, response) => at.push(Date.now()) < 2 && refused(response, { status: 429, code: 'rate_limited' }, 700);
  const { opened } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
  await opened();
  assert.ok(at[1] - at[0] >= 695, `came back after ${at[1] - at[0]} ms`);
});

test('an answer that is no event stream is survived', async (t) => {
  const gateway = await Gateway.start(t);
  let times = 0;
  const login = (_, response) => ++times <= 3 && response.writeHead(200, { 'Content-Type': 'text/html' }).end('<h1>Welcome to our hotel</h1>');
  gateway.faults.events = login;
  for (const [transport, EventSource_] of [['fetch', undefined], ['sse', EventSource]]) {
    times = 0;
    const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, { env: { EventSource: EventSource_ }, transports: [transport] });
    await opened();
    assert.equal(source.transport, 'fetch');
    source.close();
  }
  const { opened } = follow(t, `${gateway.url}/events?topic=a`, { transports: ['poll'] });
  times = 0;
  gateway.faults.poll = login;
  await opened();
});

test('$drain: it comes back after the retry that it was told, without a failure to count', async (t) => {
  const gateway = await Gateway.start(t);
  for (const transport of ['sse', 'fetch', 'ws']) {
    const { source, opened, got, data } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport], maxRetryMs: 100_000 });
    await opened();
    gateway.publish(1);
    await got(1);
    gateway.retry = 400;
    gateway.say('drain', { retry: 400 }, gateway.head);
    const left = Date.now();
    gateway.end();
    gateway.publish(2);
    await got(2);
    assert.ok(Date.now() - left >= 395, `came back after ${Date.now() - left} ms`);
    assert.deepEqual(data, ['1', '2']);
    source.close();
    gateway.retry = 20;
  }
});

test('ws: a refusal before the upgrade cannot be seen, one after it can', async (t) => {
  const gateway = await Gateway.start(t);
  const say = (code, reason, message) => () => (socket) => {
    socket.send(JSON.stringify({ type: 'error', ...message }));
    socket.close(code, reason);
  };
  gateway.faults.ws = say(1008, 'forbidden', { code: 'forbidden', detail: 'not this topic' });
  const one = follow(t, `${gateway.url}/events?topic=a`, { env, transports: ['ws'] });
  await one.state(2);
  assert.deepEqual([one.of('error')[0].code, one.of('error')[0].detail], ['forbidden', 'not this topic']);

  const at = [];
  const busy = say(1013, 'connection_limit', { code: 'connection_limit', detail: 'full', retry_after: 1 });
  gateway.faults.ws = () => at.push(Date.now()) < 2 && busy();
  const two = follow(t, `${gateway.url}/events?topic=a`, { env, transports: ['ws'] });
  await two.opened();
  assert.equal(two.of('error')[0].code, 'connection_limit');
  assert.ok(at[1] - at[0] >= 990);

  gateway.faults.ws = say(4401, 'unauthorized', { code: 'unauthorized', detail: 'credentials are needed' });
  const three = follow(t, `${gateway.url}/events?topic=a`, { env, transports: ['ws'] });
  await three.state(2);
  assert.equal(three.of('error').at(-1).status, 401);
});

test('ws: an operator\'s close and a close without a word are survived', async (t) => {
  const gateway = await Gateway.start(t);
  const { opened, got, data } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: ['ws'] });
  for (const [times, code, reason] of [[1, 1012, 'closed'], [2, 1001, 'draining'], [3, 1000, '']]) {
    await opened(times);
    gateway.publish(times);
    await got(times);
    for (const stream of [...gateway.streams]) stream.end(code, reason);
  }
  await opened(4);
  assert.deepEqual(data, ['1', '2', '3']);
});

test('failures in a row come less and less often', async (t) => {
  const gateway = await Gateway.start(t);
  const asked = watchTimers(t);
  // 20 ms, and half of the way from there to twice as much for each failure.
  const pauses = [30, 50, 90, 170, 330];
  const at = [];
  gateway.faults.events = (_, response) => {
    at.push(Date.now());
    response.destroy();
    return true;
  };
  const { source } = follow(t, `${gateway.url}/events?topic=a`, { transports: ['fetch'], retryMs: 20, maxRetryMs: 10_000 });
  await until('six attempts', () => at.length >= 6);
  source.close();
  assertPauses(pauses, asked, at);
});
