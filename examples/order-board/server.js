// The back end of the example: it knows the orders, and tells every change to the gateway. It keeps no connection to any page.
//
//   GET  /state                                       all orders, and the cursor that they stand for
//   POST /orders {"station", "item", "table"}         a new order
//   POST /orders/<id> {"state"}                       an order goes on: new, preparing, ready, served
//   GET  /                                            the page
//
// PORT, TIDEGATE_URL, PUBLISH_TOKEN (where the gateway asks for one), EVENTS_URL (where pages find the gateway, if not where
// this program does). With --demo, guests order by themselves.
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const PORT = Number(process.env.PORT ?? 3000);
const GATEWAY = process.env.TIDEGATE_URL ?? 'http://127.0.0.1:8080';
const TOKEN = process.env.PUBLISH_TOKEN;
const STATIONS = { kitchen: ['soup', 'pie', 'salad', 'fish'], bar: ['tea', 'cider', 'coffee'] };
const STATES = ['new', 'preparing', 'ready', 'served'];

/** In place of a database: each order by its number, with a version that grows with each change. */
const orders = new Map();
/** Everything up to here is in `orders`. What comes later is new to whoever has loaded them. */
let cursor;

const run = randomUUID(); // so that keys of the last run of this program are not those of this one
const waiting = [];
let sending;

/** Publishes in the order of the changes, for as long as it takes: while the gateway is away, orders go on here. */
function tell(topic, event, data) {
  waiting.push({ topic, event, data, key: `${run} ${topic} ${event} ${data.id ?? ''} ${data.version ?? ''}` });
  sending ??= (async () => {
    for (; waiting.length > 0; waiting.shift()) cursor = (await publish(waiting[0])) ?? cursor;
    sending = undefined;
  })();
}

/** Publishes one event, and does not give up while it could still be stored. The key makes that safe. */
async function publish(event) {
  const headers = { 'content-type': 'application/json', ...(TOKEN && { authorization: `Bearer ${TOKEN}` }) };
  for (let pause = 200; ; pause = Math.min(2 * pause, 5_000)) {
    try {
      const response = await fetch(`${GATEWAY}/publish`, { method: 'POST', headers, body: JSON.stringify(event) });
      const answer = await response.json();
      if (response.ok) return answer.id;
      console.error(`${answer.code}: ${answer.detail}`);
      if (![429, 503, 504].includes(response.status)) return undefined;
    } catch (error) {
      console.error(`the gateway does not answer: ${error.cause?.message ?? error.message}`);
    }
    await sleep(pause);
  }
}

/** Every event carries the whole order: it may be read twice, and says all that a page has to know. */
function change(order) {
  orders.set(order.id, order);
  tell(`orders/${order.station}`, 'order', order);
  return order;
}

const routes = {
  async 'GET /'() {
    return { type: 'text/html; charset=utf-8', body: await readFile(new URL('index.html', import.meta.url)) };
  },
  'GET /config'() {
    return { json: { gateway: process.env.EVENTS_URL ?? GATEWAY, stations: STATIONS, states: STATES } };
  },
  // What a page begins with, and what it comes back to when the gateway says that events are missing.
  'GET /state'() {
    return cursor ? { json: { cursor, orders: [...orders.values()] } } : { status: 503, json: { error: 'the gateway has not been reached yet' } };
  },
  'POST /orders'({ station, item, table }) {
    if (!STATIONS[station]?.includes(item) || !Number.isInteger(table)) return { status: 400, json: { error: 'no such order' } };
    return { status: 201, json: change({ id: orders.size + 1, version: 1, station, item, table, state: 'new' }) };
  },
  'POST /orders/:id'({ state }, id) {
    const order = orders.get(Number(id));
    if (!order || !STATES.includes(state)) return { status: 404, json: { error: 'no such order, or no such state' } };
    return { json: change({ ...order, version: order.version + 1, state }) };
  },
};

async function body(request) {
  let text = '';
  for await (const piece of request.setEncoding('utf8')) {
    text += piece;
    if (text.length > 10_000) throw new Error('too long');
  }
  return JSON.parse(text || '{}');
}

const server = http.createServer(async (request, response) => {
  const [, first, id] = new URL(request.url, 'http://here').pathname.split('/');
  const route = routes[`${request.method} /${first}${id ? '/:id' : ''}`];
  let answer = { status: 404, json: { error: 'not found' } };
  try {
    if (route) answer = await route(await body(request), id);
  } catch (error) {
    answer = { status: 400, json: { error: error.message } };
  }
  response.writeHead(answer.status ?? 200, { 'content-type': answer.type ?? 'application/json', 'cache-control': 'no-store' });
  response.end(answer.body ?? JSON.stringify(answer.json));
});

/** Guests who order, and stations that work. */
async function demo() {
  const any = (list) => list[Math.floor(Math.random() * list.length)];
  for (;;) {
    await sleep(700);
    const open = [...orders.values()].filter(({ state }) => state !== 'served');
    if (open.length < 8 || Math.random() < 0.3) {
      const station = any(Object.keys(STATIONS));
      routes['POST /orders']({ station, item: any(STATIONS[station]), table: 1 + Math.floor(Math.random() * 12) });
    } else {
      const { id, state } = any(open);
      routes['POST /orders/:id']({ state: STATES[STATES.indexOf(state) + 1] }, id);
    }
  }
}

// Pages that were open over a restart of this program have to load everything again.
tell('notices', 'reset', { text: 'the board has begun' });
server.listen(PORT, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
if (process.argv.includes('--demo')) demo();
