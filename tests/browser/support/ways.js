// The ways by which the client may follow, each by itself.

/** Name of each, as `source.transport` says it, and the options that allow no other. */
export const WAYS = {
  sse: { transports: ['sse'] },
  fetch: { transports: ['sse'], headers: { 'x-way': 'fetch' } },
  ws: { transports: ['ws'] },
  poll: { transports: ['poll'] },
};

/** The requests by which a way has followed, in order. */
export function requests(proxy, way) {
  return proxy.of({ sse: '/events', fetch: '/events', ws: '/ws', poll: '/poll' }[way]);
}
