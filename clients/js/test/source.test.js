// The shape of EventSource, and what each transport hands to the page.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { EventSource } from './support/event_source.js';
import { Gateway } from './support/gateway.js';
import { follow, pause, TidegateSource, until } from './support/scene.js';

const ENV = { EventSource, WebSocket };
const TRANSPORTS = ['sse', 'fetch', 'ws', 'poll'];
const GONE = { env: { EventSource: undefined } };

for (const transport of TRANSPORTS) {
  test(`${transport}: events come with type, id and topic, to listeners, onmessage and the handler of their topic`, async (t) => {
    const gateway = await Gateway.start(t);
    const handled = [];
    const topics = transport === 'sse' ? { b: (event) => handled.push(event), a: undefined } : { a: undefined, b: (event) => handled.push(event) };
    const { source, opened, got, data, of } = follow(
      t,
      `${gateway.url}/events?topic=a`,
      { env: ENV, transports: [transport], topics, types: ['created'] },
      ['created'],
    );
    const messages = [];
    source.onmessage = (event) => messages.push(event);
    assert.equal(source.readyState, 0);
    await opened();
    assert.equal(source.readyState, 1);
    assert.equal(source.transport, transport);
    assert.equal(of('open')[0].replay, 'none');
    assert.deepEqual(of('open')[0].topics, ['a', 'b']);
    assert.equal(source.connection, transport === 'poll' ? undefined : 'c1');
    const one = gateway.publish('one\n two\n');
    const two = gateway.publish('{"order":1}', { topic: 'b', event: 'created' });
    await got(2);
    assert.deepEqual(data, ['one\n two\n', '{"order":1}']);
    const [message] = messages;
    assert.ok(message instanceof MessageEvent);
    assert.equal(messages.length, 1);
    assert.deepEqual([message.type, message.lastEventId, message.topic, message.origin], ['message', one, 'a', gateway.url]);
    assert.deepEqual(handled.map(({ type, lastEventId, topic }) => [type, lastEventId, topic]), [['created', two, 'b']]);
    assert.equal(source.lastEventId, two);
  });

  test(`${transport}: after a drop it goes on where it was`, async (t) => {
    const gateway = await Gateway.start(t);
    const { source, opened, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV, transports: [transport] });
    await opened();
    gateway.publish(1);
    await got(1);
    const streams = () => until('a waiting stream', () => gateway.streams.size);
    await streams();
    gateway.cut();
    gateway.publish(2);
    gateway.publish(3);
    await got(3);
    await streams();
    gateway.cut();
    gateway.publish(4);
    await got(4);
    assert.deepEqual(data, ['1', '2', '3', '4']);
    await until('the last open', () => of('open').length >= 3);
    assert.ok(of('open').slice(1).every(({ replay }) => replay === 'complete'));
    assert.ok(of('error').length >= 2);
    assert.equal(source.readyState, 1);
  });

  test(`${transport}: what the gateway says is told, and never dispatched as an event`, async (t) => {
    const gateway = await Gateway.start(t);
    const { source, opened, of, data } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV, transports: [transport] });
    const dollars = [];
    for (const word of ['$open', '$gap', '$cursor', '$heartbeat']) source.addEventListener(word, (event) => dollars.push(event));
    await opened();
    if (transport !== 'poll') {
      gateway.say('gap', { reason: 'lost', topics: ['a'], missed_at_least: 3 });
      await until('the gap', () => of('gap').length);
      const [{ reason, topics, missedAtLeast }] = of('gap');
      assert.deepEqual({ reason, topics, missedAtLeast }, { reason: 'lost', topics: ['a'], missedAtLeast: 3 });
    }
    await until('a waiting stream', () => gateway.streams.size);
    gateway.say('cursor', {}, '7000-0');
    await until('the cursor', () => source.lastEventId === '7000-0');
    assert.deepEqual(dollars, []);
    assert.deepEqual(data, []);
  });

  test(`${transport}: at the end of all topics it closes for good`, async (t) => {
    const gateway = await Gateway.start(t);
    const { source, opened, of, state } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV, transports: [transport] });
    await opened();
    await until('a waiting stream', () => gateway.streams.size);
    gateway.say('end', { topic: 'a' }, '9000-0');
    await state(2);
    assert.deepEqual(of('end').map(({ topic }) => topic), ['a']);
    assert.equal(of('error').at(-1).code, 'finished');
    assert.equal(source.lastEventId, '9000-0');
    const asked = gateway.requests.length;
    await pause(100);
    assert.equal(gateway.requests.length, asked);
  });

  test(`${transport}: a gap of the opening is told, with open and gap`, async (t) => {
    const gateway = await Gateway.start(t, { verdict: { replay: 'gap', reason: 'retention' } });
    const { opened, of } = follow(t, `${gateway.url}/events?topic=a&lastEventId=5-0`, { env: ENV, transports: [transport] });
    await opened();
    assert.deepEqual([of('open')[0].replay, of('open')[0].reason], ['gap', 'retention']);
    await until('the gap', () => of('gap').length);
    assert.equal(of('gap')[0].reason, 'retention');
  });

  test(`${transport}: after a cursor of the future it goes on from now, below that cursor`, async (t) => {
    const gateway = await Gateway.start(t);
    const { source, opened, got, data } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV, transports: [transport] });
    await opened();
    await until('a waiting stream', () => gateway.streams.size);
    gateway.say('cursor', {}, '8000-0');
    await until('the cursor', () => source.lastEventId === '8000-0');
    // The log is another one: all its ids are smaller.
    gateway.cut();
    await opened(2);
    await until('a waiting stream', () => gateway.streams.size);
    gateway.publish('of the new log');
    await got(1);
    assert.deepEqual(data, ['of the new log']);
    assert.equal(source.lastEventId, gateway.head);
  });

  test(`${transport}: where to start is said once, then the cursor is`, async (t) => {
    const gateway = await Gateway.start(t);
    for (const data of [1, 2, 3]) gateway.publish(data);
    const { opened, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV, transports: [transport], last: 2 });
    await got(2);
    await opened();
    await until('the end of the replay', () => of('live').length);
    await until('a waiting stream', () => gateway.streams.size);
    gateway.cut();
    await opened(2);
    gateway.publish(4);
    await got(3);
    assert.deepEqual(data, ['2', '3', '4']);
    const queries = gateway.requests.filter(({ query }) => query).map(({ query }) => query);
    assert.equal(queries[0].get('last'), '2');
    for (const query of queries.slice(1)) assert.deepEqual([query.get('last'), !!query.get('lastEventId')], [null, true]);
  });

  test(`${transport}: close() leaves nothing`, async (t) => {
    const gateway = await Gateway.start(t);
    const { source, opened, told } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV, transports: [transport] });
    await opened();
    await until('a waiting stream', () => gateway.streams.size);
    const before = told.length;
    source.close();
    assert.equal(source.readyState, 2);
    await until('no stream', () => gateway.streams.size === 0);
    gateway.publish('late');
    const asked = gateway.requests.length;
    await pause(100);
    assert.equal(gateway.requests.length, asked);
    assert.equal(told.length, before);
    assert.equal(EventSource.open.size, 0);
  });
}

