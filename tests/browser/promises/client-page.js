// The life of a page: loaded again, left and come back to, frozen in the background, and asleep with the whole machine. The
// client goes on from its cursor each time.

import assert from 'node:assert/strict';
import { assertSame } from '../support/log.js';
import { connectionsAt } from '../support/page.js';
import { Publisher } from '../support/publisher.js';
import { scene } from '../support/scene.js';
import { sleep } from '../support/until.js';
import { WAYS } from '../support/ways.js';

// What the client takes for death, where a keepalive comes each second.
const ALIVE = { silenceMs: 4_000 };
const KEEPALIVE = { TIDEGATE_STREAM__KEEPALIVE: '1s' };

export default function life(world, test) {
  for (const way of ['sse', 'poll']) {
    const options = WAYS[way];
    test(`client: by ${way} with persist a page that is loaded again goes on where it was, and another tab does not`, async (t) => {
      await scene(t, world, { client: true, origin: 'own' }, async ({ gateway, page, tab, neighbour, say, eventsUrl }) => {
        const publisher = new Publisher([gateway], { every: 50 });
        const ids = [];
        for (let n = 0; n < 3; n += 1) {
          await page.follow(eventsUrl('orders'), { ...options, persist: true });
          const open = await page.opened();
          assert.equal(open.replay, n === 0 ? 'none' : 'complete');
          await page.received(5);
          assert.deepEqual(page.gaps, []);
          await noteAtTheEnd(page);
          await tab.reload();
          ids.push(...(await noted(page)));
          page.forget();
          await publisher.more(3);
        }
        await page.follow(eventsUrl('orders'), { ...options, persist: true });
        await page.opened();
        const published = await publisher.end();
        await page.until('the last event', () => page.ids.at(-1) === published.at(-1));
        ids.push(...page.ids);
        assertSame(ids, published.slice(published.indexOf(ids[0])));

        const other = await neighbour();
        await other.follow(eventsUrl('orders'), { ...options, persist: true });
        assert.equal((await other.opened()).replay, 'none', 'a tab of its own begins now');
        say(`${ids.length} events over 3 reloads`);
      });
    });
  }

  test('client: a page that was left and is come back to goes on where it was, kept by the browser or loaded anew', async (t) => {
    await scene(t, world, { client: true, origin: 'own', alone: true }, async ({ gateway, proxy, page, tab, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'), { persist: true });
      await page.opened();
      const publisher = new Publisher([gateway], { every: 50 });
      await page.received(5);
      await noteAtTheEnd(page);
      await tab.goto(`${proxy.url}/page`);
      await connectionsAt(gateway, 0);
      await publisher.more(5);
      await tab.back();
      const isKept = await page.evaluate(() => globalThis.source !== undefined);
      // Firefox decides before the page hears of it, and keeps none that has an open request, however soon that is closed.
      assert.equal(isKept, world.engine === 'chromium');
      const ids = [];
      if (!isKept) {
        ids.push(...(await noted(page)));
        page.forget();
        await page.follow(eventsUrl('orders'), { persist: true });
      }
      await publisher.more(5);
      const published = await publisher.end();
      await page.until('the last event', () => page.ids.at(-1) === published.at(-1));
      ids.push(...page.ids);
      assertSame(ids, published);
      assert.equal(page.opens.at(-1).replay, 'complete');
      assert.deepEqual(page.gaps, []);
      say(`${isKept ? 'kept' : 'loaded anew'}; ${ids.length} events, ${page.opens.length} verdicts`);
    });
  });

  test('client: a page that is frozen in the background gets what it missed when it is thawed', async (t) => {
    await scene(t, world, { client: true, origin: 'own', alone: true, settings: KEEPALIVE }, async ({ gateway, page, tab, neighbour, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'), ALIVE);
      await page.opened();
      const publisher = new Publisher([gateway], { every: 50 });
      await page.received(5);
      const other = await neighbour();
      await other.tab.toFront();
      await tab.freeze();
      await publisher.more(20);
      await sleep(ALIVE.silenceMs);
      await tab.thaw();
      await tab.toFront();
      await publisher.more(5);
      await page.receivedAll(await publisher.end());
      assert.deepEqual(page.gaps, []);
      assert.equal(page.state, 1);
      await connectionsAt(gateway, 1);
      say(`${page.ids.length} events, verdicts ${JSON.stringify(page.opens.map(({ replay }) => replay))}`);
    });
  });

  for (const [way, what, happens] of [
    ['sse', 'its connections were ended', 'cut'],
    ['sse', 'its connections were forgotten', 'swallow'],
    ['ws', 'its connections were forgotten', 'swallow'],
    ['poll', 'its connections were forgotten', 'swallow'],
  ]) {
    test(`client: by ${way} a laptop that slept while ${what} is live again, and misses nothing`, async (t) => {
      await scene(t, world, { client: true, origin: 'own', alone: true, settings: KEEPALIVE }, async ({ browser, gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'), { ...ALIVE, ...WAYS[way] });
        await page.opened();
        const publisher = new Publisher([gateway], { every: 100 });
        await page.received(5);
        browser.sleep();
        proxy[happens]();
        await publisher.more(20);
        await sleep(2 * ALIVE.silenceMs);
        browser.wake();
        await publisher.more(5);
        await page.receivedAll(await publisher.end(), { within: 30_000 });
        assert.deepEqual(page.gaps, []);
        assert.equal(page.transport, way);
        say(`${page.ids.length} events, ${page.opens.length} verdicts, errors ${JSON.stringify(page.errors.map(({ code }) => code))}`);
      });
    });
  }
}

/** What comes between the last look and the end of the page has been handed to the page, too: it notes all it was handed. */
async function noteAtTheEnd(page) {
  await page.evaluate(() => {
    addEventListener('pagehide', () => sessionStorage.setItem('handed', JSON.stringify(globalThis.ids())));
  });
}

/** The ids of all that the page before this one was handed. */
async function noted(page) {
  return JSON.parse(await page.evaluate(() => sessionStorage.getItem('handed')));
}
