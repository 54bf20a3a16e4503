// The stream by long polling: works wherever plain requests do. A chain of polls is one stream in pieces.

import { refusalOf } from '../refusal.js';

const LIMIT = 1000;
/** Between answers that bring nothing and come at once, as from a proxy that keeps them. */
const LULL_MS = 1000;

/** As `followByFetch`; `waitMs`: how long one poll waits for an event. */
export async function followByPolling({ request, env, init, signal, waitMs }, sink) {
  // The first one does not wait, so that the verdict is there at once.
  for (let wait = 0, open = false, live = false; ; ) {
    const { url, headers } = await request('poll', { wait: `${wait}ms`, limit: LIMIT });
    const began = Date.now();
    const response = await env.fetch(url, { ...init, headers, signal });
    const answer = response.status === 200 && (await response.clone().json().catch(() => undefined));
    if (!answer?.events) return refusalOf(response);
    sink.heard();
    const { events, cursor, ended = [], replay, reason, topics, missed_at_least } = answer;
    if (!open || replay === 'gap') sink.item({ type: 'open', replay, reason, topics, missed_at_least });
    open = true;
    for (const event of events) sink.item({ ...event, type: 'event', cursor: event.id });
    for (const topic of ended) sink.item({ type: 'end', topic, cursor });
    sink.item({ type: 'cursor', cursor });
    if (!live && events.length < LIMIT) {
      live = true;
      sink.item({ type: 'live', cursor });
    }
    if (signal.aborted) return {};
    const lull = events.length || !wait ? 0 : LULL_MS - (Date.now() - began);
    if (lull > 0) await new Promise((resolve) => setTimeout(resolve, lull));
    wait = waitMs;
  }
}
