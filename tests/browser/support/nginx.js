// A real Nginx before the gateway: the configuration of this repository (nginx/nginx.conf) with ports, upstreams and paths of
// the test in place of its own. What is replaced has to be there, so a test never runs with something else than what it says.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { certificate } from './certificate.js';
import { Child } from './child.js';
import { freePort } from './ports.js';

const CONFIGURATION = new URL('../../../nginx/nginx.conf', import.meta.url);
const READY_MS = 20_000;
const END_MS = 10_000;
// After a reload the old worker cuts its streams when this is over.
const SHUTDOWN_MS = 300;

/** What a gateway has to be told that stands behind a proxy; development mode serves none. */
export const behindNginx = {
  TIDEGATE_AUTH__ANONYMOUS: 'subscribe,publish',
  TIDEGATE_SERVER__TRUSTED_PROXIES: '127.0.0.1',
};

export class Nginx {
  #child;
  #folder = mkdtempSync(path.join(tmpdir(), 'tidegate-browser-nginx-'));

  /**
   * Starts one before the replicas on these ports. `balance` is a line for the upstream in place of `least_conn;`, `events`
   * one for `location = /events`, in place of `proxy_buffering off;`; with `tls` it speaks TLS and HTTP/2.
   */
  static async before(replicas, { balance = 'least_conn;', events = 'proxy_buffering off;', tls = false } = {}) {
    const nginx = new Nginx();
    nginx.port = await freePort();
    nginx.tls = tls;
    nginx.#configure(replicas, { balance, events });
    await nginx.#begin();
    return nginx;
  }

  get url() {
    return `${this.tls ? 'https' : 'http'}://127.0.0.1:${this.port}`;
  }

  #configure(replicas, { balance, events }) {
    let text = readFileSync(CONFIGURATION, 'utf8');
    const replace = (what, by) => {
      const parts = text.split(what);
      if (parts.length !== 2) throw new Error(`nginx.conf has ${JSON.stringify(what)} ${parts.length - 1} times, not once`);
      text = parts.join(by);
    };
    const folder = (name) => path.join(this.#folder, name);
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((one) => `${one}_temp_path ${folder(one)};`);
    replace('worker_processes auto;', 'worker_processes 1;');
    replace('pid /run/nginx.pid;', `pid ${folder('pid')};`);
    replace('worker_shutdown_timeout 30s;', `worker_shutdown_timeout ${SHUTDOWN_MS}ms;`);
    replace('http {', `http { access_log off; ${temporary.join(' ')}`);
    replace('        least_conn;', `        ${balance}`);
    replace('        server 127.0.0.1:8080 max_fails=1 fail_timeout=5s;', replicas.map((port) => `server 127.0.0.1:${port} max_fails=1 fail_timeout=5s;`).join(' '));
    replace('proxy_buffering off;\n            gzip off;', `${events}\n            gzip off;`);
    if (this.tls) {
      const { certificate: file, key } = certificate();
      replace('listen 80;', `listen 127.0.0.1:${this.port} ssl http2; ssl_certificate ${file}; ssl_certificate_key ${key};`);
    } else {
      replace('listen 80;', `listen 127.0.0.1:${this.port};`);
    }
    mkdirSync(folder('logs'));
    writeFileSync(folder('nginx.conf'), text);
  }

  async #begin() {
    const program = existsSync('/usr/sbin/nginx') ? '/usr/sbin/nginx' : 'nginx';
    // Workers of one that root has started would lose the right to this folder.
    const settings = `daemon off; error_log stderr warn;${process.getuid() === 0 ? ' user root;' : ''}`;
    this.#child = new Child(program, ['-p', this.#folder, '-c', path.join(this.#folder, 'nginx.conf'), '-g', settings], {
      missing: 'scripts/install-test-tools browser',
      reap: 'SIGTERM',
    });
    await this.#child.begins('listen', () => isListening(this.port), READY_MS);
  }

  /** `nginx -s reload`. Open streams stay with the old worker until its time is over. */
  reload() {
    this.#child.signal('SIGHUP');
  }

  async close() {
    await this.#child.end('SIGTERM', END_MS);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function isListening(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
