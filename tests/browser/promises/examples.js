// The examples in browsers: each page shows what its README says, over cuts, reloads and restarts.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, mkdirSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Gateway } from '../support/gateway.js';
import { freePort } from '../support/ports.js';
import { Proxy } from '../support/proxy.js';
import { bounded, sleep, until } from '../support/until.js';

const EXAMPLES = fileURLToPath(new URL('../../../examples/', import.meta.url));
const OUT = fileURLToPath(new URL('../out/', import.meta.url));
const START_MS = 20_000;
const STOP_MS = 5_000;
// A page comes back after `retry` at first, and less and less often.
const COMES_BACK_MS = 40_000;

export default function examples(world, each) {
  const test = (name, sentence, body) =>
    each(`examples/${name}: ${sentence}`, (t) => stage(t, world, name, body));

  test('quickstart', 'events arrive, and a restart that lost the log is told', async ({ gateway, proxy, open, picture, folder }) => {
    const pages = await served(folder);
    try {
      const page = await open(`${pages.url}?gateway=${proxy.url}`);
      await page.until('an open stream', ({ verdict }) => verdict === 'open: from now on');
      await gateway.publish({ topic: 'orders', event: 'created', data: { order: 1 } });
      await gateway.publish({ topic: 'orders', data: 'any text' });
      await page.until('both events', ({ events }) => events.length === 2);
      assert.match((await page.look()).events.join('\n'), /^{"order":1} created \d+-\d+\nany text message \d+-\d+$/);
      proxy.hold(); // Firefox gives a stream of another origin up where nobody answers
      await gateway.stop();
      await gateway.begin();
      proxy.comeBack();
      await page.until('the verdict', ({ verdict }) => verdict === 'open again: events are missing (reset); caught up, live', COMES_BACK_MS);
      await picture('quickstart');
    } finally {
      pages.close();
    }
  });

  test('llm-stream', 'an answer survives a cut and a reload, has several viewers, and ends', async ({ proxy, open, backEnd, picture, say }) => {
    const { url } = await backEnd({ TOKEN_MS: '70' });
    const page = await open(url);
    await page.ask('Does it last?');
    await page.until('the answer to begin', ({ answer, prompt }) => prompt === 'Does it last?' && answer.length > 60);
    proxy.cut();
    const before = await page.look();
    await page.until('more after the cut', ({ answer }) => answer.length > before.answer.length + 40, COMES_BACK_MS);

    await page.evaluate(() => setTimeout(() => location.reload()));
    await page.until('the answer from its beginning on', ({ answer }) => answer.startsWith('A tide gate') && answer.length > before.answer.length);
    await picture('llm-stream-speaks');
    const second = await open(await page.evaluate(() => location.href));
    await page.until('the end', ({ state }) => state === 'complete', COMES_BACK_MS);
    await second.until('the end', ({ state }) => state === 'complete', COMES_BACK_MS);
    const [one, other] = [await page.look(), await second.look()];
    assert.match(one.answer, /^A tide gate lets water.*You asked: “Does it last\?”.*nothing more to wait for\.$/s);
    assert.deepEqual(other, one);
    assert.equal(one.canStop, false);
    await picture('llm-stream-complete');

    await page.evaluate(() => setTimeout(() => location.reload()));
    await page.until('the same after a reload', ({ answer, state }) => answer === one.answer && state === 'complete');
    say(`${one.answer.length} characters, seen by two pages, one of them cut and reloaded twice`);
  });

  test('llm-stream', 'a stop button ends an answer, for all who see it', async ({ open, backEnd }) => {
    const { url } = await backEnd({ TOKEN_MS: '150' });
    const page = await open(url);
    await page.ask('Too long?');
    await page.until('the answer to begin', ({ answer, canStop }) => canStop && answer.length > 5);
    await page.evaluate(() => document.getElementById('stop').click());
    await page.until('the end', ({ state }) => state === 'stopped');
    const { answer } = await page.look();
    assert.doesNotMatch(answer, /wait for\.$/);
    const later = await open(await page.evaluate(() => location.href));
    await later.until('the same', (seen) => seen.state === 'stopped' && seen.answer === answer);
  });

  test('order-board', 'changes arrive, a cut is healed, and after a gap the board is loaded again', async ({ gateway, proxy, open, backEnd, picture, say }) => {
    const { url } = await backEnd();
    const page = await open(url);
    await page.until('a live board', ({ connection }) => connection.startsWith('live'));
    const post = async (at, body) => (await fetch(`${url}/orders${at}`, { method: 'POST', body: JSON.stringify(body) })).json();
    const [soup, tea, pie] = [await post('', { station: 'kitchen', item: 'soup', table: 4 }), await post('', { station: 'bar', item: 'tea', table: 2 }), await post('', { station: 'kitchen', item: 'pie', table: 4 })];
    await page.until('three orders', ({ board }) => board.new?.length === 3);
    await page.evaluate((id) => document.querySelector(`#order-${id} button`).click(), soup.id);
    await page.until('one in the making', ({ board }) => board.preparing[0] === 'soup, table 4 kitchen #1' && board.new.length === 2);
    await picture('order-board');

    proxy.hold();
    proxy.cut();
    await page.until('the connection to be gone', ({ connection }) => connection === 'coming back');
    await post(`/${tea.id}`, { state: 'preparing' });
    await post(`/${tea.id}`, { state: 'ready' });
    await post(`/${pie.id}`, { state: 'served' });
    await sleep(300); // published while nobody hears
    proxy.comeBack();
    const caughtUp = ({ board, notice, connection }) =>
      connection.startsWith('live') && notice === 'nothing was missed' && board.new.length === 0 && board.preparing.length === 1 && board.ready[0] === 'tea, table 2 bar #2';
    await page.until('what was missed', caughtUp, COMES_BACK_MS);

    proxy.hold();
    await gateway.stop();
    await post(`/${tea.id}`, { state: 'served' }); // the back end goes on without a gateway
    await post('', { station: 'bar', item: 'cider', table: 9 });
    await gateway.begin();
    proxy.comeBack();
    await page.until('the board of now', ({ board, notice }) => notice.startsWith('events were missed (reset') && board.ready.length === 0 && board.new[0] === 'cider, table 9 bar #4', COMES_BACK_MS);
    await picture('order-board-gap');

    await page.evaluate(() => document.querySelector('#stations input[value=bar]').click());
    await page.until('the kitchen alone', ({ board, connection }) => connection.startsWith('live') && board.new.length === 0 && board.preparing.length === 1);
    await post('', { station: 'bar', item: 'tea', table: 1 });
    await post('', { station: 'kitchen', item: 'fish', table: 1 });
    await page.until('the fish and no tea', ({ board }) => board.new.length === 1 && board.new[0].startsWith('fish'));
    say((await page.look()).connection);
  });
}

