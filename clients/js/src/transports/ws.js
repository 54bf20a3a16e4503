// The stream over WebSocket, for where event streams do not get through.

import { parseJson } from '../items.js';
import { afterSeconds } from '../refusal.js';

/** What the close codes say that a page could not see otherwise. */
const STATUS = { 1008: 403, 1013: 503, 4401: 401 };

/** As `followByFetch`. */
export async function followByWebSocket({ request, WebSocket, signal }, sink) {
  const { url } = await request('ws');
  if (signal.aborted) return {};
  return new Promise((resolve) => {
    const socket = new WebSocket(url.replace(/^http/, 'ws'));
    const end = () => {
      socket.close();
      resolve({});
    };
    let told;
    sink.ping(() => socket.send('{"type":"ping"}'));
    socket.onopen = sink.head;
    socket.onmessage = ({ data }) => {
      sink.heard();
      const item = parseJson(data);
      if (item?.type === 'error') told = item;
      else if (item) sink.item(item);
    };
    // An error says nothing, and is followed by the close.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) =>
      resolve({
        status: STATUS[code],
        code: told?.code ?? reason,
        detail: told?.detail,
        retryMs: afterSeconds(told?.retry_after),
        done: reason === 'finished',
      });
    signal.addEventListener('abort', end);
  });
}
