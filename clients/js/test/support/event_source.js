// What a browser's EventSource does (HTML, 9.2), as far as the client can see it: Node has none.

import { frameReader } from '../../src/parse.js';

export class EventSource extends EventTarget {
  /** All that are open. */
  static open = new Set();
  readyState = 0;
  #over = new AbortController();

  constructor(url, { withCredentials = false } = {}) {
    super();
    Object.assign(this, { url, withCredentials });
    EventSource.open.add(this);
    this.#read(url).then(
      () => this.#fail(this.readyState),
      () => this.#fail(0),
    );
  }

  async #read(url) {
    const response = await fetch(url, { headers: { Accept: 'text/event-stream' }, signal: this.#over.signal });
    if (response.status !== 200 || !response.headers.get('content-type').startsWith('text/event-stream')) {
      this.readyState = 2;
      await response.body?.cancel();
      return;
    }
    this.readyState = 1;
    this.#tell(new Event('open'));
    const decoder = new TextDecoder();
    let lastEventId = '';
    const take = frameReader(({ id = lastEventId, event = 'message', data }) => {
      lastEventId = id;
      if (data !== undefined && this.readyState === 1) this.#tell(new MessageEvent(event, { data, lastEventId }));
    });
    for await (const piece of response.body) take(decoder.decode(piece, { stream: true }));
    this.readyState = 0;
  }

  #fail(state) {
    if (this.#over.signal.aborted) return;
    this.readyState = state;
    this.#tell(new Event('error'));
  }

  #tell(event) {
    this.dispatchEvent(event);
    this[`on${event.type}`]?.(event);
  }

  close() {
    EventSource.open.delete(this);
    this.readyState = 2;
    this.#over.abort();
  }
}
