// The console. It talks to its own gateway alone: follows topics by TidegateSource, publishes, and shows what comes.
//
// Whatever an event holds becomes text (`textContent`), never markup; the policy of the page would refuse it besides.

import { Charts } from './charts.js';
import { showData, showMeta } from './detail.js';
import { compile } from './filter.js';
import { Follow, TRANSPORTS, gapText } from './follow.js';
import { keys } from './keys.js';
import { Log } from './log.js';
import { Publish } from './publish.js';
import { snippet } from './snippets.js';
import { read, write } from './state.js';
import { Table } from './table.js';
import { copy, localInput, many, number, span } from './text.js';

const $ = (id) => document.getElementById(id);

const STATES = {
  idle: 'Not following',
  connecting: 'Connecting',
  replay: 'Catching up',
  live: 'Live',
  ended: 'Finished',
  closed: 'Closed',
};

const HEALTH_MS = 10_000;
const UNSEEN_MS = 300;

const log = new Log();
const charts = new Charts($('rate-chart'), $('lag-chart'));
const types = new Set();
let topics = [];
let received = 0;
let dirty = false;
let frame = 0;
let timer = 0;
/** What waits for the stream to be live. */
let onceLive;
let added = 0;
/** How far the gateway's clock is ahead of ours, and how sure that is. */
let skew = { ms: 0, within: Infinity };

// ---- what comes

const follow = new Follow({
  row(row) {
    if (row.kind === 'event') {
      received += 1;
      if (!row.replayed) charts.add(row.ms === undefined ? undefined : row.at - row.ms);
      if (!types.has(row.type) && types.size < 100) {
        types.add(row.type);
        option('known-types', row.type);
        snippets();
      }
    } else if (row.kind === 'gap') say(row.say);
    const before = log.shown.length;
    log.add(row);
    added += log.shown.length - before;
    later();
  },
  changed() {
    later();
    facts();
    if (follow.state === 'idle' || follow.state === 'closed') onceLive = undefined;
    if (follow.state !== 'live') return;
    onceLive?.();
    onceLive = undefined;
  },
});

const table = new Table({
  grid: $('grid'),
  body: $('rows'),
  log,
  onSelect: choose,
  onScroll: newest,
  now: () => Date.now() + (Number.isFinite(skew.within) ? skew.ms : 0),
});

/** Draws once for all that has come until the next frame. A page that nobody sees gets no frames, but has to stay bounded, too. */
function later() {
  if (dirty) return;
  dirty = true;
  frame = requestAnimationFrame(draw);
  timer = setTimeout(draw, UNSEEN_MS);
}

function draw() {
  cancelAnimationFrame(frame);
  clearTimeout(timer);
  dirty = false;
  const gone = log.trim();
  table.draw({ added, gone });
  added = 0;
  newest();
  counts();
}

function newest() {
  const button = $('newest');
  button.hidden = table.atEnd || log.shown.length === 0;
  button.textContent = table.missed > 0 ? `↓ ${number(table.missed)} new` : '↓ Newest';
}

function counts() {
  const { rows, shown, gone, held, heldGone, paused } = log;
  const parts = [shown.length === rows.length ? many(rows.length, 'row') : `${number(shown.length)} of ${many(rows.length, 'row')}`];
  if (paused) parts.push(`paused, ${number(held.length + heldGone)} waiting`);
  if (gone > 0) parts.push(`${number(gone)} older gone`);
  $('counts').textContent = parts.join(' · ');
  $('received').textContent = number(received);
  $('cursor').textContent = follow.cursor ?? '–';
  $('copy-cursor').hidden = !follow.cursor;
  const empty = shown.length === 0;
  $('empty').hidden = !empty;
  if (!empty) return;
  const filtered = rows.length > 0;
  $('empty').querySelector('.lead').textContent = filtered ? 'Nothing fits the filter.' : follow.running ? 'Waiting for events.' : 'No events yet.';
  $('empty-text').textContent = filtered
    ? `It hides ${many(rows.length, 'row')}.`
    : follow.running
      ? `What is published to ${follow.topics.join(', ')} appears here.`
      : 'Name a topic and follow it, or begin with one event of your own:';
  $('try').hidden = filtered || follow.running;
}

let told = '';

