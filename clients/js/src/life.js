// What happens to the page: it is hidden, frozen, kept by the browser while the user is elsewhere, and the network goes and
// comes.

/**
 * @param {{ suspend(): void, resume(): void, wake(): void, online(): void, signal: AbortSignal }} page `suspend` before the
 *   page stands still, since an open connection would keep it out of the back/forward cache, and fill up while nobody reads
 */
export function watchLife({ suspend, resume, wake, online, signal }) {
  const on = (target, type, listener) => target?.addEventListener?.(type, listener, { signal });
  const { document } = globalThis;
  on(globalThis, 'online', online);
  on(globalThis, 'pagehide', suspend);
  on(globalThis, 'pageshow', ({ persisted }) => persisted && resume());
  on(document, 'freeze', suspend);
  on(document, 'resume', resume);
  on(document, 'visibilitychange', () => document.visibilityState === 'visible' && wake());
}
