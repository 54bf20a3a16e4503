// What this page does, as something to paste elsewhere. A token is never in it, only where it goes.

import { quoted } from './text.js';

/** A text as a JavaScript literal in single quotes. */
const literal = (text) => `'${JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", String.raw`\'`)}'`;

/** The query of `/events` for what is chosen. */
export function query({ topics, start }) {
  const query = new URLSearchParams();
  for (const topic of topics) query.append('topic', topic);
  for (const [name, value] of Object.entries(start)) query.set(name, value);
  return String(query).replaceAll('%2F', '/').replaceAll('%3A', ':');
}

/** The body of a publish. */
export function body({ topic, type, data, end, key }) {
  return {
    topic,
    ...(type && { event: type }),
    ...((data !== '' || !end) && { data }),
    ...(end && { end: true }),
    ...(key && { key }),
  };
}

const WRITERS = {
  follow({ origin, view, token }) {
    const parts = [`curl -N ${quoted(`${origin}/events?${query(view)}`)}`];
    if (token) parts.push('-H "Authorization: Bearer $TOKEN"');
    return parts.join(' \\\n  ');
  },

  publish({ origin, event, token }) {
    const parts = [`curl ${quoted(`${origin}/publish`)}`, "-H 'Content-Type: application/json'"];
    if (token) parts.push('-H "Authorization: Bearer $TOKEN"');
    parts.push(`--data-binary ${quoted(JSON.stringify(body(event)))}`);
    return parts.join(' \\\n  ');
  },

  eventsource({ origin, view, types, token }) {
    const many = view.topics.length > 1;
    const url = `${origin}/events?${query(view)}${many ? '&envelope=json' : ''}`;
    const show = many
      ? "const { id, topic, event: type, data } = JSON.parse(event.data);\n  console.log(id, topic, type ?? 'message', data);"
      : 'console.log(event.lastEventId, event.type, event.data);';
    return [
      ...(token ? ['// EventSource sends no headers: let a cookie hold the token, or add a ticket (POST /ticket) to the URL.'] : []),
      `const source = new EventSource(${literal(url)}${token ? ', { withCredentials: true }' : ''});`,
      '',
      'function show(event) {',
      `  ${show}`,
      '}',
      '',
      "source.onmessage = show; // events without a type",
      ...types.filter((type) => type !== 'message').map((type) => `source.addEventListener(${literal(type)}, show);`),
      '',
      '// What is missing, if anything is.',
      "source.addEventListener('$open', (event) => console.log('replay', JSON.parse(event.data).replay));",
      "source.addEventListener('$gap', (event) => console.warn('gap', event.data));",
    ].join('\n');
  },

  source({ origin, view, transport, token }) {
    const options = [
      `topics: {\n${view.topics.map((topic) => `    ${literal(topic)}: show,`).join('\n')}\n  },`,
      ...Object.entries(view.start).map(([name, value]) => `${name}: ${/^\d+$/.test(value) && name === 'last' ? value : literal(value)},`),
      ...(transport === 'auto' ? [] : [`transports: [${literal(transport)}],`]),
      ...(token ? ["token: async ({ reason }) => '…', // asked again when it is over"] : []),
    ];
    return [
      `import { TidegateSource } from ${literal(`${origin}/tidegate.js`)};`,
      '',
      'function show(event) {',
      '  console.log(event.lastEventId, event.topic, event.type, event.data);',
      '}',
      '',
      `const source = new TidegateSource(${literal(`${origin}/events`)}, {`,
      ...options.map((option) => `  ${option}`),
      '});',
      '',
      "source.onopen = ({ replay, transport }) => console.log('open', replay, transport);",
      "source.ongap = ({ reason, topics, missedAtLeast }) => console.warn('gap', reason, topics, missedAtLeast);",
    ].join('\n');
  },
};

/** A snippet of a kind, for what is set on this page. */
export const snippet = (kind, set) => WRITERS[kind](set);
