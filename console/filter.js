// A filter over what has arrived: words that all have to fit.
//
//   orders/*        topics that fit; * is any text        type:created   this event type
//   topic:orders    this topic                            -…             all but these
//   id:1795*        this id                               "two words"    this text, anywhere

const FIELDS = { topic: 'topic', type: 'type', id: 'id' };

/** A function that says whether a row fits; nothing for a filter that lets all through. */
export function compile(text) {
  const tests = [];
  for (const [, minus, field, inQuotes, plain] of text.matchAll(/(-?)(?:(topic|type|id):)?(?:"([^"]*)"?|(\S+))/g)) {
    const word = inQuotes ?? plain;
    // A lone minus, or a field that is not written to its end, says nothing yet.
    if (!word || (!field && /^(topic|type|id):$/.test(word)) || (word === '-' && !minus)) continue;
    const test = one(field, word, inQuotes !== undefined);
    tests.push(minus ? (row) => !test(row) : test);
  }
  if (tests.length === 0) return undefined;
  return (row) => tests.every((test) => test(row));
}

function one(field, word, literal) {
  if (field) return glob(FIELDS[field], word);
  // A text that is JSON may hold a star, but mostly a word with one means a topic.
  if (!literal && word.includes('*')) return glob('topic', word);
  const wanted = word.toLowerCase();
  return (row) => [row.data, row.topic, row.type, row.id].some((part) => part.toLowerCase().includes(wanted));
}

function glob(name, pattern) {
  if (!pattern.includes('*')) return (row) => row[name] === pattern;
  const parts = pattern.split('*');
  const [first] = parts;
  const last = parts.at(-1);
  return (row) => {
    const text = row[name];
    if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return false;
    let at = first.length;
    for (const part of parts.slice(1, -1)) {
      const found = text.indexOf(part, at);
      if (found < 0) return false;
      at = found + part.length;
    }
    return at <= text.length - last.length;
  };
}
