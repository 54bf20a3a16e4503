// The client and the gateway itself. Without a gateway (`cargo build`, or `TIDEGATE_BIN`) these tests fail: they are half of
// what the client promises.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { EventSource } from './support/event_source.js';
import { RealGateway, SECRET, token } from './support/real_gateway.js';
import { follow, pause, until } from './support/scene.js';
import { createLocks } from './support/window.js';

const env = { EventSource, WebSocket };
const TRANSPORTS = ['sse', 'fetch', 'ws', 'poll'];
const AUTH = { TIDEGATE_AUTH__JWT__SECRET: SECRET };

for (const transport of TRANSPORTS) {
  test(`${transport}: several topics, types and lines arrive as they were published`, async (t) => {
    const gateway = await RealGateway.start(t);
    const handled = [];
    const { source, opened, got, data, of } = follow(
      t,
      `${gateway.url}/events?topic=a`,
      { env, transports: [transport], types: ['created'], topics: { 'users/1': (event) => handled.push([event.topic, event.type, event.data]) } },
      ['created'],
    );
    await opened();
    assert.equal(source.transport, transport);
    assert.equal(of('open')[0].replay, 'none');
    await gateway.publish('one\n\ntwo\n');
    const id = await gateway.publish('{"a":"\u00e9\u2028"}', { topic: 'users/1', event: 'created' });
    await got(2);
    assert.deepEqual(data, ['one\n\ntwo\n', '{"a":"\u00e9\u2028"}']);
    assert.deepEqual(handled, [['users/1', 'created', '{"a":"\u00e9\u2028"}']]);
    assert.equal(source.lastEventId, id);
  });

  test(`${transport}: cut again and again while events come, nothing is lost and nothing comes twice`, async (t) => {
    const gateway = await RealGateway.start(t);
    const { opened, data, of } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    await opened();
    for (let number = 1; number <= 120; number++) {
      await gateway.publish(number);
      if (number % 30 === 0) gateway.cut();
      if (number % 10 === 0) await pause(50);
    }
    await until('the last event', () => data.at(-1) === '120');
    assert.deepEqual(data, Array.from({ length: 120 }, (_, index) => `${index + 1}`));
    assert.ok(of('open').slice(1).every(({ replay }) => replay === 'complete'));
    assert.ok(of('error').length >= 2);
  });

  test(`${transport}: a restart with the log in memory is told as a gap, and it goes on`, async (t) => {
    const gateway = await RealGateway.start(t);
    const { opened, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    await opened();
    await gateway.publish(1);
    await got(1);
    await gateway.stop();
    await gateway.begin();
    await until('the gap', () => of('gap').length);
    assert.equal(of('gap')[0].reason, 'reset');
    await gateway.publish(2);
    await got(2);
    assert.deepEqual(data, ['1', '2']);
  });

  test(`${transport}: the end of a topic closes it, also for who comes later`, async (t) => {
    const gateway = await RealGateway.start(t);
    const first = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    await first.opened();
    await gateway.publish('last', { end: true });
    await first.state(2);
    assert.deepEqual(first.data, ['last']);
    assert.equal(first.of('end')[0].topic, 'a');
    for (const lastEventId of [first.source.lastEventId, 'earliest']) {
      const later = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport], lastEventId });
      await later.state(2);
      assert.deepEqual(later.data, lastEventId === 'earliest' ? ['last'] : []);
      assert.equal(later.of('error').at(-1).code, 'finished');
    }
  });

  test(`${transport}: a quiet topic stays open on heartbeats, and its cursor moves`, async (t) => {
    const gateway = await RealGateway.start(t);
    const { source, opened, of } = follow(t, `${gateway.url}/events?topic=quiet`, { env, transports: [transport], silenceMs: 3_000 });
    await opened();
    const before = source.lastEventId;
    const id = await gateway.publish('for others', { topic: 'other' });
    await until('the cursor to move', () => source.lastEventId !== before);
    assert.equal(source.lastEventId.split('-')[0].length, id.split('-')[0].length);
    await pause(4_000);
    assert.equal(of('error').length, 0);
  });

  test(`${transport}: a token that expires is renewed, in place where that can be`, async (t) => {
    // Time for a slow machine, both to come with the first token and to renew it.
    const gateway = await RealGateway.start(t, { ...AUTH, TIDEGATE_AUTH__EXPIRY_NOTICE: '5s' });
    gateway.authorization = `Bearer ${token()}`;
    const reasons = [];
    // Tickets are made of tokens by whoever has them; EventSource gets them from the page.
    const ticket = async () => {
      const headers = { Authorization: `Bearer ${token({}, 60)}` };
      return (await (await fetch(`${gateway.url}/ticket`, { method: 'POST', headers })).json()).ticket;
    };
    const credentials = transport === 'sse' ? { ticket } : { token: async ({ reason }) => token({}, reasons.push(reason) === 1 ? 7 : 60) };
    const { source, opened, got, data, of } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport], ...credentials });
    await opened();
    await gateway.publish(1);
    await got(1);
    if (transport === 'fetch' || transport === 'ws') {
      await until('the notice', () => of('expiring').length);
      assert.ok(of('expiring')[0].inMs > 0);
      await pause(6_500); // beyond the end of the first token
      assert.equal(of('open').length, 1, 'the same connection');
      assert.deepEqual(reasons, ['connect', 'expiring']);
    } else if (transport === 'poll') await until('a new token', () => reasons.length === 2);
    gateway.cut();
    await gateway.publish(2);
    await got(2);
    assert.deepEqual(data, ['1', '2']);
    assert.equal(source.readyState, 1);
  });

  test(`${transport}: what is not allowed is final, and says why where that can be seen`, async (t) => {
    const gateway = await RealGateway.start(t, AUTH);
    const narrow = async () => token({ tidegate: { subscribe: ['b'] } });
    const ticket = async () => {
      const headers = { Authorization: `Bearer ${await narrow()}` };
      return (await (await fetch(`${gateway.url}/ticket`, { method: 'POST', headers })).json()).ticket;
    };
    const credentials = transport === 'sse' ? { ticket } : { token: narrow };
    const forbidden = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport], ...credentials });
    await forbidden.state(2);
    assert.deepEqual([forbidden.of('error').at(-1).status, forbidden.of('error').at(-1).code], [403, 'forbidden']);
    const nobody = follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] });
    await nobody.state(2);
    assert.deepEqual([nobody.of('error').at(-1).status, nobody.of('error').at(-1).code], [401, 'unauthorized']);
  });
}

