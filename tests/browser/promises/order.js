// Order: what is published while a page looks on reaches it in the order of the ids, and unchanged.

import assert from 'node:assert/strict';
import { assertIncreasing, assertSame, isAfter } from '../support/log.js';
import { scene } from '../support/scene.js';

const COUNT = 200;

// Texts that a careless encoder breaks, and what a browser must make of them: `\r\n` and `\r` end a line as `\n` does.
// U+0000 is not among them: Chromium keeps it, Firefox drops it.
const AWKWARD = [
  ['', ''],
  ['two\nlines', 'two\nlines'],
  ['three\r\nkinds\rof\nline end', 'three\nkinds\nof\nline end'],
  ['blank lines stay\n\n\n', 'blank lines stay\n\n\n'],
  [' a leading blank stays', ' a leading blank stays'],
  ['id: 9-9\nevent: forged\nretry: 1', 'id: 9-9\nevent: forged\nretry: 1'],
  ['no\u2028line\u2029end\u0085here', 'no\u2028line\u2029end\u0085here'],
  ['日本 🦀 \u0001 \ufeff', '日本 🦀 \u0001 \ufeff'],
];

export default function order(world, test) {
  test('a page receives in order what is published while it is open', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'), ['message', 'created']);
      const open = await page.opened();
      assert.equal(open.data.replay, 'none');
      assert.deepEqual(open.data.topics, ['orders']);
      assert.equal(typeof open.data.connection, 'string');
      assert.equal(page.state, 'OPEN');
      assert.equal(page.events.length, 0, 'nothing comes before $open');

      const published = [];
      for (let n = 0; n < COUNT; n += 1) {
        const [data, arrives] = n % 10 === 0 ? AWKWARD[(n / 10) % AWKWARD.length] : [`event ${n}`, `event ${n}`];
        const event = n % 3 === 0 ? 'created' : undefined;
        const { id, topic } = await gateway.publish({ topic: 'orders', event, data });
        assert.equal(topic, 'orders');
        published.push({ id, type: event ?? 'message', data: arrives });
      }
      const { id } = await gateway.publish({ topic: 'orders', data: { order: 1, lines: ['a', 'b'] } });
      published.push({ id, type: 'message', data: '{"order":1,"lines":["a","b"]}' });

      await page.received(published.length);
      assertSame(page.events, published);
      assertIncreasing([open.id, ...page.events.map((event) => event.id)]);
      assert.deepEqual(page.errors, [], 'one connection was enough');
      assert.equal(proxy.streams.length, 1);
      say(`${page.events.length} events in order, from ${published[0].id} to ${published.at(-1).id}, connected at ${open.id}`);
    });
  });

  test('the stream on the wire looks as it is written down', async (t) => {
    await scene(t, world, { settings: { TIDEGATE_STREAM__KEEPALIVE: '1s' } }, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'), ['created']);
      const open = await page.opened();
      const [stream] = proxy.streams;
      assert.equal(stream.headers.accept, 'text/event-stream');
      assert.equal(stream.lastEventId, undefined);
      assert.equal(stream.status, 200);
      const headers = stream.responseHeaders;
      assert.match(headers['content-type'], /^text\/event-stream\b/);
      assert.equal(headers['cache-control'], 'no-cache, no-store, no-transform');
      assert.equal(headers['x-accel-buffering'], 'no');
      assert.equal(headers['tidegate-replay'], 'none');
      assert.equal(headers['content-length'], undefined);
      assert.equal(headers['content-encoding'], undefined);
      assert.match(headers.vary ?? '', /\borigin\b/i);
      assert.equal(headers['access-control-allow-origin'], stream.headers.origin);
      assert.equal(headers['access-control-allow-credentials'], 'true');

      const { retry, ...first } = stream.frames[0];
      assert.ok(Number(retry) >= 200 && Number(retry) <= 400, `retry: ${retry} is 300 ms, give or take a third`);
      assert.deepEqual(Object.keys(stream.frames[0]), ['retry', 'id', 'event', 'data']);
      assert.deepEqual({ id: first.id, event: first.event }, { id: open.id, event: '$open' });

      await page.until('a keepalive pass', () => stream.frames.some((frame) => 'comment' in frame));
      assert.deepEqual(stream.frames.at(-1), { comment: 'keepalive' }, 'nothing was published: the cursor has nowhere to go');
      const { id } = await gateway.publish({ topic: 'orders', event: 'created', data: 'x' });
      await page.received(1);
      assert.deepEqual(stream.frames.find((frame) => frame.event === 'created'), { id, event: 'created', data: 'x' });
      say(`first frame: ${JSON.stringify(stream.frames[0])}`);
    });
  });

  test('a page that follows two topics gets both in the order of their ids, each event with its topic on the wire', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('tide', 'wind'));
      const open = await page.opened();
      assert.deepEqual([...open.data.topics].sort(), ['tide', 'wind']);
      const published = [];
      for (let n = 0; n < 40; n += 1) {
        const topic = n % 3 === 0 ? 'wind' : 'tide';
        const { id } = await gateway.publish({ topic, data: `${topic} ${n}` });
        published.push({ id, topic, data: `${topic} ${n}` });
      }
      await page.received(published.length);
      assertSame(page.events, published.map(({ id, data }) => ({ id, type: 'message', data })));
      const framed = proxy.streams[0].frames.filter(({ topic }) => topic);
      assertSame(framed, published.map(({ id, topic, data }) => ({ id, topic, data })));
      assert.ok(isAfter(page.events[0].id, open.id));
      say(`${page.events.length} events of two topics in one order`);
    });
  });
}