function facts() {
  const { state, facts, problem } = follow;
  $('state').dataset.state = state;
  $('state-text').textContent = STATES[state];
  const verdict = $('verdict');
  verdict.dataset.verdict = facts.replay ?? '';
  verdict.textContent = facts.replay === 'gap' ? `gap: ${facts.reason}` : (facts.replay ?? '–');
  verdict.title = facts.replay === 'gap' ? gapText({ ...facts, topics: facts.missedTopics }) : '';
  $('transport-now').textContent = TRANSPORTS[facts.transport] ?? '–';
  $('connection').textContent = facts.connection ?? '–';
  $('retry').textContent = facts.retry === undefined ? '–' : span(facts.retry);
  $('retry-fact').hidden = facts.retry === undefined && facts.connects > 0;
  $('connects').textContent = number(facts.connects);
  $('gaps').textContent = number(facts.gaps);
  $('gaps').toggleAttribute('data-some', facts.gaps > 0);
  $('stop').disabled = state === 'idle';
  $('follow').textContent = follow.running ? 'Follow anew' : 'Follow';
  if (problem) notice($('follow-notice'), 'bad', problem.title, `${problem.detail}${problem.code ? ` (${problem.code})` : ''}`);
  const now = `${STATES[state]}${state === 'live' ? `: ${follow.topics.join(', ')}` : ''}`;
  if (now !== told) say(now);
  told = now;
  document.title = state === 'idle' ? 'Tidegate console' : `${STATES[state]}: ${follow.topics.join(', ')} – Tidegate`;
}

/** For who listens rather than looks: states and gaps, not every event. */
function say(text) {
  $('status').textContent = text;
}

// ---- following

function start() {
  const kind = $('start').value;
  const value = (id) => $(id).value.trim();
  if (kind === 'earliest') return { lastEventId: 'earliest' };
  if (kind === 'last') return { last: value('start-last-value') || '0' };
  if (kind === 'age') return value('start-age-value') ? { since: value('start-age-value') } : {};
  if (kind === 'time') return value('start-time-value') ? { since: new Date(value('start-time-value')).toISOString() } : {};
  if (kind === 'cursor') return value('start-cursor-value') ? { lastEventId: value('start-cursor-value') } : {};
  return {};
}

function showStart({ lastEventId, since, last }) {
  const set = (kind, field, text) => {
    $('start').value = kind;
    if (field) $(field).value = text;
  };
  if (lastEventId === 'earliest') set('earliest');
  else if (lastEventId) set('cursor', 'start-cursor-value', lastEventId);
  else if (last) set('last', 'start-last-value', last);
  else if (since && /^\d{4}-/.test(since) && !Number.isNaN(Date.parse(since))) set('time', 'start-time-value', localInput(Date.parse(since)));
  else if (since && /^\d{6,}$/.test(since)) set('time', 'start-time-value', localInput(Number(since)));
  else if (since) set('age', 'start-age-value', since);
  else set('now');
  startFields();
}

function startFields() {
  const kind = $('start').value;
  for (const it of ['last', 'age', 'time', 'cursor']) $(`start-${it}`).hidden = it !== kind;
  if (kind === 'time' && !$('start-time-value').value) $('start-time-value').value = localInput(Date.now() - 300_000);
}

const view = () => ({
  topics,
  start: start(),
  transport: $('transport').value,
  filter: $('filter').value.trim(),
  control: $('show-control').checked,
});

const token = () => $('token').value.trim();

function remember() {
  history.replaceState(null, '', location.pathname + write(view()));
  snippets();
}

/** Follows what is chosen, from where it says. */
function begin(from = start()) {
  takeTopic();
  if (topics.length === 0) {
    notice($('follow-notice'), 'warn', 'No topic', 'Name at least one.');
    $('topic-input').focus();
    return;
  }
  $('follow-notice').hidden = true;
  follow.begin({ topics: [...topics], start: from, transport: $('transport').value, token: token() });
  later();
  remember();
}

/** Another list of topics: an open following goes on with it, from its cursor. */
function topicsChanged() {
  chips();
  remember();
  if (!follow.running) return;
  if (topics.length === 0) follow.end();
  else if (topics.join() !== follow.topics.join()) begin(follow.cursor ? { lastEventId: follow.cursor } : start());
}

