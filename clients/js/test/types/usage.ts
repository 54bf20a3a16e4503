// How a page in TypeScript uses the package; compiled, never run.

import { TidegateSource, type OpenEvent, type TidegateOptions, type TopicEvent } from '@tidegate/client';

const options: TidegateOptions = {
  topics: { orders: (event) => event.data.length, 'users/1'(event) { this.close(); return event.topic; } },
  token: async ({ reason }) => (reason === 'expiring' ? 'new' : 'token'),
  headers: async () => ({ 'X-Tenant': 'a' }),
  ticket: () => 'ticket',
  transports: ['fetch', 'ws', 'poll'],
  since: '5m',
  persist: 'orders',
  share: true,
  ongap: ({ reason, topics, missedAtLeast = 0 }) => `${reason} ${topics.join()} ${missedAtLeast + 1}`,
};
const source: TidegateSource = new TidegateSource(new URL('https://events.example/events'), options);

source.onopen = (event: OpenEvent) => console.log(event.replay === 'gap', event.reason, event.transport, event.connection?.length);
source.onmessage = function (event) {
  const data: string = event.data;
  console.log(this.lastEventId, data, event.topic);
};
source.addEventListener('created', (event) => event.lastEventId.length + (event.topic ?? '').length);
source.addEventListener('gap', (event) => event.topics.length, { once: true });
source.addEventListener('state', ({ readyState, transport }) => readyState === TidegateSource.CLOSED && transport === 'ws');
const listener = (event: TopicEvent) => console.log(event.origin);
source.addEventListener('message', listener);
source.removeEventListener('message', listener);

// It stands where an EventSource stood.
const state: 0 | 1 | 2 = new TidegateSource('/events?topic=orders').readyState;
const plain: Pick<EventSource, 'url' | 'withCredentials' | 'readyState' | 'close' | 'CLOSED' | 'CONNECTING' | 'OPEN'> = source;
console.log(state, plain.url);

// @ts-expect-error: one topic is an array of one
new TidegateSource('/events', { topics: 'orders' });
// @ts-expect-error: no such transport
new TidegateSource('/events', { transports: ['carrier pigeon'] });
// @ts-expect-error: it cannot be set
source.readyState = 2;
