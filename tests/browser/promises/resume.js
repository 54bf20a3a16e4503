// Resume: whoever comes back with the cursor it holds gets every later event, once and in order.
//
// The browser does the coming back by itself. Nothing in the page helps it.

import assert from 'node:assert/strict';
import { assertIncreasing, assertSame, isAfter } from '../support/log.js';
import { scene } from '../support/scene.js';
import { sleep, until } from '../support/until.js';

const CUTS = 8;
const AT_LEAST_EVENTS = 300;
const STORM_MS = 60_000;

export default function resume(world, test) {
  // Firefox gives up for good on a stream of another origin that fails before its first byte (it takes the failure for one
  // of CORS), so a page there can only wait for an answer. On the gateway's own origin it may be refused as well.
  for (const [origin, leave, absence] of [
    ['loopback', 'hold', 'while nobody answers'],
    ['own', 'refuse', 'while all connections are refused'],
  ]) {
    test(`a stream that is cut before its first event misses nothing, ${absence}`, async (t) => {
      await scene(t, world, { origin }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'));
        const open = await page.opened();
        proxy[leave]();
        proxy.cut();
        await page.until('the cut', ({ state }) => state === 'CONNECTING');

        const published = [];
        for (let n = 0; n < 20; n += 1) published.push((await gateway.publish({ topic: 'orders', data: `${n}` })).id);
        await until('the browser to knock', () => proxy.refused + proxy.waiting > 0);
        proxy.comeBack();

        await page.received(published.length);
        assertSame(page.events.map(({ id }) => id), published);
        const returned = proxy.streams[1];
        assert.equal(returned.lastEventId, open.id, 'the browser holds the id of $open');
        assert.equal(returned.responseHeaders['tidegate-replay'], 'complete');
        assert.equal(page.opens[1].data.replay, 'complete');
        assert.equal(page.opens[1].id, open.id);
        await page.until('$live', () => page.of('$live').length > 0);
        assert.deepEqual(page.of('$live'), [{ type: '$live', id: published.at(-1), data: {}, after: published.length }]);
        say(`cut at ${open.id}; ${proxy.refused} connections refused; came back with ${returned.lastEventId}, got ${page.events.length} of 20`);
      });
    });
  }

  test('a page of another origin that is refused comes back by itself, except in Firefox, where it must be helped', async (t) => {
    await scene(t, world, {}, async ({ proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      await page.opened();
      proxy.refuse();
      proxy.cut();
      await until('the browser to knock', () => proxy.refused > 0);
      if (world.engine === 'firefox') {
        await page.until('CLOSED', ({ state }) => state === 'CLOSED');
        say('Firefox gave up: CLOSED for good');
      } else {
        proxy.comeBack();
        assert.equal((await page.opened(2)).data.replay, 'complete');
        say(`came back after ${proxy.refused} refused connections`);
      }
    });
  });

  test('over repeated cuts, some in the middle of a frame, nothing is lost, doubled or out of order', async (t) => {
    const seed = Number(process.env.TIDEGATE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 32));
    const [sizes, moments] = [randomBy(seed), randomBy(seed + 1)];
    await scene(t, world, {}, async ({ gateway, proxy, page, say, picture, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      await page.opened();

      const published = [];
      let storm = true;
      const publisher = (async () => {
        const end = performance.now() + STORM_MS;
        while (storm && performance.now() < end) {
          const batch = Array.from({ length: 1 + Math.floor(sizes() * 3) }, (_, n) => ({
            topic: 'orders',
            data: JSON.stringify({ n: published.length + n, fill: 'x'.repeat(Math.floor(sizes() * 300)) }),
          }));
          const results = await gateway.publish(batch);
          results.forEach(({ id }, at) => published.push({ id, type: 'message', data: batch[at].data }));
          await sleep(15);
        }
      })();
      publisher.catch(() => {}); // it is awaited below; a failure must not end the process before

      let insideFrame = 0;
      for (let n = 0; n < CUTS; n += 1) {
        if (n % 2 === 0) {
          await sleep(moments() * 300);
          proxy.cut();
        } else {
          const cut = await boundedCut(proxy, Math.floor(moments() * 6_000));
          assert.ok(cut.midFrame, 'the cut went through a frame');
          insideFrame += 1;
        }
        await page.opened(n + 2);
      }
      await until(`${AT_LEAST_EVENTS} events to be published`, () => published.length >= AT_LEAST_EVENTS);
      storm = false;
      await publisher;
      await page.received(published.length);

      assertSame(page.events, published);
      assertSame(page.events.map(({ data }) => JSON.parse(data).n), [...published.keys()]);
      assertIncreasing(page.events.map(({ id }) => id));
      assert.equal(page.opens.length, CUTS + 1, 'one $open for each cut');
      assert.deepEqual(page.opens.slice(1).map(({ data }) => data.replay), Array(CUTS).fill('complete'));
      assert.deepEqual([...page.of('$gap'), ...page.of('$refused')], []);
      assert.equal(page.state, 'OPEN');
      proxy.streams.slice(1).forEach(({ lastEventId }, n) => {
        assert.equal(page.opens[n + 1].id, lastEventId, 'a complete replay begins where the browser stopped');
      });
      say(`${CUTS} cuts, ${insideFrame} of them inside a frame; ${page.events.length} of ${published.length} events, each once and in order (TIDEGATE_TEST_SEED=${seed})`);
      say(`came back with ${proxy.streams.slice(1).map(({ lastEventId }) => lastEventId).join(', ')}`);
      await picture('repeated-cuts');
    });
  });

  test('the cursor of a quiet topic moves by $cursor, in a page that does not know of it', async (t) => {
    await scene(t, world, { settings: { TIDEGATE_STREAM__KEEPALIVE: '1s' } }, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('quiet'));
      const open = await page.opened();
      let busy;
      for (let n = 0; n < 10; n += 1) busy = (await gateway.publish({ topic: 'busy', data: `${n}` })).id;
      const [stream] = proxy.streams;
      const checkpoint = await until(
        `a checkpoint that has come to ${busy}`,
        () => stream.of('$cursor').find(({ id }) => !isAfter(busy, id)),
        { seen: () => stream.frames },
      );
      assert.deepEqual(checkpoint, { id: checkpoint.id, event: '$cursor', data: '' });
      proxy.hold();
      // What has passed the proxy may still be on its way into the page, and a cut could overtake it there.
      proxy.finish();
      const last = stream.of('$cursor').at(-1);
      assert.ok(isAfter(last.id, open.id));
      const whileAway = await gateway.publish({ topic: 'quiet', data: 'while away' });
      proxy.comeBack();

      await page.opened(2);
      const returned = proxy.streams[1];
      assert.equal(returned.lastEventId, last.id, 'the browser holds the id of the last $cursor');
      assert.equal(page.opens[1].data.replay, 'complete');
      const afterwards = await gateway.publish({ topic: 'quiet', data: 'afterwards' });
      await page.received(2);
      await sleep(1_500); // one more keepalive: time for a duplicate to show itself
      await page.look();
      assert.deepEqual(page.events, [
        { id: whileAway.id, type: 'message', data: 'while away' },
        { id: afterwards.id, type: 'message', data: 'afterwards' },
      ]);
      say(`$open ${open.id}, $cursor ${stream.of('$cursor').map(({ id }) => id).join(', ')}, came back with ${returned.lastEventId}`);
    });
  });
}

async function boundedCut(proxy, bytes) {
  const cut = proxy.cutInsideFrame(bytes);
  let done;
  cut.then((exchange) => (done = exchange));
  return until(`${bytes} bytes to pass before a cut`, () => done);
}

/** Random numbers between 0 and 1 that a seed repeats (mulberry32). */
function randomBy(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
