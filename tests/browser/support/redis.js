// A real redis-server with a port and a folder of its own. What it has acknowledged survives its being killed.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { freePort } from './ports.js';
import { bounded, until } from './until.js';

const READY_MS = 15_000;
const END_MS = 5_000;

export class RedisServer {
  #child = undefined;
  #ended;
  #folder = mkdtempSync(path.join(tmpdir(), 'tidegate-browser-redis-'));
  #said = '';

  static async start() {
    const server = new RedisServer();
    server.port = await freePort();
    await server.begin();
    return server;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Starts the process, on the same port and with the same files as before, and waits until it answers. */
  async begin() {
    const settings = { bind: '127.0.0.1', port: this.port, dir: this.#folder, appendonly: 'yes', appendfsync: 'always', save: '' };
    const child = spawn('redis-server', Object.entries(settings).flatMap(([name, value]) => [`--${name}`, `${value}`]), {
      cwd: this.#folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    const reap = () => child.kill('SIGKILL');
    process.once('exit', reap);
    for (const output of [child.stdout, child.stderr]) output.on('data', (text) => (this.#said += text));
    let end;
    this.#ended = new Promise((resolve) => {
      const ended = (how) => {
        process.off('exit', reap);
        end = how;
        resolve();
      };
      child.once('error', (error) => ended(error.code === 'ENOENT' ? 'there is no redis-server: scripts/install-test-tools redis' : error.message));
      child.once('exit', (code, signal) => ended(`${code ?? signal}:\n${this.#said}`));
    });
    await until(
      'redis-server to answer',
      () => {
        if (end) throw new Error(`redis-server ended before it answered: ${end}`);
        return this.#answers();
      },
      { within: READY_MS, seen: () => this.#said.slice(-1_000) },
    );
  }

  /** `kill -9`. */
  async kill() {
    if (!this.#child) return;
    this.#child.kill('SIGKILL');
    this.#child = undefined;
    await bounded('redis-server to end', this.#ended, END_MS);
  }

  async remove() {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Whether it says PONG, which it does not while it reads its files. */
  #answers() {
    return new Promise((resolve) => {
      const socket = net.connect(this.port, '127.0.0.1', () => socket.write('PING\r\n'));
      const answer = (pong) => {
        socket.destroy();
        resolve(pong);
      };
      socket.setTimeout(1_000, () => answer(false));
      socket.once('error', () => answer(false));
      socket.once('data', (bytes) => answer(bytes.toString().startsWith('+PONG')));
    });
  }
}
