// End: a finished topic tells the page, and stops the browser from asking again.

import assert from 'node:assert/strict';
import { isAfter } from '../support/log.js';
import { scene } from '../support/scene.js';
import { sleep, until } from '../support/until.js';

export default function end(world, test) {
  test('a finished topic stops the browser', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, say, picture, eventsUrl }) => {
      await page.follow(eventsUrl('race'));
      await page.opened();
      const published = [];
      for (let n = 0; n < 5; n += 1) published.push((await gateway.publish({ topic: 'race', data: `lap ${n}` })).id);
      const finish = await gateway.publish({ topic: 'race', end: true });

      await page.until('$end', () => page.of('$end').length === 1);
      const [told] = page.of('$end');
      assert.deepEqual(page.events.map(({ id }) => id), published, 'all events come before the end');
      assert.equal(told.after, published.length);
      assert.deepEqual(told.data, { topic: 'race' });
      assert.ok(isAfter(told.id, published.at(-1)), 'the end has an id of its own');
      assert.equal(told.id, finish.id);

      await page.until('CLOSED', ({ state }) => state === 'CLOSED');
      const answers = proxy.streams.map(({ status }) => status);
      assert.deepEqual(answers, [200, 204]);
      assert.equal(proxy.streams[1].lastEventId, told.id);
      await sleep(3_000); // many times the retry time
      await page.look();
      assert.equal(proxy.streams.length, 2, 'no request comes after the 204');
      assert.equal(page.state, 'CLOSED');
      assert.equal(page.of('$end').length, 1);

      const late = await gateway.tryPublish({ topic: 'race', data: 'too late' });
      assert.deepEqual([late.status, late.body.code], [409, 'topic_finished']);
      say(`${published.length} events, $end ${told.id}; answers ${answers.join(', ')}; the page is ${page.state}`);
      await picture('finished-topic');
    });
  });

  test('a page that was away when the topic finished gets the rest, the end, and is stopped', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('race'));
      await page.opened();
      proxy.hold();
      proxy.cut();
      await page.until('the cut', ({ state }) => state === 'CONNECTING');
      const { id } = await gateway.publish({ topic: 'race', data: 'the last lap' });
      const finish = await gateway.publish({ topic: 'race', end: true });
      proxy.comeBack();

      await page.until('CLOSED', ({ state }) => state === 'CLOSED');
      assert.deepEqual(page.events, [{ id, type: 'message', data: 'the last lap' }]);
      assert.equal(page.opens[1].data.replay, 'complete');
      assert.deepEqual(page.of('$end').map((told) => told.id), [finish.id]);
      assert.deepEqual(proxy.streams.map(({ status }) => status), [200, 200, 204]);
      say(`answers ${proxy.streams.map(({ status }) => status).join(', ')}; the page is ${page.state}`);
    });
  });

  test('a page that comes first after the end is told the end, and is stopped', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await gateway.publish({ topic: 'race', data: 'the only lap' });
      await gateway.publish({ topic: 'race', end: true });
      await page.follow(eventsUrl('race'));
      await page.until('CLOSED', ({ state }) => state === 'CLOSED');
      assert.equal(page.opens.length, 1);
      assert.equal(page.of('$end').length, 1);
      assert.deepEqual(page.events, [], 'no cursor means from now');
      await until('the 204', () => proxy.streams.length === 2);
      assert.deepEqual(proxy.streams.map(({ status }) => status), [200, 204]);
      say(`answers ${proxy.streams.map(({ status }) => status).join(', ')}; the page is ${page.state}`);
    });
  });
}
