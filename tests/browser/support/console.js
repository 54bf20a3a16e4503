// The console in a browser: opened like any page, watched for what a page of ours must never do, and used by mouse and keys.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { Gateway } from './gateway.js';
import { bounded, until } from './until.js';

const PAGE_MS = 30_000;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Runs `body` with a gateway and the console of it: `{gateway, ui, say, visit}`. */
export async function consoleScene(t, world, { settings = {}, hash = '', ...look }, body) {
  const say = (line) => t.diagnostic(line);
  const gateway = await Gateway.prepare();
  const open = [];
  const visit = async (fragment, options = look) => {
    const ui = await Console.open(world, gateway.url, `/${fragment}`, options);
    open.push(ui);
    return ui;
  };
  let failure;
  try {
    Object.assign(gateway.settings, settings);
    await gateway.begin();
    await body({ gateway, ui: await visit(hash), say, visit });
    for (const ui of open) await ui.behaved();
  } catch (error) {
    failure = error;
    const shown = await open.at(-1)?.seen().catch(() => undefined);
    if (shown) say(`the page: ${JSON.stringify(shown)}`);
  }
  for (const ui of open) await ui.close().catch((error) => (failure ??= error));
  await gateway.remove().catch((error) => (failure ??= error));
  if (failure) throw failure;
}

/** One tab with the console. */
export class Console {
  /** What the page has asked for. */
  requests = [];
  /** What it has complained of. */
  complaints = [];
  #context;
  #tab;
  #engine;
  #origin;