/** Takes what stands in the field into the list. */
function takeTopic() {
  const field = $('topic-input');
  const names = field.value.split(/[\s,]+/).filter(Boolean);
  const pattern = names.find((name) => name.includes('*'));
  if (pattern) {
    $('filter').value = `${$('filter').value} ${pattern}`.trim();
    refilter();
    notice($('follow-notice'), 'warn', 'The gateway follows exact names', `${pattern} went into the filter: it chooses among the topics that you follow.`);
  }
  const fresh = names.filter((name) => !name.includes('*') && !topics.includes(name));
  field.value = '';
  if (fresh.length === 0) return false;
  topics = [...new Set([...topics, ...fresh])];
  chips();
  return true;
}

function chips() {
  const list = topics.map((topic) => {
    const item = document.createElement('li');
    const name = document.createElement('span');
    name.textContent = topic;
    name.title = topic;
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = '×';
    button.setAttribute('aria-label', `Without ${topic}`);
    button.addEventListener('click', () => {
      topics = topics.filter((it) => it !== topic);
      topicsChanged();
      $('topic-input').focus();
    });
    item.append(name, button);
    return item;
  });
  $('chips').replaceChildren(...list);
  $('topic-input').placeholder = topics.length > 0 ? '' : 'orders';
  $('known-topics').replaceChildren();
  for (const topic of topics) option('known-topics', topic);
  if (!$('publish-topic').value && topics.length > 0) $('publish-topic').value = topics[0];
}

function option(list, value) {
  const one = document.createElement('option');
  one.value = value;
  $(list).append(one);
}

function notice(node, kind, title, text) {
  const strong = document.createElement('strong');
  strong.textContent = title;
  node.className = `notice ${kind}`;
  node.replaceChildren(strong, text);
  node.hidden = false;
}

$('follow-form').addEventListener('submit', (event) => {
  event.preventDefault();
  begin();
});
$('stop').addEventListener('click', () => follow.end());
$('start').addEventListener('change', startFields);
$('follow-form').addEventListener('change', (event) => {
  if (event.target !== $('token') && event.target !== $('topic-input')) remember();
});
$('topic-input').addEventListener('keydown', (event) => {
  if (event.key === ',' || (event.key === 'Enter' && $('topic-input').value.trim())) {
    event.preventDefault();
    const was = follow.running;
    // Enter on a first topic is meant to follow it.
    if (takeTopic()) was || event.key === ',' ? topicsChanged() : begin();
  } else if (event.key === 'Backspace' && !$('topic-input').value && topics.length > 0) {
    topics = topics.slice(0, -1);
    topicsChanged();
  }
});
$('chips-box').addEventListener('click', (event) => event.target === event.currentTarget && $('topic-input').focus());

$('token').value = stored(sessionStorage, 'tidegate.token') ?? '';
$('token').addEventListener('change', () => {
  store(sessionStorage, 'tidegate.token', token());
  snippets();
  // A newer token takes over where the old one stops.
  if (follow.running && token()) begin(follow.cursor ? { lastEventId: follow.cursor } : start());
});

$('try').addEventListener('click', () => {
  if (!topics.includes('demo')) topics = [...topics, 'demo'];
  chips();
  publish.fill({ topic: 'demo', type: 'hello', data: '{"from": "the console"}' });
  begin({});
  // Published before the stream is open it would be of the past.
  if (follow.running) onceLive = () => publish.send();
});

// ---- the table

function refilter() {
  log.choose(compile($('filter').value), $('show-control').checked);
  added = 0;
  table.draw();
  newest();
  counts();
}

$('filter').addEventListener('input', () => {
  refilter();
  remember();
});
$('show-control').addEventListener('change', () => {
  refilter();
  remember();
});
$('pause').addEventListener('click', pause);
$('clear').addEventListener('click', clear);
$('newest').addEventListener('click', () => table.toEnd());
$('copy-cursor').addEventListener('click', () => copied(follow.cursor, 'The cursor'));

function pause() {
  if (log.paused) {
    log.resume();
  } else log.pause();
  $('pause').setAttribute('aria-pressed', log.paused);
  $('pause').textContent = log.paused ? 'Go on' : 'Pause';
  later();
}

