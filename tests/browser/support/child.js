// A program that a test has started beside the gateway. It ends with the test run, however that ends, and what it said is told
// when it does not do what it should.

import { spawn } from 'node:child_process';
import path from 'node:path';
import { bounded, until } from './until.js';

export class Child {
  #child;
  #name;
  #said = '';
  #end = undefined;
  #ended;

  /** `missing` says where the program comes from; `reap` is the signal by which the end of the test run ends it. */
  constructor(program, words, { cwd, missing, reap = 'SIGKILL' }) {
    this.#name = path.basename(program);
    const child = spawn(program, words, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    const reaper = () => child.kill(reap);
    process.once('exit', reaper);
    for (const output of [child.stdout, child.stderr]) output.on('data', (text) => (this.#said += text));
    this.#ended = new Promise((resolve) => {
      const ended = (how) => {
        process.off('exit', reaper);
        this.#end = how;
        resolve();
      };
      child.once('error', (error) => ended(error.code === 'ENOENT' ? `there is no ${this.#name}: ${missing}` : error.message));
      child.once('exit', (code, signal) => ended(`${code ?? signal}:\n${this.#said}`));
    });
  }

  /** Waits until `look` is true. It is an error when the program ends before that. */
  async begins(what, look, within) {
    await until(
      `${this.#name} to ${what}`,
      () => {
        if (this.#end) throw new Error(`${this.#name} ended before that: ${this.#end}`);
        return look();
      },
      { within, seen: () => this.#said.slice(-1_000) },
    );
  }

  signal(signal) {
    this.#child.kill(signal);
  }

  /** Ends it by `signal`. */
  async end(signal, within) {
    this.#child.kill(signal);
    await bounded(`${this.#name} to end`, this.#ended, within);
  }
}