test('it stands where an EventSource stood', async (t) => {
  const gateway = await Gateway.start(t);
  const source = new TidegateSource(`${gateway.url}/events?topic=a`);
  t.after(() => source.close());
  assert.deepEqual([source.CONNECTING, source.OPEN, source.CLOSED], [0, 1, 2]);
  assert.deepEqual([TidegateSource.CONNECTING, TidegateSource.OPEN, TidegateSource.CLOSED], [0, 1, 2]);
  assert.equal(source.url, `${gateway.url}/events?topic=a`);
  assert.equal(source.withCredentials, false);
  assert.deepEqual([source.onopen, source.onmessage, source.onerror], [null, null, null]);
  assert.throws(() => new TidegateSource('no url'), TypeError);
  source.close();
  source.close();
  assert.equal(source.readyState, 2);
  await pause(20);
  assert.equal(gateway.requests.length, 0, 'closed before it began');
});

test('listeners can be removed, called once, and be objects', async (t) => {
  const gateway = await Gateway.start(t);
  const { source, opened, got } = follow(t, `${gateway.url}/events?topic=a`, GONE);
  const calls = [];
  const gone = () => calls.push('gone');
  source.addEventListener('message', gone);
  source.removeEventListener('message', gone);
  source.addEventListener('message', () => calls.push('once'), { once: true });
  source.addEventListener('message', { handleEvent: () => calls.push('object') });
  await opened();
  gateway.publish(1);
  gateway.publish(2);
  await got(2);
  assert.deepEqual(calls, ['once', 'object', 'object']);
});

