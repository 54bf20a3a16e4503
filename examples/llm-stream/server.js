// The back end of the example: it asks the model, and publishes each token to the topic of the answer. It keeps no connection
// to any page, and a page that reloads costs it nothing.
//
//   POST /chats {"prompt": "…"}   begins an answer: {"id", "topic"}
//   POST /chats/<id>/stop         ends it early
//   GET  /                        the page
//
// PORT, TIDEGATE_URL, PUBLISH_TOKEN (where the gateway asks for one), TOKEN_MS (how fast the model speaks), EVENTS_URL (where
// pages find the gateway, if not where this program does).
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { generate } from './model.js';
import { Publisher } from './publisher.js';

const PORT = Number(process.env.PORT ?? 3000);
const GATEWAY = process.env.TIDEGATE_URL ?? 'http://127.0.0.1:8080';
const TOKEN = process.env.PUBLISH_TOKEN;
const LONGEST_PROMPT = 2_000;

/** What stops each answer that is under way. */
const running = new Map();

/** Asks the model, and publishes what it says while it says it. */
async function answer(id, prompt) {
  const stop = new AbortController();
  running.set(id, stop);
  const publisher = new Publisher({ gateway: GATEWAY, token: TOKEN, topic: `chat/${id}` });
  // What the model says while a line is on its way goes with the next one: nothing queues up behind a slow network.
  let said = '';
  let sending = publisher.publish({ event: 'prompt', data: prompt });
  const flush = async () => {
    for (let data = said; data; data = said) {
      said = '';
      await publisher.publish({ event: 'token', data });
    }
  };
  let how = 'complete';
  try {
    for await (const token of generate(prompt, stop.signal)) {
      if (!said) {
        sending = sending.then(flush);
        sending.catch(() => stop.abort()); // nobody would hear the rest
      }
      said += token;
    }
  } catch (error) {
    how = stop.signal.aborted ? 'stopped' : 'failed';
    if (how === 'failed') console.error(`chat/${id}: ${error.message}`);
  }
  try {
    await sending;
    await flush();
    // The end tells every page that this was all, also one that comes tomorrow.
    await publisher.publish({ event: 'done', data: { how }, end: true });
  } catch (error) {
    console.error(`chat/${id} could not be published: ${error.message}`);
  } finally {
    publisher.close();
    running.delete(id);
  }
}

const routes = {
  async 'GET /'() {
    return { type: 'text/html; charset=utf-8', body: await readFile(new URL('index.html', import.meta.url)) };
  },
  'GET /config'() {
    return { json: { gateway: process.env.EVENTS_URL ?? GATEWAY } };
  },
  async 'POST /chats'(request) {
    const { prompt } = JSON.parse(await bodyOf(request));
    if (typeof prompt !== 'string' || !prompt || prompt.length > LONGEST_PROMPT) return { status: 400, json: { error: 'a prompt is missing, or too long' } };
    // Nobody can guess it: whoever knows it may read along. With auth, a token for the topic says who may.
    const id = randomUUID();
    answer(id, prompt);
    return { status: 201, json: { id, topic: `chat/${id}` } };
  },
  'POST /chats/:id/stop'(_, id) {
    running.get(id)?.abort();
    return { status: running.has(id) ? 202 : 404, json: {} };
  },
};

async function bodyOf(request) {
  let body = '';
  for await (const piece of request.setEncoding('utf8')) {
    body += piece;
    if (body.length > 10 * LONGEST_PROMPT) throw new Error('too long');
  }
  return body;
}

const server = http.createServer(async (request, response) => {
  const [, first, id, ...rest] = new URL(request.url, 'http://here').pathname.split('/');
  const route = routes[`${request.method} /${[first, id && ':id', ...rest].filter(Boolean).join('/')}`];
  let answer = { status: 404, json: { error: 'not found' } };
  try {
    if (route) answer = await route(request, id);
  } catch (error) {
    answer = { status: 400, json: { error: error.message } };
  }
  response.writeHead(answer.status ?? 200, { 'content-type': answer.type ?? 'application/json', 'cache-control': 'no-store' });
  response.end(answer.body ?? JSON.stringify(answer.json));
});

server.listen(PORT, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
