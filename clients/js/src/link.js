// One subscription over changing connections: which transport, from which cursor, and when to come back.
//
// At most two connections are open: the main one, which is listened to, and for moments a second one, a trial of a better
// transport or a fresh path. The trial resumes from the cursor and takes over with its `open`; what both have said is handed
// on once, because nothing is handed on that is not after the cursor.
//
// Every transport is left to this file to reconnect, so that back-off, fallback and cursor are the same for all of them.

import { isAfter } from './cursor.js';
import { isFinal, SILENCE, SILENT } from './refusal.js';

/** What hears nothing new is asked once more, for so long, before it is given up: a page that wakes has a queue to read. */
const DOUBT_MS = 3000;
/** Refused credentials in a row, each renewed, after which the page's are believed to be bad. */
const DENIALS = 4;
/** The longest pause between trials of a better transport. */
const MAX_UPGRADE_MS = 1_800_000;

/** All topics have ended. */
const FINISHED = { code: 'finished' };

/** Verdicts after which ids may be smaller than before: the log is another one. */
const STARTS_ANEW = ['unknown', 'reset'];

/**
 * @param {object} options
 * @param {(kind: string, context: object, sink: object) => Promise<object>} options.follow a transport, until it ends
 * @param {ReturnType<typeof import('./ladder.js').createLadder>} options.ladder
 * @param {ReturnType<typeof import('./backoff.js').createBackoff>} options.backoff
 * @param {ReturnType<typeof import('./credentials.js').createCredentials>} options.credentials
 * @param {string[]} options.topics those that are known before a connect
 * @param {(message: object) => void} emit what happened, as messages that other tabs understand as well
 */
