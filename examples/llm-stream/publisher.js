// Publishes to one topic, one event after another, in one request that stays open.
//
// To the rate limits of the gateway that is one publish, however many tokens it brings. The next line goes when the last one
// has been acknowledged, so an attempt that failed cannot overtake another one; and each line has a key of its own, so
// one whose acknowledgement got lost is sent again, and stored once.
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';

const ATTEMPTS = 8;
const LONGEST_PAUSE_MS = 5_000;

/** What the gateway would refuse again. */
class Refused extends Error {}

export class Publisher {
  #url;
  #token;
  #topic;
  #number = 0;
  #request;
  #answers;

  constructor({ gateway, token, topic }) {
    this.#url = `${gateway}/publish?ack=lines`;
    this.#token = token;
    this.#topic = topic;
  }

  /** Resolves with the id of the event, once it is stored. */
  async publish(event) {
    const key = `${this.#topic} ${this.#number++}`;
    const line = `${JSON.stringify({ topic: this.#topic, key, ...event })}\n`;
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#send(line);
      } catch (error) {
        this.#drop();
        if (error instanceof Refused || attempt === ATTEMPTS) throw error;
        await sleep(Math.min(100 * 2 ** attempt, LONGEST_PAUSE_MS));
      }
    }
  }

  /** Ends the request. What was published is stored already. */
  close() {
    this.#request?.end();
    this.#request = undefined;
    this.#answers?.next().catch(() => {}); // reads to the end, so that the connection can serve the next answer
  }

  async #send(line) {
    const fresh = !this.#request;
    if (fresh) this.#open();
    this.#request.write(line);
    if (fresh) this.#answers = answers(this.#request);
    const { done, value } = await this.#answers.next();
    if (done) throw new Error('the gateway ended the request');
    if (value.error) throw temporary(value.error.status) ? new Error(value.error.code) : new Refused(value.error.detail);
    return value.id;
  }

  #open() {
    const { request } = this.#url.startsWith('https:') ? https : http;
    const headers = { 'content-type': 'application/x-ndjson' };
    if (this.#token) headers.authorization = `Bearer ${this.#token}`;
    this.#request = request(this.#url, { method: 'POST', headers });
    this.#request.on('error', () => {}); // told by the answers
  }

  #drop() {
    this.#request?.destroy();
    this.#request = undefined;
  }
}

function temporary(status) {
  return [408, 429, 503, 504].includes(status);
}

/** The answers to the lines of a request, in order. */
async function* answers(request) {
  const [response] = await once(request, 'response');
  response.setEncoding('utf8');
  let text = '';
  for await (const piece of response) {
    text += piece;
    if (response.statusCode !== 200) continue; // a problem, whole at the end
    const lines = text.split('\n');
    text = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
  if (response.statusCode !== 200) yield { error: JSON.parse(text) };
}
