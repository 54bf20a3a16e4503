// A subscription: its URLs, its credentials, and the transports that this platform has.

import { createAddress } from './address.js';
import { createBackoff } from './backoff.js';
import { createCredentials } from './credentials.js';
import { createLadder } from './ladder.js';
import { createLink } from './link.js';
import { refusalOf } from './refusal.js';
import { followByFetch } from './transports/fetch.js';
import { followByPolling } from './transports/poll.js';
import { followByEventSource } from './transports/sse.js';
import { followByWebSocket } from './transports/ws.js';

const FOLLOW = { sse: followByEventSource, fetch: followByFetch, ws: followByWebSocket, poll: followByPolling };

/**
 * @param {string | URL} url
 * @param {import('../tidegate.d.ts').TidegateOptions} options
 * @param {ReturnType<typeof import('./types.js').createTypes>} types
 * @param {boolean} everyType the page wants to hear types that it does not name
 * @param {(name: string) => any} env what the platform has
 */
export function createSubscription(url, options, types, everyType, env) {
  const { topics, lastEventId, since, last, token, transports = ['sse', 'ws', 'poll'] } = options;
  const settings = { firstFrameMs: 5000, silenceMs: 45_000, upgradeMs: 60_000, retryMs: 3000, maxRetryMs: 60_000, ...options };
  const names = Array.isArray(topics) ? topics : Object.keys(topics ?? {});
  const address = createAddress(url, names, options.endpoints);
  const init = { cache: 'no-store', credentials: options.withCredentials ? 'include' : 'same-origin' };
  const fetch = env('fetch');
  const EventSource = env('EventSource');
  const WebSocket = env('WebSocket');

  const post = async (route, headers) => {
    const response = await fetch(address.beside(route), { ...init, method: 'POST', headers });
    if (!response.ok) throw await refusalOf(response);
    return response.json();
  };
  const credentials = createCredentials(options, async (headers) => (await post('ticket', headers)).ticket);

  // EventSource sends no headers, and hands out only the types that it knows.
  const isNative = EventSource && !(fetch && (options.headers || token || everyType));
  const kinds = transports
    .map((kind) => (kind === 'sse' && !isNative ? 'fetch' : kind))
    .filter((kind) => (kind === 'ws' ? WebSocket : kind === 'sse' || fetch));
  if (!kinds.length) throw new TypeError('no transport');

  const follow = (kind, line, sink) => {
    const isBare = kind === 'sse' || kind === 'ws';
    const enveloped = kind === 'sse' && address.topics.length > 1;
    const request = async (route, parameters) => {
      const cursor = line.cursor();
      const start = cursor ? { lastEventId: cursor } : { lastEventId, since, last };
      const ticket = await credentials.ticket(isBare);
      const headers = isBare || (await credentials.headers());
      line.begun();
      return { headers, url: address.follow(route, { ...start, ...parameters, ticket, envelope: enveloped ? 'json' : undefined }) };
    };
    const waitMs = settings.silenceMs / 2;
    return FOLLOW[kind]({ request, signal: line.signal, init, fetch, EventSource, WebSocket, types, enveloped, waitMs }, sink);
  };

  // What has been learned of the network outlives a link.
  const ladder = createLadder(kinds);
  const backoff = createBackoff(settings);

  return {
    address,
    settings,
    hasStart: !!(address.hasStart || lastEventId || since !== undefined || last),
    /** Follows from `cursor`. */
    open: (cursor, emit) =>
      createLink(
        {
          follow,
          credentials,
          settings,
          topics: address.topics,
          ladder,
          backoff,
          /** What sees the status of a refusal, in place of what does not. */
          seeing: fetch && 'fetch',
          /** The token of an open connection is about to expire. */
          async renew(connection) {
            if (typeof token !== 'function') return;
            credentials.forget('expiring');
            // If that fails, the next connect shows the new one.
            await credentials.headers().then((headers) => post(`connections/${connection}/token`, headers)).catch(() => {});
          },
        },
        cursor,
        emit,
      ),
  };
}
