// What the web platform demands of an `EventSource` (the cases of the Web Platform Tests, directory `eventsource`), seen from
// our side: the frames and answers of this gateway never lead a browser into one of those corners, and where a corner is the
// browser's own (redirects, workers, closing, credentials), a page gets through it without a loss.

import assert from 'node:assert/strict';
import { assertSame, isAfter } from '../support/log.js';
import { connectionsAt } from '../support/page.js';
import { scene } from '../support/scene.js';
import { token, wantsTokens } from '../support/token.js';
import { sleep, until } from '../support/until.js';

// Each of these looks like something else on the wire, or is what a parser trims, splits or ends with.
const TEXTS = [
  '',
  ' ',
  '  two blanks before',
  '\ta tab before, one after\t',
  'blanks after  ',
  ':a comment',
  ': keepalive',
  'data',
  'data:',
  'data: x',
  'id',
  'id:',
  'id: 1-1\n\n',
  'event: forged\ndata: forged\n\n',
  'retry: 1',
  'retry:1000x',
  '\n',
  '\n\n',
  'a\n\nb',
  '\na',
  'a\n',
  ' \n \n',
  'a\r\nb',
  'a\rb',
  '\r',
  '\n\r',
  '\r\n\r\n',
  '\ufeff',
  '\ufeffdata: x',
  'a\u2028b\u2029c\u0085d\u000be\u000cf',
  'dé 日本 🦀 e\u0301 \u200b \u{10ffff} \ufffd',
  'x'.repeat(60_000),
  Array.from({ length: 3_000 }, (_, n) => `line ${n}`).join('\n'),
];
const asRead = (text) => text.replaceAll(/\r\n?/g, '\n');

// `$cursor` and the like are told apart from what is published by their `$`; these are what a page may stumble over.
const TYPES = ['message', 'created', 'two words', 'a:b', ' a blank before', 'späť', '日本', 'open', 'error', 'toString', '__proto__', 'x'.repeat(128)];

