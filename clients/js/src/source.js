// What a page holds: in the shape of EventSource, with what EventSource lacks.

import { isAfter } from './cursor.js';
import { watchLife } from './life.js';
import { createEnv, createSubscription } from './subscription.js';
import { createTypes } from './types.js';

const [CONNECTING, OPEN, CLOSED] = [0, 1, 2];

/** Events of the source itself, which have an `on…` property. */
const OWN = ['open', 'error', 'gap', 'live', 'end', 'expiring', 'state'];

export class TidegateSource extends EventTarget {
  #subscription;
  #feed;
  #types;
  #options;
  #env;
  #over = new AbortController();
  #cursor;
  #state = CONNECTING;
  #transport;
  #connection;

  /**
   * @param {string | URL} url
   * @param {import('../tidegate.d.ts').TidegateOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    const { topics, types, persist } = options;
    this.#options = options;
    this.#env = createEnv(options.env);
    for (const type of ['message', ...OWN]) this[`on${type}`] = options[`on${type}`] ?? null;
    this.#types = createTypes(types);
    const everyType = !types && topics && Object.values(topics).some((value) => typeof value === 'function');
    this.#subscription = createSubscription(url, options, { types: this.#types, everyType, env: this.#env });
    if (persist) this.#key = `tidegate:${persist === true ? this.url : persist}`;
    this.#cursor = this.#stored() || undefined;
    // Handlers are set after the constructor.
    queueMicrotask(() => this.#state === CLOSED || this.#begin());
  }

  get url() {
    return this.#subscription.address.url;
  }
  get withCredentials() {
    return !!this.#options.withCredentials;
  }
  get readyState() {
    return this.#state;
  }
  get lastEventId() {
    return this.#cursor ?? '';
  }
  get transport() {
    return this.#transport;
  }
  get connection() {
    return this.#connection;
  }

  addEventListener(type, listener, options) {
    this.#types.add(`${type}`);
    super.addEventListener(type, listener, options);
  }

  close() {
    this.#feed?.close();
    this.#over.abort();
    this.#state = CLOSED;
  }

  #key;

  #begin() {
    const feed = (this.#feed = this.#subscription.link(this.#cursor, (message) => this.#take(message)));
    watchLife({
      signal: this.#over.signal,
      suspend: () => {
        feed.close();
        this.#become(CONNECTING);
      },
      resume: () => feed.start(),
      wake: () => feed.wake(),
      online: () => feed.online(),
    });
    feed.start();
  }

  #stored(cursor) {
    if (!this.#key) return;
    try {
      // Forbidden or full: then there is nothing to come back to.
      if (cursor) this.#env.sessionStorage.setItem(this.#key, cursor);
      return this.#env.sessionStorage.getItem(this.#key);
    } catch {}
  }

  #become(state, transport = this.#transport) {
    if (this.#state === CLOSED || (this.#state === state && this.#transport === transport)) return;
    this.#state = state;
    this.#transport = transport;
    this.#tell('state', { readyState: state, transport });
  }

  #tell(type, properties) {
    const event = Object.assign(new Event(type), properties);
    this.dispatchEvent(event);
    call(this[`on${type}`], this, event);
  }

  /** A message of the link, of this tab or of another one. */
  #take(message) {
    if (this.#state === CLOSED) return;
    const { type, cursor } = message;
    const isNew = message.isNew || !this.#cursor;
    if (type === 'event' && !isNew && !isAfter(message.id, this.#cursor)) return;
    if (cursor && (isNew || isAfter(cursor, this.#cursor))) {
      this.#cursor = cursor;
      this.#stored(cursor);
    }
    const { id, topic, topics, reason, missed_at_least: missedAtLeast, status, code, detail } = message;
    switch (type) {
      case 'event':
        return this.#hand(message);
      case 'open': {
        const { replay, transport, connection } = message;
        this.#connection = connection;
        this.#become(OPEN, transport);
        this.#tell('open', { replay, reason, topics, missedAtLeast, transport, connection });
        if (replay === 'gap') this.#tell('gap', { reason, topics, missedAtLeast });
        return;
      }
      case 'gap':
        return this.#tell('gap', { reason, topics, missedAtLeast });
      case 'live':
        return this.#tell('live', {});
      case 'end':
        return this.#tell('end', { topic });
      case 'expiring':
        return this.#tell('expiring', { expires: message.expires, inMs: message.in_ms });
      case 'error':
        this.#become(CONNECTING);
        return this.#tell('error', { status, code, detail });
      case 'closed':
        this.#become(CLOSED);
        this.close();
        // As EventSource does; without a code it is the end of all topics.
        return this.#tell('error', { status, code: code ?? (status ? undefined : 'finished'), detail });
    }
  }

  #hand({ id, topic, event: type, data }) {
    const { envelope, url } = this.#subscription.address;
    const event = Object.assign(
      new MessageEvent(type, {
        data: envelope ? JSON.stringify({ id, topic, event: type, data }) : data,
        lastEventId: id,
        origin: new URL(url).origin,
      }),
      { topic },
    );
    this.dispatchEvent(event);
    if (type === 'message') call(this.onmessage, this, event);
    call(this.#options.topics?.[topic], this, event);
  }
}

for (const [name, value] of Object.entries({ CONNECTING, OPEN, CLOSED })) {
  for (const holder of [TidegateSource, TidegateSource.prototype]) Object.defineProperty(holder, name, { value, enumerable: true });
}

/** What a handler throws is the page's, and does not disturb the stream. */
function call(handler, source, event) {
  try {
    if (typeof handler === 'function') handler.call(source, event);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
