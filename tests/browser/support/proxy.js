// A TCP proxy between browser and gateway whose connections a test can cut, also in the middle of a frame,
// and which writes down what has really passed: each request with its headers, each frame that went out whole.
//
// It can also serve a page under the gateway's own origin, as the reverse proxy of a real deployment does.

import net from 'node:net';
import { once } from 'node:events';
import { freePort } from './ports.js';
import { FrameReader, RequestReader, ResponseReader } from './wire.js';

// A socket that is destroyed in the tick of its last write never delivers it, and the client would then
// resume before it for ever. So what was forwarded gets this long to reach the browser.
const DELIVERY_MS = 30;
const PAGE_TARGET = '/page';

/** One request and what came back: `{method, target, headers, lastEventId, status, responseHeaders, frames, midFrame, closed}`. */
class Exchange {
  status = undefined;
  responseHeaders = undefined;
  closed = false;
  #reader = new FrameReader();

  constructor({ method, target, headers }) {
    this.method = method;
    this.target = target;
    this.headers = headers;
    this.lastEventId = headers['last-event-id'];
  }

  get frames() {
    return this.#reader.frames;
  }

  get midFrame() {
    return this.#reader.midFrame;
  }

  /** Frames of one event type. */
  of(event) {
    return this.frames.filter((frame) => frame.event === event);
  }

  respond({ status, headers }) {
    this.status = status;
    this.responseHeaders = headers;
  }

  body(byte) {
    this.#reader.byte(byte);
  }
}

export class Proxy {
  /** Every exchange so far, in the order of the requests. */
  exchanges = [];
  /** Connections that were turned away, by `refuse` or because the gateway did not answer. */
  refused = 0;
  #server;
  #target;
  #page;
  #away = undefined;
  #clients = new Set();
  #held = [];
  #connections = new Set();
  #cut = undefined;

  /** Before the gateway on port `target`; serves the HTML `page` at `pageUrl`. */
  static async to(target, page) {
    const proxy = new Proxy();
    proxy.#target = target;
    proxy.#page = page;
    proxy.port = await freePort();
    proxy.#server = net.createServer((client) => proxy.#accept(client));
    proxy.#server.listen(proxy.port, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  get pageUrl() {
    return this.url + PAGE_TARGET;
  }

  /** The requests for a stream, in order. */
  get streams() {
    return this.exchanges.filter(({ method, target }) => method === 'GET' && target.startsWith('/events'));
  }

  /** Cuts every connection now, also those that a browser has opened ahead and said nothing on; not those that wait. */
  cut() {
    for (const connection of this.#connections) connection.destroy();
    for (const client of this.#clients) if (!this.#held.includes(client)) client.destroy();
  }

  /** From now on ends each new connection at once, until `comeBack`. */
  refuse() {
    this.#away = (client) => {
      this.refused += 1;
      client.destroy();
    };
  }

  /** From now on lets new connections wait for an answer, until `comeBack`. */
  hold() {
    this.#away = (client) => this.#held.push(client);
  }

  comeBack() {
    this.#away = undefined;
    for (const client of this.#held.splice(0)) this.#serve(client);
  }

  /** How many connections wait for `comeBack`. */
  get waiting() {
    return this.#held.length;
  }

  /**
   * Cuts the stream after at least `bytes` more bytes of its body, at the first byte that leaves a frame unfinished.
   * Resolves with the exchange that was cut.
   */
  cutInsideFrame(bytes) {
    if (this.#cut) throw new Error('a cut is already waiting');
    return new Promise((done) => {
      this.#cut = { left: bytes, done };
    });
  }

  async close() {
    this.#server.close();
    for (const client of this.#clients) client.destroy();
    if (this.#server.listening || this.#clients.size > 0) await once(this.#server, 'close');
  }

  #accept(client) {
    this.#clients.add(client);
    client.on('close', () => this.#clients.delete(client));
    client.on('error', () => client.destroy());
    (this.#away ?? ((one) => this.#serve(one)))(client);
  }

  #serve(client) {
    client.once('data', (first) => {
      if (first.toString('latin1').startsWith(`GET ${PAGE_TARGET} `)) {
        client.end(`HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\r\n${this.#page}`);
        return;
      }
      client.pause();
      client.unshift(first);
      const connection = new Connection(client, net.connect(this.#target, '127.0.0.1'), this);
      this.#connections.add(connection);
      connection.onEnd = () => this.#connections.delete(connection);
      client.resume();
    });
  }

  /** Called by a connection after each byte of a stream; true means: not one byte more. */
  isCutDue(exchange) {
    if (!this.#cut) return false;
    this.#cut.left -= 1;
    return this.#cut.left <= 0 && exchange.midFrame;
  }

  cutHappened(exchange) {
    const { done } = this.#cut;
    this.#cut = undefined;
    done(exchange);
  }
}

class Connection {
  onEnd = () => {};
  #client;
  #gateway;
  #pending = []; // exchanges whose response has not begun
  #current = undefined;
  #ended = false;

  constructor(client, gateway, proxy) {
    this.#client = client;
    this.#gateway = gateway;
    client.setNoDelay(true);
    gateway.setNoDelay(true);
    let reached = false;
    gateway.once('connect', () => (reached = true));

    const requests = new RequestReader((request) => {
      const exchange = new Exchange(request);
      this.#pending.push(exchange);
      proxy.exchanges.push(exchange);
    });
    client.on('data', (bytes) => {
      requests.push(bytes);
      if (!gateway.write(bytes)) client.pause();
    });
    gateway.on('drain', () => client.resume());

    let cutDue = false;
    const responses = new ResponseReader({
      onHead: (head) => {
        this.#current = this.#pending.shift();
        this.#current?.respond(head);
      },
      onBody: (byte) => {
        if (!/event-stream/.test(this.#current?.responseHeaders['content-type'] ?? '')) return;
        this.#current.body(byte);
        cutDue = proxy.isCutDue(this.#current);
      },
    });
    gateway.on('data', (bytes) => {
      for (let at = 0; at < bytes.length; at += 1) {
        responses.byte(bytes[at]);
        if (cutDue) {
          gateway.pause();
          gateway.removeAllListeners('data');
          client.write(bytes.subarray(0, at + 1), () => {
            setTimeout(() => {
              this.destroy();
              proxy.cutHappened(this.#current);
            }, DELIVERY_MS);
          });
          return;
        }
      }
      if (!client.write(bytes)) gateway.pause();
    });
    client.on('drain', () => gateway.resume());

    client.on('end', () => gateway.end());
    gateway.on('end', () => client.end());
    client.on('error', () => this.destroy());
    gateway.on('error', () => {
      if (!reached) proxy.refused += 1;
      this.destroy();
    });
    client.on('close', () => this.destroy());
    gateway.on('close', () => this.#end());
  }

  destroy() {
    this.#client.destroy();
    this.#gateway.destroy();
    this.#end();
  }

  #end() {
    if (this.#ended) return;
    this.#ended = true;
    for (const exchange of [this.#current, ...this.#pending]) if (exchange) exchange.closed = true;
    this.onEnd();
  }
}
