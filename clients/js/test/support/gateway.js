// A gateway in small, with a log in memory, and with faults on request: what a test cannot ask of the real one.

import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const rank = (id) => {
  const [ms, sequence] = id.split('-').map(BigInt);
  return ms * 2n ** 64n + sequence;
};

export class Gateway {
  /** What was asked, in order: `{ route, query, headers, method }`. */
  requests = [];
  log = [];
  /** Open streams. */
  streams = new Set();
  /** Route to a function of request and response, which answers in its place; undefined: as usual. */
  faults = {};
  retry = 20;
  keepaliveMs = 50;
  topics = undefined;
  #sockets = new Set();
  #server;
  #ms = 1_000;
  #connections = 0;

  static async start(test, settings = {}) {
    const gateway = Object.assign(new Gateway(), settings);
    gateway.#server = createServer((request, response) => gateway.#answer(request, response));
    const sockets = new WebSocketServer({ noServer: true });
    gateway.#server.on('upgrade', (request, socket, head) => {
      const to = gateway.#asked(request);
      const fault = gateway.faults.ws?.(to, socket);
      if (fault === 'hold') return;
      if (fault === 'refuse') return socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
      sockets.handleUpgrade(request, socket, head, (opened) => (fault ? fault(opened) : gateway.#socket(to, opened)));
    });
    gateway.#server.on('connection', (socket) => {
      gateway.#sockets.add(socket);
      socket.on('close', () => gateway.#sockets.delete(socket));
    });
    await new Promise((resolve) => gateway.#server.listen(0, '127.0.0.1', resolve));
    test.after(() => gateway.stop());
    return gateway;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  stop() {
    for (const stream of [...this.streams]) stream.end();
    this.cut();
    return new Promise((resolve) => this.#server.close(resolve));
  }

  /** Breaks every connection. */
  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Ends every stream politely. */
  end() {
    for (const stream of [...this.streams]) stream.end();
  }

  publish(data, { topic = 'a', event = 'message' } = {}) {
    const item = { id: `${++this.#ms}-0`, topic, event, data: `${data}` };
    this.log.push(item);
    for (const stream of [...this.streams]) if (stream.topics.includes(topic)) stream.event(item);
    return item.id;
  }

  /** Something that the gateway says to all: `drain`, `end`, `gap`, ... */
  say(type, data = {}, id = undefined) {
    for (const stream of [...this.streams]) stream.control(type, data, id);
  }

  get head() {
    return `${this.#ms}-0`;
  }

  count(route) {
    return this.requests.filter((request) => request.route === route).length;
  }

  #asked(request) {
    const url = new URL(request.url, 'http://gateway');
    const asked = { route: url.pathname.slice(1), query: url.searchParams, headers: request.headers, method: request.method };
    this.requests.push(asked);
    return asked;
  }

  #answer(request, response) {
    const to = this.#asked(request);
    if (this.faults[to.route]?.(to, response)) return;
    if (to.route === 'events') return this.#events(to, response);
    if (to.route === 'poll') return this.#poll(to, response);
    if (to.route === 'ticket') return this.json(response, 200, { ticket: `ticket-${this.requests.length}`, expires_in: 30 });
    if (/^connections\/.+\/token$/.test(to.route)) return this.json(response, 200, { connection: to.route.split('/')[1] });
    this.problem(response, 404, 'not_found');
  }

  json(response, status, body, headers = {}) {
    response.writeHead(status, { 'Content-Type': 'application/json', ...headers }).end(JSON.stringify(body));
  }

  problem(response, status, code, headers = {}) {
    const body = { type: `urn:tidegate:problem:${code}`, title: code, status, detail: `because of ${code}`, code };
    response.writeHead(status, { 'Content-Type': 'application/problem+json', ...headers }).end(JSON.stringify(body));
    return true;
  }