export default function wpt(world, test) {
  test('format: data arrives as it was published, whatever it looks like on the wire', async (t) => {
    await scene(t, world, {}, async ({ gateway, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('texts'));
      await page.opened();
      const results = await gateway.publish(TEXTS.map((data) => ({ topic: 'texts', data })));
      await page.received(TEXTS.length);
      assertSame(page.events, TEXTS.map((data, n) => ({ id: results[n].id, type: 'message', data: asRead(data) })));
      assert.deepEqual(page.errors, []);
      assert.equal(page.opens.length, 1, 'no text was taken for a frame of its own');
      say(`${TEXTS.length} texts, the longest of ${Math.max(...TEXTS.map(({ length }) => length))} characters`);
    });
  });

  test('format: the same texts arrive when each byte comes in a segment of its own', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, eventsUrl }) => {
      proxy.drips = true;
      const texts = TEXTS.filter(({ length }) => length < 1_000);
      await page.follow(eventsUrl('texts'));
      await page.opened();
      const results = await gateway.publish(texts.map((data) => ({ topic: 'texts', data })));
      await page.received(texts.length, { within: 40_000 });
      assertSame(page.events, texts.map((data, n) => ({ id: results[n].id, type: 'message', data: asRead(data) })));
      assert.equal(page.opens.length, 1);
    });
  });

  test('format: U+0000 in data harms neither that event nor the cursor nor what follows; in a type it is refused', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('texts'));
      await page.opened();
      const [one, two] = await gateway.publish(['a\0b', 'after'].map((data) => ({ topic: 'texts', data })));
      const refused = await gateway.tryPublish({ topic: 'texts', event: 'a\0b', data: 'x' });
      assert.deepEqual([refused.status, refused.body.code], [400, 'type_invalid']);
      await page.received(2);
      assert.deepEqual(page.events.map(({ id }) => id), [one.id, two.id]);
      assert.ok(['a\0b', 'ab', 'a\ufffdb'].includes(page.events[0].data), JSON.stringify(page.events[0].data));
      proxy.cut();
      assert.equal((await page.opened(2)).id, two.id, 'the cursor is the one after it');
      say(`arrives as ${JSON.stringify(page.events[0].data)}`);
    });
  });

  test('format: the stream begins with its first field, with no byte order mark and no blank line', async (t) => {
    await scene(t, world, { origin: 'own' }, async ({ proxy, page, say }) => {
      const bytes = await page.evaluate(async (url) => {
        const stop = new AbortController();
        const response = await fetch(url, { signal: stop.signal });
        const { value } = await response.body.getReader().read();
        stop.abort();
        return [...value.slice(0, 9)];
      }, `${proxy.url}/events?topic=texts`);
      const begin = String.fromCharCode(...bytes);
      assert.match(begin, /^retry: \d/);
      say(JSON.stringify(begin));
    });
  });

  test('format: comments dispatch nothing at all', async (t) => {
    await scene(t, world, { settings: { TIDEGATE_STREAM__KEEPALIVE: '1s' } }, async ({ gateway, proxy, page, eventsUrl }) => {
      await watch(page, { url: eventsUrl('quiet'), types: ['message', 'open', 'error', '$open', '$cursor', 'keepalive', ''] });
      const [stream] = await until('two comments', () => proxy.streams[0]?.frames.filter(({ comment }) => comment).length >= 2 && proxy.streams);
      const { id } = await gateway.publish({ topic: 'quiet', data: 'after' });
      const { seen } = await watched(page, 'the event', ({ seen }) => seen.at(-1)?.id === id);
      assert.deepEqual(seen.map(({ type }) => type), ['open', '$open', 'message']);
      assert.ok(stream.frames.every((frame) => !('comment' in frame) || Object.keys(frame).length === 1), 'a comment comes alone');
    });
  });

  test('format: each type reaches its own listeners alone, also those of the names that EventSource uses itself', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, eventsUrl }) => {
      await watch(page, { url: eventsUrl('types'), types: TYPES });
      await until('the stream', () => proxy.streams[0]?.frames.length > 0);
      const results = await gateway.publish(TYPES.map((event) => ({ topic: 'types', event, data: `of ${event}` })));
      const { seen, state } = await watched(page, 'all of them', ({ seen }) => seen.filter(({ kind }) => kind === 'MessageEvent').length >= TYPES.length);
      const [opened, ...messages] = seen;
      assert.deepEqual({ on: opened.on, kind: opened.kind }, { on: 'open', kind: 'Event' }, 'the one that the browser makes');
      assertSame(
        messages.map(({ on, type, id, data }) => ({ on, type, id, data })),
        TYPES.map((type, n) => ({ on: type, type, id: results[n].id, data: `of ${type}` })),
      );
      const { origin } = new URL(proxy.url);
      assert.ok(messages.every((one) => one.origin === origin && one.trusted && one.state === 1), 'from the gateway, by the browser, on an open stream');
      assert.equal(state, 1, 'an event of the type error is no error');
      const framed = proxy.streams[0].frames.slice(1);
      assert.ok(!('event' in framed[0]), 'message is what a frame without a type is');
      for (const event of ['', 'a\nb', 'a\rb', '$open', 'x'.repeat(129)]) {
        const { status, body } = await gateway.tryPublish({ topic: 'types', event, data: 'x' });
        assert.deepEqual([status, body.code], [400, 'type_invalid'], JSON.stringify(event));
      }
    });
  });

  test('format: every event has an id, and no frame takes it away from the browser again', async (t) => {
    await scene(t, world, { settings: { TIDEGATE_STREAM__KEEPALIVE: '1s' } }, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await watch(page, { url: `${eventsUrl('ids')}&heartbeat=event`, types: ['message', '$open', '$heartbeat', '$cursor'] });
      await until('the stream', () => proxy.streams[0]?.frames.length > 0);
      const ids = [];
      for (let n = 0; n < 3; n += 1) {
        ids.push((await gateway.publish({ topic: 'ids', data: `${n}` })).id);
        await watched(page, 'a heartbeat after it', ({ seen }) => seen.findIndex(({ id, type }) => id === ids[n] && type === '$heartbeat') > 0);
      }
      const { seen } = await watched(page, 'all', () => true);
      let last = seen[0].id;
      for (const { type, id } of seen) {
        assert.match(id, /^\d+-\d+$/, `${type} knows the cursor`);
        assert.ok(type === 'message' ? isAfter(id, last) : !isAfter(last, id), `${type} ${id} after ${last}`);
        last = id;
      }
      for (const frame of proxy.streams[0].frames) {
        if ('id' in frame) assert.match(frame.id, /^[A-Za-z0-9._-]{1,128}$/, 'a header may hold it, and asks for no preflight');
        if (frame.event === '$heartbeat') assert.ok(!('id' in frame));
      }
      proxy.cut();
      await until('its return', () => proxy.streams[1]?.lastEventId);
      assert.equal(proxy.streams[1].lastEventId, ids.at(-1));
      say(`${seen.length} frames: ${[...new Set(seen.map(({ type }) => type))].join(', ')}`);
    });
  });

  test('format: `retry` is a number, and the browser waits for so long', async (t) => {
    await scene(t, world, { settings: { TIDEGATE_STREAM__RETRY: '2s' } }, async ({ proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      await page.opened();
      const told = proxy.streams[0].frames.filter(({ retry }) => retry !== undefined);
      assert.equal(told.length, 1);
      assert.match(told[0].retry, /^[1-9]\d*$/);
      const cut = performance.now();
      proxy.cut();
      await until('the second request', () => proxy.streams.length === 2, { every: 5 });
      const waited = performance.now() - cut;
      assert.ok(waited >= Number(told[0].retry) * 0.95, `${waited} ms, told ${told[0].retry}`);
      await page.opened(2);
      say(`told ${told[0].retry} ms, came back after ${Math.round(waited)} ms`);
    });
  });

  test('format: a frame that is cut at any of its seams is dispatched once, after the return, and whole', async (t) => {
    const seams = ['id: ', '\n', 'event', 'event: created', 'created\n', 'data:', 'data: on', 'data: one\n', 'data: two', 'data: two\n'];
    await scene(t, world, { settings: { TIDEGATE_STREAM__RETRY: '100ms' } }, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.follow(eventsUrl('orders'), ['created']);
      await page.opened();
      const published = [];
      for (const [n, seam] of seams.entries()) {
        let done;
        proxy.cutWhen(({ unfinished }) => !unfinished.includes('$') && unfinished.startsWith('id: ') && unfinished.endsWith(seam)).then((exchange) => (done = exchange));
        const { id } = await gateway.publish({ topic: 'orders', event: 'created', data: 'one\ntwo' });
        published.push({ id, type: 'created', data: 'one\ntwo' });
        const cut = await until(`the cut after ${JSON.stringify(seam)}`, () => done);
        await page.opened(n + 2);
        assert.equal(page.opens[n + 1].id, published.at(-2)?.id ?? page.opens[0].id, `the cursor before the frame that was cut: ${JSON.stringify(cut.unfinished)}`);
        await page.received(n + 1);
      }
      assertSame(page.events, published);
      assert.equal(page.opens.length, seams.length + 1);
      say(`${seams.length} cuts: ${JSON.stringify(seams)}`);
    });
  });

  test('request: it asks for an event stream past all caches, and two streams of one URL are two', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, eventsUrl }) => {
      await watch(page, { url: eventsUrl('orders'), types: ['$open'] });
      await page.follow(eventsUrl('orders'));
      await page.opened();
      const { seen } = await watched(page, '$open', ({ seen }) => seen.length === 1);
      assert.notEqual(JSON.parse(seen[0].data).connection, page.opens[0].data.connection);
      await connectionsAt(gateway, 2);
      for (const { headers, responseHeaders } of proxy.streams) {
        assert.equal(headers.accept, 'text/event-stream');
        assert.equal(headers['cache-control'], 'no-cache');
        assert.equal(responseHeaders['content-type'], 'text/event-stream');
        assert.equal(responseHeaders['cache-control'], 'no-cache, no-store, no-transform');
      }
    });
  });

  test('request: a page of another origin shows its cookie only where it says so, and never asks for leave', async (t) => {
    const settings = (itself) => ({ ...wantsTokens, TIDEGATE_CORS__ORIGINS: itself });
    await scene(t, world, { settings }, async ({ gateway, proxy, page, eventsUrl }) => {
      gateway.authorization = `Bearer ${token(600)}`;
      assert.equal((await page.ask(`/session?token=${token(600)}`)).status, 204);
      await watch(page, { url: eventsUrl('orders'), types: ['$open', 'error'] });
      const { seen, state } = await watched(page, 'the refusal', ({ seen }) => seen.length > 0);
      assert.deepEqual([seen[0].type, seen[0].kind, seen[0].data, state], ['error', 'Event', undefined, 2], 'without credentials nobody is there');
      assert.equal(proxy.streams[0].headers.cookie, undefined);
      assert.equal(proxy.streams[0].status, 401);

      await page.follow(eventsUrl('orders'), ['message'], { withCredentials: true });
      const open = await page.opened();
      assert.match(proxy.streams[1].headers.cookie, /^tidegate=ey/);
      proxy.cut();
      assert.equal((await page.opened(2)).id, open.id);
      const { id } = await gateway.publish({ topic: 'orders', data: 'x' });
      await page.received(1);
      proxy.cut();
      assert.equal((await page.opened(3)).id, id);
      assert.deepEqual([...new Set(proxy.exchanges.map(({ method }) => method))], ['GET'], 'no preflight, with no cursor and with none');
    });
  });

  for (const origin of ['own', 'loopback']) {
    const where = origin === 'own' ? 'of its own origin' : 'to the gateway, another origin,';
    test(`request: a stream that is reached by a redirect ${where} is resumed through the redirect`, async (t) => {
      await scene(t, world, {}, async ({ gateway, pages, proxy, page, say, eventsUrl }) => {
        for (const [n, status] of (origin === 'own' ? [301, 302, 303, 307, 308] : [302, 307]).entries()) {
          const topic = `moved-${status}`;
          const target = origin === 'own' ? new URL(`/relay?topic=${topic}`, pages.url).href : eventsUrl(topic);
          if (origin === 'own') pages.relay = proxy.url;
          await watch(page, { url: `/redirect?${new URLSearchParams({ status, to: target })}`, types: ['$open', 'message'] });
          await watched(page, '$open', ({ seen }) => seen.length === 1);
          const before = await gateway.publish({ topic, data: 'before' });
          await watched(page, 'an event', ({ seen }) => seen.length === 2);
          proxy.cut();
          const after = await gateway.publish({ topic, data: 'after' });
          const { seen } = await watched(page, 'the next one', ({ seen }) => seen.some(({ data }) => data === 'after'));
          const answers = proxy.exchanges.filter(({ target }) => target.includes(topic));
          assert.equal(answers.at(-1).lastEventId, before.id, `${status}: the cursor goes through the redirect`);
          assert.deepEqual(seen.filter(({ type }) => type === 'message').map(({ id }) => id), [before.id, after.id]);
          assert.equal(JSON.parse(seen.filter(({ type }) => type === '$open').at(-1).data).replay, 'complete');
          assert.ok(seen.every(({ origin }) => origin === new URL(target).origin), 'events come from where the redirect led');
          await unwatch(page);
          await connectionsAt(gateway, 0);
          say(`${n + 1}: ${status} ${answers.map(({ status }) => status).join(', ')}`);
        }
      });
    });
  }

  test('request: a status that is no 200 is final, says nothing to the page, and is not asked again', async (t) => {
    await scene(t, world, { settings: { TIDEGATE_LIMITS__CONNECTIONS: '1' } }, async ({ gateway, proxy, page, say, eventsUrl }) => {
      const other = await gateway.subscribe('taken');
      for (const [url, status] of [
        [eventsUrl('no blanks'), 400],
        [`${eventsUrl('orders')}&lastEventId=nonsense`, 400],
        [`${proxy.url}/nowhere`, 404],
        [`${proxy.url}/publish?topic=orders`, 405],
        [`${eventsUrl('orders')}&refuse=status`, 503],
      ]) {
        await watch(page, { url, types: ['message', 'open', 'error', '$open', '$refused'] });
        const { seen, state } = await watched(page, 'its end', ({ seen }) => seen.length > 0);
        assert.deepEqual(seen.map(({ type, kind, data }) => ({ type, kind, data })), [{ type: 'error', kind: 'Event', data: undefined }]);
        assert.equal(state, 2);
        assert.equal(proxy.exchanges.at(-1).status, status);
        assert.match(proxy.exchanges.at(-1).responseHeaders['content-type'], /^application\/problem\+json/);
      }
      const { length } = proxy.exchanges;
      await sleep(1_500); // several times the retry time
      assert.equal(proxy.exchanges.length, length, 'nothing came back');
      other.leave();
      say(proxy.exchanges.map(({ target, status }) => `${target} ${status}`).join('; '));
    });
  });

  test('close: whoever closes sees nothing more, not even what came in the same piece, and the gateway knows it at once', async (t) => {
    await scene(t, world, {}, async ({ gateway, proxy, page, eventsUrl }) => {
      await watch(page, { url: eventsUrl('orders'), types: ['open', '$open', 'message', 'error'], closeAt: 'three' });
      await watched(page, '$open', ({ seen }) => seen.length === 2);
      await connectionsAt(gateway, 1);
      await gateway.publish(['one', 'two', 'three', 'four', 'five'].map((data) => ({ topic: 'orders', data })));
      await watched(page, 'three', ({ state }) => state === 2);
      await connectionsAt(gateway, 0);
      await sleep(1_000); // several times the retry time
      const { seen, state } = await watched(page, 'nothing more', () => true);
      assert.deepEqual(seen.filter(({ kind }) => kind === 'MessageEvent').map(({ data, type }) => (type === 'message' ? data : type)), ['$open', 'one', 'two', 'three']);
      assert.ok(!seen.some(({ type }) => type === 'error'), 'to close is no error');
      assert.equal(state, 2);
      assert.equal(proxy.streams.length, 1);
    });
  });

  test('close: a page that goes, and a frame that is taken away, leave no stream behind', async (t) => {
    await scene(t, world, { origin: 'own' }, async ({ gateway, page, tab, eventsUrl }) => {
      await page.follow(eventsUrl('orders'));
      await page.evaluate((url) => {
        const frame = document.createElement('iframe');
        frame.srcdoc = `<script>globalThis.source = new EventSource(${JSON.stringify(url)})<\/script>`;
        frame.id = 'frame';
        document.body.append(frame);
      }, eventsUrl('frames'));
      await connectionsAt(gateway, 2);
      await page.evaluate(() => document.getElementById('frame').remove());
      await connectionsAt(gateway, 1);
      assert.deepEqual((await gateway.connections())[0].topics, ['orders']);
      await tab.goto('about:blank');
      await connectionsAt(gateway, 0);
    });
  });

  test('readyState goes from 0 to 1, back to 0 by a cut, to 1 again, and to 2 by `close`', async (t) => {
    await scene(t, world, { origin: 'own' }, async ({ proxy, page }) => {
      const first = await watch(page, { url: '/events?topic=orders', types: ['open', 'error'] });
      assert.deepEqual(first, { state: 0, url: `${proxy.url}/events?topic=orders`, withCredentials: false });
      await watched(page, 'open', ({ seen }) => seen.length === 1);
      proxy.cut();
      const { seen } = await watched(page, 'open again', ({ seen }) => seen.length === 3);
      assert.deepEqual(seen.map(({ type, state }) => [type, state]), [['open', 1], ['error', 0], ['open', 1]]);
      await unwatch(page);
      assert.equal((await watched(page, 'closed', () => true)).state, 2);
    });
  });

  test('worker: an EventSource in a dedicated worker follows, resumes and closes as in a page', async (t) => {
    await scene(t, world, { origin: 'own' }, async (s) => {
      const { gateway, proxy, page } = s;
      await page.evaluate(() => {
        globalThis.heard = [];
        globalThis.worker = new Worker('/page/worker.js');
        globalThis.worker.onmessage = ({ data }) => globalThis.heard.push(data);
      });
      await workerPasses(s, [page], (what) => page.evaluate((message) => globalThis.worker.postMessage(message), what));
      await page.evaluate(() => globalThis.worker.postMessage({ close: true }));
      await connectionsAt(gateway, 0);
      await until('the worker to say that it has closed', async () => (await heard(page)).at(-1).state === 2, { seen: () => heard(page) });

      // One that is ended in the middle leaves no stream behind either.
      await page.evaluate((url) => {
        globalThis.worker = new Worker('/page/worker.js');
        globalThis.worker.postMessage({ url });
      }, `${proxy.url}/events?topic=orders`);
      await connectionsAt(gateway, 1);
      await page.evaluate(() => globalThis.worker.terminate());
      await connectionsAt(gateway, 0);
    });
  });

  test('worker: one EventSource in a shared worker serves two pages by one stream', async (t) => {
    await scene(t, world, { origin: 'own' }, async (s) => {
      const { gateway, page, neighbour } = s;
      const other = await neighbour();
      for (const one of [page, other]) {
        await one.evaluate(() => {
          globalThis.heard = [];
          globalThis.worker = new SharedWorker('/page/worker.js');
          globalThis.worker.port.onmessage = ({ data }) => globalThis.heard.push(data);
        });
      }
      await workerPasses(s, [page, other], (what) => page.evaluate((message) => globalThis.worker.port.postMessage(message), what));
      await connectionsAt(gateway, 1);
      await other.evaluate(() => globalThis.worker.port.postMessage({ close: true }));
      await connectionsAt(gateway, 0);
    });
  });
}

