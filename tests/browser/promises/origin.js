// Origin: which pages may talk to the gateway. A page anywhere on the web can send a form-like POST to a port of this
// machine without asking first, so it must come to nothing, on both listeners.

import assert from 'node:assert/strict';
import { Proxy } from '../support/proxy.js';
import { scene } from '../support/scene.js';
import { token, wantsTokens } from '../support/token.js';
import { until } from '../support/until.js';

const ANONYMOUS = { TIDEGATE_AUTH__ANONYMOUS: 'subscribe,publish' };
// What changes something, and what a page may ask of an operator's listener without a preflight.
const COMMANDS = ['/admin/drain', '/admin/reload-config'];

export default function origin(world, test) {
  test('a page on a loopback origin may read and publish in development mode', async (t) => {
    await scene(t, world, {}, async (s) => {
      const told = await attempt(s, 'attempt');
      assert.equal(told.stream, 'open');
      assert.deepEqual(await stored(s), ['fetched', 'submitted=by a form'], 'the attempt is a real one: here it succeeds');
    });
  });

  for (const [mode, settings, pages] of [
    ['in development mode', {}, { null: ['loopback', /^null$/], foreign: ['foreign', /^http:\/\/foreign\.example:\d+$/] }],
    [
      'where anybody may publish',
      ANONYMOUS,
      {
        null: ['loopback', /^null$/],
        foreign: ['foreign', /^http:\/\/foreign\.example:\d+$/],
        localhost: ['localhost', /^http:\/\/localhost:\d+$/],
        'another port': ['loopback', /^http:\/\/127\.0\.0\.1:\d+$/],
      },
    ],
  ]) {
    for (const [name, [where, expected]] of Object.entries(pages)) {
      test(`${mode} a page on the origin ${name} is refused, and its form-like POSTs come to nothing on both listeners`, async (t) => {
        await scene(t, world, { origin: where, settings }, async (s) => {
          await assertRefused(s, name === 'null' ? 'attemptSandboxed' : 'attempt', expected);
        });
      });
    }
  }

  test('a page that hides where it comes from is refused', async (t) => {
    await scene(t, world, { origin: 'localhost', settings: ANONYMOUS }, async (s) => {
      const { proxy, page, say } = s;
      const hidden = { method: 'POST', mode: 'no-cors', referrerPolicy: 'no-referrer', headers: { 'content-type': 'text/plain' }, body: 'x' };
      assert.deepEqual((await page.ask(`${proxy.url}/publish?topic=target`, hidden)).type, 'opaque', 'the request was made');
      const [{ status, headers }] = proxy.exchanges;
      assert.equal(status, 403);
      assert.equal(headers.referer, undefined);
      assert.deepEqual(await stored(s), []);
      say(`Origin: ${headers.origin}, Sec-Fetch-Site: ${headers['sec-fetch-site']}: ${status}`);
    });
  });

  test('a strange page cannot use the cookie of somebody who may publish', async (t) => {
    await scene(t, world, { settings: wantsTokens }, async (s) => {
      const { gateway, proxy, page } = s;
      gateway.authorization = `Bearer ${token(600)}`;
      assert.equal((await page.ask(`/session?token=${token(600)}`)).status, 204);
      await assertRefused(s, 'attempt', /^http:\/\/127\.0\.0\.1:\d+$/);
      // Cookies know no ports: to them all of this machine is one site.
      for (const { headers } of proxy.exchanges) assert.match(headers.cookie ?? '', /^tidegate=ey/, 'the browser shows the cookie, which is good');
      const ticket = await page.ask(`${proxy.url}/ticket`, { method: 'POST', mode: 'no-cors', credentials: 'include' });
      assert.equal(ticket.type, 'opaque');
      assert.equal(proxy.exchanges.at(-1).status, 403, 'it gets no ticket either');
    });
  });

  test('a page of a listed origin may read, publish and show its cookie', async (t) => {
    const settings = (itself) => ({ ...wantsTokens, TIDEGATE_CORS__ORIGINS: `https://app.example,${itself}` });
    await scene(t, world, { settings }, async (s) => {
      const { gateway, proxy, page, say, eventsUrl } = s;
      gateway.authorization = `Bearer ${token(600)}`;
      assert.equal((await page.ask(`/session?token=${token(600)}`)).status, 204);
      await page.follow(eventsUrl('target'), ['message'], { withCredentials: true });
      await page.opened();
      const itself = await page.evaluate(() => globalThis.origin);

      const body = JSON.stringify({ topic: 'target', data: 'by a page' });
      const headers = { 'content-type': 'application/json', 'idempotency-key': 'once' };
      const answer = await page.ask(`${proxy.url}/publish`, { method: 'POST', credentials: 'include', headers, body });
      assert.equal(answer.status, 200, answer.error ?? answer.body);
      assert.ok(answer.headers['x-request-id'], 'the page may read our headers');
      await page.received(1);
      assert.deepEqual(page.events.map(({ id, data }) => ({ id, data })), [{ id: JSON.parse(answer.body).id, data: 'by a page' }]);
      const refused = await page.ask(`${proxy.url}/publish`, { method: 'POST', credentials: 'include', headers, body: '{' });
      assert.deepEqual([refused.status, JSON.parse(refused.body).code], [400, 'json_invalid'], 'it may read a refusal, too');

      const [preflight, post] = proxy.exchanges.filter(({ target }) => target === '/publish');
      assert.equal(preflight.method, 'OPTIONS');
      assert.equal(preflight.headers.cookie, undefined, 'a preflight shows no credentials');
      assert.match(post.headers.cookie, /^tidegate=ey/);
      for (const exchange of proxy.exchanges.filter(({ target }) => !target.startsWith('/page'))) {
        const { 'access-control-allow-origin': open, 'access-control-allow-credentials': shown, vary } = exchange.responseHeaders;
        assert.deepEqual([open, shown], [itself, 'true'], `${exchange.method} ${exchange.target}`);
        assert.match(vary, /\borigin\b/i);
      }
      assert.match(preflight.responseHeaders['access-control-allow-headers'], /idempotency-key/i);
      assert.match(preflight.responseHeaders['access-control-allow-methods'], /POST/);
      say(`preflight ${preflight.status}, POST ${post.status}, for ${itself}`);
    });
  });

  test('a page of an origin that is not listed beside another one can neither read nor ask', async (t) => {
    const settings = { ...ANONYMOUS, TIDEGATE_CORS__ORIGINS: 'https://app.example' };
    await scene(t, world, { origin: 'localhost', settings }, async (s) => {
      const { gateway, proxy, page } = s;
      const json = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"topic":"target","data":"x"}' };
      assert.match((await page.ask(`${proxy.url}/publish`, json)).error ?? 'it was answered', /TypeError/);
      const asked = proxy.exchanges.map(({ method }) => method);
      assert.deepEqual(asked, ['OPTIONS'], 'the browser asked, and after the answer did not send it');
      assert.deepEqual(await stored(s), []);
      for (const path of ['/config', '/stats', '/metrics', '/admin/connections']) {
        const answer = await page.ask(gateway.adminUrl + path);
        assert.match(answer.error ?? `${path} was answered`, /TypeError/, 'the page may not read what an operator may');
      }
    });
  });

  test('a page of a listed origin is no operator, though its browser is on this machine, unless it shows the token of one', async (t) => {
    const admin = 'the-token-of-an-operator';
    const settings = (itself) => ({ ...ANONYMOUS, TIDEGATE_CORS__ORIGINS: itself, TIDEGATE_ADMIN__TOKEN: admin });
    await scene(t, world, { origin: 'localhost', settings }, async ({ gateway, page, say }) => {
      const answers = [];
      for (const [method, path] of OPERATION) {
        const { status, error } = await page.ask(gateway.adminUrl + path, { method });
        assert.ok([401, 403].includes(status), `${method} ${path}: ${status ?? error}`);
        answers.push(`${method} ${path} ${status}`);
      }
      const headers = { authorization: `Bearer ${admin}` };
      const deleted = await page.ask(`${gateway.adminUrl}/admin/topics/none`, { method: 'DELETE', headers });
      assert.equal(deleted.status, 200, deleted.error ?? deleted.body);
      assert.equal(await gateway.readiness(), 200, 'the page could not drain the gateway');
      say(answers.join('; '));
    });
  });

  test('in development mode a name that was made to point to loopback opens nothing', async (t) => {
    await rebound(t, world, {}, async ({ page, operator, gateway }) => {
      for (const [method, path] of [['GET', '/events?topic=target'], ['POST', '/publish?topic=target'], ['GET', '/']]) {
        assertProblem(await page.ask(path, { method }), [403], ['host_forbidden'], path);
      }
      await page.follow(await page.evaluate(() => `${globalThis.origin}/events?topic=target`));
      await page.until('CLOSED', ({ state }) => state === 'CLOSED');
      for (const [method, path] of [...OPERATION, ['GET', '/stats'], ['GET', '/metrics']]) {
        assertProblem(await operator.ask(path, { method }), [403], ['host_forbidden'], path);
      }
      assert.deepEqual(await stored({ gateway }), []);
    });
  });

  test('where anybody may publish, a name that was made to point to loopback still opens nothing of an operator', async (t) => {
    await rebound(t, world, ANONYMOUS, async ({ page, operator, gateway }) => {
      const answer = await page.ask('/publish?topic=target', { method: 'POST', body: 'anybody' });
      assert.equal(answer.status, 200, 'it is the own origin of a gateway that is open to anybody');
      for (const [method, path] of OPERATION) {
        assertProblem(await operator.ask(path, { method }), [401, 403], ['unauthorized', 'forbidden', 'host_forbidden'], path);
      }
      assert.deepEqual(await stored({ gateway }), ['anybody']);
    });
  });
}