function clear() {
  log.clear();
  charts.clear();
  received = 0;
  choose(undefined);
  table.selected = undefined;
  table.toEnd();
  counts();
}

// ---- one event

let raw = false;

function choose(row, show = false) {
  const event = row?.kind === 'event' ? row : undefined;
  $('event-none').hidden = event !== undefined;
  $('detail').hidden = event === undefined;
  $('event-actions').hidden = event === undefined || $('pane-event').hidden;
  if (row && !event) $('event-none').textContent = row.say;
  else $('event-none').textContent = 'Choose an event in the table to see all of it.';
  if (event) {
    showData($('detail-data'), event, raw);
    $('detail-data').scrollTop = 0;
    showMeta($('detail-meta'), event);
  }
  if (row && show) {
    tab('event');
    if (narrow()) views('inspector');
  }
}

const chosen = () => (table.selected?.kind === 'event' ? table.selected : undefined);

$('copy-data').addEventListener('click', () => copied(chosen()?.data, 'The data'));
$('raw').addEventListener('click', () => {
  raw = !raw;
  $('raw').setAttribute('aria-pressed', raw);
  choose(chosen());
});
$('again').addEventListener('click', () => {
  publish.fill(chosen());
  if (narrow()) views('publish');
  $('publish-data').focus();
});
$('from-here').addEventListener('click', () => {
  const { id, topic } = chosen();
  if (!topics.includes(topic)) topics = [...topics, topic];
  showStart({ lastEventId: id });
  chips();
  begin();
  if (narrow()) views('events');
});

async function copied(text, what) {
  if (text === undefined) return;
  toast((await copy(text)) ? `${what} is copied` : 'The browser does not let this page copy');
}

let toastTimer;

function toast(text) {
  $('toast').textContent = text;
  $('toast').classList.add('shown');
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => $('toast').classList.remove('shown'), 2200);
}

// ---- publishing

const publish = new Publish(
  $('publish-form'),
  () => (token() ? { authorization: `Bearer ${token()}` } : {}),
  {
    changed: () => snippets(),
    published: ({ key }) => {
      // The same key again would only say that the event is there already; that it is kept in the field lets one see it.
      if (key) toast('The idempotency key is still in its field');
    },
  },
);

// ---- snippets

function snippets() {
  if ($('pane-snippets').hidden) return;
  const { topic, ...event } = publish.event;
  const view_ = view();
  const names = view_.topics.length > 0 ? view_.topics : ['orders'];
  $('snippet').textContent = snippet($('snippet-kind').value, {
    origin: location.origin,
    view: { ...view_, topics: names },
    transport: view_.transport,
    types: [...types],
    token: token() !== '',
    event: { topic: topic || names[0], ...event, data: event.data === '' && !event.end ? '{"order": 1}' : event.data },
  });
}

$('snippet-kind').addEventListener('change', snippets);
$('copy-snippet').addEventListener('click', () => copied($('snippet').textContent, 'The snippet'));
$('share').addEventListener('click', () => {
  remember();
  copied(location.href, 'A link to this view');
});

// ---- tabs, views, theme, help

const TABS = ['event', 'snippets'];

function tab(name, focus = false) {
  for (const it of TABS) {
    const on = it === name;
    $(`tab-${it}`).setAttribute('aria-selected', on);
    $(`tab-${it}`).tabIndex = on ? 0 : -1;
    $(`pane-${it}`).hidden = !on;
  }
  $('event-actions').hidden = name !== 'event' || !chosen();
  if (focus) $(`tab-${name}`).focus();
  snippets();
}

for (const name of TABS) {
  $(`tab-${name}`).addEventListener('click', () => tab(name));
  $(`tab-${name}`).addEventListener('keydown', ({ key }) => {
    if (key === 'ArrowLeft' || key === 'ArrowRight') tab(TABS.find((it) => it !== name), true);
  });
}

const narrow = () => getComputedStyle(document.querySelector('.views')).display !== 'none';

/** On a narrow page: which part is seen. */
function views(name) {
  document.body.dataset.view = name;
  for (const button of document.querySelectorAll('.views button')) button.setAttribute('aria-current', button.dataset.view === name);
}

