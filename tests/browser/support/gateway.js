// The gateway under test: a real process on ports of its own, which ends by SIGTERM and must exit with 0.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort } from './ports.js';
import { bounded, until } from './until.js';
import { FrameReader } from './wire.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const READY_MS = 20_000;
const DRAIN_MS = 2_000;
// Longer than any drain that a test asks for.
const EXIT_MS = 20_000;

/** The program: `TIDEGATE_BIN`, or what cargo has built. */
export function binary() {
  if (process.env.TIDEGATE_BIN) {
    const named = path.resolve(process.env.TIDEGATE_BIN);
    if (!existsSync(named)) throw new Error(`TIDEGATE_BIN names ${named}, which does not exist`);
    return named;
  }
  const built = ['debug', 'release'].map((profile) => path.join(ROOT, 'target', profile, 'tidegate'));
  const found = built.find((candidate) => existsSync(candidate));
  if (!found) throw new Error('there is no gateway to test: run `cargo build`, or name one by TIDEGATE_BIN');
  return found;
}

export class Gateway {
  /** Everything the process has said, on both of its outputs. */
  said = '';
  /** `TIDEGATE_...` variables beside those that every test needs; read at each `begin`. */
  settings = {};
  /** What the requests of this file show, where the gateway wants to know who asks: `Bearer ...`. */
  authorization = undefined;
  #child = undefined;
  #folder;
  #exit;

