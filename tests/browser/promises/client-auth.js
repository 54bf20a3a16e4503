// Who asks: the client shows tokens, headers, tickets and cookies, renews them in time, and asks the page again when they are
// over. A page that has a good one at last misses nothing.

import assert from 'node:assert/strict';
import { Publisher } from '../support/publisher.js';
import { COMES_BACK_MS } from '../support/refusal.js';
import { scene } from '../support/scene.js';
import { SHORT_S, token, wantsTokens } from '../support/token.js';
import { sleep, until } from '../support/until.js';
import { WAYS, requests } from '../support/ways.js';

const LONG_S = 600;
const CUTS = 3;

export default function auth(world, test) {
  const signedScene = (t, { origin = 'own', ...options }, body) => {
    const settings = (itself) => ({ ...wantsTokens, TIDEGATE_CORS__ORIGINS: itself });
    return scene(t, world, { client: true, origin, settings, ...options }, (s) => {
      // The publisher has a token of its own.
      s.gateway.authorization = `Bearer ${token(LONG_S, { subject: 'shop' })}`;
      return body(s);
    });
  };

  // With a token an event stream goes by fetch, which can show it.
  for (const way of ['fetch', 'ws', 'poll']) {
    const transports = [way === 'fetch' ? 'sse' : way];
    for (const origin of { fetch: ['own', 'loopback'], ws: ['own'], poll: ['loopback'] }[way]) {
      test(`client: by ${way} a token that ends is renewed before, on ${origin === 'own' ? 'its own' : 'another'} origin, without a cut`, async (t) => {
        await signedScene(t, { origin }, async ({ gateway, proxy, page, say, eventsUrl }) => {
          const first = token(SHORT_S);
          await page.give([first, token(LONG_S)]);
          await page.follow(eventsUrl('orders'), { transports, provide: ['token'] });
          await page.opened();
          const publisher = new Publisher([gateway], { every: 100 });
          await sleep(Math.max(0, expiryOf(first) - Date.now()) + 1_500);
          await publisher.more(3);
          await page.receivedAll(await publisher.end());
          assert.equal(page.transport, way);
          assert.deepEqual(page.gaps, []);
          assert.equal(page.asked.length, 2, JSON.stringify(page.asked));
          if (way !== 'poll') assert.equal(requests(proxy, way).length, 1, 'one connection was enough');
          assert.ok(!gateway.said.includes(first.slice(-40)), 'no token stands in a log line');
          say(`asked ${JSON.stringify(page.asked)}; ${requests(proxy, way).length} requests, ${page.errors.length} errors`);
        });
      });
    }

    test(`client: by ${way} a token that could not be renewed in time ends the stream, and a newer one resumes it`, async (t) => {
      await signedScene(t, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
        // The page's own back end is away when it is asked for a new one, and gives an expired one when it is back.
        await page.give([token(SHORT_S - 2), null, token(-60), token(LONG_S)]);
        await page.follow(eventsUrl('orders'), { transports, provide: ['token'] });
        await page.opened();
        const publisher = new Publisher([gateway], { every: 100 });
        await page.until('the last token to be asked for', ({ asked }) => asked.length >= 4, { within: COMES_BACK_MS });
        await publisher.more(3);
        await page.receivedAll(await publisher.end(), { within: COMES_BACK_MS });
        assert.deepEqual(page.gaps, []);
        assert.equal(page.state, 1);
        say(`asked ${JSON.stringify(page.asked)}; answers ${requests(proxy, way).map(({ status }) => status)}; errors ${JSON.stringify(page.errors.map(({ code }) => code))}`);
      });
    });
  }

  for (const [way, options] of Object.entries(WAYS).filter(([way]) => way !== 'fetch')) {
    test(`client: by ${way} each connection has a ticket of its own from the page`, async (t) => {
      await signedScene(t, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.give([token(LONG_S)]);
        await page.follow(eventsUrl('orders'), { ...options, provide: ['ticket'] });
        await page.opened();
        const publisher = new Publisher([gateway], { every: 50 });
        for (let n = 0; n < CUTS; n += 1) {
          await page.received(page.events.length + 3);
          proxy.cut();
        }
        await page.received(page.events.length + 3);
        await page.receivedAll(await publisher.end());
        const followed = requests(proxy, way);
        const tickets = followed.map(({ target }) => new URL(target, 'http://x').searchParams.get('ticket'));
        // A GET whose kept connection is cut is repeated by the browser, of which the client hears nothing.
        const repeated = followed.length - new Set(tickets).size;
        assert.ok(repeated <= (way === 'poll' ? CUTS : 0), `${repeated} of ${followed.length} tickets were shown twice`);
        assert.ok(tickets.every(Boolean));
        assert.ok(followed.every(({ target }) => !target.includes('access_token')));
        assert.deepEqual(page.gaps, []);
        say(`${followed.length} requests, asked ${page.asked.length} times`);
      });
    });

    test(`client: by ${way} a cookie is enough, on another origin with withCredentials`, async (t) => {
      await signedScene(t, { origin: 'loopback' }, async ({ gateway, proxy, page, eventsUrl }) => {
        await page.evaluate((value) => fetch(`/session?token=${value}`).then(({ status }) => status), token(LONG_S));
        await page.follow(eventsUrl('orders'), { ...options, withCredentials: true });
        await page.opened();
        const publisher = new Publisher([gateway]);
        await page.received(3);
        proxy.cut();
        await page.received(page.events.length + 3);
        await page.receivedAll(await publisher.end());
        assert.ok(requests(proxy, way).every(({ headers }) => /^tidegate=ey/.test(headers.cookie)));
        assert.deepEqual(page.gaps, []);
      });
    });
  }

  test('client: headers make the stream go by fetch, and are asked for again with each connection', async (t) => {
    await signedScene(t, { origin: 'loopback' }, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.give([token(LONG_S), token(LONG_S + 1)]);
      await page.follow(eventsUrl('orders'), { transports: ['sse'], provide: ['headers'] });
      assert.equal((await page.opened()).transport, 'fetch');
      const publisher = new Publisher([gateway]);
      await page.received(3);
      proxy.cut();
      await page.received(page.events.length + 3);
      await page.receivedAll(await publisher.end());
      const shown = requests(proxy, 'fetch').map(({ headers }) => headers.authorization);
      assert.equal(new Set(shown).size, 2);
      assert.ok(shown.every((value) => value.startsWith('Bearer ey')));
      assert.deepEqual(page.gaps, []);
      say(`${shown.length} requests, ${proxy.exchanges.filter(({ method }) => method === 'OPTIONS').length} preflights`);
    });
  });

  test('client: a page that has nothing better than a bad token is told so in the end, and is not refused for ever', async (t) => {
    await signedScene(t, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
      await page.give([token(LONG_S, { forged: true })]);
      await page.follow(eventsUrl('orders'), { provide: ['token'] });
      await page.until('its end', ({ state }) => state === 2, { within: 60_000 });
      assert.equal(page.errors.at(-1).code, 'unauthorized');
      const { length } = proxy.exchanges;
      await sleep(2_000); // several times the retry time
      assert.equal(proxy.exchanges.length, length);
      await until('the refusals to be counted', async () => (await gateway.refusals('unauthorized', 'status')) > 0);
      say(`asked ${page.asked.length} times, ${length} requests`);
    });
  });
}

function expiryOf(value) {
  return JSON.parse(Buffer.from(value.split('.')[1], 'base64url').toString()).exp * 1_000;
}
