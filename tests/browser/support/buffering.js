// A proxy as some networks have it: it passes small answers, but holds an event stream back until it ends or a buffer is full,
// so that a page sees nothing of it for hours. It can be told to let no WebSocket through, and to stop buffering.

import http from 'node:http';
import net from 'node:net';
import { once } from 'node:events';
import { freePort } from './ports.js';

const BUFFER_BYTES = 64 * 1024;

export class BufferingProxy {
  /** Whether event streams are held back; those that are, go on when it is set to false. */
  #buffers = true;
  /** Whether WebSockets pass. */
  upgrades;
  /** Whether the head of a stream is held back with its body. */
  #holdsHead;
  #target;
  #server;
  #sockets = new Set();
  #held = new Set();

  /** Before what listens on `target`. */
  static async before(target, { upgrades = true, holdsHead = false, buffers = true } = {}) {
    const proxy = new BufferingProxy();
    proxy.#target = target;
    proxy.upgrades = upgrades;
    proxy.#holdsHead = holdsHead;
    proxy.#buffers = buffers;
    proxy.port = await freePort();
    proxy.#server = http.createServer((request, response) => proxy.#pass(request, response));
    proxy.#server.on('upgrade', (request, socket, head) => proxy.#upgrade(request, socket, head));
    proxy.#server.on('connection', (socket) => proxy.#keep(socket));
    proxy.#server.listen(proxy.port, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get buffers() {
    return this.#buffers;
  }

  set buffers(value) {
    this.#buffers = value;
    if (!value) for (const flush of this.#held) flush();
  }

  async close() {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    if (this.#server.listening) await once(this.#server, 'close');
  }

  #keep(socket) {
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
  }

  #pass(request, response) {
    const { method, url: path, headers } = request;
    const upstream = http.request({ host: '127.0.0.1', port: this.#target, method, path, headers, agent: false });
    upstream.on('error', () => {
      if (!response.headersSent) response.writeHead(502);
      response.end();
    });
    upstream.on('response', (answer) => {
      const isStream = /event-stream/.test(answer.headers['content-type'] ?? '');
      const begin = () => {
        if (!response.headersSent) response.writeHead(answer.statusCode, answer.headers).flushHeaders();
      };
      if (!isStream || !this.#buffers) {
        begin();
        answer.pipe(response);
      } else {
        this.#hold(answer, response, begin);
      }
      // A stream that is cut behind is cut before, too.
      answer.on('close', () => answer.complete || response.destroy());
    });
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
  }

  #hold(answer, response, begin) {
    if (!this.#holdsHead) begin();
    let held = [];
    let bytes = 0;
    const flush = () => {
      if (held.length === 0) return;
      begin();
      for (const one of held) response.write(one);
      held = [];
      bytes = 0;
    };
    this.#held.add(flush);
    response.on('close', () => this.#held.delete(flush));
    answer.on('data', (one) => {
      held.push(one);
      bytes += one.length;
      if (bytes >= BUFFER_BYTES || !this.#buffers) flush();
    });
    answer.on('end', () => {
      flush();
      begin();
      response.end();
    });
  }

  #upgrade(request, socket, head) {
    if (!this.upgrades) {
      socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
      return;
    }
    const upstream = net.connect(this.#target, '127.0.0.1', () => {
      const lines = [];
      for (let n = 0; n < request.rawHeaders.length; n += 2) lines.push(`${request.rawHeaders[n]}: ${request.rawHeaders[n + 1]}`);
      upstream.write(`${request.method} ${request.url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
      upstream.write(head);
      upstream.pipe(socket).pipe(upstream);
    });
    this.#keep(upstream);
    upstream.on('close', () => socket.destroy());
    socket.on('close', () => upstream.destroy());
  }
}