/** Makes an `EventSource` in the page that notes everything that it dispatches; tells how it looks before anything came. */
async function watch(page, { url, types, options = {}, closeAt }) {
  const first = await page.evaluate(
    ({ url, types, options, closeAt }) => {
      globalThis.watched?.source.close();
      const source = new EventSource(url, options);
      const seen = [];
      globalThis.watched = { source, seen };
      for (const on of types) {
        source.addEventListener(on, (event) => {
          const { type, lastEventId: id, data, origin, isTrusted: trusted } = event;
          seen.push({ on, type, id, data, origin, trusted, state: source.readyState, kind: event.constructor.name });
          if (closeAt !== undefined && data === closeAt) source.close();
        });
      }
      return JSON.stringify({ state: source.readyState, url: source.url, withCredentials: source.withCredentials });
    },
    { url, types, options, closeAt },
  );
  return JSON.parse(first);
}

/** Waits until `condition` holds of `{seen, state}`, and returns it. */
async function watched(page, what, condition) {
  const look = async () => JSON.parse(await page.evaluate(() => JSON.stringify({ seen: globalThis.watched.seen, state: globalThis.watched.source.readyState })));
  return until(
    `the page to see ${what}`,
    async () => {
      const now = await look();
      return condition(now) && now;
    },
    { seen: look },
  );
}

