// Messages of a link, handed to the page as events: once, and in order.

import { isAfter } from './cursor.js';

/** Events of the source itself, which have an `on…` property. */
export const OWN = ['open', 'error', 'gap', 'live', 'end', 'expiring', 'state'];

/**
 * A function that takes the messages of a link, of this tab or of another one.
 * @param {EventTarget & Record<string, any>} source
 * @param {{ topics: any, isEnveloped: boolean, store: (cursor: string) => void }} options
 */
export function createDispatch(source, { topics, isEnveloped, store }) {
  const { origin } = new URL(source.url);
  // No topic has the name of a method by accident.
  const handlers = { __proto__: null, ...topics };

  const tell = ({ type, missed_at_least: missedAtLeast, in_ms: inMs, ...properties }) => {
    const event = Object.assign(new Event(type), { missedAtLeast, inMs, ...properties });
    source.dispatchEvent(event);
    call(source[`on${type}`], source, event);
  };

  const become = (readyState, transport = source.transport) => {
    if (source.readyState === readyState && source.transport === transport) return;
    Object.assign(source, { readyState, transport });
    tell({ type: 'state', readyState, transport });
  };

  const hand = ({ id, topic, event: type, data }) => {
    if (isEnveloped) data = JSON.stringify({ id, topic, event: type, data });
    const event = new MessageEvent(type, { data, lastEventId: id, origin });
    event.topic = topic;
    source.dispatchEvent(event);
    if (type === 'message') call(source.onmessage, source, event);
    call(handlers[topic], source, event);
  };

  return ({ cursor, prev, isNew, ...message }) => {
    let { type } = message;
    const isAhead = isAfter(cursor, source.lastEventId);
    if (source.readyState > 1 || (type === 'event' && !isAhead)) return;
    if (isNew || isAhead) store((source.lastEventId = cursor ?? ''));
    if (type === 'event') return hand(message);
    if (type === 'closed') {
      become(2);
      source.close();
      // As EventSource does, also at the end of all topics.
      return tell({ ...message, type: 'error' });
    }
    if (type === 'open') {
      source.connection = message.connection;
      become(1, message.transport);
    }
    if (type === 'error' || type === 'suspended') become(0);
    // A handler may have closed it.
    if (OWN.includes(type) && source.readyState < 2) tell(message);
    if (message.replay === 'gap' && source.readyState < 2) tell({ ...message, type: 'gap' });
  };
}

/** What a handler throws is the page's, and does not disturb the stream. */
function call(handler, source, event) {
  try {
    handler?.call?.(source, event);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
