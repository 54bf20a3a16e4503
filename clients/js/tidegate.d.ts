/** Where a connection stands: 0 connecting, 1 open, 2 closed for good. */
export type ReadyState = 0 | 1 | 2;

/** How events come: `sse` is the browser's EventSource, `fetch` the same stream read by fetch. */
export type Transport = 'sse' | 'fetch' | 'ws' | 'poll';

/** Whether a resume was complete. */
export type Replay = 'none' | 'complete' | 'gap';

/** Why events are missing. */
export type GapReason = 'retention' | 'reset' | 'lost' | 'unknown';

/** An event of a topic. `lastEventId` is its id. */
export interface TopicEvent extends MessageEvent<string> {
  readonly topic: string | undefined;
}

/** A connection is open: `$open` was read. */
export interface OpenEvent extends Event {
  readonly replay: Replay;
  readonly reason?: GapReason;
  /** Those that are followed; of a gap, those in which something is missing. */
  readonly topics: string[];
  readonly missedAtLeast?: number;
  readonly transport: Transport;
  /** Its id at the gateway. */
  readonly connection?: string;
  /** When to come back after it, in ms. */
  readonly retry?: number;
}

/** Events are missing. */
export interface GapEvent extends Event {
  readonly reason: GapReason;
  readonly topics: string[];
  readonly missedAtLeast?: number;
}

/** A topic is finished. */
export interface EndEvent extends Event {
  readonly topic: string;
}

/** The token of the connection ends soon. */
export interface ExpiringEvent extends Event {
  /** RFC 3339. */
  readonly expires: string;
  readonly inMs: number;
}

/** The connection was lost, or has ended for good: see `readyState` of the source. */
export interface SourceErrorEvent extends Event {
  readonly status?: number;
  /** A code of the gateway's problems, or `silent`, `silence`, `credentials`, `finished`. */
  readonly code?: string;
  readonly detail?: string;
}

/** State or transport have changed. */
export interface StateEvent extends Event {
  readonly readyState: ReadyState;
  readonly transport?: Transport;
}

/** The events of the source itself. */
export interface TidegateEventMap {
  open: OpenEvent;
  error: SourceErrorEvent;
  gap: GapEvent;
  live: Event;
  end: EndEvent;
  expiring: ExpiringEvent;
  state: StateEvent;
}

type Handler<E> = ((this: TidegateSource, event: E) => unknown) | null;

/** The handlers that are properties, and may be options. */
export interface TidegateHandlers {
  onopen: Handler<OpenEvent>;
  onmessage: Handler<TopicEvent>;
  onerror: Handler<SourceErrorEvent>;
  ongap: Handler<GapEvent>;
  onlive: Handler<Event>;
  onend: Handler<EndEvent>;
  onexpiring: Handler<ExpiringEvent>;
  onstate: Handler<StateEvent>;
}

export type TokenReason = 'connect' | 'unauthorized' | 'expiring';

export interface TidegateOptions extends Partial<TidegateHandlers> {
  /** Topics beside those of the URL; with a handler each, which gets every event of its topic. */
  topics?: readonly string[] | Readonly<Record<string, Handler<TopicEvent> | undefined>>;
  /** Cookies also to another origin. Default: false. */
  withCredentials?: boolean;
  /** Headers of every request; a function is asked at each. */
  headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
  /** A bearer token; a function is asked again when it was refused or expires. */
  token?: string | ((about: { reason: TokenReason }) => string | undefined | Promise<string | undefined>);
  /** A ticket for one request. */
  ticket?: () => string | Promise<string>;
  /** Those that may be used, the best first. Default: sse, ws, poll. */
  transports?: readonly Transport[];
  /** A cursor, or `earliest`. */
  lastEventId?: string;
  /** RFC 3339, Unix milliseconds, or an age (`5m`). */
  since?: string | number;
  /** The newest so many events. */
  last?: number;
  /** Keeps the cursor in sessionStorage, under a name of its own or this one. */
  persist?: boolean | string;
  /** One connection for all tabs of the same subscription, or of this name. */
  share?: boolean | string;
  /** The types of events that the page wants to hear: only an EventSource has to know. */
  types?: readonly string[];
  /** Time for the first frame, before a proxy is taken to hold it back. Default: 5000. */
  firstFrameMs?: number;
  /** Silence after which a connection is taken for dead. Default: 45000. */
  silenceMs?: number;
  /** Time until a better transport is tried. Default: 60000. */
  upgradeMs?: number;
  /** Back-off until the gateway has said its own. Default: 3000. */
  retryMs?: number;
  /** The longest back-off. Default: 60000. */
  maxRetryMs?: number;
  /** URLs that are not beside that of the stream. */
  endpoints?: { ws?: string; poll?: string; ticket?: string };
  /** Other building blocks than those of the platform; `undefined` for none. */
  env?: Partial<Record<'EventSource' | 'WebSocket' | 'fetch' | 'BroadcastChannel' | 'locks' | 'sessionStorage', unknown>>;
}

export interface TidegateSource extends TidegateHandlers {}

/** A subscription, in the shape of EventSource. */
export class TidegateSource extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSED: 2;
  constructor(url: string | URL, options?: TidegateOptions);
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSED: 2;
  readonly url: string;
  readonly withCredentials: boolean;
  readonly readyState: ReadyState;
  /** The cursor; empty before there is one. */
  readonly lastEventId: string;
  readonly transport: Transport | undefined;
  readonly connection: string | undefined;
  /** Ends it for good. */
  close(): void;
  addEventListener<K extends keyof TidegateEventMap>(
    type: K,
    listener: (this: TidegateSource, event: TidegateEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: ((this: TidegateSource, event: TopicEvent) => unknown) | EventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof TidegateEventMap>(
    type: K,
    listener: (this: TidegateSource, event: TidegateEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: ((this: TidegateSource, event: TopicEvent) => unknown) | EventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
