// What a page holds: in the shape of EventSource, with what EventSource lacks.

import { createDispatch, OWN } from './dispatch.js';
import { watchLife } from './life.js';
import { createSubscription } from './subscription.js';
import { joinTabs } from './tabs.js';
import { createTypes } from './types.js';

const STATES = { CONNECTING: 0, OPEN: 1, CLOSED: 2 };

export class TidegateSource extends EventTarget {
  readyState = 0;
  lastEventId = '';
  transport;
  connection;
  #types;
  #end;

  /**
   * @param {string | URL} url
   * @param {import('../tidegate.d.ts').TidegateOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    const { topics, types, persist, share } = options;
    const env = (name) => (name in (options.env ?? {}) ? options.env[name] : globalThis[name]);
    for (const type of ['message', ...OWN]) this[`on${type}`] = options[`on${type}`] ?? null;
    this.#types = createTypes(types);
    const everyType = !types && (share || Object.values(topics ?? {}).some((value) => value?.call));
    const { address, settings, hasStart, open } = createSubscription(url, options, this.#types, everyType, env);
    this.url = address.url;
    this.withCredentials = !!options.withCredentials;

    const key = `tidegate:${persist === true ? address.url : persist}`;
    const store = (cursor) => {
      try {
        const storage = persist ? env('sessionStorage') : undefined;
        if (cursor) storage?.setItem(key, cursor);
        return storage?.getItem(key) ?? '';
      } catch {
        // Forbidden or full: there is nothing to come back to.
        return '';
      }
    };
    const dispatch = createDispatch(this, { topics, store, isEnveloped: address.isEnveloped });
    const locks = env('locks') ?? globalThis.navigator?.locks;
    const BroadcastChannel = env('BroadcastChannel');
    const tabs = {
      name: `tidegate:${share === true ? [address.url, ...address.topics] : share}`,
      silenceMs: settings.silenceMs,
      cursor: () => this.lastEventId,
      locks,
      BroadcastChannel,
      hasStart,
      open,
    };
    const over = new AbortController();
    let feed;
    const resume = () => {
      if (feed) return;
      feed = share && locks && BroadcastChannel ? joinTabs(tabs, dispatch) : open(this.lastEventId, dispatch);
      feed.start();
    };
    const suspend = () => {
      feed?.close();
      feed = undefined;
    };
    this.#end = () => {
      suspend();
      over.abort();
    };
    // Listeners and handlers are set after the constructor.
    queueMicrotask(() => {
      if (this.readyState) return;
      this.lastEventId = store();
      watchLife({
        signal: over.signal,
        resume,
        suspend() {
          suspend();
          dispatch({ type: 'suspended' });
        },
        wake: () => feed?.wake(),
        online: () => feed?.online(),
      });
      resume();
    });
  }

  addEventListener(type, listener, options) {
    this.#types.add(type);
    super.addEventListener(type, listener, options);
  }

  close() {
    this.readyState = 2;
    this.#end();
  }
}

Object.assign(TidegateSource, STATES);
Object.assign(TidegateSource.prototype, STATES);
