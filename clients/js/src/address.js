// The URLs of a subscription.

/** What is said by options, or for one transport alone. */
const OURS = ['topic', 'lastEventId', 'last_event_id', 'lastEventID', 'since', 'last', 'envelope', 'heartbeat', 'control'];

/**
 * @param {string | URL} url of the event stream; the other routes are beside it
 * @param {{ topics?: string[], endpoints?: Record<string, string> }} options
 */
export function createAddress(url, { topics = [], endpoints = {} }) {
  const base = new URL(url, globalThis.location?.href);
  const said = Object.fromEntries(base.searchParams);
  const named = base.searchParams.getAll('topic').flatMap((list) => list.split(','));
  topics = [...new Set([...named.filter(Boolean), ...topics])];
  return {
    url: base.href,
    topics,
    /** The page wants envelopes, whatever they come by. */
    envelope: said.envelope === 'json',
    /** Where the URL says to start. */
    start: { lastEventId: said.lastEventId || said.last_event_id || said.lastEventID, since: said.since, last: said.last },
    /** The URL of a route that follows topics. */
    follow(route, parameters) {
      const to = route === 'events' ? new URL(base) : new URL(endpoints[route] ?? route, base);
      to.search = base.search;
      for (const name of OURS) to.searchParams.delete(name);
      for (const topic of topics) to.searchParams.append('topic', topic);
      for (const [name, value] of Object.entries(parameters)) {
        if (value !== undefined && value !== '') to.searchParams.set(name, value);
      }
      return to.href;
    },
    /** The URL of another route. */
    beside: (route) => new URL(endpoints[route] ?? route, base).href,
  };
}