test('published types with the names of the source\'s own events are events, and no more', async (t) => {
  const gateway = await Gateway.start(t);
  for (const [env, transport] of [[ENV, 'sse'], [GONE.env, 'fetch']]) {
    const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    const heard = [];
    for (const type of ['open', 'error', 'end']) {
      source.addEventListener(type, (event) => event instanceof MessageEvent && heard.push([type, event.data]));
      source[`on${type}`] = (event) => event instanceof MessageEvent && heard.push(`on${type}`);
    }
    await opened();
    for (const event of ['open', 'error', 'end']) gateway.publish('x', { event });
    await until('all three', () => heard.length >= 3);
    assert.deepEqual(heard, [['open', 'x'], ['error', 'x'], ['end', 'x']]);
    assert.equal(source.readyState, 1);
    source.close();
  }
});

test('a native EventSource hands out types that are asked for later', async (t) => {
  const gateway = await Gateway.start(t);
  const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV });
  await opened();
  assert.equal(source.transport, 'sse');
  const heard = [];
  source.addEventListener('late', (event) => heard.push(event.data));
  gateway.publish('x', { event: 'late' });
  await until('it', () => heard.length);
});

test('EventSource is used where it suffices, and fetch where it does not', async (t) => {
  const gateway = await Gateway.start(t);
  const cases = [
    [{}, 'sse'],
    [{ topics: ['b'] }, 'sse'],
    [{ topics: { b() {} } }, 'fetch'],
    [{ topics: { b() {} }, types: ['created'] }, 'sse'],
    [{ headers: { 'X-Tenant': '1' } }, 'fetch'],
    [{ token: 'secret' }, 'fetch'],
    [{ ticket: () => 'ticket' }, 'sse'],
    [{ transports: ['fetch'] }, 'fetch'],
    [{ env: { WebSocket } }, 'fetch'],
    [{ env: { ...ENV, fetch: undefined }, token: undefined }, 'sse'],
  ];
  for (const [options, expected] of cases) {
    const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, { env: ENV, ...options });
    await opened();
    assert.equal(source.transport, expected, JSON.stringify(Object.keys(options)));
    source.close();
  }
  assert.throws(() => new TidegateSource(`${gateway.url}/events`, { transports: ['ws'], env: { WebSocket: undefined } }), TypeError);
});

test('a page that asked for envelopes gets them from every transport', async (t) => {
  const gateway = await Gateway.start(t);
  for (const transport of TRANSPORTS) {
    const { source, opened, got, data } = follow(t, `${gateway.url}/events?topic=a&envelope=json`, { env: ENV, transports: [transport] });
    await opened();
    const id = gateway.publish('x');
    await got(1);
    assert.deepEqual(JSON.parse(data[0]), { id, topic: 'a', event: 'message', data: 'x' });
    source.close();
  }
});

test('what a handler throws is the page\'s, and the stream goes on', async (t) => {
  const gateway = await Gateway.start(t);
  const thrown = [];
  const listeners = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => thrown.push(error.message));
  t.after(() => {
    process.removeAllListeners('uncaughtException');
    for (const listener of listeners) process.on('uncaughtException', listener);
  });
  const { source, opened, got } = follow(t, `${gateway.url}/events?topic=a`, {
    ...GONE,
    topics: { a() { throw new Error('in a handler'); } },
  });
  source.onmessage = () => {
    throw new Error('in onmessage');
  };
  await opened();
  gateway.publish(1);
  gateway.publish(2);
  await got(2);
  await until('all four', () => thrown.length === 4);
  assert.deepEqual(new Set(thrown), new Set(['in a handler', 'in onmessage']));
});

test('a topic may have the name of a method', async (t) => {
  const gateway = await Gateway.start(t);
  for (const topics of [['map', 'toString'], { map: undefined }]) {
    const { source, opened, got, data } = follow(t, `${gateway.url}/events?topic=a`, { ...GONE, topics });
    await opened();
    gateway.publish('x', { topic: 'map' });
    await got(1);
    assert.deepEqual(data, ['x']);
    source.close();
  }
});

test('a page may close it in any of its handlers', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.publish(1);
  gateway.publish(2);
  for (const type of ['state', 'open', 'message', 'live', 'error', 'gap']) {
    gateway.verdict = type === 'gap' ? { replay: 'gap', reason: 'lost' } : undefined;
    const { source, told, data, state } = follow(t, `${gateway.url}/events?topic=a&lastEventId=1-0`, GONE);
    source.addEventListener(type, () => source.close());
    if (type === 'error') setTimeout(() => gateway.cut(), 50);
    await state(2);
    const before = [told.length, data.length];
    await pause(60);
    assert.deepEqual([told.length, data.length], before, type);
    assert.equal(source.readyState, 2);
  }
  await until('no stream', () => gateway.streams.size === 0);
});
