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

/** How long a poll waits for an event; proxies cut silence. */
const POLL_MS = 25_000;

/** What there is to build on; `options.env` may give others. */
const platform = () => {
  const { EventSource, WebSocket, fetch, BroadcastChannel, sessionStorage, navigator } = globalThis;
  return { EventSource, WebSocket, fetch: fetch?.bind(globalThis), BroadcastChannel, sessionStorage, locks: navigator?.locks };
};

/** Asking for the storage throws where the user has forbidden it. */
export function createEnv(env) {
  try {
    return { ...platform(), ...env };
  } catch {
    return { ...env };
  }
}

/**
 * @param {string | URL} url
 * @param {import('../tidegate.d.ts').TidegateOptions} options
 * @param {{ types: ReturnType<typeof import('./types.js').createTypes>, everyType: boolean, env: any }} page
 */
export function createSubscription(url, options, { types, everyType, env }) {
  const { topics, withCredentials, transports = ['sse', 'ws', 'poll'] } = options;
  const settings = { firstFrameMs: 5000, silenceMs: 45_000, upgradeMs: 60_000, retryMs: 3000, maxRetryMs: 60_000, ...options };
  const address = createAddress(url, { ...options, topics: Array.isArray(topics) ? topics : Object.keys(topics ?? {}) });
  const init = { cache: 'no-store', credentials: withCredentials ? 'include' : 'same-origin' };
  const canStream = !!(env.fetch && globalThis.ReadableStream);

  const post = async (route, headers) => {
    const response = await env.fetch(address.beside(route), { ...init, method: 'POST', headers });
    if (!response.ok) throw await refusalOf(response);
    return response.json();
  };
  const credentials = createCredentials(options, async (headers) => (await post('ticket', headers)).ticket);

  // EventSource sends no headers, and hands out only the types that it knows.
  let native = env.EventSource && !(canStream && (options.headers || options.token || everyType));
  const offered = { sse: native || canStream, fetch: canStream, ws: env.WebSocket, poll: env.fetch };

  const follow = async (kind, { cursor, signal, begun }, sink) => {
    const request = async (route, parameters, bare) => {
      const start = cursor() ? { lastEventId: cursor() } : { ...address.start, ...pick(options) };
      const enveloped = kind === 'sse' && bare && address.topics.length > 1;
      const ticket = await credentials.ticket(bare);
      const headers = bare ? undefined : await credentials.headers();
      begun();
      return {
        enveloped,
        headers,
        url: address.follow(route, { ...start, ...parameters, ticket, envelope: enveloped ? 'json' : undefined }),
      };
    };
    const context = { request, env, init, signal, types, waitMs: Math.min(POLL_MS, settings.silenceMs / 2) };
    if (kind === 'sse' && !native) kind = 'fetch';
    const reason = await FOLLOW[kind](context, sink);
    if (!reason.dead || !canStream) return reason;
    // Fetch sees the status that EventSource does not.
    native = false;
    return followByFetch(context, sink);
  };

  const kinds = transports.filter((kind) => offered[kind]);
  if (!kinds.length) throw new DOMException(`none of the transports ${transports} is there`, 'NotSupportedError');

  return {
    address,
    /** Follows from `cursor`. */
    link: (cursor, emit) =>
      createLink(
        {
          follow,
          credentials,
          settings,
          topics: address.topics,
          ladder: createLadder(kinds),
          backoff: createBackoff(settings),
          online: () => globalThis.navigator?.onLine !== false,
          /** The token of an open connection is about to expire. */
          async renew(connection) {
            if (typeof options.token !== 'function') return;
            credentials.forget('expiring');
            const headers = await credentials.headers().catch(() => {});
            // If that fails, the next connect shows the new one.
            if (headers) await post(`connections/${connection}/token`, headers).catch(() => {});
          },
        },
        cursor,
        (message) => emit(message.type === 'open' && message.transport === 'sse' && !native ? { ...message, transport: 'fetch' } : message),
      ),
  };
}

const pick = ({ lastEventId, since, last }) =>
  lastEventId || since !== undefined || last !== undefined ? { lastEventId, since, last } : {};
