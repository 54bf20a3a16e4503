// The page under test, as the tests see it: where it is served, and what it has seen.

import http from 'node:http';
import { once } from 'node:events';
import { freePort } from './ports.js';
import { PAGE_TARGET, fileAt } from './site.js';
import { until } from './until.js';

/**
 * Serves the page on a loopback port of its own, to the gateway another origin; `/session?token=` puts a token into a cookie,
 * `/redirect?status=&to=` sends to another address, `/relay` passes a stream on.
 */
export async function servePage() {
  const server = http.createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://page');
    if (pathname === '/session') {
      // What a login does. Cookies know no ports: this one goes to the gateway on the same host, too.
      response.writeHead(204, { 'set-cookie': `tidegate=${searchParams.get('token')}; Path=/; HttpOnly; SameSite=Strict` });
      response.end();
      return;
    }
    if (pathname === '/redirect') {
      response.writeHead(Number(searchParams.get('status')), { location: searchParams.get('to') });
      response.end();
      return;
    }
    if (pathname === '/relay') {
      // What a reverse proxy does that serves pages and streams under one origin.
      const { cookie, connection, host, origin, ...headers } = request.headers;
      const upstream = http.request(`${site.relay}/events${new URL(request.url, 'http://page').search}`, { headers });
      upstream.on('response', (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
        answer.on('close', () => response.destroy());
      });
      upstream.on('error', () => response.destroy());
      response.on('close', () => upstream.destroy());
      upstream.end();
      return;
    }
    const file = fileAt(pathname);
    response.writeHead(file ? 200 : 404, file && { 'content-type': file.type });
    response.end(file?.body);
  });
  const port = await freePort();
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const site = {
    port,
    url: `http://127.0.0.1:${port}${PAGE_TARGET}`,
    /** Where `/relay` gets its streams from. */
    relay: undefined,
    async close() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
  return site;
}

/** Waits until so many streams are open at the gateway. */
export function connectionsAt(gateway, count, options = {}) {
  const seen = () => gateway.connections();
  return until(`${count} open streams`, async () => (await seen()).length === count, { seen, ...options });
}

/** A page that follows topics. What it has seen is fetched piece by piece and kept here. */
export class Follower {
  events = [];
  controls = [];
  state = 'not begun';
  onopen = 0;
  errors = [];
  /** How many `EventSource`s the page has made. */
  sources = 0;
  #tab;

  constructor(tab) {
    this.#tab = tab;
  }

  /** Makes an `EventSource`; one that is there is closed before. */
  async follow(url, types = ['message'], options = {}) {
    // `follow` and `look` live in page.html.
    await this.#tab.evaluate((what) => globalThis.follow(what.url, what.types, what.options), { url, types, options });
  }

  async look() {
    const from = { event: this.events.length, control: this.controls.length };
    const { events, controls, ...rest } = JSON.parse(await this.#tab.evaluate((at) => globalThis.look(at), from));
    this.events.push(...events);
    this.controls.push(...controls);
    Object.assign(this, rest);
    return this;
  }

  /** The control events of one type, in order. */
  of(type) {
    return this.controls.filter((control) => control.type === type);
  }

  get opens() {
    return this.of('$open');
  }

  /** Waits until `condition(this)` holds. */
  until(what, condition, options = {}) {
    return until(`the page to see ${what}`, async () => condition(await this.look()), { seen: () => this.summary, ...options });
  }

  /** Waits for the n-th `$open`, and returns it. */
  async opened(times = 1, options = {}) {
    await this.until(`$open, ${times} in all`, () => this.opens.length >= times, options);
    return this.opens[times - 1];
  }

  /** Waits for at least so many events. */
  async received(count, options = {}) {
    await this.until(`${count} events`, () => this.events.length >= count, options);
    return this.events;
  }

  /** Lets the page `fetch`, and tells what came of it: `{status, type, headers, body}` as far as it may read them, or `{error}`. */
  async ask(url, init = {}) {
    return JSON.parse(await this.#tab.evaluate(({ url, init }) => globalThis.ask(url, init), { url, init }));
  }

  get summary() {
    return {
      state: this.state,
      errors: this.errors.length,
      events: this.events.length,
      last: this.events.at(-1),
      controls: this.controls.slice(-6),
    };
  }

  evaluate(body, argument) {
    return this.#tab.evaluate(body, argument);
  }
}