  static async open({ engine, browser }, origin, path, { width = 1280, height = 800, dark = false } = {}) {
    const context = await browser.context();
    const tab = await context.open('about:blank');
    const ui = new Console();
    ui.#context = context;
    ui.#tab = tab;
    ui.#engine = engine;
    ui.#origin = origin;
    const { page } = tab;
    page.on('request', (request) => ui.requests.push(request.url()));
    page.on('pageerror', (error) => ui.complaints.push(`error: ${error.message}`));
    page.on('console', (message) => {
      if (['error', 'warning', 'warn'].includes(message.type())) ui.complaints.push(`${message.type()}: ${message.text()}`);
    });
    const watch = () => {
      globalThis.violations = [];
      addEventListener('securitypolicyviolation', (event) => globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
    };
    await (page.addInitScript ? page.addInitScript(watch) : page.evaluateOnNewDocument(watch));
    await ui.size(width, height);
    if (engine === 'chromium') await page.emulateMedia({ colorScheme: dark ? 'dark' : 'light' });
    await bounded('the console to load', page.goto(origin + path), PAGE_MS);
    await ui.until('the console to begin', () => document.title !== '' && document.querySelector('#empty-text')?.textContent !== undefined);
    return ui;
  }

  get page() {
    return this.#tab.page;
  }

  get engine() {
    return this.#engine;
  }

  async size(width, height) {
    const { page } = this.#tab;
    await (page.setViewportSize ? page.setViewportSize({ width, height }) : page.setViewport({ width, height }));
  }

  evaluate(body, argument) {
    return this.#tab.evaluate(body, argument);
  }

  async until(what, probe, argument) {
    return until(what, () => this.evaluate(probe, argument), { seen: () => this.seen() });
  }

  /** What it shows, for messages. */
  seen() {
    return this.evaluate(() => {
      const text = (id) => document.getElementById(id)?.textContent.trim();
      return {
        hash: location.hash,
        state: text('state'),
        verdict: text('verdict'),
        transport: text('transport-now'),
        counts: text('counts'),
        received: text('received'),
        notice: text('follow-notice'),
        answer: text('publish-answer'),
        focus: document.activeElement?.id,
        view: document.body.dataset.view,
        rows: [...document.querySelectorAll('#rows .row:not([hidden])')].slice(-5).map((row) => row.textContent),
      };
    });
  }

  text(id) {
    return this.evaluate((it) => document.getElementById(it).textContent.trim(), id);
  }

  shows(id, wanted) {
    return this.until(`#${id} to say ${wanted}`, ([it, text]) => document.getElementById(it).textContent.trim() === text, [id, wanted]);
  }

  /** The rows in sight, from the top: `{kind, time, id, topic, type, data, say}`. */
  rows() {
    return this.evaluate(() =>
      [...document.querySelectorAll('#rows .row:not([hidden])')]
        .sort((a, b) => a.getAttribute('aria-rowindex') - b.getAttribute('aria-rowindex'))
        .map((row) => {
          const cell = (name) => row.querySelector(`.${name}`).textContent;
          const control = row.classList.contains('control');
          return control
            ? { kind: row.className.replace('row control ', '').split(' ')[0], say: cell('say') }
            : { kind: 'event', id: cell('id'), topic: cell('topic'), type: cell('type'), data: cell('data'), size: cell('size') };
        }),
    );
  }

  async events() {
    return (await this.rows()).filter(({ kind }) => kind === 'event');
  }

  hasEvents(count) {
    return this.until(`${count} events in sight`, (wanted) => document.querySelectorAll('#rows .row:not(.control):not([hidden])').length === wanted, count);
  }

  /** By the mouse, at the middle of what the selector finds first, which nothing may cover. */
  async click(selector) {
    // The libraries' own clicks wait for frames, and Firefox draws none for a page behind others.
    const at = await this.evaluate((wanted) => {
      const node = document.querySelector(wanted);
      node.scrollIntoView({ block: 'nearest' });
      const { left, top, width, height } = node.getBoundingClientRect();
      const [x, y] = [left + width / 2, top + height / 2];
      const hit = document.elementFromPoint(x, y);
      return { x, y, hit: node.contains(hit), covered: hit?.outerHTML.slice(0, 100) ?? 'out of sight' };
    }, selector);
    assert.ok(at.hit, `${selector} can be clicked, not ${at.covered}`);
    await bounded(`a click on ${selector}`, this.page.mouse.click(at.x, at.y), PAGE_MS);
  }

  /** Puts text in the place of what a field holds, by keys. */
  async fill(id, text) {
    const held = await this.evaluate((it) => {
      const field = document.getElementById(it);
      field.focus();
      field.select();
      return field.value !== '';
    }, id);
    if (held) await this.press('Backspace');
    // Nobody types a token; by keys it would take as long as all the rest.
    if (text.length > 60) await this.evaluate(([it, pasted]) => (document.getElementById(it).value = pasted), [id, text]);
    else if (text) await this.page.keyboard.type(text);
    await this.evaluate((it) => document.getElementById(it).dispatchEvent(new Event('change', { bubbles: true })), id);
  }

  async choose(id, value) {
    await this.evaluate(([it, wanted]) => {
      const field = document.getElementById(it);
      field.value = wanted;
      for (const type of ['input', 'change']) field.dispatchEvent(new Event(type, { bubbles: true }));
    }, [id, value]);
  }

  async press(...keys) {
    for (const key of keys) await this.page.keyboard.press(key);
  }

  focused() {
    return this.evaluate(() => document.activeElement?.id ?? '');
  }

  /** Follows topics, and waits until it is live. */
  async follow(...topics) {
    for (const topic of topics) {
      await this.fill('topic-input', topic);
      await this.press('Enter');
    }
    await this.shows('state', 'Live');
  }

  /** Whether all fits beside each other; what does not, otherwise. */
  overflow() {
    return this.evaluate(() => {
      const { clientWidth, scrollWidth } = document.documentElement;
      if (scrollWidth <= clientWidth) return [];
      return [...document.querySelectorAll('body *')].filter((node) => node.getBoundingClientRect().right > clientWidth + 1).map((node) => node.id || node.className || node.tagName);
    });
  }

  /** What axe finds that is serious or critical. */
  async barriers() {
    // By the driver, because the policy of the page lets no other script in.
    await this.evaluate(axe);
    const told = await this.evaluate(async () => {
      const { violations, passes } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
      return JSON.stringify({
        passes: passes.length,
        found: violations.map(({ id, impact, help, nodes }) => ({ id, impact, help, nodes: nodes.slice(0, 4).map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary.slice(0, 300)}`) })),
      });
    });
    const { passes, found } = JSON.parse(told);
    assert.ok(passes > 15, `axe has looked: ${passes}`);
    return found.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  }

  /** Nothing was asked for elsewhere, refused by the policy, or complained of. `expected` are complaints that a test provokes. */
  async behaved(expected = this.expected ?? []) {
    const elsewhere = this.requests.filter((url) => !url.startsWith(`${this.#origin}/`) && !url.startsWith('about:') && !url.startsWith(this.#origin.replace('http', 'ws')));
    assert.deepEqual(elsewhere, [], 'requests to elsewhere');
    assert.deepEqual(await this.evaluate(() => globalThis.violations), [], 'violations of the policy');
    const unexpected = this.complaints.filter((complaint) => !expected.some((pattern) => pattern.test(complaint)));
    assert.deepEqual(unexpected, [], 'complaints on the console');
  }

  close() {
    return this.#context.close();
  }
}
