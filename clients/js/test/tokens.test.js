// Who asks: headers, tokens that are renewed, tickets.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { EventSource } from './support/event_source.js';
import { Gateway } from './support/gateway.js';
import { follow, pause, until } from './support/scene.js';

const env = { EventSource, WebSocket };
const of = (gateway, route) => gateway.requests.filter((request) => request.route === route);

test('headers and a token go with every request of fetch, a function is asked for each', async (t) => {
  const gateway = await Gateway.start(t);
  for (const [transport, route] of [['fetch', 'events'], ['poll', 'poll']]) {
    let asked = 0;
    const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, {
      transports: [transport],
      token: 'secret',
      headers: async () => ({ 'X-Tenant': `${++asked}` }),
    });
    await opened();
    await until('a waiting stream', () => gateway.streams.size);
    gateway.cut();
    await opened(2);
    source.close();
    await until('no stream', () => gateway.streams.size === 0);
    const seen = of(gateway, route).map(({ headers }) => [headers.authorization, headers['x-tenant']]);
    assert.deepEqual(seen, seen.map((_, index) => ['Bearer secret', `${index + 1}`]));
  }
});

for (const [transport, route] of [['sse', 'events'], ['ws', 'ws']]) {
  test(`${transport}: a token is exchanged for a ticket, a new one for each connect`, async (t) => {
    const gateway = await Gateway.start(t);
    let asked = 0;
    const { opened } = follow(t, `${gateway.url}/events?topic=a`, {
      // Without a body that can be read piece by piece there is only EventSource.
      env,
      ...(transport === 'sse' ? { ticket: async () => `own-${++asked}` } : { token: 'secret' }),
      transports: [transport],
    });
    await opened();
    gateway.cut();
    await opened(2);
    const tickets = of(gateway, route).map(({ query }) => query.get('ticket'));
    assert.equal(new Set(tickets).size, tickets.length);
    assert.ok(tickets.every((ticket) => ticket.startsWith(transport === 'sse' ? 'own-' : 'ticket-')), `${tickets}`);
    for (const { headers, method } of of(gateway, 'ticket')) assert.deepEqual([headers.authorization, method], ['Bearer secret', 'POST']);
    assert.equal(of(gateway, 'ticket').length, transport === 'ws' ? tickets.length : 0);
    assert.ok(of(gateway, route).every(({ headers }) => !headers.authorization));
  });
}

for (const [transport, route] of [['fetch', 'events'], ['poll', 'poll']]) {
  test(`${transport}: a token is kept until it is refused, and renewed at once then`, async (t) => {
    const gateway = await Gateway.start(t);
    const reasons = [];
    const { opened, got, data } = follow(t, `${gateway.url}/events?topic=a`, {
      transports: [transport],
      retryMs: 10,
      token: async ({ reason }) => `token-${reasons.push(reason)}`,
    });
    gateway.faults[route] = ({ headers }, response) => headers.authorization !== 'Bearer token-1' && gateway.problem(response, 401, 'unauthorized');
    await opened();
    gateway.publish(1);
    await got(1);
    // Between two polls there is nothing to cut.
    await until('a waiting stream', () => gateway.streams.size);
    gateway.cut();
    await opened(2);
    assert.deepEqual(reasons, ['connect']);
    gateway.faults[route] = ({ headers }, response) => headers.authorization !== 'Bearer token-2' && gateway.problem(response, 401, 'unauthorized');
    gateway.cut();
    gateway.publish(2);
    await got(2);
    assert.deepEqual(reasons, ['connect', 'unauthorized']);
    assert.deepEqual(data, ['1', '2']);
  });
}

test('ws: a connection that is closed 4401 comes back with a new token', async (t) => {
  const gateway = await Gateway.start(t);
  const reasons = [];
  const { opened, got, data } = follow(t, `${gateway.url}/events?topic=a`, {
    env,
    transports: ['ws'],
    token: ({ reason }) => `token-${reasons.push(reason)}`,
  });
  await opened();
  gateway.publish(1);
  await got(1);
  for (const stream of [...gateway.streams]) stream.end(4401, 'auth_expired');
  gateway.publish(2);
  await got(2);
  assert.deepEqual(reasons, ['connect', 'unauthorized']);
  assert.deepEqual(data, ['1', '2']);
});

test('ws: headers that are no credentials need no ticket, a credential among them is exchanged', async (t) => {
  const gateway = await Gateway.start(t);
  for (const [headers, tickets] of [[{ 'X-Trace': '1' }, 0], [{ authorization: 'Bearer secret', 'X-Trace': '1' }, 1]]) {
    const { source, opened } = follow(t, `${gateway.url}/events?topic=a`, { env, transports: ['ws'], headers });
    await opened();
    assert.equal(gateway.count('ticket'), tickets);
    source.close();
  }
  assert.equal(of(gateway, 'ticket')[0].headers.authorization, 'Bearer secret');
});

