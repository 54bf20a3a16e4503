// Origin: in development mode the gateway serves anyone on loopback, but not every page in a browser there.

import assert from 'node:assert/strict';
import { Proxy } from '../support/proxy.js';
import { scene } from '../support/scene.js';

export default function origin(world, test) {
  test('a page on a loopback origin may read and publish', async (t) => {
    await scene(t, world, {}, async (s) => {
      const told = await attempt(s, 'attempt');
      assert.equal(told.stream, 'open');
      const stored = (await s.gateway.history('target')).map(({ data }) => data.trim());
      assert.deepEqual(stored, ['fetched', 'submitted=by a form'], 'the attempt is a real one: here it succeeds');
    });
  });

  test('a page on the origin null is refused, and its form-like POST stores nothing', async (t) => {
    await scene(t, world, {}, async (s) => {
      await assertRefused(s, await attempt(s, 'attemptSandboxed'), /^null$/);
    });
  });

  test('a page on a foreign origin is refused, and its form-like POST stores nothing', async (t) => {
    await scene(t, world, { origin: 'foreign' }, async (s) => {
      await assertRefused(s, await attempt(s, 'attempt'), /^http:\/\/foreign\.example:\d+$/);
    });
  });
}

/** A page is sandboxed into the origin `null`; any other it has from where it was served. */
const HOW = { null: 'attemptSandboxed' };

/** Lets the page try to read and to publish, and tells what it saw. */
async function attempt({ gateway, proxy, page, say }, how) {
  const what = { stream: `${proxy.url}/events?topic=target`, posts: [`${proxy.url}/publish?topic=target`] };
  const told = await page.evaluate(
    async ({ how, what }) => JSON.stringify(await globalThis[how](what)),
    { how, what },
  );
  const { origin, stream, posts } = JSON.parse(told);
  say(`origin ${origin}: stream ${stream}; posts seen from the page: ${posts.join(', ')}`);
  const answers = proxy.exchanges.map(({ method, target, status }) => `${method} ${target} ${status}`);
  say(`answers: ${answers.join('; ')}; stored: ${(await gateway.history('target')).length}`);
  return { origin, stream, posts };
}

async function assertRefused({ gateway, proxy, page, say }, told, expectedOrigin) {
  assert.equal(told.stream, 'refused for good');
  for (const { headers, responseHeaders } of proxy.exchanges) {
    assert.match(headers.origin, expectedOrigin);
    assert.equal(responseHeaders['access-control-allow-origin'], undefined);
  }
  const posts = proxy.exchanges.filter(({ method }) => method === 'POST');
  assert.deepEqual(posts.map(({ status }) => status), [403, 403], 'both POSTs arrived, and were refused');
  assert.deepEqual(await gateway.history('target'), []);

  const admin = await Proxy.to(gateway.adminPort);
  try {
    const what = { stream: `${proxy.url}/events?topic=target`, posts: [`${admin.url}/admin/drain`] };
    await page.evaluate(({ how, what }) => globalThis[how](what).then(() => ''), { how: HOW[told.origin] ?? 'attempt', what });
    const answers = admin.exchanges.map(({ method, target, status }) => `${method} ${target} ${status}`);
    say(`answers of the admin listener: ${answers.join('; ')}`);
    assert.deepEqual(answers, ['POST /admin/drain 403', 'POST /admin/drain 403']);
    assert.equal(await gateway.readiness(), 200, 'the page could not drain the gateway');
  } finally {
    await admin.close();
  }
}
