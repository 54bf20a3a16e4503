// A TCP proxy between browser and gateway whose connections a test can cut, also in the middle of a frame,
// and which writes down what has really passed: each request with its headers, each frame that went out whole.
//
// It can also serve a page under the gateway's own origin, as the reverse proxy of a real deployment does.

import net from 'node:net';
import { once } from 'node:events';
import { freePort } from './ports.js';
import { PAGE_TARGET, fileAt } from './site.js';
import { FrameReader, MessageReader, RequestReader, ResponseReader } from './wire.js';

// A socket that is destroyed in the tick of its last write never delivers it, and the client would then
// resume before it for ever. So what was forwarded gets this long to reach the browser.
const DELIVERY_MS = 30;
const FOLLOWED = /^\/(events|ws|poll)\b/;

/** One request and what came back; of a stream its `frames`, of a WebSocket its `messages`, of anything else its `text`. */
class Exchange {
  status = undefined;
  responseHeaders = undefined;
  closed = false;
  /** Bytes of the body so far. */
  bytes = 0;
  #kind = undefined;
  #frames = new FrameReader();
  #messages = new MessageReader();
  #text = [];

  constructor({ method, target, headers }) {
    this.method = method;
    this.target = target;
    this.headers = headers;
    this.lastEventId = headers['last-event-id'];
  }

  get frames() {
    return this.#frames.frames;
  }

  get messages() {
    return this.#messages.messages.map((text) => JSON.parse(text));
  }

  get text() {
    return Buffer.from(this.#text).toString('utf8');
  }

  /** Whether a frame, or the one answer, has begun and not ended. */
  get midFrame() {
    if (this.#kind === 'stream') return this.#frames.midFrame;
    if (this.#kind === 'messages') return this.#messages.midFrame;
    return this.bytes > 0 && this.bytes < Number(this.responseHeaders['content-length']);
  }

  /** The bytes of a frame that has not ended, a character for each. */
  get unfinished() {
    return this.#frames.unfinished;
  }

  /** Frames of one event type. */
  of(event) {
    return this.frames.filter((frame) => frame.event === event);
  }

  respond({ status, headers }) {
    this.status = status;
    this.responseHeaders = headers;
    if (status === 101) this.#kind = 'messages';
    else this.#kind = /event-stream/.test(headers['content-type'] ?? '') ? 'stream' : 'text';
  }

  body(byte) {
    this.bytes += 1;
    if (this.#kind === 'stream') this.#frames.byte(byte);
    else if (this.#kind === 'messages') this.#messages.byte(byte);
    else this.#text.push(byte);
  }
}

export class Proxy {
  /** Every exchange so far, in the order of the requests. */
  exchanges = [];
  /** Connections that were turned away, by `refuse` or because the gateway did not answer. */
  refused = 0;
  #server;
  #target;
  /** Whether what the gateway answers is passed on byte by byte. */
  drips = false;
  #away = undefined;
  #clients = new Set();
  #held = [];
  #connections = new Set();
  #cut = undefined;

  /** Before the gateway on port `target`; serves the pages of the tests, too, at `pageUrl`. */
  static async to(target) {
    const proxy = new Proxy();
    proxy.#target = target;
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
    return this.of('/events');
  }

  /** The requests for what is followed by some path, in order. */
  of(path) {
    return this.exchanges.filter(({ method, target }) => method === 'GET' && target.split('?')[0] === path);
  }

  /** Cuts every connection now, also those that a browser has opened ahead and said nothing on; not those that wait. */
  cut() {
    for (const connection of this.#connections) connection.destroy();
    for (const client of this.#clients) if (!this.#held.includes(client)) client.destroy();
  }

  /** As `cut`, but every stream ends as by a server that has no more to say: a browser reads all that came before that. */
  finish() {
    for (const connection of this.#connections) connection.finish();
    for (const client of this.#clients) if (!client.writableEnded && !this.#held.includes(client)) client.destroy();
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
    let left = bytes;
    return this.cutWhen(({ midFrame }) => {
      left -= 1;
      return left <= 0 && midFrame;
    });
  }

  /** From now on nothing passes over the connections that are there, in either direction, and nobody is told. */
  swallow() {
    for (const connection of this.#connections) connection.swallow();
  }

  /** Cuts after the first byte of a stream, a message or a poll's answer for which `isDue(exchange)` holds; resolves with it. */
  cutWhen(isDue) {
    if (this.#cut) throw new Error('a cut is already waiting');
    return new Promise((done) => {
      this.#cut = { isDue, done };
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
    return this.#cut !== undefined && FOLLOWED.test(exchange.target) && this.#cut.isDue(exchange);
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
  #responses;
  #ended = false;

  constructor(client, gateway, proxy) {
    this.#client = client;
    this.#gateway = gateway;
    client.setNoDelay(true);
    gateway.setNoDelay(true);
    let reached = false;
    gateway.once('connect', () => (reached = true));

    const requests = new RequestReader((request) => {
      const file = request.method === 'GET' && fileAt(request.target);
      if (file) {
        // Browsers send a request at a time, so nothing of the gateway is on its way here.
        client.write(`HTTP/1.1 200 OK\r\nContent-Type: ${file.type}\r\nContent-Length: ${file.body.length}\r\n\r\n`);
        client.write(file.body);
        return false;
      }
      const exchange = new Exchange(request);
      this.#pending.push(exchange);
      proxy.exchanges.push(exchange);
      return true;
    });
    client.on('data', (bytes) => {
      if (!gateway.write(requests.push(bytes))) client.pause();
    });
    gateway.on('drain', () => client.resume());

    let cutDue = false;
    const responses = new ResponseReader({
      onHead: (head) => {
        this.#current = this.#pending.shift();
        this.#current?.respond(head);
        if (head.status === 101) requests.upgraded = true;
      },
      onBody: (byte) => {
        if (!this.#current) return;
        this.#current.body(byte);
        cutDue = proxy.isCutDue(this.#current);
      },
    });
    this.#responses = responses;
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
      if (proxy.drips) drip(bytes);
      else if (!client.write(bytes)) gateway.pause();
    });
    // Each byte in a segment of its own: the next one is written when the system has taken the one before.
    const drip = (bytes) => {
      gateway.pause();
      const next = (at) => {
        if (at === bytes.length) gateway.resume();
        else client.write(bytes.subarray(at, at + 1), () => setImmediate(next, at + 1));
      };
      next(0);
    };
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

  /** As a network does that has forgotten the connection: bytes go nowhere, and neither end is told. */
  swallow() {
    for (const socket of [this.#client, this.#gateway]) {
      for (const event of ['data', 'end', 'drain']) socket.removeAllListeners(event);
      socket.on('data', () => {});
      socket.resume();
    }
  }

  /** Ends a stream with its last chunk; where there is none, nothing is left to say. */
  finish() {
    for (const socket of [this.#client, this.#gateway]) socket.removeAllListeners('data');
    this.#gateway.destroy();
    this.#client.end(this.#responses.betweenChunks ? '0\r\n\r\n' : '');
    this.#client.resume();
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
