// The view in the address: which topics, where they start, by what, and the filter. Names are those of `/events`. No token is ever in it.

const STARTS = ['lastEventId', 'since', 'last'];

/** What an address says. */
export function read(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ''));
  const topics = query.getAll('topic').flatMap((list) => list.split(',')).filter(Boolean);
  const name = STARTS.find((it) => query.get(it));
  const transport = query.get('transport');
  return {
    topics: [...new Set(topics)],
    start: name ? { [name]: query.get(name) } : {},
    transport: ['sse', 'ws', 'poll'].includes(transport) ? transport : 'auto',
    filter: query.get('filter') ?? '',
    control: query.get('control') !== 'off',
  };
}

/** The same the other way. */
export function write({ topics, start, transport, filter, control }) {
  const query = new URLSearchParams();
  for (const topic of topics) query.append('topic', topic);
  for (const [name, value] of Object.entries(start)) query.set(name, value);
  if (transport !== 'auto') query.set('transport', transport);
  if (filter) query.set('filter', filter);
  if (!control) query.set('control', 'off');
  // A colon and a slash may stand in a fragment as they are, and are easier to read.
  const text = String(query).replaceAll('%2F', '/').replaceAll('%3A', ':');
  return text ? `#${text}` : '';
}
