// A real redis-server with a port and a folder of its own. What it has acknowledged survives its being killed.

import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Child } from './child.js';
import { freePort } from './ports.js';

const READY_MS = 20_000;
const END_MS = 5_000;

export class RedisServer {
  #child = undefined;
  #folder = mkdtempSync(path.join(tmpdir(), 'tidegate-browser-redis-'));

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
    const words = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, `${value}`]);
    this.#child = new Child('redis-server', words, { cwd: this.#folder, missing: 'scripts/install-test-tools redis' });
    await this.#child.begins('answer', () => this.#answers(), READY_MS);
  }

  /** `kill -9`. */
  async kill() {
    const child = this.#child;
    this.#child = undefined;
    await child?.end('SIGKILL', END_MS);
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
