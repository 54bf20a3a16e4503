// The console: what it shows is what was published and what was told, to everybody, and it lets nothing in from elsewhere.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { consoleScene } from '../support/console.js';
import { token, wantsTokens } from '../support/token.js';
import { until } from '../support/until.js';

const run = promisify(execFile);
const KEPT = 5000;
const HOSTILE = '<img src=x onerror="document.title=\'taken\'"><script>document.title="taken"</script>';
// A browser itself complains of an answer that is an error.
const REFUSED = /status of 40[013]|status of 409|401|403/;

export default function theConsole(world, each) {
  const test = (sentence, body) => each(`console: ${sentence.replace(/^the console /, 'it ')}`, body);
  const scene = (t, options, body) => consoleScene(t, world, options, body);

  test('the console follows a topic, publishes to it, and shows what comes as text', async (t) => {
    await scene(t, {}, async ({ gateway, ui, say }) => {
      assert.equal(await ui.text('state'), 'Not following');
      await ui.follow('orders');
      assert.equal(await ui.text('verdict'), 'none');
      assert.match(await ui.text('connection'), /^[0-9a-f]{8}-/);
      await ui.until('a cursor', () => /^\d+-\d+$/.test(document.getElementById('cursor').textContent));

      await ui.fill('publish-topic', 'orders');
      await ui.fill('publish-type', 'created');
      await ui.fill('publish-data', '{"order": 1}');
      assert.match(await ui.text('data-hint'), /^12 B, JSON/);
      await ui.click('#publish');
      await ui.until('the answer', () => /^Storedid \d+-\d+ in orders/.test(document.getElementById('publish-answer').textContent));
      await ui.hasEvents(1);
      const [{ id }] = await gateway.history('orders');
      assert.deepEqual(await ui.events(), [{ kind: 'event', id, topic: 'orders', type: 'created', data: '{"order": 1}', size: '12 B' }]);

      await gateway.publish({ topic: 'orders', event: HOSTILE, data: HOSTILE });
      await ui.hasEvents(2);
      const [, row] = await ui.events();
      assert.deepEqual([row.type, row.data], [HOSTILE, HOSTILE]);
      await ui.evaluate(() => document.getElementById('grid').focus());
      await ui.press('End', 'Enter');
      assert.equal(await ui.text('detail-data'), HOSTILE);
      assert.equal(await ui.evaluate(() => document.querySelectorAll('main img, main script').length), 0, 'no markup came of it');
      assert.match(await ui.evaluate(() => document.title), /^Live: orders/);
      say(`by ${await ui.text('transport-now')}`);
    });
  });

  test('who comes for the first time has an event of their own after one click', async (t) => {
    await scene(t, {}, async ({ gateway, ui }) => {
      await ui.click('#try');
      await ui.shows('state', 'Live');
      await ui.shows('received', '1');
      const [{ id }] = await gateway.history('demo');
      assert.deepEqual((await ui.events()).map((row) => [row.id, row.topic, row.type]), [[id, 'demo', 'hello']]);
    });
  });

  test('a start that leaves nothing to catch up with is live at once', async (t) => {
    await scene(t, {}, async ({ gateway, visit }) => {
      await gateway.publish({ topic: 'orders', data: 'before' });
      for (const start of ['last=0', `since=${Date.now() + 3_600_000}`, 'since=2100-01-01T00:00:00Z']) {
        const ui = await visit(`#topic=orders&${start}`);
        await ui.shows('state', 'Live');
        assert.equal(await ui.text('received'), '0');
      }
    });
  });

  test('the console shows all of an event: JSON in lines, every number as it was published', async (t) => {
    await scene(t, {}, async ({ gateway, ui }) => {
      await ui.follow('orders');
      const data = '{"n":12345678901234567890,"n":1.50,"list":[],"deep":{"a":[1,{"b":"}\\"{"}]}}';
      await gateway.publish({ topic: 'orders', data });
      await ui.hasEvents(1);
      await ui.evaluate(() => document.getElementById('grid').focus());
      await ui.press('End', 'Enter');
      const shown = await ui.evaluate(() => document.getElementById('detail-data').textContent);
      const lines = ['{', '  "n": 12345678901234567890,', '  "n": 1.50,', '  "list": [],', '  "deep": {', '    "a": [', '      1,', '      {', '        "b": "}\\"{"', '      }', '    ]', '  }', '}'];
      assert.deepEqual(shown.split('\n'), lines);
      await ui.click('#raw');
      assert.equal(await ui.text('detail-data'), data);
      await ui.click('#again');
      assert.equal(await ui.evaluate(() => document.getElementById('publish-data').value), data);
    });
  });

  test('a publish that is refused says why, and one with a used key that it was there', async (t) => {
    await scene(t, {}, async ({ ui }) => {
      ui.expected = [REFUSED];
      await ui.fill('publish-topic', '$own');
      await ui.fill('publish-data', 'x');
      await ui.click('#publish');
      await ui.until('the refusal', () => /topic_invalid/.test(document.getElementById('publish-answer').textContent));
      assert.match(await ui.text('publish-answer'), /^The topic is not valid.*reserved.*\(400 topic_invalid\)$/);
      await ui.fill('publish-topic', 'orders');
      await ui.click('#new-key');
      await ui.click('#publish');
      await ui.until('the answer', () => /^Stored/.test(document.getElementById('publish-answer').textContent));
      await ui.click('#publish');
      await ui.until('the other answer', () => /^Was there already/.test(document.getElementById('publish-answer').textContent));
      await ui.fill('publish-data', 'y');
      await ui.click('#publish');
      await ui.until('the refusal', () => /409 idempotency_mismatch/.test(document.getElementById('publish-answer').textContent));
    });
  });

  test('the console tells a gap, as a verdict and as a row that no filter hides', async (t) => {
    const settings = { TIDEGATE_RETENTION__RULES: '[{prefix: short, events: 2}]' };
    await scene(t, { settings }, async ({ gateway, visit }) => {
      const { id } = await gateway.publish({ topic: 'short', data: '0' });
      for (let n = 1; n <= 6; n += 1) await gateway.publish({ topic: 'short', data: `${n}` });
      const ui = await visit(`#topic=short&lastEventId=${id}&filter=nothing`);
      await ui.shows('state', 'Live');
      await ui.shows('verdict', 'gap: retention');
      await ui.until('the gap', () => document.querySelector('#rows .gap:not([hidden])') !== null);
      assert.equal(await ui.text('gaps'), '1');
      const gaps = (await ui.rows()).filter(({ kind }) => kind === 'gap');
      assert.equal(gaps.length, 1);
      assert.match(gaps[0].say, /^Gap: .*short.*missing.*\(retention\)$/);
      assert.deepEqual(await ui.events(), [], 'the filter hides events');
      await ui.fill('filter', '');
      await ui.hasEvents(2);
      assert.deepEqual((await ui.events()).map(({ data }) => data), ['5', '6']);
    });
  });

  test('the address holds the view, so that another tab shows the same', async (t) => {
    await scene(t, {}, async ({ gateway, ui, visit }) => {
      for (let n = 0; n < 5; n += 1) await gateway.publish([{ topic: 'orders/eu', event: 'created', data: `${n}` }, { topic: 'orders/us', event: 'paid', data: `${n}` }]);
      await ui.choose('start', 'last');
      await ui.fill('start-last-value', '4');
      await ui.follow('orders/eu', 'orders/us');
      await ui.fill('filter', 'orders/* type:paid -topic:orders/eu');
      await ui.until('the filter to be in the address', () => location.hash.includes('filter='));
      const hash = await ui.evaluate(() => location.hash);
      assert.ok(hash.startsWith('#topic=orders/eu&topic=orders/us&last=4&filter='), hash);
      const other = await visit(hash);
      await other.hasEvents(2);
      assert.deepEqual((await other.events()).map(({ topic, type, data }) => [topic, type, data]), [['orders/us', 'paid', '3'], ['orders/us', 'paid', '4']]);
    });
  });

  test('a pattern among the topics goes into the filter, because the gateway follows exact names', async (t) => {
    await scene(t, {}, async ({ ui }) => {
      await ui.fill('topic-input', 'orders/*');
      await ui.press('Enter');
      await ui.until('a word on it', () => /exact names/.test(document.getElementById('follow-notice').textContent));
      assert.equal(await ui.evaluate(() => document.getElementById('filter').value), 'orders/*');
      assert.equal(await ui.text('chips'), '');
    });
  });

  test('another topic joins with the cursor of the others, and nothing is lost or doubled', async (t) => {
    await scene(t, {}, async ({ gateway, ui }) => {
      await ui.follow('a');
      await gateway.publish({ topic: 'a', data: '1' });
      await ui.shows('received', '1');
      await ui.follow('b');
      await gateway.publish([{ topic: 'a', data: '2' }, { topic: 'b', data: '3' }]);
      await ui.shows('received', '3');
      assert.deepEqual((await ui.events()).map(({ topic, data }) => topic + data), ['a1', 'a2', 'b3']);
      await ui.shows('verdict', 'complete');
      await ui.click('#chips li:first-child button');
      await ui.shows('state', 'Live');
      await gateway.publish([{ topic: 'a', data: '4' }, { topic: 'b', data: '5' }]);
      await ui.shows('received', '4');
      assert.deepEqual((await ui.events()).map(({ topic, data }) => topic + data), ['a1', 'a2', 'b3', 'b5']);
    });
  });

  for (const [transport, name] of [['sse', 'SSE by fetch'], ['ws', 'WebSocket'], ['poll', 'long poll']]) {
    test(`by ${name} the same is shown`, async (t) => {
      await scene(t, {}, async ({ gateway, visit }) => {
        for (const data of ['one', 'two', 'three']) await gateway.publish({ topic: 'orders', event: data, data });
        const ui = await visit(`#topic=orders&last=2&transport=${transport}`);
        await ui.shows('state', 'Live');
        await ui.shows('transport-now', name);
        await gateway.publish({ topic: 'orders', data: 'four' });
        await ui.shows('received', '3');
        assert.deepEqual((await ui.events()).map(({ type, data }) => [type, data]), [['two', 'two'], ['three', 'three'], ['message', 'four']]);
        assert.equal(await ui.text('gaps'), '0');
      });
    });
  }

  test('a paused table stands still, and goes on with all that came; cleared it is empty', async (t) => {
    await scene(t, {}, async ({ gateway, ui }) => {
      await ui.follow('orders');
      await gateway.publish({ topic: 'orders', data: 'before' });
      await ui.shows('received', '1');
      await ui.click('#pause');
      for (const data of ['one', 'two']) await gateway.publish({ topic: 'orders', data });
      await ui.until('what waits', () => /paused, 2 waiting/.test(document.getElementById('counts').textContent));
      assert.deepEqual((await ui.events()).map(({ data }) => data), ['before']);
      await ui.click('#pause');
      await ui.hasEvents(3);
      assert.deepEqual((await ui.events()).map(({ data }) => data), ['before', 'one', 'two']);
      await ui.click('#clear');
      await ui.shows('counts', '0 rows');
      assert.deepEqual(await ui.rows(), []);
    });
  });

  test('a finished topic ends the following', async (t) => {
    await scene(t, {}, async ({ gateway, ui }) => {
      await ui.follow('orders');
      await gateway.publish({ topic: 'orders', data: 'last', end: true });
      await ui.shows('state', 'Finished');
      await ui.until('the end', () => document.querySelector('#rows .end:not([hidden])') !== null);
      assert.deepEqual((await ui.rows()).slice(-2).map(({ kind, data, say }) => data ?? `${kind}: ${say}`), ['last', 'end: End: orders is finished']);
    });
  });

  test('thousands of events leave a bounded table, with the newest in sight', async (t) => {
    await scene(t, {}, async ({ gateway, ui, say }) => {
      await ui.follow('orders');
      const count = KEPT + 1_500;
      for (let n = 0; n < count; n += 500) {
        await gateway.publish(Array.from({ length: 500 }, (_, at) => ({ topic: 'orders', data: `number ${n + at}` })));
      }
      await ui.shows('received', count.toLocaleString('en'));
      await ui.until('the newest', (last) => [...document.querySelectorAll('#rows .row:not([hidden]) .data')].some((cell) => cell.textContent === last), `number ${count - 1}`);
      const { rows, nodes } = await ui.evaluate(() => ({ rows: Number(document.getElementById('grid').getAttribute('aria-rowcount')), nodes: document.querySelectorAll('#rows .row').length }));
      assert.ok(rows <= KEPT + 257 && rows > KEPT - 300, `${rows} rows are kept`);
      assert.ok(nodes < 100, `${nodes} of them are in the page`);
      assert.match(await ui.text('counts'), /older gone$/);
      say(`${count} events, ${rows} rows kept, ${nodes} in the page`);
      // Whoever looks at an older row keeps it in sight.
      await ui.evaluate(() => (document.getElementById('grid').scrollTop = 60_000));
      await ui.until('the button to the newest', () => !document.getElementById('newest').hidden);
      await ui.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
      const looked = (await ui.events())[8];
      await gateway.publish(Array.from({ length: 600 }, (_, at) => ({ topic: 'orders', data: `more ${at}` })));
      await ui.shows('received', (count + 600).toLocaleString('en'));
      await ui.until('new rows to be told', () => /600 new/.test(document.getElementById('newest').textContent));
      assert.equal((await ui.events())[8].id, looked.id);
      await ui.press('Escape', 'e');
      await ui.until('the newest', () => [...document.querySelectorAll('#rows .row:not([hidden]) .data')].some((cell) => cell.textContent === 'more 599'));
    });
  });

  test('a gateway that goes and comes back is shown as that', async (t) => {
    await scene(t, {}, async ({ gateway, ui }) => {
      ui.expected = [/./]; // a browser complains of every connection that fails
      await ui.follow('orders');
      await gateway.publish({ topic: 'orders', data: 'before' });
      await ui.shows('received', '1');
      await gateway.stop();
      await ui.shows('state', 'Connecting');
      await gateway.begin();
      await until('the console to come back', async () => (await ui.text('state')) === 'Live', { within: 30_000, seen: () => ui.seen() });
      // The log was in memory.
      assert.equal(await ui.text('verdict'), 'gap: reset');
      await gateway.publish({ topic: 'orders', data: 'after' });
      await ui.shows('received', '2');
    });
  });

  test('where auth is configured the console loads, says that a token is needed, and keeps it in its tab', async (t) => {
    const settings = { ...wantsTokens, TIDEGATE_CONSOLE__ENABLED: 'true' };
    await scene(t, { settings, hash: '#topic=orders' }, async ({ gateway, ui, visit }) => {
      ui.expected = [REFUSED];
      gateway.authorization = `Bearer ${token(600)}`;
      await ui.shows('state', 'Closed');
      assert.match(await ui.text('follow-notice'), /credential|token|unauthorized/i);
      const shown = token(600, { subject: 'ann' });
      await ui.fill('token', shown);
      await ui.click('#follow');
      await ui.shows('state', 'Live');
      await ui.fill('publish-data', 'by ann');
      await ui.click('#publish');
      await ui.shows('received', '1');
      assert.deepEqual((await ui.events()).map(({ data }) => data), ['by ann']);
      const places = await ui.evaluate(() => ({ address: location.href, local: JSON.stringify({ ...localStorage }), cookie: document.cookie, session: Object.keys(sessionStorage) }));
      for (const place of [places.address, places.local, places.cookie]) assert.ok(!place.includes(shown), place);
      assert.ok(places.session.includes('tidegate.token'));
      await ui.press('Escape', 's');
      for (const kind of ['follow', 'publish', 'eventsource', 'source']) {
        await ui.choose('snippet-kind', kind);
        assert.ok(!(await ui.text('snippet')).includes(shown), kind);
      }
      await ui.press('Escape');
      await ui.fill('token', token(600, { subject: 'bob' }));
      await ui.shows('connects', '1');
      await ui.shows('verdict', 'complete');
      await gateway.publish({ topic: 'orders', data: 'to bob' });
      await ui.shows('received', '2');
      const other = await visit('#topic=orders');
      other.expected = [REFUSED];
      await other.shows('state', 'Closed');
    });
  });

  test('the snippets do what the page does', async (t) => {
    await scene(t, { hash: '#topic=orders/eu&topic=it%27s&last=3' }, async ({ gateway, ui, say }) => {
      await ui.shows('state', 'Live');
      await ui.fill('publish-topic', "it's");
      await ui.fill('publish-type', 'created');
      await ui.fill('publish-data', `it's "quoted" $HOME \\n`);
      await ui.click('#tab-snippets');
      const snippet = async (kind) => {
        await ui.choose('snippet-kind', kind);
        return ui.text('snippet');
      };
      const { stdout } = await run('sh', ['-c', await snippet('publish')], { env: { PATH: process.env.PATH } });
      assert.match(JSON.parse(stdout).id, /^\d+-\d+$/);
      await ui.shows('received', '1');
      assert.deepEqual((await ui.events()).map(({ topic, type, data }) => [topic, type, data]), [["it's", 'created', `it's "quoted" $HOME \\n`]]);

      const follow = spawn('sh', ['-c', `exec ${(await snippet('follow')).replace('curl -N', 'curl -sN --max-time 60')}`], { env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'ignore'] });
      let followed = '';
      follow.stdout.on('data', (text) => (followed += text));
      try {
        await until('curl to get the event', () => /event: created\n/.test(followed), { seen: () => followed });
      } finally {
        follow.kill();
      }
      assert.match(followed, /event: \$open\ndata: .*"topics":\["orders\/eu","it's"\]/);

      // What a page would run, in a page: the driver may, the policy stands.
      for (const kind of ['eventsource', 'source']) {
        const code = await snippet(kind);
        say(`${kind}: ${code.split('\n').length} lines`);
        const script = code.replace(/^import \{ (\w+) \} from '(.*)';$/m, "const { $1 } = await import('$2');").replaceAll('console.log(', '(globalThis.logged ??= []).push(').replaceAll('.push((', '.push((');
        await ui.evaluate(`(async () => { globalThis.logged = []; ${script}\nglobalThis.ran = source; })()`);
        await ui.until('the snippet to get the event', () => globalThis.logged.includes('created') && globalThis.logged.some((it) => String(it).includes('$HOME')));
        await ui.evaluate(() => globalThis.ran.close());
      }
      assert.deepEqual((await gateway.history("it's")).length, 1);
    });
  });

  test('the console is used by keys alone', async (t) => {
    await scene(t, {}, async ({ gateway, ui, say }) => {
      await ui.press('f');
      assert.equal(await ui.focused(), 'topic-input');
      await ui.page.keyboard.type('pc');
      assert.equal(await ui.evaluate(() => document.getElementById('topic-input').value), 'pc', 'letters rest while one writes');
      await ui.press('Enter');
      await ui.shows('state', 'Live');
      assert.equal(await ui.focused(), 'topic-input', 'the focus stays');
      await ui.press('Escape', 'n');
      assert.equal(await ui.focused(), 'publish-data');
      await ui.page.keyboard.type('{"by":"keys"}');
      await ui.page.keyboard.down('Control');
      await ui.press('Enter');
      await ui.page.keyboard.up('Control');
      await ui.shows('received', '1');
      await gateway.publish({ topic: 'pc', data: 'second' });
      await ui.shows('received', '2');
      await ui.press('Escape');
      assert.equal(await ui.focused(), 'grid');
      await ui.press('k');
      assert.equal(await ui.text('detail-data'), 'second');
      await ui.press('k');
      assert.equal(await ui.text('detail-data'), '{\n  "by": "keys"\n}');
      const active = await ui.evaluate(() => document.getElementById(document.getElementById('grid').getAttribute('aria-activedescendant')).textContent);
      assert.match(active, /"by":"keys"/, 'who listens hears which row it is');
      await ui.press('/');
      assert.equal(await ui.focused(), 'filter');
      await ui.press('Escape', 'p');
      assert.equal(await ui.text('pause'), 'Go on');
      await ui.press('p', '?');
      assert.equal(await ui.evaluate(() => document.getElementById('help').open), true);
      await ui.press('Escape');
      assert.equal(await ui.evaluate(() => document.getElementById('help').open), false);
      await ui.press('c');
      await ui.shows('counts', '0 rows');
      // All that can be used is reached by Tab, in the order in which it is seen, and shows where the focus is.
      await ui.evaluate(() => document.querySelector('.skip').focus());
      const order = [];
      for (let n = 0; n < 60; n += 1) {
        await ui.press('Tab');
        const at = await ui.evaluate(() => {
          const node = document.activeElement;
          const style = getComputedStyle(node.closest('.chips') && node.tagName === 'INPUT' ? node.closest('.chips') : node);
          return { id: node.id, visible: node === document.body || (style.outlineStyle !== 'none' && Number.parseFloat(style.outlineWidth) >= 1) };
        });
        if (at.id) {
          // A page of Firefox behind others has no focus to show.
          if (ui.engine === 'chromium') assert.ok(at.visible, `the focus on ${at.id} is seen`);
          if (order.includes(at.id)) break;
          order.push(at.id);
        }
      }
      const wanted = ['share', 'theme', 'open-help', 'topic-input', 'start', 'transport', 'token', 'follow', 'stop', 'publish-topic', 'publish-type', 'publish-data', 'publish-key', 'new-key', 'publish-end', 'publish', 'filter', 'show-control', 'pause', 'clear', 'grid', 'tab-event'];
      assert.deepEqual(order.filter((id) => wanted.includes(id)), wanted);
      say(order.join(' '));
    });
  });

  test('keys of one letter can be turned off, and stay off', async (t) => {
    await scene(t, {}, async ({ ui }) => {
      await ui.press('?');
      await ui.click('#keys-on');
      await ui.press('Escape', 'f');
      assert.notEqual(await ui.focused(), 'topic-input');
      await ui.page.reload();
      await ui.until('the console to begin', () => document.getElementById('keys-on')?.checked === false);
      await ui.press('f');
      assert.notEqual(await ui.focused(), 'topic-input');
    });
  });

  test('light and dark follow the system, or what one chose, which is remembered', async (t) => {
    await scene(t, { dark: true }, async ({ ui }) => {
      const back = () => ui.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const isDark = async () => Math.max(...(await back()).match(/\d+/g).slice(0, 3).map(Number)) < 60;
      if (ui.engine === 'chromium') {
        assert.equal(await isDark(), true);
        await ui.page.emulateMedia({ colorScheme: 'light' });
        assert.equal(await isDark(), false);
      }
      await ui.press('t');
      assert.deepEqual([await ui.text('theme-name'), await isDark()], ['light', false]);
      await ui.click('#theme');
      assert.deepEqual([await ui.text('theme-name'), await isDark()], ['dark', true]);
      await ui.page.reload();
      await ui.shows('theme-name', 'dark');
      assert.equal(await isDark(), true);
    });
  });

  for (const width of [360, 390, 768, 1280]) {
    test(`on a page of ${width} pixels nothing sticks out`, async (t) => {
      await scene(t, { width, height: 740, hash: '#topic=orders&topic=a-topic-with-a-rather-long-name/that-goes-on-and-on/for-ever&last=20' }, async ({ gateway, ui }) => {
        await ui.shows('state', 'Live');
        await gateway.publish({ topic: 'orders', event: 'a-type-that-is-long-as-well', data: 'x'.repeat(500) });
        await gateway.publish({ topic: 'a-topic-with-a-rather-long-name/that-goes-on-and-on/for-ever', data: '{"a":1}' });
        await ui.shows('received', '2');
        assert.deepEqual(await ui.overflow(), []);
        if (width > 860) return;
        for (const view of ['follow', 'publish', 'events', 'inspector']) {
          await ui.click(`.views [data-view="${view}"]`);
          assert.deepEqual(await ui.overflow(), [], view);
        }
        await ui.click('.views [data-view="events"]');
        await ui.click('#rows .row:not(.control):not([hidden])');
        assert.equal(await ui.evaluate(() => document.body.dataset.view), 'inspector', 'a tap shows the event');
        assert.deepEqual(await ui.overflow(), []);
        await ui.click('#tab-snippets');
        assert.deepEqual(await ui.overflow(), []);
        await ui.press('?');
        assert.deepEqual(await ui.overflow(), []);
      });
    });
  }

  for (const [theme, width] of [['light', 1280], ['dark', 1280], ['light', 390], ['dark', 390]]) {
    test(`axe finds nothing serious: ${theme}, ${width} pixels`, async (t) => {
      const settings = { TIDEGATE_RETENTION__RULES: '[{prefix: short, events: 2}]' };
      await scene(t, { width, height: 844, settings }, async ({ gateway, ui, visit }) => {
        await ui.evaluate((name) => localStorage.setItem('tidegate.theme', name), theme);
        const first = await gateway.publish({ topic: 'short', data: '0' });
        for (let n = 1; n <= 5; n += 1) await gateway.publish({ topic: 'short', event: 'tick', data: `{"n":${n},"text":"a","no":null}` });
        const page = await visit(`#topic=short&lastEventId=${first.id}`, { width, height: 844 });
        await page.evaluate((name) => localStorage.setItem('tidegate.theme', name), theme);
        await page.page.reload();
        await page.shows('state', 'Live');
        await page.until('the theme', (name) => document.documentElement.dataset.theme === name, theme);
        const look = async (what) => assert.deepEqual(await page.barriers(), [], what);
        await look('events');
        await page.press('k');
        await look('an event is chosen');
        if (width < 860) {
          for (const view of ['follow', 'publish', 'inspector']) {
            await page.click(`.views [data-view="${view}"]`);
            await look(view);
          }
        }
        await page.press('s');
        await look('snippets');
        await page.press('?');
        await look('help');
      });
    });
  }
}
