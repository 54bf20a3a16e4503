// The event stream by the browser's own EventSource.
//
// One EventSource is one connection: at its first error it is closed, and the link decides when to come back, as for every
// transport. It would come back by itself, but always after the same time, with a ticket that is spent, and in Firefox not
// at all from another origin. That it cannot read `retry:` does not matter: the gateway says it in the data, too.

import { itemOf } from '../items.js';

const CONTROL = ['open', 'live', 'cursor', 'heartbeat', 'gap', 'end', 'auth_expiring', 'drain', 'refused'].map((word) => `$${word}`);

/** As `followByFetch`; `{ dead: true }`: a status that a page cannot see. */
export async function followByEventSource({ request, env, init, signal, types }, sink) {
  const { url, enveloped } = await request('events', { heartbeat: 'event' }, true);
  return new Promise((resolve) => {
    if (signal.aborted) return resolve({});
    const source = new env.EventSource(url, { withCredentials: init.credentials === 'include' });
    let heard = false;
    const hear = ({ type, data, lastEventId }) => {
      // The events of EventSource itself, which share their names with those that are published, have no data.
      if (data === undefined) return;
      heard = true;
      sink.item(itemOf({ event: type, id: lastEventId, data }, enveloped));
    };
    source.onopen = () => sink.head();
    source.onerror = (event) => {
      if (event.data !== undefined) return;
      const dead = source.readyState === 2 && !heard;
      source.close();
      resolve({ dead });
    };
    for (const type of CONTROL) source.addEventListener(type, hear);
    types.each((type) => source.addEventListener(type, hear), signal);
    signal.addEventListener('abort', () => {
      source.close();
      resolve({});
    });
  });
}
