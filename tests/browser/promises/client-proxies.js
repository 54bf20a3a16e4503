// Proxies that hold a stream back, or let no WebSocket through: the client finds out, goes on by what passes, with the same
// cursor, and comes back to the stream when it can.

import assert from 'node:assert/strict';
import { BufferingProxy } from '../support/buffering.js';
import { Nginx, behindNginx } from '../support/nginx.js';
import { connectionsAt } from '../support/page.js';
import { Publisher } from '../support/publisher.js';
import { scene } from '../support/scene.js';
import { token, wantsTokens } from '../support/token.js';

// How long the client may take to give up on a transport, and how long to try a better one again.
const FALLS_BACK_MS = 60_000;
// A page that stands still for a moment must not take what passes for held back: only much later would it try that again.
const FIRST_FRAME_MS = 4_000;

const behind = (besides) => (itself) => ({ ...behindNginx, TIDEGATE_CORS__ORIGINS: itself, ...besides });
// With keepalives out of the way nothing but time tells that a stream is held back.
const QUIET = { TIDEGATE_STREAM__KEEPALIVE: '60s' };

// As Nginx is without a word of configuration, but for the last one: over HTTP/1.0 it fills its buffers first.
const NGINX_BUFFERS = 'proxy_http_version 1.0; proxy_buffering on; proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_ignore_headers X-Accel-Buffering;';

const FRONTS = [
  ['nothing', undefined, 'sse'],
  ['Nginx', (ports) => Nginx.before(ports), 'sse'],
  ['an Nginx that buffers whatever the gateway asks', (ports) => Nginx.before(ports, { events: NGINX_BUFFERS }), 'ws'],
  ['a proxy that holds back bodies', ([port]) => BufferingProxy.before(port), 'ws'],
  ['a proxy that holds back whole answers', ([port]) => BufferingProxy.before(port, { holdsHead: true }), 'ws'],
  ['a proxy that holds back bodies and lets no WebSocket pass', ([port]) => BufferingProxy.before(port, { upgrades: false }), 'poll'],
  ['a proxy that holds back whole answers and lets no WebSocket pass', ([port]) => BufferingProxy.before(port, { upgrades: false, holdsHead: true }), 'poll'],
];

export default function clientProxies(world, test) {
  for (const [what, front, expected] of FRONTS) {
    // With a token the stream goes by fetch, which hears of the head; that is one question, and the proxy another.
    for (const signed of what.includes('bodies') ? [false, true] : [false]) {
      test(`client: behind ${what} it follows by ${expected}${signed ? ', also with a token' : ''}, and misses nothing`, async (t) => {
        const settings = behind({ ...QUIET, ...(signed && { ...wantsTokens, TIDEGATE_AUTH__ANONYMOUS: '' }) });
        await scene(t, world, { client: true, origin: 'own', settings, front }, async ({ gateway, proxy, page, say, eventsUrl }) => {
          if (signed) gateway.authorization = `Bearer ${token(600)}`;
          await page.give([token(600)]);
          // What is published while it tries one transport after another belongs to the page, too: it begins at a cursor.
          const { id: begin } = await gateway.publish({ topic: 'orders', data: 'the last one that it has seen' });
          const publisher = new Publisher([gateway], { every: 50 });
          await page.follow(eventsUrl('orders'), { firstFrameMs: FIRST_FRAME_MS, lastEventId: begin, ...(signed && { provide: ['token'] }) });
          await page.until(expected, ({ transport, opens }) => transport === expected && opens.length > 0, { within: FALLS_BACK_MS });
          await publisher.more(10);
          await page.receivedAll(await publisher.end());
          assert.equal(page.opens[0].replay, 'complete');
          assert.deepEqual(page.gaps, []);
          assert.equal(page.transport, expected);
          if (expected !== 'poll') await connectionsAt(gateway, 1, { within: 30_000 });
          say(`${proxy.exchanges.map(({ target, status }) => `${target.split('?')[0]} ${status}`).slice(0, 8).join(', ')}; ${page.ids.length} events`);
        });
      });
    }
  }

  test('client: when a proxy stops buffering it comes back to the stream, and misses nothing on the way', async (t) => {
    const front = ([port]) => BufferingProxy.before(port, { upgrades: false });
    await scene(t, world, { client: true, origin: 'own', front }, async ({ gateway, front: buffering, page, say, eventsUrl }) => {
      const publisher = new Publisher([gateway], { every: 50 });
      await page.follow(eventsUrl('orders'), { firstFrameMs: 1_500, upgradeMs: 3_000 });
      await page.until('poll', ({ transport, events }) => transport === 'poll' && events.length > 0, { within: FALLS_BACK_MS });
      const [first] = page.ids;
      buffering.buffers = false;
      buffering.upgrades = true;
      await page.until('sse', ({ transport }) => transport === 'sse', { within: FALLS_BACK_MS });
      await publisher.more(10);
      const ids = await publisher.end();
      await page.receivedAll(ids.slice(ids.indexOf(first)));
      assert.deepEqual(page.gaps, []);
      await connectionsAt(gateway, 1, { within: 30_000 });
      say(`${page.ways}, ${page.ids.length} events`);
    });
  });
}
