// Following topics: one TidegateSource, what it says as rows, and what is known of the connection.

import { TidegateSource } from '/tidegate.js';
import { bytesOf, clock, many, msOf } from './text.js';

/** What a source goes by, in words. */
export const TRANSPORTS = { sse: 'SSE', fetch: 'SSE by fetch', ws: 'WebSocket', poll: 'long poll' };

const TITLES = {
  400: 'The gateway does not understand what was asked',
  401: 'A token is needed, or another one',
  403: 'Not allowed',
  404: 'There is no such thing',
};

const REASONS = {
  reset: 'reset: the log was born again',
  lost: 'lost: a failover of the store took them',
  unknown: 'unknown: the cursor says nothing here',
};

export class Follow {
  /** idle, connecting, replay, live, ended, closed */
  state = 'idle';
  facts = blank();
  /** What ended it for good, where something did. */
  problem = undefined;
  #source = undefined;
  #asked = undefined;
  #ended = new Set();
  /** Why the last try failed. */
  #trouble = '';
  #told;

  /** `told.row(row)` gets what comes, `told.changed()` is called when something else is different. */
  constructor(told) {
    this.#told = told;
  }

  get running() {
    return this.#source !== undefined && this.state !== 'closed' && this.state !== 'ended';
  }

  /** The newest cursor: whoever comes back with it misses nothing. */
  get cursor() {
    return this.#source?.lastEventId || undefined;
  }

  get topics() {
    return this.#asked?.topics ?? [];
  }

  /** Follows topics, `start` as in the query of `/events`. Another following ends. */
  begin({ topics, start, transport, token }) {
    this.end();
    this.#asked = { topics, start };
    this.#ended.clear();
    this.#trouble = '';
    this.problem = undefined;
    this.facts = blank();
    this.state = 'connecting';
    const handler = (event) => this.#event(event);
    let source;
    try {
      source = new TidegateSource('/events', {
        topics: Object.fromEntries(topics.map((topic) => [topic, handler])),
        ...start,
        ...(token && { token }),
        ...(transport !== 'auto' && { transports: [transport] }),
      });
    } catch (error) {
      // As where the browser has no such transport.
      this.state = 'closed';
      this.problem = { title: 'This cannot be followed', detail: error.message };
      this.#told.changed();
      return;
    }
    this.#source = source;
    const on = (type, act) => source.addEventListener(type, (event) => this.#source === source && act(event));
    on('open', (event) => this.#open(event));
    on('gap', (event) => this.#gap(event));
    on('live', () => this.#live());
    on('end', ({ topic }) => this.#end(topic));
    on('expiring', ({ expires }) => this.#row('gap', `The token ends at ${clock(Date.parse(expires))}: put in a newer one, and it goes on from the cursor`));
    on('error', (event) => this.#error(event));
    on('state', () => this.#told.changed());
    this.#told.changed();
  }

  /** Follows no more. */
  end() {
    this.#source?.close();
    this.#source = undefined;
    this.state = 'idle';
    this.facts.transport = undefined;
    this.#told.changed();
  }

  #row(kind, say, more = {}) {
    this.#told.row({ kind, at: Date.now(), id: '', topic: '', type: '', data: '', say, ...more });
  }

  #event({ data, type, lastEventId, topic }) {
    this.#told.row({
      kind: 'event',
      at: Date.now(),
      ms: msOf(lastEventId),
      id: lastEventId,
      topic: topic ?? this.topics[0],
      type,
      data,
      bytes: bytesOf(data),
      replayed: this.state !== 'live',
    });
  }

  #open({ replay, reason, topics, missedAtLeast, transport, connection, retry }) {
    const { facts } = this;
    this.#trouble = '';
    const first = facts.connects === 0;
    Object.assign(facts, { replay, reason, transport, connection, retry, connects: facts.connects + 1 });
    facts.missedAtLeast = missedAtLeast;
    facts.missedTopics = replay === 'gap' ? topics : undefined;
    // Nothing follows that is older than now, so nobody will say that it has been caught up with.
    const fromNow = reason === 'unknown' || (first && replay === 'none' && startsNow(this.#asked.start));
    this.state = fromNow ? 'live' : 'replay';
    const verdict = { none: first ? 'as asked' : 'none', complete: 'complete, nothing is missing', gap: 'with a gap' }[replay];
    this.#row('open', `${first ? 'Open' : 'Open again'}: ${TRANSPORTS[transport] ?? transport}, replay ${verdict}; connection ${connection}`, { tone: replay === 'complete' ? 'good' : '' });
    this.#told.changed();
  }

  #gap({ reason, topics, missedAtLeast }) {
    this.facts.gaps += 1;
    Object.assign(this.facts, { replay: 'gap', reason, missedAtLeast, missedTopics: topics });
    this.#row('gap', gapText({ reason, topics, missedAtLeast }));
    this.#told.changed();
  }

  #live() {
    if (this.state === 'replay') this.#row('live', 'Live: all that was there has come', { tone: 'good' });
    if (this.#source.readyState !== 2) this.state = 'live';
    this.#told.changed();
  }

  #end(topic) {
    this.#ended.add(topic);
    this.#row('end', `End: ${topic} is finished`);
    if (this.topics.every((one) => this.#ended.has(one))) {
      this.state = 'ended';
      this.#source.close();
    }
    this.#told.changed();
  }

  #error({ status, code, detail }) {
    const why = [detail, status && code ? `${status} ${code}` : (code ?? status)].filter(Boolean).join(', ');
    if (this.#source.readyState === 2) {
      if (code === 'finished') this.state = 'ended';
      if (this.state === 'ended') return this.#told.changed();
      this.state = 'closed';
      this.problem = { title: TITLES[status] ?? 'Closed for good', detail: detail ?? 'The gateway does not want this connection back.', code };
      this.#row('refused', `Closed for good: ${why || 'no reason was told'}`, { tone: 'bad' });
    } else if (this.state !== 'connecting' || (code ?? '') !== this.#trouble) {
      // Each further try that fails in the same way says nothing new.
      const gone = this.state !== 'connecting';
      this.state = 'connecting';
      this.#trouble = code ?? '';
      this.#row('lost', `${gone ? 'Connection gone' : 'Not connected'}${why ? `: ${why}` : ''}. Coming back${this.cursor ? ` with the cursor ${this.cursor}` : ''}`);
    }
    this.#told.changed();
  }
}

/** Whether a start leaves nothing to catch up with. */
function startsNow({ lastEventId, since, last }) {
  if (last !== undefined) return Number(last) === 0;
  if (since !== undefined) return (/^\d+$/.test(since) ? Number(since) : Date.parse(since)) > Date.now();
  return !lastEventId;
}

/** A gap in words. */
export function gapText({ reason, topics, missedAtLeast }) {
  const what = missedAtLeast ? `at least ${many(missedAtLeast, 'event')}` : 'events';
  const where = topics?.length ? ` of ${topics.join(', ')}` : '';
  return `Gap: ${what}${where} ${missedAtLeast === 1 ? 'is' : 'are'} missing (${REASONS[reason] ?? reason})`;
}

const blank = () => ({ replay: undefined, reason: undefined, missedAtLeast: undefined, missedTopics: undefined, transport: undefined, connection: undefined, retry: undefined, connects: 0, gaps: 0 });
