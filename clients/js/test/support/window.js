// What a page has around it: the events of its life, storage, locks between tabs, and messages. Node has only the last of them.

/** Puts a window and a document in place until the end of the test. */
export function openWindow(test) {
  const target = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  const methods = ['addEventListener', 'removeEventListener'];
  for (const name of methods) globalThis[name] = target[name].bind(target);
  const counts = { added: 0 };
  globalThis.document = document;
  const close = () => {
    for (const name of methods) delete globalThis[name];
    delete globalThis.document;
  };
  test.after(close);
  return {
    document,
    counts,
    tell: (type, properties) => target.dispatchEvent(Object.assign(new Event(type), properties)),
    page: (type, visibilityState = document.visibilityState) => {
      document.visibilityState = visibilityState;
      document.dispatchEvent(new Event(type));
    },
  };
}

/** sessionStorage, as far as it is used. */
export function createStorage() {
  const items = new Map();
  return { items, getItem: (key) => items.get(key) ?? null, setItem: (key, value) => items.set(key, `${value}`) };
}

/** BroadcastChannel of one origin; a message has come to all others before any timer is over, however busy the machine. */
export function createChannels() {
  const open = new Set();
  return class Channel {
    onmessage = null;
    #name;
    constructor(name) {
      this.#name = name;
      open.add(this);
    }
    postMessage(message) {
      for (const other of [...open].filter((one) => one !== this && one.#name === this.#name)) {
        const data = structuredClone(message);
        queueMicrotask(() => open.has(other) && other.onmessage?.({ data }));
      }
    }
    close() {
      open.delete(this);
    }
  };
}

/** navigator.locks of one origin: exclusive locks, in the order of the requests. */
export function createLocks() {
  const queues = new Map();
  const next = (name) => {
    const [first] = queues.get(name) ?? [];
    if (!first || first.held) return;
    first.held = true;
    Promise.resolve(first.callback({ name })).finally(() => {
      queues.get(name).shift();
      first.resolve();
      next(name);
    });
  };
  return {
    queues,
    request(name, { signal }, callback) {
      return new Promise((resolve, reject) => {
        const request = { callback, resolve, held: false };
        const queue = queues.get(name) ?? [];
        queues.set(name, queue);
        queue.push(request);
        signal?.addEventListener('abort', () => {
          if (request.held) return;
          queue.splice(queue.indexOf(request), 1);
          reject(signal.reason);
        });
        queueMicrotask(() => next(name));
      });
    },
  };
}
