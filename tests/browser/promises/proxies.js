// Proxies: what stands between browser and gateway may cut, move and balance streams; a page with a plain EventSource gets
// each event once and in order all the same. Nginx is the real one, with the configuration of this repository.

import assert from 'node:assert/strict';
import { assertIncreasing, assertSame } from '../support/log.js';
import { Nginx, behindNginx } from '../support/nginx.js';
import { connectionsAt } from '../support/page.js';
import { Publisher } from '../support/publisher.js';
import { COMES_BACK_MS } from '../support/refusal.js';
import { scene } from '../support/scene.js';
import { sleep, until } from '../support/until.js';

const COUNT = 100;
// So long that no keepalive can push a frame through a buffer while a test waits for it.
const NO_KEEPALIVE = { TIDEGATE_STREAM__KEEPALIVE: '120s' };
const BALANCES = [
  ['least_conn', 'least_conn;'],
  ['ip_hash', 'ip_hash;'],
  ['round robin', ''],
];

const behind = (besides) => (itself) => ({ ...behindNginx, TIDEGATE_CORS__ORIGINS: itself, ...besides });

export default function proxies(world, test) {
  for (const [how, events] of [
    ['', 'proxy_buffering off;'],
    // Over HTTP/1.0, as it is by itself, Nginx fills its buffers first - unless it is asked not to (X-Accel-Buffering).
    [' that was told to buffer', 'proxy_http_version 1.0; proxy_buffering on; proxy_buffers 16 64k;'],
  ]) {
    test(`through Nginx${how} the first frame and each event come at once and in order`, async (t) => {
      const front = (ports) => Nginx.before(ports, { events });
      await scene(t, world, { settings: behind(NO_KEEPALIVE), front }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'));
        const open = await page.opened();
        assert.equal(open.data.replay, 'none');
        const published = [];
        for (let n = 0; n < COUNT; n += 1) {
          published.push((await gateway.publish({ topic: 'orders', data: `${n}` })).id);
          // One by one: were it held back, the next one would not push it.
          if (n % 20 === 0) await page.received(n + 1);
        }
        await page.received(COUNT);
        assertSame(page.events.map(({ id }) => id), published);
        assertIncreasing([open.id, ...published]);
        const [{ status, responseHeaders }] = proxy.streams;
        assert.equal(status, 200);
        assert.match(responseHeaders.server, /^nginx/);
        assert.equal(responseHeaders['content-type'], 'text/event-stream');
        assert.equal(responseHeaders['cache-control'], 'no-cache, no-store, no-transform');
        assert.equal(responseHeaders['tidegate-replay'], 'none');
        assert.equal(proxy.streams.length, 1);
        say(`${responseHeaders.server}, ${COUNT} events`);
      });
    });
  }

  test('a page that goes is gone at the gateway behind Nginx, too', async (t) => {
    await scene(t, world, { origin: 'own', settings: behind(), front: Nginx.before }, async ({ gateway, page, tab, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      await page.opened();
      await connectionsAt(gateway, 1);
      await tab.goto('about:blank');
      await connectionsAt(gateway, 0);
    });
  });

  test('a reload of Nginx cuts the stream, and the page misses nothing', async (t) => {
    await scene(t, world, { settings: behind(), front: Nginx.before }, async ({ gateway, front, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      await page.opened();
      const publisher = new Publisher([gateway]);
      for (let n = 1; n <= 3; n += 1) {
        front.reload();
        await page.opened(n + 1);
      }
      const published = await publisher.end();
      await page.received(published.length);
      assertSame(page.events.map(({ id }) => id), published);
      assert.deepEqual(page.opens.map(({ data }) => data.replay), ['none', 'complete', 'complete', 'complete']);
      assert.deepEqual(page.errors.filter((state) => state !== 'CONNECTING'), []);
      say(`${published.length} events over ${proxy.streams.length} streams`);
    });
  });

  for (const [how, balance] of BALANCES) {
    test(`two replicas behind Nginx with ${how}: the one that serves is killed, and the page goes on at the other`, async (t) => {
      const front = (ports) => Nginx.before(ports, { balance });
      await scene(t, world, { redis: true, replicas: 2, settings: behind(), front }, async ({ gateways, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'));
        await page.opened();
        const serving = await whoServes(gateways);
        const other = gateways.find((one) => one !== serving);
        const publisher = new Publisher([other]);
        await page.received(5);
        await serving.kill();
        await page.opened(2);
        await connectionsAt(other, 1);
        // And back: the killed one returns, the other one drains.
        await serving.begin();
        publisher.gateways = [serving];
        await page.received(page.events.length + 5);
        await other.stop();
        await page.opened(3, { within: COMES_BACK_MS });
        await connectionsAt(serving, 1);
        const published = await publisher.end();
        await page.received(published.length);
        assertSame(page.events.map(({ id }) => id), published);
        const verdicts = page.opens.map(({ data }) => data.replay);
        assert.deepEqual([verdicts[0], ...new Set(verdicts.slice(1))], ['none', 'complete']);
        assert.equal(page.state, 'OPEN');
        assert.deepEqual([page.of('$gap').length, page.sources], [0, 1]);
        say(`${published.length} events over ${verdicts.length} streams and ${page.of('$refused').length} refusals`);
      });
    });
  }

  test('through Nginx a WebSocket passes both ways, survives silence, and ends with its own word; a poll may wait', async (t) => {
    const settings = behind({ TIDEGATE_STREAM__KEEPALIVE: '1s' });
    await scene(t, world, { origin: 'own', settings, front: Nginx.before }, async ({ gateway, proxy, page, say }) => {
      await page.evaluate((url) => {
        const socket = new WebSocket(url);
        globalThis.heard = [];
        globalThis.socket = socket;
        socket.onmessage = ({ data }) => globalThis.heard.push(JSON.parse(data));
        socket.onclose = ({ code, reason }) => globalThis.heard.push({ type: 'closed', code, reason });
      }, `${proxy.url.replace('http', 'ws')}/ws?topic=orders`);
      const heard = () => page.evaluate(() => JSON.stringify(globalThis.heard)).then(JSON.parse);
      const hears = (type) => until(`the page to hear ${type}`, async () => (await heard()).find((one) => one.type === type), { seen: heard });
      await hears('open');
      const first = (await gateway.publish({ topic: 'orders', data: 'first' })).id;
      assert.equal((await hears('event')).id, first);
      await page.evaluate(() => globalThis.socket.send(JSON.stringify({ type: 'publish', ref: 1, topic: 'orders', data: 'by a page' })));
      const { id: second } = await hears('ack');
      await sleep(3_000); // some pings, which the page does not see
      await page.evaluate(() => globalThis.socket.send(JSON.stringify({ type: 'ping', ref: 2 })));
      assert.equal((await hears('pong')).ref, 2);

      const poll = page.evaluate((url) => fetch(url).then((answer) => answer.json()).then(JSON.stringify), `${proxy.url}/poll?topic=orders&lastEventId=${second}&wait=25s`);
      poll.catch(() => {}); // it is awaited below
      await connectionsAt(gateway, 2);
      await sleep(1_000); // it waits
      const third = (await gateway.publish({ topic: 'orders', data: 'third' })).id;
      const { events, replay } = JSON.parse(await poll);
      assert.deepEqual([events.map(({ id }) => id), replay], [[third], 'complete']);
      await until('it by the WebSocket, too', async () => (await heard()).filter(({ type }) => type === 'event').length === 3);
      await gateway.stop();
      const closed = await hears('closed');
      assert.deepEqual([closed.code, closed.reason], [1001, 'draining']);
      assert.deepEqual((await heard()).filter(({ type }) => type === 'event').map(({ id }) => id), [first, second, third]);
      say(JSON.stringify((await heard()).map(({ type }) => type)));
    });
  });

  // What Nginx says by itself, a 502, would be the last word to an EventSource.
  for (const origin of ['own', 'loopback']) {
    test(`while no replica is there Nginx sends a page of ${origin === 'own' ? 'its own' : 'another'} origin away for a while, which comes back by itself`, async (t) => {
      await scene(t, world, { origin, redis: true, settings: behind(), front: Nginx.before }, async ({ gateway, front, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'));
        await page.opened();
        const before = (await gateway.publish({ topic: 'orders', data: 'before' })).id;
        await page.received(1);
        await gateway.kill();
        const away = await until('an answer of Nginx', () => proxy.streams.slice(1).find(({ closed, frames }) => closed || frames.length > 0));
        assert.equal(away.status, 200);
        assert.equal(away.responseHeaders['content-type'], 'text/event-stream');
        assert.deepEqual(Object.keys(away.frames[0]), ['retry']);
        const plain = await fetch(`${front.url}/events?topic=orders`);
        assert.equal(plain.status, 502, 'whoever can read a status gets it');

        await gateway.begin();
        const returned = await page.opened(2, { within: COMES_BACK_MS });
        assert.deepEqual([returned.data.replay, returned.id], ['complete', before]);
        const after = (await gateway.publish({ topic: 'orders', data: 'after' })).id;
        await page.received(2);
        assertSame(page.events.map(({ id }) => id), [before, after]);
        assert.deepEqual(page.errors.filter((state) => state !== 'CONNECTING'), [], 'the browser never gave up');
        say(`sent away ${proxy.streams.length - 2} times (retry ${away.frames[0].retry} ms)`);
      });
    });
  }

  test('over TLS and HTTP/2 through Nginx one page may have more than six streams', async (t) => {
    const front = (ports) => Nginx.before(ports, { tls: true });
    await scene(t, world, { settings: behind(NO_KEEPALIVE), front }, async ({ gateway, front: nginx, page, say }) => {
      const streams = 10;
      await page.evaluate(
        ({ url, streams }) => {
          globalThis.seen = Array.from({ length: streams }, () => []);
          globalThis.sources = globalThis.seen.map((mine, n) => {
            const source = new EventSource(`${url}/events?topic=common&topic=own-${n}`);
            source.onmessage = ({ lastEventId }) => mine.push(lastEventId);
            return source;
          });
        },
        { url: nginx.url, streams },
      );
      await connectionsAt(gateway, streams);
      const published = [];
      for (let n = 0; n < 20; n += 1) published.push((await gateway.publish({ topic: 'common', data: `${n}` })).id);
      const seen = () => page.evaluate(() => JSON.stringify(globalThis.seen)).then(JSON.parse);
      await until('all events in all streams', async () => (await seen()).every((mine) => mine.length >= published.length), { seen });
      for (const mine of await seen()) assertSame(mine, published);
      say(`${streams} streams, ${published.length} events in each`);
    });
  });
}

/** The replica that has the one open stream. */
async function whoServes(gateways) {
  return until('a replica to have the stream', async () => {
    for (const gateway of gateways) if ((await gateway.connections()).length === 1) return gateway;
    return undefined;
  });
}
