// Drain: a gateway that leaves says so, and a page comes back by itself to the one that follows.

import assert from 'node:assert/strict';
import { assertSame, isAfter } from '../support/log.js';
import { scene } from '../support/scene.js';
import { until } from '../support/until.js';

// A page that knocks while the gateway drains is sent away for a while, by a `retry:` longer than the usual one.
const COMES_BACK_MS = 60_000;

export default function drain(world, test) {
  // A page of another origin needs somebody who answers, or Firefox gives it up: see resume.js.
  for (const [origin, absence] of [
    ['own', 'while nobody is there'],
    ['loopback', 'while a balancer lets it wait'],
  ]) {
    test(`after a drain and a restart that lost the log the page, which came ${absence}, is told a gap`, async (t) => {
      await scene(t, world, { origin }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'));
        const open = await page.opened();
        const before = [];
        for (let n = 0; n < 5; n += 1) before.push((await gateway.publish({ topic: 'orders', data: `before ${n}` })).id);
        await page.received(before.length);

        if (origin === 'loopback') proxy.hold();
        await gateway.stop();
        await page.until('$drain', () => page.of('$drain').length > 0);
        const [told] = page.of('$drain');
        assert.equal(told.id, before.at(-1), '$drain carries the last cursor');
        assert.equal(proxy.streams[0].midFrame, false, 'the stream ended with a whole frame');
        assert.ok(proxy.streams[0].frames.some(({ event, retry }) => retry && event !== '$open'), 'it was told when to come back');

        await until('the browser to knock', () => proxy.refused + proxy.waiting > 0, { within: COMES_BACK_MS });
        await gateway.begin();
        const first = await gateway.publish({ topic: 'orders', data: 'after the restart' });
        proxy.comeBack();
        const verdict = await page.opened(2, { within: COMES_BACK_MS });
        assert.equal(verdict.data.replay, 'gap');
        assert.equal(verdict.data.reason, 'reset');
        assert.deepEqual(verdict.data.topics, ['orders']);
        assert.ok(isAfter(verdict.id, before.at(-1)) && isAfter(first.id, verdict.id), 'the id of $open is the birth of the log');
        const second = await gateway.publish({ topic: 'orders', data: 'and going on' });
        await page.received(before.length + 2);
        assertSame(page.events.map(({ id }) => id), [...before, first.id, second.id]);
        assert.equal(page.state, 'OPEN');
        say(`connected at ${open.id}, $drain ${told.id}, exit 0; ${proxy.refused} connections in vain`);
        say(`came back with ${proxy.streams.at(-1).lastEventId}: ${verdict.data.replay}, ${verdict.data.reason}, birth ${verdict.id}`);
      });
    });
  }
}