document.querySelector('.views').addEventListener('click', ({ target }) => {
  if (target.dataset.view) views(target.dataset.view);
});

const THEMES = ['system', 'light', 'dark'];

function theme(name) {
  if (name === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  $('theme-name').textContent = name;
}

function nextTheme() {
  const name = THEMES[(THEMES.indexOf($('theme-name').textContent) + 1) % THEMES.length];
  store(localStorage, 'tidegate.theme', name === 'system' ? '' : name);
  theme(name);
}

theme(document.documentElement.dataset.theme ?? 'system');
$('theme').addEventListener('click', nextTheme);

const help = () => $('help').open || $('help').showModal();
$('open-help').addEventListener('click', help);
$('lag-help').addEventListener('click', help);
$('close-help').addEventListener('click', () => $('help').close());

function focus(view_, id) {
  if (narrow()) views(view_);
  $(id).focus();
}

$('keys-on').checked = stored(localStorage, 'tidegate.keys') !== 'off';
$('keys-on').addEventListener('change', () => store(localStorage, 'tidegate.keys', $('keys-on').checked ? '' : 'off'));

keys(() => $('keys-on').checked, {
  f: () => focus('follow', 'topic-input'),
  n: () => focus('publish', $('publish-topic').value ? 'publish-data' : 'publish-topic'),
  '/': () => focus('events', 'filter'),
  j: () => table.step(1),
  k: () => table.step(-1),
  e: () => table.toEnd(),
  y: () => copied(chosen()?.data, 'The data'),
  p: pause,
  c: clear,
  s: () => {
    tab('snippets', true);
    if (narrow()) views('inspector');
  },
  t: nextTheme,
  '?': help,
  Escape: () => {
    table.select(undefined);
    $('grid').focus();
  },
});

// ---- storage, which a browser may forbid

function stored(where, name) {
  try {
    return where.getItem(name);
  } catch {
    return null;
  }
}

function store(where, name, value) {
  try {
    if (value) where.setItem(name, value);
    else where.removeItem(name);
  } catch {
    // then it is not remembered
  }
}

// ---- the gateway

async function health() {
  if (document.hidden) return;
  const begun = Date.now();
  const node = $('gateway');
  try {
    const response = await fetch('/health', { cache: 'no-store' });
    const { status, version, timestamp, dependencies } = await response.json();
    const done = Date.now();
    const { store: its } = dependencies;
    node.dataset.kind = status === 'ok' ? '' : status === 'degraded' ? 'warn' : 'bad';
    node.textContent = `${location.host} · ${version} · ${its.kind} · ${status}`;
    node.title = [its.error, ...(its.warnings ?? [])].filter(Boolean).join('\n');
    measured(Date.parse(timestamp) - (begun + done) / 2, Math.max(1, (done - begun) / 2));
  } catch {
    node.dataset.kind = 'bad';
    node.textContent = `${location.host} · no answer`;
  }
}

/** The best look at the gateway's clock so far; it grows old, because clocks drift. */
function measured(ms, within) {
  skew.within *= 1.05;
  if (within > skew.within || Number.isNaN(ms)) return;
  skew = { ms, within };
  const text = Math.abs(ms) <= within ? `agree to within ${span(within)}` : `differ: the gateway is ${span(Math.abs(ms))} ${ms > 0 ? 'ahead' : 'behind'} (± ${span(within)})`;
  $('clock').textContent = `By /health, the clocks of this browser and of the gateway ${text}. With Redis, ids come from the clock of Redis, which may be another one again.`;
}

// ---- the beginning

function apply({ topics: names, start: from, transport, filter, control }) {
  topics = names;
  showStart(from);
  $('transport').value = transport;
  $('filter').value = filter;
  $('show-control').checked = control;
  chips();
  refilter();
}

function arrive() {
  apply(read(location.hash));
  if (topics.length > 0) begin();
  else {
    follow.end();
    if (narrow()) views('follow');
  }
}

addEventListener('hashchange', arrive);
matchMedia('(max-width: 860px)').addEventListener('change', () => table.draw());
setInterval(() => {
  charts.tick();
  if (!document.hidden) table.tick();
}, 1000);
setInterval(health, HEALTH_MS);
document.addEventListener('visibilitychange', health);
void health();
arrive();
facts();
counts();
