// Tabs: with `share` all tabs of an origin have one connection, which ends the limit of six that browsers set to HTTP/1.1. Who
// leads may close, crash, go elsewhere or freeze: no tab loses an event or gets one twice.

import assert from 'node:assert/strict';
import { assertSame } from '../support/log.js';
import { connectionsAt } from '../support/page.js';
import { Publisher } from '../support/publisher.js';
import { scene } from '../support/scene.js';
import { until } from '../support/until.js';

const TABS = 8;
// What browsers allow for one host over HTTP/1.1.
const MOST = 6;
const KEEPALIVE = { TIDEGATE_STREAM__KEEPALIVE: '1s' };
const SHARED = { share: true, silenceMs: 4_000, retryMs: 300 };

export default function tabs(world, test) {
  test('without sharing, the seventh tab of a browser waits, as it does with a plain EventSource', async (t) => {
    await scene(t, world, { client: true, origin: 'own' }, async ({ gateway, page, neighbour, eventsUrl }) => {
      const all = [page];
      while (all.length < MOST) all.push(await neighbour());
      for (const one of all) await one.follow(eventsUrl('orders'), { transports: ['sse'] });
      await connectionsAt(gateway, MOST);
      for (const one of all) await one.opened();
      // From here on not even a page would load: the seventh request is made by one of the six.
      await page.evaluate((url) => void (globalThis.seventh = new EventSource(url)), eventsUrl('orders'));
      const { id } = await gateway.publish({ topic: 'orders', data: 'x' });
      for (const one of all) await one.receivedAll([id]);
      assert.equal(await page.evaluate(() => globalThis.seventh.readyState), 0);
      assert.equal((await gateway.connections()).length, MOST);
    });
  });

  for (const [transport, count] of [['sse', TABS], ['ws', 3], ['poll', 3]]) {
    test(`${count} tabs share one connection by ${transport}, also those that come later, and each gets each event`, async (t) => {
      await scene(t, world, { client: true, origin: 'own' }, async ({ gateway, proxy, page, neighbour, say, eventsUrl }) => {
        const options = { ...SHARED, transports: [transport] };
        const publisher = new Publisher([gateway], { every: 50 });
        const all = [page];
        await page.follow(eventsUrl('orders'), options);
        await page.opened();
        while (all.length < count) {
          const one = await neighbour();
          await one.follow(eventsUrl('orders'), options);
          await one.opened();
          all.push(one);
        }
        await publisher.more(5);
        proxy.cut();
        await publisher.more(5);
        const published = await publisher.end();
        await receivedBy(all, published);
        // A tab that had to catch up by itself follows again; between two polls there is no connection.
        if (transport !== 'poll') await connectionsAt(gateway, 1);
        else await until('one connection at most', async () => (await gateway.connections()).length <= 1, { seen: () => gateway.connections() });
        say(`${published.length} events in ${all.length} tabs; ${proxy.of({ sse: '/events', ws: '/ws', poll: '/poll' }[transport]).length} requests`);
      });
    });
  }

  for (const [what, options, leave] of [
    ['is closed', {}, ({ tab }) => tab.close()],
    ['goes to another page', {}, ({ tab }) => tab.goto('about:blank')],
    ['closes its source', {}, ({ page }) => page.close()],
    ['crashes', { alone: true }, ({ tab }) => tab.crash()],
    ['is frozen', { alone: true }, async ({ tab, others }) => {
      await others[0].tab.toFront();
      await tab.freeze();
    }],
  ]) {
    test(`when the tab that leads ${what}, another one takes over, and none of them loses or doubles an event`, async (t) => {
      await scene(t, world, { client: true, origin: 'own', settings: KEEPALIVE, ...options }, async (s) => {
        const { gateway, page, tab, neighbour, say, eventsUrl } = s;
        await page.follow(eventsUrl('orders'), SHARED);
        await page.opened();
        const others = [await neighbour(), await neighbour()];
        for (const one of others) {
          await one.follow(eventsUrl('orders'), SHARED);
          await one.opened();
        }
        await connectionsAt(gateway, 1);
        const publisher = new Publisher([gateway]);
        for (const one of others) await one.received(3);
        await leave({ page, tab, others });
        await publisher.more(20);
        const so = publisher.published.length;
        for (const one of others) await one.received(so, { within: 30_000 });
        const late = await neighbour();
        await late.follow(eventsUrl('orders'), SHARED);
        await late.opened();
        await publisher.more(5);
        if (what === 'is frozen') await tab.thaw();
        await publisher.more(5);
        const published = await publisher.end();
        await receivedBy([...others, late], published);
        for (const one of others) assertSame(one.ids, published);
        if (what === 'is frozen') {
          await page.received(published.length);
          assertSame(page.ids, published);
        }
        await connectionsAt(gateway, 1);
        say(`${published.length} events, verdicts ${JSON.stringify(others.map(({ opens }) => opens.map(({ replay }) => replay)))}`);
      });
    });
  }

  test('tabs that share while their leader is closed again and again lose nothing', async (t) => {
    await scene(t, world, { client: true, origin: 'own' }, async ({ gateway, page, tab, neighbour, say, eventsUrl }) => {
      const follow = async (one) => {
        await one.follow(eventsUrl('orders'), SHARED);
        await one.opened();
        return one;
      };
      const line = [Object.assign(await follow(page), { tab }), await follow(await neighbour()), await follow(await neighbour())];
      const publisher = new Publisher([gateway]);
      for (let n = 0; n < 4; n += 1) {
        await publisher.more(5);
        await line.shift().tab.close();
        line.push(await follow(await neighbour()));
      }
      await publisher.more(5);
      const published = await publisher.end();
      await receivedBy(line, published);
      await connectionsAt(gateway, 1);
      say(`${published.length} events, the tabs began at ${line.map(({ ids }) => published.indexOf(ids[0]))}`);
    });
  });
}

/** Each tab has all that was published since its first event, once and in order. */
async function receivedBy(all, published) {
  for (const one of all) {
    await one.until('the last event', ({ ids }) => ids.at(-1) === published.at(-1), { within: 30_000 });
    assertSame(one.ids, published.slice(published.indexOf(one.ids[0])));
    assert.deepEqual(one.gaps, []);
  }
}
