// The event stream by the browser's own EventSource.
//
// One EventSource is one connection: at its first error it is closed, and the link decides when to come back, as for every
// transport. It would come back by itself, but always after the same time, with a ticket that is spent, and in Firefox not
// at all from another origin.

import { itemOf } from '../items.js';

const CONTROL = ['open', 'live', 'cursor', 'heartbeat', 'gap', 'end', 'auth_expiring', 'drain', 'refused'];

/** As `followByFetch`; `{ dead: true }`: it met a status that a page cannot see. */
export async function followByEventSource({ request, EventSource, init, signal, types, enveloped }, sink) {
  const { url } = await request('', { heartbeat: 'event', retry: 'data' });
  if (signal.aborted) return {};
  return new Promise((resolve) => {
    const source = new EventSource(url, { withCredentials: init.credentials === 'include' });
    let heard;
    const hear = ({ type, data, lastEventId: id }) => {
      // The events of EventSource itself may share their names with those that are published, but have no data.
      if (data === undefined) return;
      heard = true;
      sink.item(itemOf({ event: type, id, data }, enveloped));
    };
    const end = () => {
      resolve({ dead: source.readyState === 2 && !heard });
      source.close();
    };
    source.onopen = sink.head;
    source.onerror = ({ data }) => data === undefined && end();
    for (const word of CONTROL) source.addEventListener(`$${word}`, hear);
    types.each((type) => source.addEventListener(type, hear), signal);
    signal.addEventListener('abort', end);
  });
}
