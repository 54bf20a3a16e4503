// The URLs of a subscription.

/** Where to start, in a query. */
const STARTS = ['lastEventId', 'last_event_id', 'lastEventID', 'since', 'last'];

/**
 * @param {string | URL} url of the event stream; the other routes are beside it
 * @param {string[]} more topics
 * @param {Record<string, string>} endpoints
 */
export function createAddress(url, more, endpoints) {
  const base = new URL(url, globalThis.location?.href);
  const { searchParams } = base;
  const topics = new Set([...searchParams.getAll('topic').flatMap((list) => list.split(',')), ...more]);
  topics.delete('');
  return {
    url: base.href,
    topics: [...topics],
    /** The page wants envelopes, whatever they come by. */
    isEnveloped: searchParams.get('envelope') === 'json',
    hasStart: STARTS.some((name) => searchParams.get(name)),
    /** The URL of a route beside that of the stream, which is ''. */
    beside: (route) => new URL(endpoints?.[route] ?? route, base),
    /** The URL of a route that follows the topics; the parameters go before those of the page. */
    follow(route, parameters) {
      const to = this.beside(route);
      to.search = base.search;
      const query = to.searchParams;
      // Elsewhere they are refused, and without `$` events there would be no `$open`.
      for (const name of ['topic', 'envelope', 'heartbeat', 'control']) query.delete(name);
      if (STARTS.some((name) => parameters[name] !== undefined)) for (const name of STARTS) query.delete(name);
      for (const topic of topics) query.append('topic', topic);
      for (const name in parameters) if (parameters[name] !== undefined) query.set(name, parameters[name]);
      return to.href;
    },
  };
}