const OPERATION = [
  ['GET', '/config'],
  ['GET', '/admin/connections'],
  ['GET', '/admin/topics'],
  ['DELETE', '/admin/topics/target'],
  ['PUT', '/admin/log-level'],
  ...COMMANDS.map((path) => ['POST', path]),
];

/** A page under a foreign name at the public port, and one at the admin port, both of which are the gateway's own origin. */
async function rebound(t, world, settings, body) {
  await scene(t, world, { origin: 'rebound', settings }, async (s) => {
    await s.besides('rebound', s.gateway.adminPort, async (operator, admin) => {
      for (const [method, path] of OPERATION.filter(([, path]) => /config|topics/.test(path))) {
        assert.equal((await fetch(s.gateway.adminUrl + path, { method })).status, 200, `who is on this machine is an operator: ${path}`);
      }
      await body({ ...s, operator });
      assert.equal(await s.gateway.readiness(), 200, 'the page could not drain the gateway');
      const answers = [s.proxy, admin].flatMap(({ exchanges }) => exchanges);
      assert.ok(answers.every(({ headers }) => headers.host.startsWith('foreign.example:')));
      s.say(answers.map(({ method, target, status }) => `${method} ${target} ${status}`).join('; '));
    });
  });
}

function assertProblem({ status, body, error }, statuses, codes, what) {
  assert.ok(statuses.includes(status), `${what}: ${status} ${error ?? body}`);
  assert.ok(codes.includes(JSON.parse(body).code), `${what}: ${body}`);
}

