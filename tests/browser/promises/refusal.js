// Refusal: what is refused for a while does not kill a page's stream, and costs it nothing.

import assert from 'node:assert/strict';
import { assertSame } from '../support/log.js';
import { scene } from '../support/scene.js';
import { until } from '../support/until.js';

// The `retry:` of a refusal is longer than the usual one, so that a crowd spreads.
const COMES_BACK_MS = 30_000;

export default function refusal(world, test) {
  for (const [origin, whose] of [
    ['own', "the gateway's own"],
    ['loopback', 'another'],
  ]) {
    test(`a page of ${whose} origin that finds no room comes back by itself with its cursor, and misses nothing`, async (t) => {
      await scene(t, world, { origin, settings: { TIDEGATE_LIMITS__CONNECTIONS: '1' } }, async ({ gateway, proxy, page, say, eventsUrl }) => {
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

        await page.until('$refused', () => page.of('$refused').length > 0);
        const [told] = page.of('$refused');
        assert.equal(told.data.code, 'connection_limit');
        assert.equal(told.data.status, 503);
        assert.equal(told.id, open.id, 'a refusal leaves the cursor where it was');
        const refused = proxy.streams[1];
        assert.equal(refused.status, 200);
        assert.equal(refused.responseHeaders['tidegate-refused'], 'connection_limit');
        assert.ok(Number(refused.frames[0].retry) > 400, 'longer than the usual time');
        assert.equal(page.opens.length, 1);

        other.leave();
        const returned = await page.opened(2, { within: COMES_BACK_MS });
        assert.equal(returned.data.replay, 'complete');
        assert.equal(proxy.streams.at(-1).lastEventId, open.id);
        await page.received(published.length);
        assertSame(page.events.map(({ id }) => id), published);
        say(`refused ${page.of('$refused').length} times (retry ${refused.frames[0].retry} ms, ${told.data.code}), then ${returned.data.replay}`);
      });
    });
  }
}
