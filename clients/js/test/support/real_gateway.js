// The gateway itself: a process on ports of its own, ended at the end of the test.

import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../../../tests/browser/support/ports.js';
import { until } from './scene.js';

const ROOT = fileURLToPath(new URL('../../../..', import.meta.url));

/** `TIDEGATE_BIN`, or what cargo has built; undefined where there is none. */
export const binary =
  process.env.TIDEGATE_BIN ?? ['debug', 'release'].map((profile) => path.join(ROOT, 'target', profile, 'tidegate')).find((file) => existsSync(file));

export const SECRET = 'a secret of at least thirty-two bytes';

/** A signed token for `sub`. It lasts for no less than it says: its time is in whole seconds. */
export function token(claims, lastsSeconds = 60) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.ceil(Date.now() / 1_000);
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'ann', exp: now + lastsSeconds, tidegate: { subscribe: ['*'], publish: ['*'] }, ...claims })}`;
  return `${body}.${createHmac('sha256', SECRET).update(body).digest('base64url')}`;
}

export class RealGateway {
  #child;
  #folder = mkdtempSync(path.join(tmpdir(), 'tidegate-client-'));
  #proxies = new Set();
  settings = {};
  authorization;

  static async start(test, settings = {}) {
    const gateway = new RealGateway();
    gateway.settings = settings;
    gateway.port = await freePort();
    gateway.adminPort = await freePort();
    // What the client talks to: a way that can be cut while the gateway lives on.
    const proxy = createServer((socket) => {
      const onward = connect(gateway.port, '127.0.0.1');
      for (const [one, other] of [[socket, onward], [onward, socket]]) {
        one.pipe(other);
        one.on('error', () => other.destroy());
        one.on('close', () => other.destroy());
      }
      gateway.#proxies.add(socket);
      socket.on('close', () => gateway.#proxies.delete(socket));
    });
    await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    gateway.url = `http://127.0.0.1:${proxy.address().port}`;
    test.after(async () => {
      gateway.cut();
      await gateway.stop('SIGKILL');
      proxy.close();
      rmSync(gateway.#folder, { recursive: true, force: true });
    });
    await gateway.begin();
    return gateway;
  }

  async begin() {
    this.#child = spawn(binary, ['serve'], {
      cwd: this.#folder,
      stdio: 'ignore',
      env: {
        PATH: process.env.PATH,
        TIDEGATE_SERVER__LISTEN: `127.0.0.1:${this.port}`,
        TIDEGATE_ADMIN__LISTEN: `127.0.0.1:${this.adminPort}`,
        TIDEGATE_STREAM__RETRY: '100ms',
        TIDEGATE_STREAM__KEEPALIVE: '1s',
        TIDEGATE_DRAIN__TIMEOUT: '500ms',
        ...this.settings,
      },
    });
    await until('the gateway', async () => (await fetch(`${this.url}/health/ready`).catch(() => ({}))).ok);
  }

  /** SIGTERM, and the exit. */
  async stop(signal = 'SIGTERM') {
    const child = this.#child;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await exit;
  }

  /** Breaks every connection through the proxy. */
  cut() {
    for (const socket of this.#proxies) socket.destroy();
  }

  async publish(data, { topic = 'a', event, ...more } = {}) {
    const response = await fetch(`http://127.0.0.1:${this.port}/publish`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...(this.authorization && { Authorization: this.authorization }) },
      body: JSON.stringify({ topic, event, data: `${data}`, ...more }),
    });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return (await response.json()).id;
  }
}
