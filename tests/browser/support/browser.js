// One face for two engines: Chromium through playwright-core, Firefox through puppeteer-core (WebDriver BiDi).
//
// A browser gives contexts, which share nothing (cookies, storage, workers); a context opens pages, `open(url)`. A page offers
// `evaluate(function, argument)`, whose argument and result travel as JSON, `goto(url)`, `reload()`, `back()`,
// `screenshot(file)`, `close()` and the library's own `page`.

import { accessSync, constants, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { bounded, until } from './until.js';

const LAUNCH_MS = 60_000;
const PAGE_MS = 30_000;

/** A name that both engines resolve to loopback, so that a page can have an origin that is not a loopback one. */
export const FOREIGN_HOST = 'foreign.example';

const CHROMIUM_ARGS = [
  '--no-sandbox', // containers and root have none to offer; only pages of these tests are opened
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  `--host-resolver-rules=MAP ${FOREIGN_HOST} 127.0.0.1`,
];

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

/**
 * Starts an engine for one test alone, which may put it to sleep. Both engines are driven by puppeteer-core here: what it
 * launches freezes and keeps pages as the browser of a person does, where playwright-core has them all in the foreground.
 *
 * `sleep()` and `wake()` stop and continue the whole browser, as a lid does. A page has besides: `toFront()`, `offline(bool)`,
 * `freeze()` and `thaw()`, `crash()`.
 */
export async function launchAlone(engine) {
  const { default: puppeteer } = await import('puppeteer-core');
  const executablePath = find(engine);
  const firefox = { browser: 'firefox', extraPrefsFirefox: { 'dom.ipc.processPrelaunch.enabled': false } };
  const chromium = { args: CHROMIUM_ARGS, ignoreDefaultArgs: ['--disable-background-timer-throttling', '--disable-renderer-backgrounding'] };
  const options = { executablePath, headless: true, acceptInsecureCerts: true, ...(engine === 'firefox' ? firefox : chromium) };
  const browser = await bounded(`${engine} to start`, puppeteer.launch(options), LAUNCH_MS);
  const main = browser.process().pid;
  let asleep = [];
  return {
    version: (await browser.version()).replace('/', ' '),
    async context() {
      const context = await browser.createBrowserContext();
      return {
        async open(url) {
          const others = descendants(main);
          const page = await context.newPage();
          await page.setViewport(VIEWPORT);
          await page.goto(url, { timeout: PAGE_MS });
          const moods = engine === 'firefox' ? firefoxMoods(descendants(main).filter((pid) => !others.includes(pid))) : chromiumMoods(await page.createCDPSession());
          return {
            ...face(page, { goBack: () => goBack(page) }),
            toFront: () => page.bringToFront(),
            offline: (value) => page.setOfflineMode(value),
            ...moods,
          };
        },
        close: async () => {},
      };
    },
    sleep() {
      asleep = [main, ...descendants(main)];
      signal(asleep, 'SIGSTOP');
    },
    wake() {
      signal(asleep, 'SIGCONT');
    },
    async close() {
      this.wake();
      await bounded('the browser to close', browser.close(), PAGE_MS);
    },
  };
}

/** A page that was kept loads nothing when it is come back to: the driver would wait for ever. */
async function goBack(page) {
  const left = await page.evaluate(() => location.href);
  await page.evaluate(() => void setTimeout(() => history.back()));
  const isBack = () => page.evaluate((href) => location.href !== href, left);
  await until('the page before', () => isBack().catch(() => false)); // nobody answers between two pages
}

/** Chromium says itself that a page in the background is frozen. */
function chromiumMoods(session) {
  return {
    freeze: () => session.send('Page.setWebLifecycleState', { state: 'frozen' }),
    thaw: () => session.send('Page.setWebLifecycleState', { state: 'active' }),
    crash: () => void session.send('Page.crash').catch(() => {}), // it has nobody left to answer
  };
}

/** Firefox has no command for it. Without processes in store each new page has one of its own, which is stopped, or killed. */
function firefoxMoods(processes) {
  return {
    freeze: () => signal(processes, 'SIGSTOP'),
    thaw: () => signal(processes, 'SIGCONT'),
    crash: () => signal(processes, 'SIGKILL'),
  };
}

/** The processes that have come from this one. */
function descendants(ancestor) {
  const children = new Map();
  for (const entry of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      // The name, in brackets, may hold anything; state and parent come after it.
      const parent = Number(readFileSync(`/proc/${entry}/stat`, 'latin1').replace(/.*\) /s, '').split(' ')[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
    } catch {
      // it has ended meanwhile
    }
  }
  const below = (pid) => (children.get(pid) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(ancestor);
}

function signal(processes, name) {
  for (const pid of processes) {
    try {
      process.kill(pid, name);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }
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
    args: CHROMIUM_ARGS,
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
