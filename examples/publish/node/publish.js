// Publishes to a topic of Tidegate: node publish.js TOPIC DATA [TYPE] [KEY]
//
// An empty TYPE is message. KEY makes a repetition safe: it stores the event once; without one there is a new one for each run.
// node publish.js --lines publishes the events of its standard input, one JSON object a line, and says of each what became of it.
// TIDEGATE_URL says where, PUBLISH_TOKEN what to show there.
// Exit code 0: stored. 1: refused, and would be again. 75: try again later, with the same key.
import { randomUUID } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const url = process.env.TIDEGATE_URL ?? 'http://127.0.0.1:8080';
const authorization = process.env.PUBLISH_TOKEN ? { authorization: `Bearer ${process.env.PUBLISH_TOKEN}` } : {};
// Too fast, not now, or nobody knows: with the same key it may be sent again.
const TEMPORARY = [429, 503, 504];

/** Publishes one event, and does not give up at once. */
async function publish(topic, data, event = '', key = '') {
  const request = {
    method: 'POST',
    headers: {
      ...authorization,
      'content-type': 'application/json',
      'idempotency-key': key || randomUUID(), // one for all attempts: this is what makes them safe
    },
    body: JSON.stringify({ topic, data, event: event || 'message' }),
  };
  for (const pause of [100, 500, 2000, 0]) {
    let after = 0;
    try {
      const response = await fetch(`${url}/publish`, { ...request, signal: AbortSignal.timeout(30_000) });
      const answer = await response.json();
      if (response.ok) {
        console.log(answer.id, answer.duplicate ? 'duplicate' : 'stored');
        return 0;
      }
      console.error(`${answer.code}: ${answer.detail}`);
      if (!TEMPORARY.includes(response.status)) return 1;
      after = Number(response.headers.get('retry-after')) * 1000;
    } catch (error) {
      console.error('whether it was stored is unknown:', error.cause?.message ?? error.message);
    }
    if (pause) await sleep(Math.max(pause, after));
  }
  return 75;
}

/**
 * Publishes a stream of events, and writes each answer while the stream goes on, which `fetch` cannot do.
 * Give each event a `key`: then what broke off may be sent again.
 */
function publishLines(input, output) {
  return new Promise((resolve) => {
    const { request } = url.startsWith('https:') ? https : http;
    const headers = { ...authorization, 'content-type': 'application/x-ndjson' };
    const lost = (error) => {
      console.error('how much was stored is unknown:', error.message);
      resolve(75);
    };
    const publishing = request(`${url}/publish?ack=lines`, { method: 'POST', headers }, (response) => {
      let code = response.statusCode === 200 ? 0 : TEMPORARY.includes(response.statusCode) ? 75 : 1;
      response.on('error', lost);
      const answers = createInterface({ input: response });
      answers.on('line', (line) => {
        output.write(`${line}\n`);
        if (!code && JSON.parse(line).error) code = 1;
      });
      answers.on('close', () => resolve(code));
    });
    publishing.on('error', lost);
    input.pipe(publishing);
  });
}

const args = process.argv.slice(2);
if (args[0] === '--lines') {
  process.exitCode = await publishLines(process.stdin, process.stdout);
} else {
  if (args.length < 2) throw new Error('usage: node publish.js TOPIC DATA [TYPE] [KEY], or node publish.js --lines');
  process.exitCode = await publish(...args);
}
