// Keys of one letter. They rest while somebody writes, and can be turned off (WCAG 2.1.4).

const WRITES = 'input:not([type="checkbox"]), textarea, select, [contenteditable]';

/** Calls `actions[key]` when the key is pressed and nothing else wants it. */
export function keys(on, actions) {
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    // A dialog closes by itself.
    if (document.querySelector('dialog[open]')) return;
    const writing = event.target.closest?.(WRITES);
    if (writing && event.key !== 'Escape') return;
    if (event.key !== 'Escape' && !on()) return;
    const act = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  });
}
