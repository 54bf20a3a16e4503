// What has arrived, newest last, in bounded memory; and of that what the filter lets through.

/** Rows that are kept at most. */
export const ROWS = 5000;
/** Characters of data that are kept at most; a text takes one or two bytes for each. */
export const CHARS = 16 * 1024 * 1024;
// So many rows more may gather before the oldest go, all at once: cutting the front off an array costs its length.
const SLACK = 256;

export class Log {
  /** All rows. */
  rows = [];
  /** Those that are shown. */
  shown = [];
  /** Rows that have gone to make room. */
  gone = 0;
  /** Rows that wait while the table stands still. */
  held = [];
  heldGone = 0;
  paused = false;
  #chars = 0;
  #heldChars = 0;
  #next = 1;
  #fits = undefined;
  #control = true;

  /** Adds a row. */
  add(row) {
    row.n = this.#next;
    this.#next += 1;
    if (!this.paused) {
      this.#keep(row);
      return;
    }
    this.held.push(row);
    this.#heldChars += row.data.length;
    if (this.held.length > ROWS + SLACK || this.#heldChars > CHARS) {
      const { rows, chars } = cut(this.held, this.#heldChars);
      this.heldGone += rows;
      this.#heldChars = chars;
    }
  }

  #keep(row) {
    this.rows.push(row);
    this.#chars += row.data.length;
    if (this.#visible(row)) this.shown.push(row);
  }

  #visible(row) {
    if (row.kind === 'event') return this.#fits === undefined || this.#fits(row);
    // A gap is about what is missing: no filter hides it.
    return row.kind === 'gap' || row.kind === 'dropped' || this.#control;
  }

  /** Lets the oldest go where there are too many; returns how many of the shown have gone. */
  trim() {
    if (this.rows.length <= ROWS + SLACK && this.#chars <= CHARS) return 0;
    const { rows, chars } = cut(this.rows, this.#chars);
    this.gone += rows;
    this.#chars = chars;
    const first = this.rows[0]?.n ?? Infinity;
    const stays = this.shown.findIndex((row) => row.n >= first);
    const count = stays < 0 ? this.shown.length : stays;
    this.shown.splice(0, count);
    return count;
  }

  /** Chooses which rows are shown. */
  choose(fits, control) {
    this.#fits = fits;
    this.#control = control;
    this.shown = this.rows.filter((row) => this.#visible(row));
  }

  pause() {
    this.paused = true;
  }

  /** Goes on, with what has waited. */
  resume() {
    this.paused = false;
    if (this.heldGone > 0) {
      const [first] = this.held;
      this.#keep({ n: first.n - 0.5, kind: 'dropped', at: first.at, id: '', topic: '', type: '', data: '', say: `${this.heldGone} rows went while the table stood still: no more than ${ROWS} are kept` });
      this.gone += this.heldGone;
    }
    for (const row of this.held) this.#keep(row);
    this.held = [];
    this.#heldChars = 0;
    this.heldGone = 0;
  }

  clear() {
    this.rows = [];
    this.shown = [];
    this.held = [];
    this.#chars = 0;
    this.#heldChars = 0;
    this.gone = 0;
    this.heldGone = 0;
  }
}

/** Cuts the oldest rows off, until there are neither too many nor too large ones. */
function cut(rows, chars) {
  let count = Math.max(0, rows.length - ROWS);
  for (let n = 0; n < count; n += 1) chars -= rows[n].data.length;
  // A little more than needed, so that it is not done again for each row.
  if (chars > CHARS) while (count < rows.length - 1 && chars > CHARS * 0.95) chars -= rows[count++].data.length;
  rows.splice(0, count);
  return { rows: count, chars };
}
