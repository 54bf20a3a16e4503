// Tokens: a page whose token is over is told, sent away, and live again by itself once it has a newer one.

import assert from 'node:assert/strict';
import { assertSame } from '../support/log.js';
import { COMES_BACK_MS, assertSurvived, refused } from '../support/refusal.js';
import { scene } from '../support/scene.js';
import { NOTICE_S, SHORT_S, token, wantsTokens } from '../support/token.js';
import { sleep, until } from '../support/until.js';

const EXPIRED = { code: 'unauthorized', status: 401 };
const LONG_S = 600;

/** How a plain page comes to a token in a cookie, on each of two origins. */
const WAYS = {
  own: {
    sentence: "a page of the gateway's own origin that sets the cookie itself",
    options: {},
    signIn: ({ page }, value) => page.evaluate((text) => void (document.cookie = text), `tidegate=${value}; Path=/; SameSite=Strict`),
  },
  loopback: {
    sentence: 'a page of a listed origin whose server sets a cookie that no script can read',
    options: { withCredentials: true },
    signIn: async ({ page }, value) => assert.equal((await page.ask(`/session?token=${value}`)).status, 204),
  },
};

export default function tokens(world, test) {
  const signedScene = (t, { origin = 'own' }, body) => {
    const settings = (itself) => ({ ...wantsTokens, TIDEGATE_CORS__ORIGINS: itself });
    return scene(t, world, { origin, settings }, (s) => {
      // The publisher has a token of its own.
      s.gateway.authorization = `Bearer ${token(LONG_S, { subject: 'shop' })}`;
      const published = [];
      const publish = async () => published.push((await s.gateway.publish({ topic: 'orders', data: `${published.length}` })).id);
      return body({ ...s, published, publish });
    });
  };

  for (const [origin, { sentence, options, signIn }] of Object.entries(WAYS)) {
    test(`${sentence} is told before its token expires, and is live again by itself after a newer cookie`, async (t) => {
      await signedScene(t, { origin }, async (s) => {
        const { gateway, proxy, page, say, eventsUrl, published, publish } = s;
        const first = token(SHORT_S);
        await signIn(s, first);
        await page.follow(eventsUrl('orders'), ['message'], options);
        const open = await page.opened();
        await publish();
        await page.received(1);
        await page.until('$auth_expiring', () => page.of('$auth_expiring').length > 0);
        const [told] = page.of('$auth_expiring');
        assert.equal(page.state, 'OPEN', 'it is told while the stream still goes on');
        assert.equal(Date.parse(told.data.expires), expiryOf(first));
        assert.ok(told.data.in_ms > 0 && told.data.in_ms <= NOTICE_S * 1_000 + 200, `${told.data.in_ms} ms before`);
        assert.equal('id' in proxy.streams[0].of('$auth_expiring')[0], false, 'it moves no cursor');
        await publish();
        await page.received(2);

        const exchange = await refused({ gateway, proxy, page }, { ...EXPIRED, cursor: published.at(-1) });
        assert.ok(Date.now() >= expiryOf(first), 'not before its time');
        assert.equal(proxy.streams.indexOf(exchange), 1, 'the first stream ended, the second was refused');
        assert.equal(proxy.streams[0].midFrame, false, 'the stream ended with a whole frame');
        for (let n = 0; n < 3; n += 1) await publish();

        await signIn(s, token(LONG_S));
        const returned = await page.opened(2, { within: COMES_BACK_MS });
        assert.equal(returned.data.replay, 'complete');
        await page.received(published.length);
        assertSame(page.events.map(({ id }) => id), published);
        assertSurvived(page);
        say(`connected at ${open.id}, told ${told.data.in_ms} ms before; refused ${page.of('$refused').length} times (retry ${exchange.frames[0].retry} ms), then ${returned.data.replay}`);
      });
    });
  }

  test('a page that renews its token in place is not cut off when the old one expires', async (t) => {
    await signedScene(t, {}, async (s) => {
      const { proxy, page, say, eventsUrl, published, publish } = s;
      const first = token(SHORT_S);
      await WAYS.own.signIn(s, first);
      await page.follow(eventsUrl('orders'));
      const open = await page.opened();
      await page.until('$auth_expiring', () => page.of('$auth_expiring').length > 0);
      await WAYS.own.signIn(s, token(LONG_S));
      const answer = await page.ask(`${proxy.url}/connections/${open.data.connection}/token`, { method: 'POST' });
      assert.equal(answer.status, 200, answer.body);
      assert.equal(JSON.parse(answer.body).connection, open.data.connection);
      await sleep(Math.max(0, expiryOf(first) - Date.now()) + 1_500);
      await publish();
      await page.received(1);
      assertSame(page.events.map(({ id }) => id), published);
      assert.equal(proxy.streams.length, 1, 'one stream was enough');
      assert.deepEqual(page.of('$refused'), []);
      assertSurvived(page);
      say(`renewed until ${JSON.parse(answer.body).expires}`);
    });
  });

  test('a page whose URL holds an expired token is refused again and again, but not dead, and may begin anew', async (t) => {
    await signedScene(t, {}, async ({ gateway, proxy, page, say, eventsUrl, published, publish }) => {
      await page.follow(`${eventsUrl('orders')}&access_token=${token(SHORT_S - 2)}`);
      await page.opened();
      await publish();
      await page.received(1);
      const [cursor] = published;
      await refused({ gateway, proxy, page }, { ...EXPIRED, cursor });
      await refused({ gateway, proxy, page }, { ...EXPIRED, cursor }, 2);
      await publish();
      await isAlive(page);

      // The page may do at any time what a plain EventSource cannot do by itself: come with another URL.
      const newer = `&access_token=${token(LONG_S)}`;
      await page.follow(`${eventsUrl('orders')}${newer}&lastEventId=${page.of('$refused').at(-1).id}`);
      const returned = await page.opened(2);
      assert.equal(returned.data.replay, 'complete');
      await publish();
      await page.received(published.length);
      assertSame(page.events.map(({ id }) => id), published);
      assert.equal(page.sources, 2);
      assert.ok(!gateway.said.includes(newer.slice(-40)), 'no token stands in a log line');
      say(`refused ${page.of('$refused').length} times; with a newer token ${returned.data.replay}`);
    });
  });

  test('a page whose URL holds a ticket that is used up is refused, but not dead, and may begin anew with another', async (t) => {
    await signedScene(t, {}, async ({ gateway, proxy, page, say, eventsUrl, published, publish }) => {
      await page.follow(`${eventsUrl('orders')}&ticket=${await gateway.ticket()}`);
      await page.opened();
      await publish();
      await page.received(1);
      proxy.cut();
      await refused({ gateway, proxy, page }, { ...EXPIRED, cursor: published[0] });
      await publish();
      await isAlive(page);

      await page.follow(`${eventsUrl('orders')}&ticket=${await gateway.ticket()}&lastEventId=${page.of('$refused').at(-1).id}`);
      const returned = await page.opened(2);
      assert.equal(returned.data.replay, 'complete');
      await publish();
      await page.received(published.length);
      assertSame(page.events.map(({ id }) => id), published);
      say(`refused ${page.of('$refused').length} times; with another ticket ${returned.data.replay}`);
    });
  });

  test('a page whose ticket was used up before the gateway was restarted is not dead, either', async (t) => {
    await signedScene(t, {}, async ({ gateway, proxy, page, say, eventsUrl, publish }) => {
      await page.follow(`${eventsUrl('orders')}&ticket=${await gateway.ticket()}`);
      const open = await page.opened();
      proxy.hold();
      proxy.cut();
      await gateway.stop();
      // In memory are the keys of tickets, too: this process has never seen it.
      await gateway.begin();
      proxy.comeBack();
      await refused({ gateway, proxy, page }, { ...EXPIRED, cursor: open.id });
      await isAlive(page);
      await page.follow(`${eventsUrl('orders')}&ticket=${await gateway.ticket()}`);
      await page.opened(2);
      await publish();
      await page.received(1);
      say(`refused ${page.of('$refused').length} times`);
    });
  });

  for (const [what, query] of [
    ['shows nothing', () => ''],
    ['shows a token that somebody else has signed', () => `&access_token=${token(LONG_S, { forged: true })}`],
    ['shows an expired token that somebody else has signed', () => `&access_token=${token(-LONG_S, { forged: true })}`],
    ['shows no token but a text', () => '&access_token=open-sesame'],
    ['shows a ticket that nobody has given out', () => '&ticket=open-sesame'],
    ['may not follow the topic', () => `&access_token=${token(LONG_S, { rights: { subscribe: ['news/*'] } })}`],
  ]) {
    test(`a page that ${what} is refused for good, as it would be for ever`, async (t) => {
      await signedScene(t, {}, async ({ gateway, proxy, page, say, eventsUrl }) => {
        await page.follow(eventsUrl('orders') + query());
        await page.until('CLOSED', ({ state }) => state === 'CLOSED');
        assert.deepEqual(page.controls, [], 'the page sees no stream');
        const [answer] = proxy.streams;
        const code = what.startsWith('may not') ? 'forbidden' : 'unauthorized';
        assert.equal(answer.status, code === 'forbidden' ? 403 : 401);
        assert.match(answer.responseHeaders['content-type'], /^application\/problem\+json/);
        assert.equal(answer.responseHeaders['tidegate-refused'], undefined);
        if (code === 'unauthorized') assert.match(answer.responseHeaders['www-authenticate'], /^Bearer/);
        await until('the refusal to be counted', async () => (await gateway.refusals(code, 'status')) === 1);
        await sleep(1_000); // many times the retry time
        assert.equal(proxy.streams.length, 1, 'the browser does not come back');
        say(`answered by ${answer.status}; the page is ${page.state}`);
      });
    });
  }
}

/** A page that is refused is on its way back. */
async function isAlive(page) {
  await page.until('the end of the refusal', ({ state }) => state === 'CONNECTING');
  assert.ok(!page.errors.includes('CLOSED'), 'the browser never gave up');
}

function expiryOf(value) {
  return JSON.parse(Buffer.from(value.split('.')[1], 'base64url').toString()).exp * 1_000;
}
