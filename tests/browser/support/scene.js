// What each test plays in: a gateway, a proxy before it, and a page in a browser. All of it ends with the test.

import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { FOREIGN_HOST, launchAlone } from './browser.js';
import { Client } from './client.js';
import { Gateway } from './gateway.js';
import { Follower, servePage } from './page.js';
import { Proxy } from './proxy.js';
import { RedisServer } from './redis.js';
import { sleep } from './until.js';

const OUT = fileURLToPath(new URL('../out/', import.meta.url));
// The page draws at most this long after it has seen something.
const DRAWN_MS = 150;

/** Where the page comes from, as the gateway sees it. */
const ORIGINS = {
  /** The gateway's own origin, as behind a reverse proxy that serves the page too. */
  own: (proxy) => proxy.pageUrl,
  /** Another port on loopback: another origin, which development mode lets in. */
  loopback: (_, pages) => pages.url,
  /** The same under the other name of loopback: another site, too, so that cookies of `127.0.0.1` stay at home. */
  localhost: (_, pages) => pages.url.replace('127.0.0.1', 'localhost'),
  /** A name that is not a loopback one. */
  foreign: (_, pages) => pages.url.replace('127.0.0.1', FOREIGN_HOST),
  /** The gateway's own origin, but under a foreign name that was made to point to loopback (DNS rebinding). */
  rebound: (proxy) => proxy.pageUrl.replace('127.0.0.1', FOREIGN_HOST),
};

/**
 * Runs `body` in a scene of its own, `{browser, gateway, gateways, front, proxy, pages, redis, tab,
 * page, say, picture, eventsUrl, besides, neighbour}`.
 *
 * `settings` are `TIDEGATE_...` variables for the gateway, or a function that makes them from the origin of the page.
 * With `redis` the log lives in a server of its own, which a test may kill; `replicas` of the gateway may share it.
 * `front`, given the ports of the replicas, makes what stands between proxy and gateway; without it there is only the proxy.
 * With `client` the page is one with the client, in place of one with a plain `EventSource`.
 * With `alone` it plays in a browser of its own, see `launchAlone`; otherwise in the common one.
 * That the gateway exits with 0 at the end is part of every test.
 */
export async function scene(t, { engine, browser: common }, options, body) {
  const { settings, origin = 'loopback', redis: withRedis = false, replicas = 1, front: makeFront, client: withClient = false, alone = false } = options;
  const Page = withClient ? Client : Follower;
  const say = (line) => t.diagnostic(line);
  const closing = [];
  const errors = [];
  let gateway; // the first of the replicas
  let tab;
  const failed = `failed-${t.name.replaceAll(/\W+/g, '-').slice(0, 60)}`;
  const out = (name) => {
    mkdirSync(OUT, { recursive: true });
    return path.join(OUT, `${engine}-${name}`);
  };
  const picture = async (name) => {
    const file = out(`${name}.png`);
    await sleep(DRAWN_MS);
    await tab.screenshot(file);
    say(`screenshot: ${path.relative(process.cwd(), file)}`);
  };
  try {
    let redis;
    if (withRedis) {
      redis = await RedisServer.start();
      closing.push(() => redis.remove());
    }
    const gateways = [];
    for (let n = 0; n < replicas; n += 1) {
      const one = await Gateway.prepare();
      closing.push(() => one.remove());
      gateways.push(one);
    }
    [gateway] = gateways;
    let front;
    if (makeFront) {
      front = await makeFront(gateways.map(({ port }) => port));
      closing.push(() => front.close());
    }
    const proxy = await Proxy.to(front?.port ?? gateway.port);
    closing.push(() => proxy.close());
    const pages = await servePage();
    closing.push(() => pages.close());
    const pageUrl = ORIGINS[origin](proxy, pages) + (withClient ? '/client' : '');
    for (const one of gateways) {
      Object.assign(one.settings, typeof settings === 'function' ? settings(new URL(pageUrl).origin) : settings);
      if (redis) one.settings.TIDEGATE_REDIS__URL = redis.url;
      await one.begin();
    }
    const browser = alone ? await launchAlone(engine) : common;
    if (alone) closing.push(() => browser.close());
    const context = await browser.context();
    closing.push(() => context.close());
    tab = await context.open(pageUrl);
    const eventsUrl = (...topics) => `${proxy.url}/events?${new URLSearchParams(topics.map((topic) => ['topic', topic]))}`;
    /** Opens a second page, before another port of the gateway; ends with `act`. */
    const besides = async (where, port, act) => {
      const other = await Proxy.to(port);
      const elsewhere = await common.context();
      try {
        await act(new Follower(await elsewhere.open(ORIGINS[where](other, pages))), other);
      } finally {
        await elsewhere.close();
        await other.close();
      }
    };
    /** Opens another tab beside the page: same origin, same browser context. */
    const neighbour = async () => {
      const other = await context.open(pageUrl);
      return Object.assign(new Page(other), { tab: other });
    };
    await body({ browser, gateway, gateways, front, proxy, pages, redis, tab, page: new Page(tab), say, picture, eventsUrl, besides, neighbour });
  } catch (error) {
    errors.push(error);
    if (tab) await picture(failed).catch(() => {});
  }
  for (const close of closing.reverse()) await close().catch((error) => errors.push(error));
  if (errors.length === 0) return;
  if (gateway) {
    const file = out(`${failed}.log`);
    writeFileSync(file, gateway.said);
    say(`what the gateway said: ${path.relative(process.cwd(), file)}`);
  }
  for (const error of errors.slice(1)) say(`and then: ${error.message}`);
  throw errors[0];
}
