// The browser client in its first form: one transport, no sharing. It stands here until clients/js is built.
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class TidegateSource extends EventTarget {
  readyState = 0;
  transport = 'fetch';
  connection = undefined;
  #options;
  #stop = new AbortController();
  #retry = 3000;

  constructor(url, options = {}) {
    super();
    this.#options = options;
    this.url = new URL(url, location.href);
    const topics = options.topics ?? [];
    this.topics = [...this.url.searchParams.getAll('topic'), ...(Array.isArray(topics) ? topics : Object.keys(topics))];
    this.lastEventId = options.lastEventId ?? '';
    this.#run();
  }

  close() {
    this.readyState = 2;
    this.#stop.abort();
  }

  #tell(type, members = {}) {
    const event = type.startsWith('$') || !('data' in members) ? new Event(type) : new MessageEvent(type, members);
    for (const [name, value] of Object.entries(members)) if (!(name in event)) Object.defineProperty(event, name, { value });
    this[`on${type}`]?.call(this, event);
    this.dispatchEvent(event);
    return event;
  }

  async #run() {
    while (this.readyState !== 2) {
      try {
        await this.#connect();
      } catch (error) {
        if (this.readyState === 2) return;
        if (error.problem) this.close();
        this.#tell('error', { problem: error.problem });
        if (error.problem) return;
      }
      this.readyState = this.readyState === 2 ? 2 : 0;
      this.#tell('state');
      await wait(this.#retry);
    }
  }

  async #connect() {
    const url = new URL('/events', this.url);
    for (const topic of this.topics) url.searchParams.append('topic', topic);
    url.searchParams.set('heartbeat', 'event');
    const { since, last, token } = this.#options;
    const headers = { accept: 'text/event-stream' };
    if (this.lastEventId === 'earliest') url.searchParams.set('lastEventId', 'earliest');
    else if (this.lastEventId) headers['last-event-id'] = this.lastEventId;
    else if (since) url.searchParams.set('since', since);
    else if (last !== undefined) url.searchParams.set('last', last);
    if (token) headers.authorization = `Bearer ${typeof token === 'function' ? await token({ reason: 'connect' }) : token}`;
    url.searchParams.set('refuse', 'status');
    const response = await fetch(url, { headers, signal: this.#stop.signal, cache: 'no-store' });
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      const temporary = response.status === 503 || response.status === 429;
      throw Object.assign(new Error(problem.title), temporary ? {} : { problem });
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    let frame = { data: [] };
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error('the stream ended');
      text += value;
      let end;
      while ((end = text.indexOf('\n')) >= 0) {
        const line = text.slice(0, end);
        text = text.slice(end + 1);
        if (line === '') {
          this.#frame(frame);
          frame = { data: [] };
        } else if (!line.startsWith(':')) {
          const [, name, content] = /^([^:]*):? ?(.*)$/s.exec(line);
          if (name === 'data') frame.data.push(content);
          else frame[name] = content;
        }
      }
    }
  }

  #frame({ id, event = 'message', topic, data, retry }) {
    if (retry) this.#retry = Number(retry);
    if (id) this.lastEventId = id;
    const text = data.join('\n');
    if (event === '$open') {
      const open = JSON.parse(text);
      this.readyState = 1;
      this.connection = open.connection;
      this.#tell('state');
      this.#tell('open', { ...open, missedAtLeast: open.missed_at_least, transport: 'fetch', retry: this.#retry });
      if (open.replay === 'gap') this.#tell('gap', { ...open, missedAtLeast: open.missed_at_least });
    } else if (event === '$gap') {
      const gap = JSON.parse(text);
      this.#tell('gap', { ...gap, missedAtLeast: gap.missed_at_least });
    } else if (event === '$live') this.#tell('live');
    else if (event === '$end') this.#tell('end', { topic: JSON.parse(text).topic });
    else if (!event.startsWith('$') && data.length > 0) {
      const members = { data: text, lastEventId: id };
      const name = topic ?? this.topics[0];
      const message = this.#tell(event, { ...members, topic: name });
      const handlers = this.#options.topics;
      if (handlers && !Array.isArray(handlers)) handlers[name]?.(message);
    }
  }
}
