// The event stream by fetch: where headers are needed, where every type of event is wanted, and in Node.

import { itemOf } from '../items.js';
import { frameReader } from '../parse.js';
import { refusalOf } from '../refusal.js';

/** Follows until the end, and says why it ended. */
export async function followByFetch({ request, fetch, init, signal }, sink) {
  const { url, headers } = await request('', { heartbeat: 'event' });
  const response = await fetch(url, { ...init, headers: { ...headers, Accept: 'text/event-stream' }, signal });
  if (response.status !== 200 || !/event-stream/.test(response.headers.get('content-type'))) {
    return refusalOf(response);
  }
  sink.head();
  const decoder = new TextDecoder();
  const read = frameReader((frame) => sink.item(itemOf(frame)));
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return {};
    sink.heard();
    read(decoder.decode(value, { stream: true }));
  }
}