test('an expired token that is refused by a stream is renewed', async (t) => {
  const gateway = await Gateway.start(t);
  const reasons = [];
  gateway.faults.events = ({ headers }, response) => {
    if (headers.authorization === 'Bearer token-2') return false;
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    return response.end('retry: 60000\nevent: $refused\ndata: {"status":401,"code":"unauthorized"}\n\n');
  };
  const { opened } = follow(t, `${gateway.url}/events?topic=a`, { token: ({ reason }) => `token-${reasons.push(reason)}` });
  await opened();
  assert.deepEqual(reasons, ['connect', 'unauthorized']);
});

test('a token that is refused again and again ends it', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.faults.events = (_, response) => gateway.problem(response, 401, 'unauthorized');
  let asked = 0;
  const { state, of: told } = follow(t, `${gateway.url}/events?topic=a`, { token: () => `token-${++asked}` });
  await state(2);
  assert.equal(asked, 4);
  assert.equal(told('error').at(-1).status, 401);
});

test('a token that cannot be renewed ends it when it is refused, also by a stream', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.faults.events = (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    return response.end('event: $refused\ndata: {"status":401,"code":"unauthorized"}\n\n');
  };
  const { state } = follow(t, `${gateway.url}/events?topic=a`, { token: 'old' });
  await state(2);
  assert.equal(gateway.requests.length, 1);
});

test('a function that throws is asked again', async (t) => {
  const gateway = await Gateway.start(t);
  let asked = 0;
  for (const option of ['token', 'headers', 'ticket']) {
    asked = 0;
    const { source, opened, of: told } = follow(t, `${gateway.url}/events?topic=a`, {
      [option]() {
        if (++asked < 4) throw new Error('no login');
        return option === 'headers' ? { 'X-Tenant': '1' } : 'secret';
      },
    });
    await opened();
    assert.deepEqual(told('error').map(({ code, detail }) => [code, detail]), Array(3).fill(['credentials', 'no login']));
    assert.equal(source.transport, 'fetch', 'that is no fault of the transport');
    source.close();
  }
});

test('$auth_expiring: a new token renews the open connection in place', async (t) => {
  const gateway = await Gateway.start(t);
  for (const transport of ['fetch', 'ws']) {
    gateway.requests.length = 0;
    const reasons = [];
    const { source, opened, of: told } = follow(t, `${gateway.url}/live/events?topic=a`.replace('/live', ''), {
      env,
      transports: [transport],
      token: async ({ reason }) => `token-${reasons.push(reason)}`,
    });
    await opened();
    gateway.say('auth_expiring', { expires: '2026-11-21T13:00:00.000Z', in_ms: 30_000 });
    const route = `connections/${source.connection}/token`;
    await until('the renewal', () => gateway.count(route));
    const [{ headers, method }] = of(gateway, route);
    assert.deepEqual([method, headers.authorization], ['POST', 'Bearer token-2']);
    assert.deepEqual(reasons, ['connect', 'expiring']);
    assert.deepEqual(told('expiring').map(({ expires, inMs }) => [expires, inMs]), [['2026-11-21T13:00:00.000Z', 30_000]]);
    await pause(50);
    assert.equal(told('open').length, 1, 'the same connection');
    // The next connect shows it, too.
    if (transport === 'fetch') {
      gateway.cut();
      await opened(2);
      assert.equal(of(gateway, 'events').at(-1).headers.authorization, 'Bearer token-2');
    }
    source.close();
  }
});

test('a renewal that fails leaves the connection as it is', async (t) => {
  const gateway = await Gateway.start(t);
  gateway.faults['connections/c1/token'] = (_, response) => gateway.problem(response, 403, 'forbidden');
  const { source, opened, of: told } = follow(t, `${gateway.url}/events?topic=a`, {
    token({ reason }) {
      if (reason === 'expiring') throw new Error('no');
      return 'token';
    },
  });
  await opened();
  gateway.say('auth_expiring', { in_ms: 30_000 });
  await until('the event', () => told('expiring').length);
  await pause(50);
  assert.equal(source.readyState, 1);
});

test('other places for tickets, WebSockets and polls can be named', async (t) => {
  const gateway = await Gateway.start(t);
  const { opened } = follow(t, `${gateway.url}/far/away?topic=a`, {
    env,
    transports: ['ws'],
    token: 'secret',
    endpoints: { ws: '/ws', ticket: `${gateway.url}/ticket` },
  });
  await opened();
  assert.deepEqual(gateway.requests.map(({ route }) => route), ['ticket', 'ws']);
});
