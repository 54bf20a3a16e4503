// Drain: a gateway that leaves says so, and a page comes back by itself to the one that follows.

import assert from 'node:assert/strict';
import { assertSame, isAfter } from '../support/log.js';
import { COMES_BACK_MS, assertSurvived, refused } from '../support/refusal.js';
import { scene } from '../support/scene.js';
import { until } from '../support/until.js';

// Each open stream has a slot of 250 ms in a drain: so many make it last 6 s.
const OTHERS = 24;

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

  for (const [origin, redis, outcome] of [
    ['own', false, 'is told a gap by the memory of the next one'],
    ['loopback', true, 'misses nothing, for the log is in Redis'],
  ]) {
    test(`a page that knocks while the gateway drains is sent away for a while, comes back by itself, and ${outcome}`, async (t) => {
      const settings = { TIDEGATE_DRAIN__TIMEOUT: '10s' };
      await scene(t, world, { origin, redis, settings }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'));
        await page.opened();
        const publish = async (data) => (await gateway.publish({ topic: 'orders', data })).id;
        const before = [await publish('before 0'), await publish('before 1')];
        await page.received(before.length);
        const others = [];
        for (let n = 0; n < OTHERS; n += 1) others.push(await gateway.subscribe('orders'));
        proxy.hold();
        proxy.cut();
        // It stands at the door before the drain begins, which does not wait for it.
        await until('the browser to knock', () => proxy.waiting > 0, { within: COMES_BACK_MS });
        const stopped = gateway.stop();
        stopped.catch(() => {}); // it is awaited below
        await until('new streams to be refused', async () => (await gateway.subscribe('orders')).status === 503);
        const meanwhile = await publish('accepted until the exit');
        proxy.comeBack();
        const cursor = before.at(-1);
        const exchange = await refused({ gateway, proxy, page }, { code: 'draining', status: 503, cursor });

        // On its own origin it may knock while nobody is there; on another one somebody has to answer, or Firefox gives up.
        if (origin === 'loopback') proxy.hold();
        await stopped;
        await gateway.begin();
        const after = await publish('after the restart');
        proxy.comeBack();
        const verdict = await page.opened(2, { within: COMES_BACK_MS });
        assert.equal(proxy.streams.at(-1).lastEventId, cursor);
        const expected = redis ? { replay: 'complete', reason: undefined } : { replay: 'gap', reason: 'reset' };
        assert.deepEqual({ replay: verdict.data.replay, reason: verdict.data.reason }, expected);
        const last = await publish('and going on');
        const all = [...before, ...(redis ? [meanwhile] : []), after, last];
        await page.received(all.length);
        assertSame(page.events.map(({ id }) => id), all);
        assertSurvived(page);
        for (const other of others) other.leave();
        say(`refused (retry ${exchange.frames[0].retry} ms), exit 0, ${proxy.refused} connections in vain, then ${verdict.data.replay}`);
      });
    });
  }
}
