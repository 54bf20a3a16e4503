// Following topics: one TidegateSource, what it says as rows, and what is known of the connection.

import { TidegateSource } from '/tidegate.js';
import { bytesOf, many, msOf } from './text.js';

/** What a source goes by, in words. */
export const TRANSPORTS = { sse: 'SSE', fetch: 'SSE by fetch', ws: 'WebSocket', poll: 'long poll' };

const REASONS = {
  retention: 'retention took them',
  reset: 'the log was born again',
  lost: 'a failover of the store lost them',
  unknown: 'the cursor says nothing here',
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
    this.problem = undefined;
    this.facts = blank();
    this.state = 'connecting';
    const handler = (event) => this.#event(event);
    const source = new TidegateSource('/events', {
      topics: Object.fromEntries(topics.map((topic) => [topic, handler])),
      ...start,
      ...(token && { token }),
      ...(transport !== 'auto' && { transports: [transport] }),
    });
    this.#source = source;
    const on = (type, act) => source.addEventListener(type, (event) => this.#source === source && act(event));
    on('open', (event) => this.#open(event));
    on('gap', (event) => this.#gap(event));
    on('live', () => this.#live());
    on('end', ({ topic }) => this.#end(topic));
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
    const first = facts.connects === 0;
    Object.assign(facts, { replay, reason, transport, connection, retry, connects: facts.connects + 1 });
    facts.missedAtLeast = missedAtLeast;
    facts.missedTopics = replay === 'gap' ? topics : undefined;
    // Nothing follows that is older than now, so nobody will say that it has been caught up with.
    const fromNow = reason === 'unknown' || (first && replay === 'none' && Object.keys(this.#asked.start).length === 0);
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

  #error(event) {
    const problem = event.problem;
    const over = this.#source.readyState === 2;
    if (over && this.state !== 'ended') {
      this.state = 'closed';
      this.problem = problem ?? { title: 'The connection is closed', detail: 'the gateway does not want it back' };
      this.#row('refused', `Closed: ${this.problem.title ?? ''}${this.problem.detail ? `, ${this.problem.detail}` : ''}`, { tone: 'bad' });
    } else if (!over && this.state !== 'connecting') {
      this.state = 'connecting';
      this.#row('lost', `Connection gone${problem?.detail ? ` (${problem.detail})` : ''}: coming back with the cursor ${this.cursor ?? 'it started with'}`);
    }
    this.#told.changed();
  }
}

/** A gap in words. */
export function gapText({ reason, topics, missedAtLeast }) {
  const what = missedAtLeast ? `at least ${many(missedAtLeast, 'event')}` : 'events';
  const where = topics?.length ? ` of ${topics.join(', ')}` : '';
  return `Gap: ${what}${where} ${missedAtLeast === 1 ? 'is' : 'are'} missing: ${REASONS[reason] ?? reason} (${reason})`;
}

const blank = () => ({ replay: undefined, reason: undefined, missedAtLeast: undefined, missedTopics: undefined, transport: undefined, connection: undefined, retry: undefined, connects: 0, gaps: 0 });
