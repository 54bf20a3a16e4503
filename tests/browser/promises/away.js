// Redis away: a page that the gateway cannot prove a resume to is sent away for a while, and loses nothing that was acknowledged.

import assert from 'node:assert/strict';
import { assertSame } from '../support/log.js';
import { COMES_BACK_MS, assertSurvived, refused } from '../support/refusal.js';
import { scene } from '../support/scene.js';
import { until } from '../support/until.js';

const REFUSED = { code: 'store_unavailable', status: 503 };

export default function away(world, test) {
  test('a page that is opened while Redis is away is live by itself when Redis is back, and gets what was acknowledged before', async (t) => {
    await scene(t, world, { origin: 'own', redis: true }, async ({ gateway, proxy, redis, page, say, eventsUrl }) => {
      const acknowledged = [];
      for (let n = 0; n < 5; n += 1) acknowledged.push((await gateway.publish({ topic: 'orders', data: `${n}` })).id);
      await redis.kill();

      // Nobody follows the topic here, so nothing of it is in memory: only the store can say what comes after the first event.
      const [cursor, ...missed] = acknowledged;
      await page.follow(`${eventsUrl('orders')}&lastEventId=${cursor}`);
      await refused({ gateway, proxy, page }, { ...REFUSED, cursor });
      const inVain = await gateway.tryPublish({ topic: 'orders', data: 'not acknowledged' });
      assert.equal(inVain.status, 503);
      assert.equal(inVain.body.code, 'store_unavailable');

      await redis.begin();
      const open = await page.opened(1, { within: COMES_BACK_MS });
      assert.equal(open.data.replay, 'complete');
      assert.equal(open.id, cursor);
      const last = await publishAtLast(gateway, { topic: 'orders', data: 'after Redis came back' });
      await page.received(missed.length + 1);
      assertSame(page.events.map(({ id }) => id), [...missed, last.id]);
      assertSurvived(page);
      say(`refused ${page.of('$refused').length} times, then ${open.data.replay} from ${open.id}`);
    });
  });

  test('a page that comes back to a replica that was restarted while Redis was away keeps its cursor, and misses nothing', async (t) => {
    await scene(t, world, { redis: true }, async ({ gateway, proxy, redis, page, say, eventsUrl }) => {
      const acknowledged = [];
      const publish = async () => acknowledged.push((await gateway.publish({ topic: 'orders', data: `${acknowledged.length}` })).id);
      await page.follow(eventsUrl('orders'));
      await page.opened();
      for (let n = 0; n < 3; n += 1) await publish();
      await page.received(acknowledged.length);
      const cursor = acknowledged.at(-1);
      proxy.hold();
      proxy.cut();
      for (let n = 0; n < 3; n += 1) await publish();
      await redis.kill();
      await gateway.stop();
      await gateway.begin({ until: 'live' });
      proxy.comeBack();
      await refused({ gateway, proxy, page }, { ...REFUSED, cursor });

      await redis.begin();
      const returned = await page.opened(2, { within: COMES_BACK_MS });
      assert.equal(returned.data.replay, 'complete');
      assert.equal(returned.id, cursor);
      acknowledged.push((await publishAtLast(gateway, { topic: 'orders', data: 'after Redis came back' })).id);
      await page.received(acknowledged.length);
      assertSame(page.events.map(({ id }) => id), acknowledged);
      assertSurvived(page);
      say(`refused ${page.of('$refused').length} times at ${cursor}, then ${returned.data.replay}`);
    });
  });

  test('a page that is cut while Redis is away is served from memory, and gets what is published when Redis is back', async (t) => {
    await scene(t, world, { redis: true }, async ({ gateway, proxy, redis, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      const open = await page.opened();
      const before = await gateway.publish({ topic: 'orders', data: 'before' });
      await page.received(1);
      await redis.kill();
      assert.equal((await gateway.tryPublish({ topic: 'orders', data: 'in vain' })).status, 503);
      // What it may have missed is still in memory: that proves its resume without Redis.
      proxy.cut();
      const served = await page.opened(2);
      assert.equal(served.data.replay, 'complete');
      assert.equal(served.id, before.id);

      await redis.begin();
      const after = await publishAtLast(gateway, { topic: 'orders', data: 'after' });
      await page.received(2);
      assertSame(page.events.map(({ id }) => id), [before.id, after.id]);
      assert.deepEqual([...page.of('$refused'), ...page.of('$gap')], []);
      assert.equal(page.opens.length, 2);
      assertSurvived(page);
      say(`connected at ${open.id}, while Redis was away at ${served.id}; nothing was lost`);
    });
  });
}

/** Publishes as a good publisher does: repeats what was not acknowledged, under the same key. */
async function publishAtLast(gateway, event) {
  const answer = await until('a publish to be acknowledged', async () => {
    const { status, body } = await gateway.tryPublish({ ...event, key: event.data });
    return status === 200 ? body : undefined;
  });
  assert.ok(answer.id);
  return answer;
}
