// The promises of the gateway, kept in real browsers: one file in `promises/` for each, all of them in each engine.

import { after, before, describe, test } from 'node:test';
import { engines, launch } from './support/browser.js';
import { binary } from './support/gateway.js';
import order from './promises/order.js';
import resume from './promises/resume.js';
import end from './promises/end.js';
import drain from './promises/drain.js';
import origin from './promises/origin.js';
import proxies from './promises/proxies.js';
import refusal from './promises/refusal.js';
import away from './promises/away.js';
import tokens from './promises/token.js';
import wpt from './promises/wpt.js';
import follow from './promises/client-follow.js';
import clientProxies from './promises/client-proxies.js';
import network from './promises/client-network.js';
import clientAuth from './promises/client-auth.js';
import life from './promises/client-page.js';
import tabs from './promises/tabs.js';
import theConsole from './promises/console.js';
import examples from './promises/examples.js';

const TEST_MS = 150_000;
// Most of the time a test waits for a browser to come back by itself; each has a gateway, a proxy and a page of its own.
const AT_ONCE = Number(process.env.TIDEGATE_TEST_CONCURRENCY ?? 4);

describe('real browsers', { concurrency: true }, () => {
  for (const engine of Object.keys(engines)) {
    describe(`in ${engine}`, { concurrency: AT_ONCE }, () => {
      const world = { engine, browser: undefined };
      before(async () => {
        binary(); // without one, say so before a browser starts
        world.browser = await launch(engine);
      });
      after(() => world.browser?.close());

      test('is a browser that can be driven', (t) => t.diagnostic(world.browser.version));
      const plain = [order, resume, end, drain, refusal, away, tokens, origin, wpt, proxies];
      const client = [follow, clientProxies, network, clientAuth, life, tabs];
      for (const promise of [...plain, ...client, theConsole, examples]) {
        promise(world, (sentence, body) => test(sentence, { timeout: TEST_MS }, body));
      }
    });
  }
});
