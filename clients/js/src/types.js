// The types of events that a page wants to hear: an EventSource hands out those that it was asked for by name.

export function createTypes(names = []) {
  const types = new Set(['message', ...names]);
  const listeners = new Set();
  return {
    add(type) {
      if (types.has(type) || type[0] === '$') return;
      types.add(type);
      for (const listener of listeners) listener(type);
    },
    /** Calls `listener` with each, also with those that are added later. */
    each(listener, signal) {
      types.forEach(listener);
      listeners.add(listener);
      signal.addEventListener('abort', () => listeners.delete(listener));
    },
  };
}