  /** One that has its ports, and has not begun. Without further settings it will be in development mode. */
  static async prepare() {
    const gateway = new Gateway();
    gateway.port = await freePort();
    gateway.adminPort = await freePort();
    // A folder of its own: no tidegate.yaml and no .env of the developer may play into a test.
    gateway.#folder = mkdtempSync(path.join(tmpdir(), 'tidegate-browser-'));
    return gateway;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  get adminUrl() {
    return `http://127.0.0.1:${this.adminPort}`;
  }

  /** Starts the process, on the same ports as before, and waits until it may take traffic, or at least answers. */
  async begin({ until: state = 'ready' } = {}) {
    const child = spawn(binary(), ['serve'], {
      cwd: this.#folder,
      env: {
        PATH: process.env.PATH,
        RUST_BACKTRACE: '1',
        TIDEGATE_SERVER__LISTEN: `127.0.0.1:${this.port}`,
        TIDEGATE_ADMIN__LISTEN: `127.0.0.1:${this.adminPort}`,
        TIDEGATE_STREAM__RETRY: '300ms',
        TIDEGATE_DRAIN__TIMEOUT: `${DRAIN_MS}ms`,
        ...this.settings,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    // A test run that breaks off must not leave a gateway behind.
    const reap = () => child.kill('SIGKILL');
    process.once('exit', reap);
    for (const output of [child.stdout, child.stderr]) output.on('data', (text) => (this.said += text));
    this.#exit = new Promise((resolve) => {
      child.once('error', (error) => resolve({ error }));
      child.once('exit', (code, signal) => {
        process.off('exit', reap);
        resolve({ code, signal });
      });
    });
    await this.isReady(state);
  }

  /** Waits until it may take traffic, as after the return of its store; with `live`, until it answers at all. */
  async isReady(state = 'ready') {
    let exit;
    this.#exit.then((how) => (exit = how));
    await until(
      `the gateway to be ${state}`,
      async () => {
        if (exit) throw new Error(`the gateway ended before it was ${state} (${JSON.stringify(exit)}):\n${this.said}`);
        return (await this.#health(state)) === 200;
      },
      { within: READY_MS, seen: async () => ({ health: await this.#health(state), said: this.said.slice(-2_000) }) },
    );
  }

  /** The status of `/health/ready`, or undefined where nobody answers. */
  readiness() {
    return this.#health('ready');
  }

  async #health(state) {
    try {
      const response = await fetch(`${this.url}/health/${state}`, { signal: AbortSignal.timeout(2_000) });
      await response.arrayBuffer();
      return response.status;
    } catch {
      return undefined;
    }
  }

  /** SIGTERM, and the exit, which may take the time of a drain: fails unless the code is 0. */
  async stop() {
    if (!this.#child) return;
    const child = this.#child;
    this.#child = undefined;
    child.kill('SIGTERM');
    let exit;
    try {
      exit = await bounded('the gateway to exit after SIGTERM', this.#exit, EXIT_MS);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
    if (exit.code !== 0) throw new Error(`the gateway did not exit with 0: ${JSON.stringify(exit)}\n${this.said.slice(-4_000)}`);
  }

  /** `kill -9`: nobody is told anything. */
  async kill() {
    const child = this.#child;
    this.#child = undefined;
    child.kill('SIGKILL');
    await bounded('the gateway to end', this.#exit, EXIT_MS);
  }

  /** Ends the process if it still runs, and takes its folder away. */
  async remove() {
    try {
      await this.stop();
    } finally {
      rmSync(this.#folder, { recursive: true, force: true });
    }
  }

  /** Publishes one event, `{topic, data, event, end, key}`, or an array of them; returns the answer. */
  async publish(events) {
    const { status, body } = await this.tryPublish(events);
    if (status !== 200) throw new Error(`publish answered ${status}: ${JSON.stringify(body)}`);
    return Array.isArray(events) ? body.results : body;
  }

  /** The same, for a publish that may be refused. */
  async tryPublish(events) {
    const response = await fetch(`${this.url}/publish`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...this.#credentials },
      body: JSON.stringify(events),
      signal: AbortSignal.timeout(10_000),
    });
    return { status: response.status, body: await response.json() };
  }

  /** Everything that is stored under a topic: a stream from the earliest event until it has caught up. */
  async history(topic) {
    const stream = await this.subscribe(topic, { lastEventId: 'earliest' });
    if (stream.status !== 200) throw new Error(`the history of ${topic} answered ${stream.status}`);
    const reader = new FrameReader();
    const read = async () => {
      for await (const bytes of stream.body) {
        for (const byte of bytes) reader.byte(byte);
        if (reader.frames.some(({ event }) => event === '$live')) return;
      }
    };
    try {
      await bounded(`the history of ${topic} to have caught up`, read(), 10_000);
    } finally {
      stream.leave();
    }
    return reader.frames.filter(({ event }) => !event?.startsWith('$'));
  }

  /** Opens a stream that is no browser's: `{response, status, body, leave()}`. */
  async subscribe(topic, query = {}) {
    const stop = new AbortController();
    const url = `${this.url}/events?${new URLSearchParams({ topic, ...query })}`;
    const request = fetch(url, { headers: this.#credentials, signal: stop.signal });
    const response = await bounded('a stream to be answered', request, 10_000);
    // The response is held on to: Node ends the request of one that nobody holds, though its body is.
    return { response, status: response.status, body: response.body, leave: () => stop.abort() };
  }

  /** A one-time ticket with the rights of whoever `authorization` names. */
  async ticket() {
    const response = await fetch(`${this.url}/ticket`, { method: 'POST', headers: this.#credentials, signal: AbortSignal.timeout(10_000) });
    const body = await response.json();
    if (response.status !== 200) throw new Error(`a ticket was asked for, and answered by ${response.status}: ${JSON.stringify(body)}`);
    return body.ticket;
  }

  /** How many requests were refused with this code: by a stream of one frame, or by a status. */
  async refusals(code, shape = 'stream') {
    const response = await fetch(`${this.adminUrl}/metrics`, { signal: AbortSignal.timeout(10_000) });
    const lines = (await response.text()).split('\n').filter((line) => line.startsWith('tidegate_refusals_total{'));
    const line = lines.find((one) => one.includes(`code="${code}"`) && one.includes(`shape="${shape}"`));
    return Number(line?.split(' ').at(-1) ?? 0);
  }

  /** The open connections, as an operator sees them. */
  async connections() {
    const response = await fetch(`${this.adminUrl}/admin/connections`, { signal: AbortSignal.timeout(10_000) });
    return (await response.json()).connections;
  }

  get #credentials() {
    return this.authorization ? { authorization: this.authorization } : {};
  }
}
