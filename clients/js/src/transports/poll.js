// The stream by long polling: works wherever plain requests do. A chain of polls is one stream in pieces.

import { parseJson } from '../items.js';
import { refusalOf } from '../refusal.js';

const LIMIT = 1000;

/** As `followByFetch`; `waitMs`: how long one poll waits for an event. */
export async function followByPolling({ request, fetch, init, signal, waitMs }, sink) {
  // The first one does not wait, so that the verdict is there at once.
  for (let wait = 0, isOpen, isLive; ; wait = waitMs) {
    const { url, headers } = await request('poll', { wait: `${wait}ms`, limit: LIMIT });
    const began = Date.now();
    const response = await fetch(url, { ...init, headers, signal });
    const text = await response.text();
    const answer = response.status === 200 && parseJson(text);
    if (!answer?.events) return refusalOf(response, text);
    const { events, cursor, ended = [], ...verdict } = answer;
    sink.heard();
    if (!isOpen || verdict.replay === 'gap') sink.item({ ...verdict, type: 'open' });
    isOpen = true;
    for (const event of events) sink.item({ ...event, type: 'event', cursor: event.id });
    for (const topic of ended) sink.item({ type: 'end', topic, cursor });
    sink.item({ type: 'cursor', cursor });
    if (!isLive && events.length < LIMIT) sink.item({ type: 'live', cursor });
    isLive ||= events.length < LIMIT;
    // The gateway drains, or a proxy answers in its place: not again at once.
    if (!events.length && !ended.length && verdict.replay !== 'gap' && Date.now() - began < wait / 2) return {};
  }
}
