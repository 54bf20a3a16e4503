// The ways by which the client may follow, each by itself.

/** Name of each, as `source.transport` says it, and the options that allow no other. */
export const WAYS = {
  // An EventSource keeps the gateway's `retry` to itself, so the client comes back after what it takes for usual.
  sse: { transports: ['sse'], retryMs: 300 },
  fetch: { transports: ['sse'], headers: { 'x-way': 'fetch' } },
  ws: { transports: ['ws'] },
  poll: { transports: ['poll'] },
};

/** The requests by which a way has followed, in order. */
export function requests(proxy, way) {
  return proxy.of({ sse: '/events', fetch: '/events', ws: '/ws', poll: '/poll' }[way]);
}
