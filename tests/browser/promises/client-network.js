// The network, and what the client makes of it: connections that die without a word, no network at all, replicas that leave,
// and refusals. Nothing is lost or doubled, and only what is final ends it.

import assert from 'node:assert/strict';
import { Nginx, behindNginx } from '../support/nginx.js';
import { Publisher } from '../support/publisher.js';
import { COMES_BACK_MS } from '../support/refusal.js';
import { scene } from '../support/scene.js';
import { token, wantsTokens } from '../support/token.js';
import { sleep, until } from '../support/until.js';
import { WAYS, requests } from '../support/ways.js';

const QUIET_MS = 2_000; // several times the retry time

export default function network(world, test) {
  for (const [way, options] of Object.entries(WAYS)) {
    test(`client: by ${way} a connection that has died without a word is noticed, and what was missed comes`, async (t) => {
      const settings = { TIDEGATE_STREAM__KEEPALIVE: '1s' };
      await scene(t, world, { client: true, origin: 'own', settings }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'), { ...options, silenceMs: 4_000 });
        await page.opened();
        const publish = async (data) => (await gateway.publish({ topic: 'orders', data })).id;
        const published = [await publish('before')];
        await page.received(1);
        if (way !== 'poll') await until('a keepalive', () => keepalives(requests(proxy, way).at(-1), way) > 0, { within: 8_000 });
        proxy.swallow();
        for (let n = 0; n < 3; n += 1) published.push(await publish(`unheard ${n}`));
        await page.received(published.length, { within: 60_000 });
        published.push(await publish('after'));
        await page.receivedAll(published);
        assert.deepEqual(page.gaps, []);
        assert.equal(page.transport, way);
        say(`${requests(proxy, way).length} requests, errors ${JSON.stringify(page.errors)}`);
      });
    });

    test(`client: by ${way} a drain is announced, and what is published until the next replica is there is not lost`, async (t) => {
      await scene(t, world, { client: true, origin: 'own', redis: true }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'), options);
        await page.opened();
        const publisher = new Publisher([gateway]);
        await page.received(3);
        await gateway.stop();
        await gateway.begin();
        await page.received(publisher.published.length + 3, { within: COMES_BACK_MS });
        await page.receivedAll(await publisher.end());
        assert.deepEqual(page.gaps, []);
        assert.ok(page.opens.slice(1).every(({ replay }) => replay === 'complete'), JSON.stringify(page.opens));
        assert.equal(page.state, 1);
        say(`${page.ids.length} events, ${requests(proxy, way).length} requests, ${proxy.refused} in vain`);
      });
    });

    test(`client: by ${way} a replica is killed behind Nginx, and the other one goes on`, async (t) => {
      const settings = (itself) => ({ ...behindNginx, TIDEGATE_CORS__ORIGINS: itself });
      const nginx = (ports) => Nginx.before(ports, { balance: '' });
      await scene(t, world, { client: true, origin: 'own', redis: true, replicas: 2, settings, front: nginx }, async ({ gateways, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'), options);
        await page.opened();
        const serving = await until('a replica to serve', async () => {
          for (const one of gateways) if ((await one.connections()).length === 1) return one;
          return undefined;
        });
        const other = gateways.find((one) => one !== serving);
        const publisher = new Publisher([other]);
        await page.received(3);
        await serving.kill();
        await page.received(page.events.length + 20, { within: COMES_BACK_MS });
        await page.receivedAll(await publisher.end());
        assert.deepEqual(page.gaps, []);
        assert.equal(page.transport, way);
        say(`${page.ids.length} events, ${requests(proxy, way).length} requests, ${page.errors.length} errors`);
      });
    });

    test(`client: by ${way} it waits where there is no room, keeps its cursor, and follows when there is`, async (t) => {
      const settings = { TIDEGATE_LIMITS__CONNECTIONS: '1' };
      await scene(t, world, { client: true, origin: 'own', settings }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'), options);
        await page.opened();
        const publish = async (data) => (await gateway.publish({ topic: 'orders', data })).id;
        const published = [await publish('before')];
        await page.received(1);
        proxy.hold();
        proxy.cut();
        // A poll that was sent before the cut may still come in, and take the place for a moment.
        let other;
        await until('the place to be free', async () => {
          other = await gateway.subscribe('orders');
          if (other.status !== 200) other.leave();
          return other.status === 200;
        });
        published.push(await publish('meanwhile'));
        const shapes = way === 'sse' ? ['stream'] : ['stream', 'status'];
        const refusals = async () => (await Promise.all(shapes.map((shape) => gateway.refusals('connection_limit', shape)))).reduce((sum, count) => sum + count);
        const before = await refusals();
        proxy.comeBack();
        await until('a refusal', async () => (await refusals()) > before, { within: COMES_BACK_MS });
        await sleep(200);
        assert.notEqual((await page.look()).state, 2, 'it is not dead');
        other.leave();
        await page.received(2, { within: COMES_BACK_MS });
        published.push(await publish('after'));
        await page.receivedAll(published);
        assert.deepEqual(page.gaps, []);
        say(`${requests(proxy, way).map(({ status }) => status)}`);
      });
    });

    test(`client: by ${way} a refusal that would stay the same for ever ends it, and says why`, async (t) => {
      const settings = { ...wantsTokens };
      await scene(t, world, { client: true, origin: 'own', settings }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        gateway.authorization = `Bearer ${token(600)}`;
        const told = [];
        for (const [query, expected] of [
          ['', 'unauthorized'],
          [`&access_token=${token(600, { forged: true })}`, 'unauthorized'],
          [`&access_token=${token(600, { rights: { subscribe: ['news/*'] } })}`, 'forbidden'],
        ]) {
          const errors = page.errors.length;
          await page.follow(eventsUrl('orders') + query, options);
          await page.until('its end', ({ state }) => state === 2);
          const { length } = requests(proxy, way);
          await sleep(QUIET_MS);
          assert.equal(requests(proxy, way).length, length, 'it does not ask again');
          await page.look();
          const said = page.errors.slice(errors);
          assert.equal(said.at(-1)?.code, expected, JSON.stringify(said));
          told.push(`${expected}: ${JSON.stringify(said.at(-1))}`);
        }
        assert.deepEqual([page.opens.length, page.events.length], [0, 0]);
        say(told.join('; '));
      });
    });
  }

  test('client: without network it says so and waits; with network it is back at once, and misses nothing', async (t) => {
    await scene(t, world, { client: true, origin: 'own', alone: true, settings: { TIDEGATE_STREAM__RETRY: '1s' } }, async ({ gateway, proxy, page, tab, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      await page.opened();
      const publish = async (data) => (await gateway.publish({ topic: 'orders', data })).id;
      const published = [await publish('before')];
      await page.received(1);
      await tab.offline(true);
      // A browser that was told to be offline may leave the connections alone that it has; a real one has none.
      proxy.cut();
      await page.until('that it is not connected', ({ state }) => state === 0);
      for (let n = 0; n < 3; n += 1) published.push(await publish(`unheard ${n}`));
      await sleep(1_500);
      const { length } = proxy.exchanges;
      assert.ok(length <= 2, 'it asks nobody while it is offline');
      await tab.offline(false);
      await page.received(published.length);
      published.push(await publish('after'));
      await page.receivedAll(published);
      assert.deepEqual(page.gaps, []);
      say(`${proxy.exchanges.length} requests, ${page.ways}`);
    });
  });
}

/** How many signs of life a connection has had besides events. */
function keepalives(exchange, way) {
  if (way === 'ws') return exchange.messages.filter(({ type }) => type === 'pong' || type === 'cursor').length;
  return exchange.frames.filter(({ event, comment }) => comment || event === '$heartbeat' || event === '$cursor').length;
}
