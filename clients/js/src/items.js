// What a transport hears, in one form for all of them: that of a message over WebSocket.
//
// `{ type: 'event', id, topic, event, data }`, or what the gateway says: `open`, `gap`, `live`, `end`, `cursor`, `drain`,
// `refused`, `auth_expiring`, `heartbeat`. What moves the cursor has a `cursor`.

/** The data of an object, or nothing where it is none. */
export function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The item of a frame of an event stream; `enveloped`: its data is the envelope of the event. */
export function itemOf({ id, event, data, topic, retry }, enveloped) {
  const cursor = id || undefined;
  if (event?.[0] === '$') return { retry, ...parseJson(data), type: event.slice(1), id, cursor };
  if (data === undefined) return { type: 'cursor', id, cursor };
  const inside = enveloped && parseJson(data);
  return { type: 'event', id, cursor, topic, event: event || 'message', data, ...inside };
}
