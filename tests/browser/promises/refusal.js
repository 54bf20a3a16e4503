// Refusal: what is refused for a while does not kill a page's stream, and costs it nothing.

import assert from 'node:assert/strict';
import { assertSame } from '../support/log.js';
import { COMES_BACK_MS, assertSurvived, refused } from '../support/refusal.js';
import { scene } from '../support/scene.js';
import { sleep, until } from '../support/until.js';

// Anybody may do anything, and is asked nothing: unlike in development mode, addresses have limits.
const ANONYMOUS = { TIDEGATE_AUTH__ANONYMOUS: 'subscribe,publish' };

const FULL = {
  replica: {
    settings: () => ({ TIDEGATE_LIMITS__CONNECTIONS: '1' }),
    refusal: { code: 'connection_limit', status: 503 },
  },
  address: {
    settings: (origin) => ({ ...ANONYMOUS, TIDEGATE_LIMITS__CONNECTIONS_PER_ADDRESS: '1', TIDEGATE_CORS__ORIGINS: origin }),
    refusal: { code: 'address_limit', status: 429 },
  },
};

export default function refusal(world, test) {
  for (const [full, { settings, refusal: expected }] of Object.entries(FULL)) {
    for (const [origin, whose] of [
      ['own', "the gateway's own"],
      ['loopback', 'another'],
    ]) {
      test(`a page of ${whose} origin whose ${full} has no room comes back by itself with its cursor, and misses nothing`, async (t) => {
        await scene(t, world, { origin, settings }, async ({ gateway, proxy, page, say, eventsUrl }) => {
          await page.follow(eventsUrl('orders'));
          const open = await page.opened();
          proxy.hold();
          proxy.cut();
          let other;
          await until('the place to be free', async () => {
            other = await gateway.subscribe('orders');
            if (other.status !== 200) other.leave();
            return other.status === 200;
          });
          const published = [];
          for (let n = 0; n < 5; n += 1) published.push((await gateway.publish({ topic: 'orders', data: `${n}` })).id);
          proxy.comeBack();

          const exchange = await refused({ gateway, proxy, page }, { ...expected, cursor: open.id });
          assert.match(exchange.responseHeaders['retry-after'], /^\d+$/);
          assert.equal(page.opens.length, 1);

          other.leave();
          const returned = await page.opened(2, { within: COMES_BACK_MS });
          assert.equal(returned.data.replay, 'complete');
          assert.equal(proxy.streams.at(-1).lastEventId, open.id);
          await page.received(published.length);
          assertSame(page.events.map(({ id }) => id), published);
          assertSurvived(page);
          say(`refused ${page.of('$refused').length} times (retry ${exchange.frames[0].retry} ms, ${expected.code}), then ${returned.data.replay}`);
        });
      });
    }
  }

  for (const [origin, whose] of [
    ['own', "the gateway's own"],
    ['loopback', 'another'],
  ]) {
    test(`a page of ${whose} origin that comes too often is told so, and comes back by itself when its time has come`, async (t) => {
      const settings = (itself) => ({ ...ANONYMOUS, TIDEGATE_LIMITS__RATE__CONNECT: '20/min burst 2', TIDEGATE_CORS__ORIGINS: itself });
      await scene(t, world, { origin, settings }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'));
        await page.opened();
        const published = [];
        const publish = async () => published.push((await gateway.publish({ topic: 'orders', data: `${published.length}` })).id);
        // Each cut costs one connect, and 3 s earn one: this is more than there is.
        for (let cuts = 0; page.of('$refused').length === 0; cuts += 1) {
          assert.ok(cuts < 10, 'the rate does not hold the page back');
          await publish();
          await page.received(published.length);
          proxy.cut();
          const answers = proxy.streams.length;
          await until('the page to come back', () => proxy.streams.length > answers);
          await page.until('an answer', () => page.opens.length + page.of('$refused').length > answers);
        }
        const cursor = page.events.at(-1).id;
        for (let n = 0; n < 3; n += 1) await publish();

        const exchange = await refused({ gateway, proxy, page }, { code: 'rate_limited', status: 429, cursor });
        const opens = page.opens.length;
        const { 'retry-after': after, 'ratelimit-limit': limit, 'ratelimit-remaining': left, 'ratelimit-reset': reset } = exchange.responseHeaders;
        assert.ok(Number(after) >= 1 && Number(after) <= 3, `Retry-After: ${after}`);
        assert.deepEqual([limit, left], ['2', '0']);
        assert.ok(Number(reset) >= Number(after) && Number(reset) <= 6, `RateLimit-Reset: ${reset}`);

        const returned = await page.opened(opens + 1, { within: COMES_BACK_MS });
        assert.equal(returned.data.replay, 'complete');
        await page.received(published.length);
        assertSame(page.events.map(({ id }) => id), published);
        assertSurvived(page);
        say(`${opens} connects, then refused (Retry-After ${after}, retry ${exchange.frames[0].retry} ms), then ${returned.data.replay}`);
      });
    });
  }

  test('where an operator wants refusals by status, a page that finds no room is dead', async (t) => {
    const settings = { TIDEGATE_LIMITS__CONNECTIONS: '1', TIDEGATE_LIMITS__REFUSE_AS: 'status' };
    await scene(t, world, { origin: 'own', settings }, async ({ gateway, proxy, page, say, eventsUrl }) => {
      const other = await gateway.subscribe('orders');
      assert.equal(other.status, 200);
      await page.follow(eventsUrl('orders'));
      await page.until('CLOSED', ({ state }) => state === 'CLOSED');
      assert.equal(proxy.streams[0].status, 503);
      assert.equal(await gateway.refusals('connection_limit', 'status'), 1);
      other.leave();
      await sleep(1_000); // many times the retry time
      assert.equal(proxy.streams.length, 1, 'the browser does not come back, though there is room');
      say('503 is the last word: this is what the stream of one frame is for');
    });
  });
}
