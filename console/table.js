// The table of rows: only those in sight are in the page. Every row has the same height, so that which they are is arithmetic.

import { age, clock, size } from './text.js';

const OVERSCAN = 6;
const CELLS = ['time', 'id', 'topic', 'type', 'data', 'size', 'age', 'say'];
const PREVIEW = 400;

export class Table {
  /** The chosen row. */
  selected = undefined;
  #grid;
  #body;
  #log;
  #pool = [];
  #height = 26;
  #stick = true;
  #missed = 0;
  #onSelect;
  #onScroll;
  #now;

  /** `now()` is the time that ages are counted from. */
  constructor({ grid, body, log, onSelect, onScroll, now }) {
    this.#grid = grid;
    this.#body = body;
    this.#log = log;
    this.#onSelect = onSelect;
    this.#onScroll = onScroll;
    this.#now = now;
    grid.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    body.addEventListener('click', (event) => {
      const node = event.target.closest('.row');
      // Who marks text wants to copy it.
      if (node?.bound && String(getSelection()) === '') this.select(node.bound, { show: true });
    });
    grid.addEventListener('keydown', (event) => this.#key(event));
    new ResizeObserver(() => this.#resized()).observe(grid);
    this.#resized();
  }

  /** Whether the newest row is in sight. */
  get atEnd() {
    return this.#stick;
  }

  /** Rows that have come below what is in sight. */
  get missed() {
    return this.#missed;
  }

  #resized() {
    const height = Number.parseFloat(getComputedStyle(document.documentElement).getPropertyValue('--row')) || 26;
    const kept = this.#grid.scrollTop / this.#height;
    const changed = height !== this.#height;
    this.#height = height;
    if (changed && !this.#stick) {
      this.#measure();
      this.#grid.scrollTop = kept * height;
    }
    for (const node of this.#pool) node.bound = undefined;
    this.draw();
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.#grid;
    this.#stick = scrollTop + clientHeight >= scrollHeight - this.#height / 2;
    if (this.#stick) this.#missed = 0;
    this.#rows();
    this.#onScroll();
  }

  #measure() {
    this.#body.style.height = `${this.#log.shown.length * this.#height}px`;
  }

  /** Shows what there is now. `added` and `gone` say what has changed at the two ends since the last time. */
  draw({ added = 0, gone = 0 } = {}) {
    if (!this.#stick && gone > 0) {
      // What is in sight stays in its place.
      const at = this.#grid.scrollTop - gone * this.#height;
      this.#measure();
      this.#grid.scrollTop = Math.max(0, at);
    } else {
      this.#measure();
    }
    if (this.#stick) this.#grid.scrollTop = this.#grid.scrollHeight;
    else this.#missed += added;
    this.#rows();
  }

  #rows() {
    const { shown } = this.#log;
    const view = this.#grid.clientHeight;
    const first = Math.max(0, Math.floor(this.#grid.scrollTop / this.#height) - OVERSCAN);
    const last = Math.min(shown.length, first + Math.ceil(view / this.#height) + 2 * OVERSCAN);
    const wanted = Math.max(this.#pool.length, Math.ceil(view / this.#height) + 2 * OVERSCAN);
    while (this.#pool.length < wanted) this.#pool.push(this.#node());
    const used = new Set();
    let active = '';
    for (let index = first; index < last; index += 1) {
      const node = this.#pool[index % this.#pool.length];
      used.add(node);
      const row = shown[index];
      if (node.bound !== row) this.#bind(node, row);
      if (node.at !== index) {
        node.at = index;
        node.style.transform = `translateY(${index * this.#height}px)`;
        node.setAttribute('aria-rowindex', index + 2);
      } else if (node.tall !== this.#height) {
        node.style.transform = `translateY(${index * this.#height}px)`;
      }
      node.tall = this.#height;
      node.hidden = false;
      const chosen = row === this.selected;
      if (node.getAttribute('aria-selected') !== String(chosen)) node.setAttribute('aria-selected', chosen);
      if (chosen) active = node.id;
    }
    for (const node of this.#pool) if (!used.has(node)) node.hidden = true;
    this.#grid.setAttribute('aria-rowcount', shown.length + 1);
    // What is not in the page cannot be named.
    if (active) this.#grid.setAttribute('aria-activedescendant', active);
    else this.#grid.removeAttribute('aria-activedescendant');
  }

  #node() {
    const node = document.createElement('div');
    node.className = 'row';
    node.id = `row-${this.#pool.length}`;
    node.setAttribute('role', 'row');
    node.cells = {};
    for (const name of CELLS) {
      const cell = document.createElement('span');
      cell.className = name === 'size' || name === 'age' ? `${name} num` : name;
      cell.setAttribute('role', 'gridcell');
      if (name === 'say') cell.setAttribute('aria-colspan', '6');
      node.cells[name] = cell;
      node.append(cell);
    }
    this.#body.append(node);
    return node;
  }

  #bind(node, row) {
    node.bound = row;
    const { cells } = node;
    cells.time.textContent = clock(row.ms ?? row.at);
    if (row.kind !== 'event') {
      node.className = `row control ${row.kind} ${row.tone ?? ''}`.trimEnd();
      cells.say.textContent = row.say;
      return;
    }
    node.className = 'row';
    cells.id.textContent = row.id;
    cells.topic.textContent = row.topic;
    cells.topic.style.setProperty('--hue', hue(row.topic));
    cells.type.textContent = row.type;
    cells.type.classList.toggle('plain', row.type === 'message');
    cells.data.textContent = row.data.length > PREVIEW ? `${row.data.slice(0, PREVIEW)}…` : row.data;
    cells.size.textContent = size(row.bytes);
    this.#age(node);
  }

  #age(node) {
    const { bound } = node;
    if (bound?.kind !== 'event') return;
    const text = age(this.#now() - (bound.ms ?? bound.at));
    if (node.cells.age.textContent !== text) node.cells.age.textContent = text;
  }

  /** Ages grow, and the rows come to stand in the page in the order in which they are seen, for those who read it aloud. */
  tick() {
    for (const node of this.#pool) if (!node.hidden) this.#age(node);
    if (String(getSelection()) !== '') return;
    const order = this.#pool.filter((node) => !node.hidden).sort((a, b) => a.at - b.at);
    const sorted = order.every((node, n) => n === 0 || order[n - 1].compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
    if (!sorted) this.#body.append(...order);
  }

  /** Chooses a row, or none. */
  select(row, { show = false } = {}) {
    this.selected = row;
    this.#rows();
    this.#onSelect(row, show);
  }

  /** Shows the newest. */
  toEnd() {
    this.#stick = true;
    this.#missed = 0;
    this.draw();
    this.#onScroll();
  }

  /** Chooses another event, `steps` rows away. */
  step(steps) {
    const { shown } = this.#log;
    if (shown.length === 0) return;
    const at = this.selected ? shown.indexOf(this.selected) : -1;
    const from = at < 0 ? (steps > 0 ? -1 : shown.length) : at;
    this.#to(Math.min(shown.length - 1, Math.max(0, from + steps)));
  }

  #to(index) {
    const row = this.#log.shown[index];
    if (!row) return;
    const top = index * this.#height;
    const head = this.#body.offsetTop;
    const { scrollTop, clientHeight } = this.#grid;
    if (top < scrollTop) this.#grid.scrollTop = top;
    else if (top + this.#height + head > scrollTop + clientHeight) this.#grid.scrollTop = top + this.#height + head - clientHeight;
    this.select(row);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.#grid.clientHeight / this.#height) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
    if (steps !== undefined) this.step(steps);
    else if (event.key === 'Home') this.#to(0);
    else if (event.key === 'End') this.#to(this.#log.shown.length - 1);
    else if (event.key === 'Enter' && this.selected) this.#onSelect(this.selected, true);
    else return;
    event.preventDefault();
  }
}

const hues = new Map();

/** A colour of its own for each topic, in the order in which they come: by the golden angle, so that neighbours differ. */
function hue(topic) {
  if (!hues.has(topic)) hues.set(topic, Math.round((190 + hues.size * 137.508) % 360));
  return hues.get(topic);
}
