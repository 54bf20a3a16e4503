// The client follows: by each of its transports a page gets the same events, once and in order, and the same verdicts.

import assert from 'node:assert/strict';
import { assertSame } from '../support/log.js';
import { connectionsAt } from '../support/page.js';
import { Publisher } from '../support/publisher.js';
import { scene } from '../support/scene.js';
import { sleep, until } from '../support/until.js';
import { WAYS, requests } from '../support/ways.js';

const CUTS = 5;
const TEXTS = ['', ' ', '\n', 'two\nlines\n', 'a\r\nb\rc', ':x', 'data: x\n\n', '{"n":1}', '\ufeffa\u2028b', '日本 🦀', 'x'.repeat(50_000)];
// A stream says of line ends only that there was one. A message and a poll hold the text itself, and so does the envelope by
// which an EventSource on several topics knows the topic.
const asRead = (way, text) => (way === 'fetch' ? text.replaceAll(/\r\n?/g, '\n') : text);

export default function follow(world, test) {
  for (const [way, options] of Object.entries(WAYS)) {
    const play = (t, settings, body) => scene(t, world, { client: true, origin: 'own', settings }, body);

    test(`client: by ${way} each event of three topics arrives once, in order and unchanged, in the page and with the handler of its topic`, async (t) => {
      await play(t, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
        const topics = ['orders', 'a/b.c:d', 'späť'];
        await page.follow(eventsUrl(topics[0]), { ...options, byTopic: topics, types: ['created', '日本'] });
        const open = await page.opened();
        assert.deepEqual({ replay: open.replay, topics: open.topics?.toSorted(), transport: open.transport }, { replay: 'none', topics: topics.toSorted(), transport: way });
        assert.equal(page.state, 1);
        const events = TEXTS.map((data, n) => ({ topic: topics[n % 3], event: [undefined, 'created', '日本', 'message'][n % 4], data }));
        const results = await gateway.publish(events);
        await page.received(TEXTS.length);
        const expected = events.map(({ topic, event, data }, n) => ({ id: results[n].id, type: event ?? 'message', data: asRead(way, data), topic }));
        assertSame(page.events, expected);
        assertSame(page.byTopic.map(({ of, ...event }) => event), expected);
        assert.ok(page.byTopic.every(({ topic, of }) => topic === of));
        assert.equal(page.lastEventId, results.at(-1).id);
        assert.deepEqual([page.errors.length, page.gaps.length, page.opens.length], [0, 0, 1]);
        if (way !== 'poll') assert.equal(requests(proxy, way).length, 1);
        say(`${requests(proxy, way).length} requests: ${requests(proxy, way)[0].target}`);

        await page.close();
        await connectionsAt(gateway, 0);
        assert.equal((await page.look()).state, 2);
      });
    });

    test(`client: by ${way} over repeated cuts, some in the middle of a frame, nothing is lost, doubled or out of order`, async (t) => {
      await play(t, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('tide', 'wind'), options);
        await page.opened();
        const publisher = new Publisher([gateway], { topics: ['tide', 'wind', 'tide', 'other'], fill: 200 });
        let inside = 0;
        for (let n = 0; n < CUTS; n += 1) {
          await publisher.more(3 + n);
          if (n % 2 === 0) {
            proxy.cut();
          } else {
            let done;
            proxy.cutInsideFrame(100 * n).then((exchange) => (done = exchange));
            const cut = await until('a cut inside a frame', () => done);
            inside += cut.midFrame ? 1 : 0;
          }
          const before = page.events.length;
          await page.received(before + 3);
        }
        await publisher.end();
        const published = publisher.published.filter(({ topic }) => topic !== 'other');
        await page.received(published.length);
        assertSame(page.events, published.map(({ id, type, data, topic }) => ({ id, type, data, topic })));
        assert.deepEqual(page.gaps, []);
        assert.deepEqual([...new Set(page.opens.slice(1).map(({ replay }) => replay))].filter((replay) => replay !== 'complete'), []);
        assert.ok(page.ways.every((one) => one === way), `${page.ways}`);
        await page.until('that it is connected', ({ state }) => state === 1);
        say(`${CUTS} cuts, ${inside} inside a frame; ${published.length} events, ${page.opens.length} verdicts, ${requests(proxy, way).length} requests`);
      });
    });

    test(`client: by ${way} it is told what retention took while it was away, and gets the rest`, async (t) => {
      await play(t, { TIDEGATE_RETENTION__EVENTS: '5' }, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders', 'quiet'), options);
        await page.opened();
        const first = (await gateway.publish({ topic: 'orders', data: 'first' })).id;
        await page.received(1);
        proxy.hold();
        proxy.cut();
        const missed = (await gateway.publish(Array.from({ length: 20 }, (_, n) => ({ topic: 'orders', data: `${n}` })))).map(({ id }) => id);
        proxy.comeBack();
        await page.received(6);
        assert.deepEqual(page.ids, [first, ...missed.slice(-5)]);
        assert.equal(page.gaps.length, 1, JSON.stringify(page.gaps));
        const [gap] = page.gaps;
        assert.deepEqual({ reason: gap.reason, topics: gap.topics, after: gap.after }, { reason: 'retention', topics: ['orders'], after: 1 }, 'it is told before anything newer');
        const last = (await gateway.publish({ topic: 'orders', data: 'last' })).id;
        await page.received(7);
        assert.equal(page.ids.at(-1), last);
        say(`gap: ${JSON.stringify(gap)}, verdict ${JSON.stringify(page.opens.at(-1))}`);
      });
    });

    test(`client: by ${way} a restart that lost the log is told as a gap, once, and it goes on`, async (t) => {
      await play(t, {}, async ({ gateway, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders'), options);
        await page.opened();
        const first = (await gateway.publish({ topic: 'orders', data: 'first' })).id;
        await page.received(1);
        await gateway.kill();
        await gateway.begin();
        const second = (await gateway.publish({ topic: 'orders', data: 'second' })).id;
        await page.received(2, { within: 30_000 });
        assert.deepEqual(page.ids, [first, second]);
        assert.deepEqual(page.gaps.map(({ reason, topics }) => ({ reason, topics })), [{ reason: 'reset', topics: ['orders'] }]);
        assert.equal(page.state, 1);
        say(`${page.errors.length} errors, ${JSON.stringify(page.opens.at(-1))}`);
      });
    });

    test(`client: by ${way} the end of all topics is told, and it asks no more`, async (t) => {
      await play(t, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('lap', 'race'), options);
        await page.opened();
        const lap = await gateway.publish({ topic: 'lap', data: '1' });
        await gateway.publish({ topic: 'lap', end: true });
        await page.until('the end of a topic', () => page.ends.length === 1);
        const race = await gateway.publish({ topic: 'race', data: '2' });
        await gateway.publish({ topic: 'race', end: true });
        await page.until('the end of both', ({ state, ends }) => ends.length === 2 && state === 2);
        assert.deepEqual(page.ids, [lap.id, race.id]);
        assert.deepEqual(page.ends.map(({ topic, after }) => ({ topic, after })), [{ topic: 'lap', after: 1 }, { topic: 'race', after: 2 }]);
        await connectionsAt(gateway, 0);
        const { length } = proxy.exchanges;
        await sleep(2_000); // several times the retry time
        assert.equal(proxy.exchanges.length, length, 'nothing comes after the end');
        say(`${requests(proxy, way).map(({ status }) => status)}; ${page.errors.length} errors`);
      });
    });

    test(`client: by ${way} it begins where it is told to: at the earliest, at a cursor, at the last few, at a time`, async (t) => {
      await play(t, {}, async ({ gateway, page, eventsUrl }) => {
        const ids = [];
        for (let n = 0; n < 6; n += 1) ids.push((await gateway.publish({ topic: 'orders', data: `${n}` })).id);
        let seen = 0;
        let opens = 0;
        for (const [start, expected, replay] of [
          [{ lastEventId: 'earliest' }, ids, 'none'],
          [{ lastEventId: ids[2] }, ids.slice(3), 'complete'],
          [{ last: 2 }, ids.slice(-2), 'none'],
          [{ since: '1h' }, ids, 'none'],
          [{}, [], 'none'],
        ]) {
          await page.follow(eventsUrl('orders'), { ...options, ...start });
          const open = await page.opened(opens + 1);
          await page.received(seen + expected.length);
          assert.deepEqual(page.ids.slice(seen), expected, JSON.stringify(start));
          assert.equal(open.replay, replay, JSON.stringify(start));
          seen += expected.length;
          opens = page.opens.length;
        }
      });
    });
  }
}
