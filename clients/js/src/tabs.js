// One connection for all tabs: whoever holds a lock leads, and hands on what its link says; the others follow.
//
// Every message leads on from a cursor (`prev`). A follower that is before it has missed something, or has joined late: it
// opens a link of its own until that has reached the leader's cursor, and follows again. So it never matters which messages
// a tab got of a leader that went away, and a tab that cannot hear its leader is served all the same.

import { isAfter } from './cursor.js';

/** Time for the answers of other tabs. */
const ANSWER_MS = 150;
/** Time for the answer of a leader that is silent: it is there, or gone. */
const LEADER_MS = 3000;

/**
 * As a link.
 * @param {object} options
 * @param {string} options.name what the tabs that share have in common
 * @param {() => string | undefined} options.cursor how far this tab is
 * @param {boolean} options.hasStart this tab does not begin now, but with what was before
 * @param {(cursor: string | undefined, emit: (message: object) => void) => any} options.open makes a link
 * @param {(message: object) => void} emit
 */
export function joinTabs({ name, locks, BroadcastChannel, silenceMs, hasStart, cursor, open }, emit) {
  const me = Math.random();
  const over = new AbortController();
  const { signal } = over;
  const channel = new BroadcastChannel(name);
  let link; // of this tab
  let leading;
  let connection; // of the link that leads, while it is open
  let seen; // the leader's cursor
  let heard = 0; // when
  let joined; // the leader has said that it is open
  let earliest; // cursor of all tabs
  let asking; // timer

  const say = (message) => signal.aborted || channel.postMessage(message);

  const onOwn = (message) => {
    const { type, transport } = message;
    if (type === 'open') connection = { type, transport, connection: message.connection };
    if (type === 'error') connection = undefined;
    if (leading) say(message);
    emit(message);
    if (!leading && link && seen && message.cursor && !isAfter(seen, message.cursor)) {
      link.close();
      link = undefined;
      joined = true;
    }
  };

  const connect = (from) => {
    link ??= open(from, onOwn);
    link.start();
  };

  const follow = (message) => {
    const mine = cursor();
    heard = Date.now();
    if (message.isNew || isAfter(message.cursor, seen)) seen = message.cursor;
    if (message.type === 'open') joined = true;
    // A link of its own tells this tab everything.
    if ((link || !joined) && message.type !== 'closed') return;
    if (!message.isNew && (mine ? isAfter(message.prev, mine) : hasStart)) connect(mine);
    else emit({ replay: mine ? 'complete' : 'none', ...message });
  };

  channel.onmessage = ({ data: message }) => {
    const { type, to } = message;
    if (type === 'ask') {
      if (leading) say({ type: 'cursor', ...connection, to: message.from, prev: link.cursor, cursor: link.cursor });
    } else if (type === 'who') say({ type: 'mine', cursor: cursor() });
    else if (type === 'mine') {
      if (message.cursor && isAfter(earliest, message.cursor)) earliest = message.cursor;
    } else if (!leading && (!to || to === me)) follow(message);
  };

  locks
    .request(name, { signal }, async () => {
      earliest = cursor();
      if (heard) {
        // The last leader's messages may have come to some tabs, and not to others.
        say({ type: 'who' });
        await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
      }
      if (signal.aborted) return;
      leading = true;
      connect(earliest);
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
    })
    .catch(() => {});

  const isServed = () => leading || link || (joined && Date.now() - heard <= silenceMs);

  const check = () => {
    if (isServed()) return;
    say({ type: 'ask', from: me });
    asking ??= setTimeout(() => {
      asking = undefined;
      if (isServed()) return;
      seen = undefined;
      connect(cursor());
    }, LEADER_MS);
  };
  const ticking = setInterval(check, silenceMs / 4);

  return {
    start: check,
    close() {
      over.abort();
      clearInterval(ticking);
      clearTimeout(asking);
      link?.close();
      channel.close();
    },
    wake() {
      check();
      link?.wake();
    },
    online: () => link?.online(),
  };
}