test('from WebSocket to event stream and to polling, while events come: each once, in order', async (t) => {
  const gateway = await RealGateway.start(t);
  let allowed = 'ws';
  const { fetch } = globalThis;
  // A network that lets one transport through, and breaks the others off.
  const picky = (url, init) => {
    const kind = new URL(url).pathname === '/poll' ? 'poll' : 'fetch';
    return kind === allowed ? fetch(url, init) : Promise.reject(new TypeError('cut'));
  };
  class Socket extends WebSocket {
    constructor(url) {
      super(allowed === 'ws' ? url : 'ws://127.0.0.1:1/');
    }
  }
  const { source, transport, data } = follow(t, `${gateway.url}/events?topic=a`, {
    env: { fetch: picky, WebSocket: Socket },
    transports: ['fetch', 'ws', 'poll'],
    upgradeMs: 50,
  });
  await transport('ws');
  let published = 0;
  let publishing = true;
  const publisher = (async () => {
    while (publishing) await gateway.publish(++published);
  })();
  const some = async () => {
    const { length } = data;
    await until('more events', () => data.length > length + 20);
  };
  await some();
  allowed = 'fetch';
  await transport('fetch');
  await some();
  allowed = 'poll';
  gateway.cut();
  await transport('poll');
  await some();
  allowed = 'fetch';
  await transport('fetch');
  await some();
  publishing = false;
  await publisher;
  await until('the last event', () => data.at(-1) === `${published}`);
  const first = Number(data[0]);
  assert.deepEqual(data, Array.from({ length: published - first + 1 }, (_, index) => `${first + index}`));
  assert.equal(source.readyState, 1);
});

test('a drain is quiet: every transport leaves, comes back and misses nothing', async (t) => {
  const gateway = await RealGateway.start(t);
  const all = TRANSPORTS.map((transport) => follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] }));
  for (const { opened } of all) await opened();
  await gateway.publish(1);
  for (const { got } of all) await got(1);
  await gateway.stop();
  await gateway.begin();
  for (const { opened } of all) await opened(2);
  for (const { source, of } of all) {
    assert.equal(source.readyState, 1);
    assert.ok(of('error').length >= 1);
  }
});

test('a gateway that is full is come back to, over every transport', async (t) => {
  const gateway = await RealGateway.start(t, { TIDEGATE_LIMITS__CONNECTIONS: '1' });
  const first = follow(t, `${gateway.url}/events?topic=a`, { transports: ['fetch'] });
  await first.opened();
  const others = TRANSPORTS.map((transport) => follow(t, `${gateway.url}/events?topic=a`, { env, transports: [transport] }));
  for (const { of } of others) {
    await until('the refusal', () => of('error').length);
    assert.equal(of('error')[0].code, 'connection_limit');
  }
  for (const { source } of others.slice(1)) source.close();
  first.source.close();
  await others[0].opened();
});

test('tabs share one connection, and the next leader goes on', async (t) => {
  const gateway = await RealGateway.start(t);
  const options = { transports: ['fetch'], share: `real-${process.pid}`, env: { locks: createLocks() } };
  const tabs = [1, 2, 3].map(() => follow(t, `${gateway.url}/events?topic=a`, options));
  for (const { opened } of tabs) await opened();
  let published = 0;
  for (const { source } of tabs.slice(0, 2)) {
    for (let more = 0; more < 20; more++) await gateway.publish(++published);
    source.close();
    for (let more = 0; more < 20; more++) await gateway.publish(++published);
  }
  await tabs[2].got(published);
  assert.deepEqual(tabs[2].data, Array.from({ length: published }, (_, index) => `${index + 1}`));
  const late = follow(t, `${gateway.url}/events?topic=a`, { ...options, last: 3 });
  await late.got(3);
  assert.deepEqual(late.data, tabs[2].data.slice(-3));
  await until('one connection', async () => {
    const { connections } = await (await fetch(`http://127.0.0.1:${gateway.adminPort}/admin/connections`)).json();
    return connections.length === 1;
  });
});
