// One face for two engines: Chromium through playwright-core, Firefox through puppeteer-core (WebDriver BiDi).
//
// A browser gives contexts, which share nothing (cookies, storage, workers); a context opens pages, `open(url)`. A page offers
// `evaluate(function, argument)`, whose argument and result travel as JSON, `goto(url)`, `reload()`, `back()`,
// `screenshot(file)`, `close()` and the library's own `page`.

import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { bounded } from './until.js';

const LAUNCH_MS = 60_000;
const PAGE_MS = 30_000;

/** A name that both engines resolve to loopback, so that a page can have an origin that is not a loopback one. */
export const FOREIGN_HOST = 'foreign.example';

/** Name of each engine, and how it is started. */
export const engines = {
  chromium: {
    programs: ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'],
    variable: 'TIDEGATE_CHROMIUM',
    launch: launchChromium,
  },
  firefox: {
    programs: ['firefox-esr', 'firefox'],
    variable: 'TIDEGATE_FIREFOX',
    launch: launchFirefox,
  },
};

/** Starts an engine; fails with a word on how to install it where it is missing. */
export async function launch(engine) {
  const { launch: start } = engines[engine];
  return bounded(`${engine} to start`, start(find(engine)), LAUNCH_MS);
}

function find(engine) {
  const { programs, variable } = engines[engine];
  if (process.env[variable]) return process.env[variable];
  for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
    for (const program of programs) {
      const file = path.join(folder, program);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {
        // not here: the next folder
      }
    }
  }
  throw new Error(`there is no ${engine} on PATH. Install it: scripts/install-test-tools browser (or name one by ${variable})`);
}

async function launchChromium(executablePath) {
  const { chromium } = await import('playwright-core');
  const browser = await chromium.launch({
    executablePath,
    args: [
      '--no-sandbox', // containers and root have none to offer; only pages of these tests are opened
      '--disable-gpu',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--no-first-run',
      `--host-resolver-rules=MAP ${FOREIGN_HOST} 127.0.0.1`,
    ],
  });
  return {
    version: `Chromium ${browser.version()}`,
    async context() {
      const context = await browser.newContext({ viewport: VIEWPORT, ignoreHTTPSErrors: true });
      return {
        async open(url) {
          const page = await context.newPage();
          await page.goto(url, { timeout: PAGE_MS });
          return face(page, { goBack: () => page.goBack({ waitUntil: 'commit' }) });
        },
        close: () => bounded('a context to close', context.close(), PAGE_MS),
      };
    },
    close: () => browser.close(),
  };
}

async function launchFirefox(executablePath) {
  const { default: puppeteer } = await import('puppeteer-core');
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath,
    headless: true,
    acceptInsecureCerts: true,
    extraPrefsFirefox: { 'network.dns.localDomains': FOREIGN_HOST },
  });
  // One page after another: Firefox loses a page that it opens while it closes another one.
  let turn = Promise.resolve();
  const inTurn = (act) => {
    const done = turn.then(act);
    turn = done.catch(() => {});
    return done;
  };
  return {
    version: (await browser.version()).replace('/', ' '),
    async context() {
      const context = await inTurn(() => browser.createBrowserContext());
      return {
        async open(url) {
          const page = await inTurn(async () => {
            const page = await context.newPage();
            await page.setViewport(VIEWPORT);
            return page;
          });
          await page.goto(url, { timeout: PAGE_MS });
          return face(page, { close: () => inTurn(() => page.close()) });
        },
        close: () => bounded('a context to close', inTurn(() => context.close()), PAGE_MS),
      };
    },
    close: () => browser.close(),
  };
}

const VIEWPORT = { width: 1000, height: 860 };

function face(page, { close = () => page.close(), goBack = () => page.goBack() } = {}) {
  return {
    /** What the engine's library offers, for what the two have in common beyond this face. */
    page,
    // Both libraries take a function and one argument; what they make of deeper objects differs, JSON does not.
    evaluate: (body, argument) => bounded('the page to answer', page.evaluate(body, argument), PAGE_MS),
    goto: (url) => bounded(`${url} to load`, page.goto(url, { timeout: PAGE_MS }), PAGE_MS),
    reload: () => bounded('the page to load again', page.reload({ timeout: PAGE_MS }), PAGE_MS),
    back: () => bounded('the page before', goBack(), PAGE_MS),
    screenshot: (file) => bounded('a screenshot', page.screenshot({ path: file }), PAGE_MS),
    close: () => bounded('the page to close', close(), PAGE_MS),
  };
}