/** The data of all that is stored. */
async function stored({ gateway }) {
  return (await gateway.history('target')).map(({ data }) => data.trim());
}

/** Lets the page try to read and to publish, or what else `posts` says, and tells what it saw. */
async function attempt({ proxy, page, say }, how, posts = [`${proxy.url}/publish?topic=target`]) {
  const what = { stream: `${proxy.url}/events?topic=target`, posts };
  const told = JSON.parse(await page.evaluate(
    async ({ how, what }) => JSON.stringify(await globalThis[how](what)),
    { how, what },
  ));
  say(`origin ${told.origin}: stream ${told.stream}; posts seen from the page: ${told.posts.join(', ')}`);
  return told;
}

/** Lets the page try everything; nothing may come of it. */
async function assertRefused(s, how, expectedOrigin) {
  const { gateway, proxy, say } = s;
  const admin = await Proxy.to(gateway.adminPort);
  try {
    const targets = [`${proxy.url}/publish?topic=target`, ...COMMANDS.map((path) => admin.url + path)];
    const told = await attempt(s, how, targets);
    assert.equal(told.stream, 'refused for good');
    const expected = ['/publish?topic=target', ...COMMANDS].flatMap((path) => [`${path} 403`, `${path} 403`]);
    const all = () => [...proxy.exchanges, ...admin.exchanges];
    const answered = () => all().filter(({ method, status }) => method === 'POST' && status);
    // A form tells its page nothing of a refusal, and on a busy machine it may be sent later than the page looks.
    await until('all posts to be answered', () => answered().length >= expected.length, { seen: () => answered().length });
    const exchanges = all();
    for (const { headers, responseHeaders } of exchanges) {
      assert.match(headers.origin, expectedOrigin);
      assert.equal(responseHeaders['access-control-allow-origin'], undefined);
    }
    const posts = exchanges.filter(({ method }) => method === 'POST').map(({ target, status }) => `${target} ${status}`);
    say(`answers: ${posts.join('; ')}`);
    assert.deepEqual(posts.sort(), expected.sort(), 'all arrived, and were refused');
    assert.deepEqual(await stored(s), []);
    assert.equal(await gateway.readiness(), 200, 'the page could not drain the gateway');
  } finally {
    await admin.close();
  }
}
