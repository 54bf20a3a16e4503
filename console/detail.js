// All of one event. Its data is somebody else's: it only ever becomes text.

import { json, moment, pretty, size, span } from './text.js';

// Colours cost an element for each token.
const COLOURED = 100_000;

/** Shows the data of an event. */
export function showData(node, { data }, raw) {
  if (raw || json(data).error !== undefined) {
    node.textContent = data;
    return;
  }
  const text = pretty(data);
  if (text.length > COLOURED) {
    node.textContent = text;
    return;
  }
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(/"(?:[^"\\]|\\.)*"(:?)|-?\d[\d.eE+-]*|true|false|null/gs)) {
    const [token, colon] = match;
    if (match.index > at) parts.push(text.slice(at, match.index));
    const span = document.createElement('span');
    span.className = token.startsWith('"') ? (colon ? 't-name' : 't-string') : /^[tfn]/.test(token) ? 't-word' : 't-number';
    span.textContent = token;
    parts.push(span);
    at = match.index + token.length;
  }
  parts.push(text.slice(at));
  node.replaceChildren(...parts);
}

/** Shows what is known of an event beside its data. */
export function showMeta(node, row) {
  const facts = [
    ['Id', row.id],
    ['Time', row.ms === undefined ? 'unknown' : moment(row.ms)],
    ['Arrived', moment(row.at)],
    ['Lag', row.ms === undefined ? 'unknown' : row.replayed ? 'none: from a replay' : span(row.at - row.ms)],
    ['Topic', row.topic],
    ['Type', row.type],
    ['Size', row.bytes < 1024 ? size(row.bytes) : `${size(row.bytes)} (${row.bytes} B)`],
  ];
  node.replaceChildren(
    ...facts.map(([name, value]) => {
      const [group, term, text] = ['div', 'dt', 'dd'].map((tag) => document.createElement(tag));
      term.textContent = name;
      text.textContent = value;
      group.append(term, text);
      return group;
    }),
  );
}