  /** Where a subscription begins: `{ topics, cursor, replay, reason, events }`. */
  #begin({ query }) {
    const topics = query.getAll('topic');
    const after = query.get('lastEventId');
    const last = query.get('last');
    const own = this.log.filter(({ topic }) => topics.includes(topic));
    if (after === 'earliest') return { topics, cursor: '0-0', replay: 'none', events: own };
    if (!after) {
      const events = last ? own.slice(-last) : [];
      const before = last ? this.log[this.log.indexOf(events[0]) - 1]?.id : this.head;
      return { topics, cursor: before ?? '0-0', replay: 'none', events };
    }
    if (rank(after) > rank(this.head)) return { topics, cursor: this.head, replay: 'gap', reason: 'unknown', events: [] };
    const events = own.filter(({ id }) => rank(id) > rank(after));
    return { topics, cursor: after, replay: 'complete', events, ...this.verdict };
  }

  #stream(topics, stream) {
    Object.assign(stream, { topics, connection: `c${++this.#connections}` });
    const { end } = stream;
    const beat = setInterval(() => stream.beat?.(), this.keepaliveMs);
    stream.end = (...how) => {
      clearInterval(beat);
      this.streams.delete(stream);
      end(...how);
    };
    this.streams.add(stream);
    return stream;
  }

  #events(to, response) {
    const { topics, cursor, replay, reason, events } = this.#begin(to);
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    const write = (lines) => response.write(`${lines.join('\n')}\n\n`);
    const envelope = to.query.get('envelope') === 'json';
    const stream = this.#stream(topics, {
      event: (item) => {
        const { id, topic, event, data } = item;
        const lines = (envelope ? JSON.stringify(item) : data).split('\n').map((line) => `data: ${line}`);
        write([`id: ${id}`, `event: ${event}`, ...(envelope || topics.length < 2 ? [] : [`topic: ${topic}`]), ...lines]);
      },
      control: (type, data, id) => write([...(id ? [`id: ${id}`] : []), `event: $${type}`, `data: ${JSON.stringify(data)}`]),
      beat: () => write(['event: $heartbeat', 'data:']),
      end: () => response.end(),
    });
    response.on('close', () => stream.end());
    const open = { connection: stream.connection, replay, reason, topics, retry: this.retry };
    write([`retry: ${this.retry}`, `id: ${cursor}`, 'event: $open', `data: ${JSON.stringify(open)}`]);
    events.forEach(stream.event);
    if (to.query.has('lastEventId') || to.query.has('last')) stream.control('live', {}, this.head);
  }

  #socket(to, socket) {
    const { topics, cursor, replay, reason, events } = this.#begin(to);
    const write = (message) => socket.send(JSON.stringify(message));
    const stream = this.#stream(topics, {
      event: (item) => write({ type: 'event', ...item, cursor: item.id }),
      control: (type, data, id) => write({ type, ...data, id, cursor: id }),
      end: (code = 1001, reason = 'draining') => socket.close(code, reason),
    });
    socket.on('close', () => stream.end());
    socket.on('message', (text) => {
      this.requests.push({ route: 'message', text: `${text}` });
      if (JSON.parse(text).type === 'ping' && !this.mute) write({ type: 'pong' });
    });
    write({ type: 'open', connection: stream.connection, replay, reason, topics, id: cursor, cursor, retry: this.retry });
    events.forEach(stream.event);
    write({ type: 'live', topics, id: this.head, cursor: this.head });
  }

  #poll(to, response) {
    const { topics, replay, reason, events } = this.#begin(to);
    const answer = { events, cursor: events.at(-1)?.id ?? this.head, replay, ...(reason && { reason, topics }) };
    const wait = parseInt(to.query.get('wait'), 10);
    if (events.length || replay === 'gap' || !wait) return this.json(response, 200, answer);
    const stream = this.#stream(topics, {
      event: (item) => {
        stream.end();
        this.json(response, 200, { events: [item], cursor: item.id, replay: 'complete' });
      },
      control: (type, { topic }, id) => {
        stream.end();
        this.json(response, 200, { events: [], cursor: id, replay: 'complete', ended: type === 'end' ? [topic] : undefined });
      },
      end: () => {
        clearTimeout(late);
        response.destroy();
      },
    });
    const end = stream.end;
    stream.end = () => {
      clearTimeout(late);
      this.streams.delete(stream);
    };
    const late = setTimeout(() => {
      stream.end();
      this.json(response, 200, { events: [], cursor: this.head, replay: 'complete' });
    }, wait);
    response.on('close', () => end());
  }
}
