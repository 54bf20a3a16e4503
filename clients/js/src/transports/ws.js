// The stream over WebSocket, for where event streams do not get through.

import { parseJson } from '../items.js';
import { afterSeconds } from '../refusal.js';

/** What the close codes say that a page could not see otherwise. */
const STATUS = { 1008: 403, 1013: 503, 4401: 401 };

/** As `followByFetch`. */
export async function followByWebSocket({ request, env, signal }, sink) {
  const { url } = await request('ws', {}, true);
  return new Promise((resolve) => {
    if (signal.aborted) return resolve({});
    const socket = new env.WebSocket(url.replace(/^http/, 'ws'));
    let told = {};
    sink.ping(() => socket.readyState === 1 && socket.send('{"type":"ping"}'));
    socket.onopen = () => sink.head();
    socket.onmessage = ({ data }) => {
      sink.heard();
      const item = parseJson(data) ?? {};
      if (item.type === 'error') {
        told = { code: item.code, detail: item.detail, retryMs: afterSeconds(item.retry_after) };
      } else sink.item(item);
    };
    // An error says nothing, and is followed by the close.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) =>
      resolve({ ...told, code: told.code ?? (reason || undefined), status: STATUS[code], done: code === 1000 && reason === 'finished' });
    signal.addEventListener('abort', () => {
      socket.close();
      resolve({});
    });
  });
}