/** A gateway, a proxy before it that can be cut, pages, and the back end of the example; all of it ends with the test. */
async function stage(t, { engine, browser }, name, body) {
  const closing = [];
  const errors = [];
  let last;
  let complaints = () => '';
  const folder = path.join(EXAMPLES, name);
  const picture = async (what) => {
    mkdirSync(OUT, { recursive: true });
    await last.screenshot(path.join(OUT, `${engine}-${what}.png`));
    t.diagnostic(`screenshot: out/${engine}-${what}.png`);
  };
  const gateway = await Gateway.prepare();
  try {
    closing.push(() => gateway.remove());
    await gateway.begin();
    const proxy = await Proxy.to(gateway.port);
    closing.push(() => proxy.close());
    const context = await browser.context();
    closing.push(() => context.close());
    const open = async (url) => {
      last = await context.open(url);
      return shown(last);
    };
    const backEnd = async (settings) => {
      // It publishes to the gateway itself; its pages go through the proxy.
      const started = await begun(folder, { ...settings, TIDEGATE_URL: gateway.url, EVENTS_URL: proxy.url });
      closing.push(started.stop);
      complaints = started.complaints;
      return started;
    };
    await body({ gateway, proxy, open, backEnd, picture, folder, say: (line) => t.diagnostic(line) });
  } catch (error) {
    errors.push(error);
    t.diagnostic(`what the back end complained of: ${complaints()}`);
    if (last) await picture(`failed-example-${name}`).catch(() => {});
  }
  for (const close of closing.reverse()) await Promise.resolve(close()).catch((error) => errors.push(error));
  for (const error of errors.slice(1)) t.diagnostic(`and then: ${error.message}`);
  if (errors.length > 0) throw errors[0];
}

/** Starts the back end of an example. */
async function begun(folder, settings) {
  const child = spawn(process.execPath, ['server.js'], {
    cwd: folder,
    env: { PATH: process.env.PATH, PORT: '0', ...settings },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let complaints = '';
  child.stderr.on('data', (text) => (complaints += text));
  const reap = () => child.kill('SIGKILL');
  process.once('exit', reap);
  const ended = once(child, 'exit');
  const lines = createInterface({ input: child.stdout });
  const [line] = await bounded('the back end to listen', once(lines, 'line'), START_MS);
  const url = /http:\S+/.exec(line)[0];
  const stop = async () => {
    process.off('exit', reap);
    child.kill();
    await bounded('the back end to end', ended, STOP_MS);
  };
  return { url, stop, complaints: () => complaints };
}

/** Serves the files of a folder, as any static server does. */
async function served(folder) {
  const server = http.createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' });
    response.end(readFileSync(path.join(folder, 'index.html')));
  });
  const port = await freePort();
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return { url: `http://127.0.0.1:${port}/`, close: () => server.close().closeAllConnections() };
}

/** A page, as whoever looks at it sees it. */
function shown(tab) {
  const look = async () =>
    JSON.parse(
      await tab.evaluate(() => {
        const text = (id) => document.getElementById(id)?.textContent.trim().replaceAll(/\s+(?=\S+ #)/g, ' ');
        const items = (selector) => [...document.querySelectorAll(selector)].map((item) => item.textContent);
        const columns = [...document.querySelectorAll('#board section')].map((column) => [
          column.querySelector('h2').textContent,
          [...column.querySelectorAll('li span')].map((card) => card.textContent),
        ]);
        return JSON.stringify({
          verdict: text('verdict'),
          events: items('#events li'),
          prompt: text('prompt'),
          answer: document.getElementById('answer')?.textContent ?? '',
          state: text('state'),
          canStop: document.getElementById('stop')?.hidden === false,
          connection: text('connection') ?? '',
          notice: text('notice') ?? '',
          board: Object.fromEntries(columns),
        });
      }),
    );
  return {
    look,
    evaluate: (body, argument) => tab.evaluate(body, argument),
    async ask(question) {
      const ready = () => document.querySelector('#ask button')?.disabled === false;
      await until('the page to be ready', () => tab.evaluate(ready));
      const submit = (text) => {
        document.getElementById('question').value = text;
        document.querySelector('#ask button').click();
      };
      await tab.evaluate(submit, question);
    },
    until: (what, condition, within) =>
      until(`the page to show ${what}`, async () => {
        // A page that is being loaded has nothing to show.
        const seen = await look().catch(() => undefined);
        return seen && condition(seen);
      }, { ...(within && { within }), seen: look }),
  };
}
