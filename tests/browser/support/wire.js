// Just enough of HTTP/1.1 and of the event stream format to see, byte by byte, what has passed a wire.
//
// The proxy asks after each byte, because it has to know whether a cut would fall into the middle of a frame.

/**
 * Reads the requests that a client sends over one connection; `onRequest` gets each head once, and answers whether the request
 * is to go on to the gateway.
 */
export class RequestReader {
  /** From now on what comes is no HTTP any more, and goes on as it is. */
  upgraded = false;
  #head = [];
  #body = 0;
  #onRequest;

  constructor(onRequest) {
    this.#onRequest = onRequest;
  }

  /** Takes bytes from the client, and returns those that go on: whole heads, and bodies as they come. */
  push(bytes) {
    if (this.upgraded) return bytes;
    const on = [];
    for (const byte of bytes) {
      if (this.#body > 0) {
        this.#body -= 1;
        on.push(byte);
        continue;
      }
      this.#head.push(byte);
      if (!endsHead(this.#head)) continue;
      const head = this.#head;
      this.#head = [];
      const { first, headers } = parseHead(head);
      this.#body = Number(headers['content-length'] ?? 0);
      const [method, target] = first.split(' ');
      if (this.#onRequest({ method, target, headers })) on.push(...head);
    }
    return Buffer.from(on);
  }
}

/** Reads the responses of one connection: `onHead` for each head, `onBody` for each byte of a body. */
export class ResponseReader {
  #head = [];
  #state = 'head';
  #left = 0;
  #line = '';
  #onHead;
  #onBody;

  constructor({ onHead, onBody }) {
    this.#onHead = onHead;
    this.#onBody = onBody;
  }

  /** Whether a body in chunks is under way, and the last chunk of it was whole. */
  get betweenChunks() {
    return this.#state === 'chunk size' && this.#line === '';
  }

  byte(byte) {
    switch (this.#state) {
      case 'head':
        this.#head.push(byte);
        if (endsHead(this.#head)) this.#startBody();
        return;
      case 'length':
      case 'chunk':
        this.#onBody(byte);
        this.#left -= 1;
        if (this.#left === 0) this.#state = this.#state === 'chunk' ? 'chunk end' : 'head';
        return;
      case 'until close':
        this.#onBody(byte);
        return;
      case 'chunk end': // the line break after a chunk's bytes
        if (byte === LF) this.#state = 'chunk size';
        return;
      case 'chunk size':
        if (byte !== LF) {
          this.#line += String.fromCharCode(byte);
          return;
        }
        this.#left = Number.parseInt(this.#line, 16);
        this.#line = '';
        this.#state = this.#left === 0 ? 'trailer' : 'chunk';
        return;
      case 'trailer': // lines until an empty one
        if (byte !== LF) {
          this.#line += String.fromCharCode(byte);
          return;
        }
        if (this.#line.trim() === '') this.#state = 'head';
        this.#line = '';
        return;
      default:
        throw new Error(`no such state: ${this.#state}`);
    }
  }

  #startBody() {
    const { first, headers } = parseHead(this.#head);
    const status = Number(first.split(' ')[1]);
    this.#head = [];
    this.#onHead({ status, headers });
    if (status === 101) {
      this.#state = 'until close';
      return;
    }
    if (status < 200 || status === 204 || status === 304) return; // no body: the next head follows
    if (/chunked/i.test(headers['transfer-encoding'] ?? '')) {
      this.#state = 'chunk size';
    } else if (headers['content-length'] !== undefined) {
      this.#left = Number(headers['content-length']);
      if (this.#left > 0) this.#state = 'length';
    } else {
      this.#state = 'until close';
    }
  }
}

/** Reads an event stream; `frames` holds the complete ones as `{id, event, topic, retry, data, comment}`. */
export class FrameReader {
  frames = [];
  /** What has come of a frame that has not ended, a character for each byte. */
  unfinished = '';
  #frame = {};
  #line = [];

  /** Whether a frame has begun and not ended. */
  get midFrame() {
    return this.unfinished !== '';
  }

  byte(byte) {
    this.unfinished += String.fromCharCode(byte);
    if (byte !== LF) {
      this.#line.push(byte);
      return;
    }
    const line = Buffer.from(this.#line).toString('utf8');
    this.#line = [];
    if (line === '') {
      this.frames.push(this.#frame);
      this.#frame = {};
      this.unfinished = '';
    } else {
      this.#field(line);
    }
  }

  #field(line) {
    const colon = line.indexOf(':');
    if (colon === 0) {
      this.#frame.comment = line.slice(1).trim();
      return;
    }
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'data' && this.#frame.data !== undefined) this.#frame.data += `\n${value}`;
    else this.#frame[name] = value;
  }
}

/** Reads what a server sends over a WebSocket; `messages` holds the texts of those that have come whole. */
export class MessageReader {
  messages = [];
  #head = [];
  #payload = undefined;

  /** Whether a frame has begun and not ended. */
  get midFrame() {
    return this.#head.length > 0;
  }

  byte(byte) {
    if (this.#payload === undefined) {
      this.#head.push(byte);
      const length = payloadLength(this.#head);
      if (length === undefined) return;
      this.#payload = { bytes: [], left: length };
    } else {
      this.#payload.bytes.push(byte);
      this.#payload.left -= 1;
    }
    if (this.#payload.left > 0) return;
    // Our server sends no message in pieces.
    if ((this.#head[0] & 0x0f) === TEXT) this.messages.push(Buffer.from(this.#payload.bytes).toString('utf8'));
    this.#head = [];
    this.#payload = undefined;
  }
}

/** The length that a frame's head tells (RFC 6455, 5.2; a server's are not masked), or undefined while the head is not whole. */
function payloadLength(head) {
  if (head.length < 2) return undefined;
  const short = head[1] & 0x7f;
  const more = { 126: 2, 127: 8 }[short] ?? 0;
  if (head.length < 2 + more) return undefined;
  return more === 0 ? short : head.slice(2).reduce((sum, byte) => sum * 256 + byte, 0);
}

const TEXT = 1;
const LF = 0x0a;
const CR = 0x0d;

function endsHead(bytes) {
  const end = bytes.length;
  return end >= 4 && bytes[end - 1] === LF && bytes[end - 2] === CR && bytes[end - 3] === LF && bytes[end - 4] === CR;
}

function parseHead(bytes) {
  const [first, ...lines] = Buffer.from(bytes).toString('latin1').trimEnd().split('\r\n');
  const headers = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return { first, headers };
}
