// How things are written. Nothing here touches the page, except `copy`.

const encoder = new TextEncoder();
const count = new Intl.NumberFormat('en');

/** The number of bytes of a text in UTF-8. */
export const bytesOf = (text) => encoder.encode(text).length;

export const number = (value) => count.format(value);

/** `1 row`, `2 rows`. */
export const many = (value, one, more = `${one}s`) => `${number(value)} ${value === 1 ? one : more}`;

/** A size, short: `840 B`, `1.2 KiB`. */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const [value, unit] = bytes < 1024 ** 2 ? [bytes / 1024, 'KiB'] : [bytes / 1024 ** 2, 'MiB'];
  return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
}

/** A time span of milliseconds, short: `3 ms`, `1.2 s`, `4 m`, `2 h`, `3 d`. */
export function span(ms) {
  const sign = ms < 0 ? '−' : '';
  const past = Math.abs(ms);
  if (past < 1000) return `${sign}${Math.round(past)} ms`;
  if (past < 10_000) return `${sign}${(past / 1000).toFixed(1)} s`;
  if (past < 60_000) return `${sign}${Math.round(past / 1000)} s`;
  if (past < 3_600_000) return `${sign}${Math.round(past / 60_000)} m`;
  if (past < 172_800_000) return `${sign}${Math.round(past / 3_600_000)} h`;
  return `${sign}${Math.round(past / 86_400_000)} d`;
}

/** How long ago, for the table: whole seconds, so that it does not flicker. */
export const age = (ms) => (ms < 1000 ? 'now' : span(Math.floor(ms / 1000) * 1000).replace('.0 s', ' s'));

const two = (value) => String(value).padStart(2, '0');

/** The time of day here, with milliseconds. */
export function clock(ms) {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}`;
}

/** Day and time here, with milliseconds. */
export function moment(ms) {
  const at = new Date(ms);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(ms)}`;
}

/** What a `datetime-local` field holds for a moment. */
export const localInput = (ms) => moment(ms).slice(0, 19).replace(' ', 'T');

/** The milliseconds of an id or cursor, which are the store's clock when it was given; nothing where the form is another. */
export function msOf(id) {
  const ms = /^(\d{1,15})-\d+$/.exec(id ?? '')?.[1];
  return ms === undefined ? undefined : Number(ms);
}

/** A text, or nothing where it is no JSON. */
export function json(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { error };
  }
}

/**
 * JSON in lines, with every number and name as it was written. `JSON.parse` and back would turn 12345678901234567890 into
 * another number and drop a repeated name. The text has to be JSON.
 */
export function pretty(text) {
  let out = '';
  let depth = 0;
  let before = '';
  const line = () => `\n${'  '.repeat(depth)}`;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs)) {
    const closes = token === '}' || token === ']';
    if (closes) depth -= 1;
    // `{}` stays together; what else begins or ends something begins a line.
    const opened = before === '{' || before === '[';
    if (closes !== opened || before === ',') out += line();
    out += token === ':' ? ': ' : token;
    if (token === '{' || token === '[') depth += 1;
    before = token;
  }
  return out;
}

/** A text in single quotes for a POSIX shell. */
export const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** Puts a text into the clipboard; false where the browser does not let us. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS and not on this machine there is no clipboard API.
  }
  const field = document.createElement('textarea');
  field.value = text;
  field.className = 'hidden';
  const before = document.activeElement;
  (document.querySelector('dialog[open]') ?? document.body).append(field);
  field.select();
  let done = false;
  try {
    done = document.execCommand('copy');
  } finally {
    field.remove();
    before?.focus?.();
  }
  return done;
}