function unwatch(page) {
  return page.evaluate(() => globalThis.watched.source.close());
}

async function heard(page) {
  return JSON.parse(await page.evaluate(() => JSON.stringify(globalThis.heard)));
}

/** A worker follows, is cut, comes back: every one of `pages` hears each event once and in order. */
async function workerPasses({ gateway, proxy, eventsUrl }, pages, send) {
  const hear = (what, condition) =>
    Promise.all(pages.map((page) => until(`a page to hear ${what}`, async () => condition(await heard(page)), { seen: () => heard(page) })));
  await send({ url: eventsUrl('orders') });
  await hear('$open', (told) => told.some(({ opened }) => opened));
  const published = [];
  const publish = async (data) => published.push({ id: (await gateway.publish({ topic: 'orders', data })).id, type: 'message', data });
  for (let n = 0; n < 5; n += 1) await publish(`before ${n}`);
  await hear('what came before', (told) => told.filter(({ event }) => event).length === 5);
  proxy.hold();
  proxy.cut();
  for (let n = 0; n < 5; n += 1) await publish(`meanwhile ${n}`);
  proxy.comeBack();
  await hear('what came meanwhile', (told) => told.filter(({ event }) => event).length === 10);
  for (const page of pages) {
    const told = await heard(page);
    assertSame(told.flatMap(({ event }) => event ?? []), published);
    assert.deepEqual(told.flatMap(({ opened }) => opened?.replay ?? []), ['none', 'complete']);
    assert.deepEqual(told.flatMap(({ error }) => error ?? []), [0]);
  }
  assert.equal(proxy.streams.length, 2);
}
