// A page with the client (clients/js), as the tests see it.

import { assertSame } from './log.js';
import { until } from './until.js';

const LISTS = ['opens', 'events', 'byTopic', 'gaps', 'lives', 'ends', 'errors', 'states', 'asked'];

/** A page that follows topics with a `TidegateSource`. What it has seen is fetched piece by piece and kept here. */
export class Client {
  state = undefined;
  transport = undefined;
  lastEventId = undefined;
  connection = undefined;
  #tab;

  constructor(tab) {
    this.#tab = tab;
    this.forget();
  }

  /** Begins to look from the start, as after a page was loaded again. */
  forget() {
    for (const list of LISTS) this[list] = [];
  }

  /** Makes a source; one that is there is closed before. Options are those of client.html. */
  async follow(url, { types = [], ...options } = {}) {
    await this.loaded();
    await this.#tab.evaluate((what) => globalThis.follow(what), { url, types, ...options });
  }

  /** The tokens that the page will show, one after another; the last one for ever, and none for `null`. */
  async give(tokens) {
    await this.#tab.evaluate((list) => void (globalThis.tokens = list), tokens);
  }

  /** Waits until the page has its client. */
  loaded() {
    return until('the page to have its client', () => this.#tab.evaluate(() => globalThis.ready === true));
  }

  async look() {
    const from = Object.fromEntries(LISTS.map((list) => [list, this[list].length]));
    const seen = JSON.parse(await this.#tab.evaluate((at) => globalThis.look(at), from));
    for (const list of LISTS) this[list].push(...seen[list]);
    const { state, transport, lastEventId, connection } = seen;
    Object.assign(this, { state, transport, lastEventId, connection });
    return this;
  }

  /** Waits until `condition(this)` holds. */
  until(what, condition, options = {}) {
    return until(`the page to see ${what}`, async () => condition(await this.look()), { seen: () => this.summary, ...options });
  }

  /** Waits for the n-th verdict, and returns it. */
  async opened(times = 1, options = {}) {
    await this.until(`a verdict, ${times} in all`, () => this.opens.length >= times, options);
    return this.opens[times - 1];
  }

  /** Waits for at least so many events. */
  async received(count, options = {}) {
    await this.until(`${count} events`, () => this.events.length >= count, options);
    return this.events;
  }

  /** Waits for all that was published, and fails unless it came once and in order; `published` holds ids. */
  async receivedAll(published, options = {}) {
    await this.received(published.length, options);
    assertSame(this.ids, published);
  }

  get ids() {
    return this.events.map(({ id }) => id);
  }

  /** The transports by which it was open, in order. */
  get ways() {
    return this.opens.map(({ transport }) => transport);
  }

  evaluate(body, argument) {
    return this.#tab.evaluate(body, argument);
  }

  close() {
    return this.#tab.evaluate(() => globalThis.source.close());
  }

  get summary() {
    const { state, transport, lastEventId, events, opens, gaps, errors, states, asked } = this;
    return {
      state, transport, lastEventId, events: events.length, last: events.at(-1),
      opens: opens.slice(-4), gaps, errors: errors.slice(-4), states: states.slice(-6), asked: asked.slice(-4),
    };
  }
}
