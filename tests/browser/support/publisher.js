// Somebody who publishes while a test disturbs what can be disturbed.

import { sleep, until } from './until.js';

// A drain, and the start of the next gateway, on a busy machine.
const ACKNOWLEDGED_MS = 60_000;

/** Publishes one event after another until `end()`, to the first of `gateways`; repeats under its key what was not acknowledged. */
export class Publisher {
  /** What was acknowledged, `{id, topic, type, data}`, in order. */
  published = [];
  #ending = false;
  #done;
  #options;

  constructor(gateways, { topics = ['orders'], every = 20, fill = 40 } = {}) {
    this.gateways = gateways;
    this.#options = { topics, every, fill };
    this.#done = this.#publish();
    this.#done.catch(() => {}); // `end` awaits it; a failure must not end the process before
  }

  get ids() {
    return this.published.map(({ id }) => id);
  }

  /** Waits until so many more were published. */
  async more(count) {
    const enough = this.published.length + count;
    await until(`${count} more events to be published`, () => this.published.length >= enough);
  }

  /** Publishes no more; tells all ids. */
  async end() {
    this.#ending = true;
    await this.#done;
    return this.ids;
  }

  async #publish() {
    const { topics, every, fill } = this.#options;
    while (!this.#ending) {
      const n = this.published.length;
      const event = { topic: topics[n % topics.length], data: JSON.stringify({ n, fill: 'x'.repeat(fill) }) };
      const id = await this.#acknowledged({ ...event, key: `${n}` });
      this.published.push({ id, type: 'message', ...event });
      await sleep(every);
    }
  }

  #acknowledged(event) {
    const publish = async () => {
      const { status, body } = await this.gateways[0].tryPublish(event).catch(() => ({}));
      return status === 200 && body.id;
    };
    return until('a publish to be acknowledged', publish, { within: ACKNOWLEDGED_MS });
  }
}