export function createLink({ follow, ladder, backoff, credentials, settings, topics, renew, seeing }, cursor, emit) {
  let main;
  let trial;
  let started = false;
  let connecting; // timer
  let upgrading; // timer
  let ticking; // timer
  let doubting; // timer
  let notBefore = 0;
  let denials = 0;
  let silences = 0;
  let { upgradeMs } = settings;
  let ended = new Set();

  const drop = (line) => {
    clearTimeout(line?.timer);
    line?.abort.abort();
  };

  /** Time for the first frame, which the gateway sends at once: a proxy that has it does not hand it on. */
  const expect = (line, ms) => {
    clearTimeout(line.timer);
    if (!line.opened) line.timer = setTimeout(() => over(line, { code: SILENT }), ms);
  };

  const dial = (kind) => {
    const line = { kind, heard: Date.now(), abort: new AbortController() };
    const { signal } = line.abort;
    const sink = {
      heard() {
        line.heard = Date.now();
        line.doubted = false;
      },
      /** The head has come, the frames have to follow. */
      head() {
        sink.heard();
        expect(line, settings.firstFrameMs);
      },
      ping: (ping) => (line.ping = ping),
      item(item) {
        if (signal.aborted) return;
        sink.heard();
        hear(line, item);
      },
    };
    const context = {
      signal,
      cursor: () => cursor,
      /** The credentials are there, and the request begins. A connect may be slow, and slower the worse the network is. */
      begun: () => signal.aborted || expect(line, settings.firstFrameMs * 2 ** Math.min(ladder.rounds + 1, 4)),
    };
    follow(kind, context, sink).then(
      (reason) => over(line, reason),
      (error) => over(line, { detail: error.message, ...error }),
    );
    return line;
  };

  const connect = () => {
    clearTimeout(connecting);
    connecting = undefined;
    main = dial(ladder.kind);
  };

  const connectIn = (ms) => {
    clearTimeout(connecting);
    connecting = setTimeout(connect, ms);
  };

  const close = () => {
    started = false;
    drop(main);
    drop(trial);
    main = trial = undefined;
    for (const timer of [connecting, upgrading, doubting]) clearTimeout(timer);
    clearInterval(ticking);
    connecting = undefined;
  };

  const finish = (reason) => {
    close();
    emit({ ...reason, type: 'closed' });
  };

  /** What is handed on says from where it leads, so that a listener can see that nothing is missing. */
  const hear = (line, item) => {
    // A trial says nothing before it is open.
    if (line === trial && item.type !== 'open' && item.type !== 'refused') return;
    switch (item.type) {
      case 'open':
        return opened(line, item);
      case 'refused':
        return over(line, { ...item, retryMs: item.retry, temporary: true });
      case 'event':
        if (!isAfter(item.cursor, cursor)) return;
        item.topic ??= topics[0];
        break;
      case 'drain':
        backoff.told(item.retry);
        break;
      case 'end':
        if (ended.has(item.topic)) return;
        ended.add(item.topic);
        break;
      case 'auth_expiring':
        item.type = 'expiring';
        renew(line.connection);
        break;
      case 'gap':
      case 'live':
        break;
      default: // a checkpoint, or a sign of life, which other tabs want to see as well
        item.type = 'cursor';
    }
    const prev = cursor;
    if (isAfter(item.cursor, cursor)) cursor = item.cursor;
    emit({ ...item, prev, cursor });
    if (item.type === 'end' && ended.size >= topics.length) finish(FINISHED);
  };

  const opened = (line, item) => {
    clearTimeout(line.timer);
    line.opened = Date.now();
    line.connection = item.connection;
    if (line === trial) {
      drop(main);
      main = line;
      trial = undefined;
    }
    if (item.replay !== 'gap' && item.topics) topics = item.topics;
    const isNew = item.replay === 'gap' && STARTS_ANEW.includes(item.reason);
    const prev = cursor;
    if (isNew || !cursor) cursor = item.cursor;
    ladder.opened(line.kind);
    backoff.opened();
    backoff.told(item.retry);
    denials = 0;
    if (isNew) ended = new Set();
    emit({ topics, ...item, isNew, prev: prev ?? cursor, cursor, transport: line.kind });
    if (started) upgradeLater(1);
  };

  /** A line has ended by itself, or is given up. */
  const over = (line, reason) => {
    if (line.abort.signal.aborted) return;
    drop(line);
    if (line === trial) {
      trial = undefined;
      if (reason.status === 401) credentials.forget('unauthorized');
      return tryNext();
    }
    main = undefined;
    const wait = lost(line, reason);
    if (wait === undefined) return finish(reason.done ? FINISHED : reason);
    clearTimeout(upgrading);
    emit({ ...reason, type: 'error' });
    if (!started) return;
    if (trial) {
      // It was on its way already.
      main = trial;
      trial = undefined;
    } else connectIn(wait);
  };

  /** In how many ms to come back; undefined: never. */
  const lost = ({ kind, opened }, { done, dead, temporary, status, code, retryMs = 0 }) => {
    notBefore = Date.now() + retryMs;
    if (done) return;
    if (dead) return seeing && ladder.replace(kind, seeing) ? 0 : undefined;
    if (status === 401 && credentials.isRenewable) {
      credentials.forget('unauthorized');
      if (++denials === DENIALS) return;
      return denials > 1 ? backoff.delay(true, retryMs) : 0;
    }
    if (!opened && (status === 401 ? !temporary || credentials.isGiven : isFinal(status))) {
      // A lesser transport may just not be offered.
      return !ladder.isFirst && ladder.replace(kind) ? backoff.delay(true) : undefined;
    }
    if (code === SILENT) return ladder.down() ? 0 : backoff.delay(true);
    if (opened) {
      if (code === SILENCE) {
        // A path that falls silent again and again is cut or held by somebody on it.
        silences = Date.now() - opened > 4 * settings.silenceMs ? 1 : silences + 1;
        if (silences > 1) ladder.down();
      }
      return backoff.delay(false, retryMs);
    }
    // Whoever answers has been reached: that is not for another transport to mend.
    const next = ladder.isFirst ? !status && !code && globalThis.navigator?.onLine !== false && ladder.missed() : ladder.missed();
    return next && !retryMs ? 0 : backoff.delay(true, retryMs);
  };

  // Better transports, or a fresh path, are tried beside the one that is open.
  let candidates = [];

  const tryNext = () => {
    const kind = candidates.shift();
    if (kind && main?.opened) trial = dial(kind);
    else upgradeLater(2);
  };

  /** `factor`: how much later than the last time. */
  const upgradeLater = (factor) => {
    clearTimeout(upgrading);
    upgradeMs = ladder.isFirst ? settings.upgradeMs : Math.min(upgradeMs * factor, MAX_UPGRADE_MS);
    if (!ladder.isFirst) upgrading = setTimeout(tryBetter, upgradeMs * (0.75 + 0.5 * Math.random()));
  };

  const tryBetter = (...more) => {
    if (trial || !main?.opened) return;
    candidates = [...ladder.better, ...more];
    tryNext();
  };

  /** By the clock: timers are late in hidden pages, and stand still in frozen ones. */
  const check = () => {
    clearTimeout(doubting);
    if (!main?.opened) return;
    const silentMs = Date.now() - main.heard;
    if (silentMs > settings.silenceMs / 2) main.ping?.();
    if (silentMs <= settings.silenceMs) return;
    if (main.doubted) return over(main, { code: SILENCE });
    main.doubted = true;
    doubting = setTimeout(check, Math.min(DOUBT_MS, settings.silenceMs));
  };

  const soon = () => {
    // All pages of an office come online at once.
    if (connecting) connectIn(Math.max(notBefore - Date.now(), 0) + Math.random() * 500);
  };

  return {
    get cursor() {
      return cursor;
    },
    start() {
      if (started) return;
      started = true;
      ticking = setInterval(check, settings.silenceMs / 9);
      connect();
    },
    /** Ends all connections; `start` goes on from the cursor. */
    close,
    /** The page is looked at again. */
    wake() {
      check();
      soon();
    },
    /** There is a network, perhaps another one: what is open may be dead without knowing. */
    online() {
      ({ upgradeMs } = settings);
      soon();
      if (main?.opened) tryBetter(main.kind);
    },
  };
}
