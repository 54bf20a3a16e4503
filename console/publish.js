// The form that publishes an event, and what the gateway answered.

import { body } from './snippets.js';
import { bytesOf, json, pretty, size, span } from './text.js';

export class Publish {
  #form;
  #headers;
  #on;
  #busy = false;

  /** `headers()` are sent along; `on.published(event)` is told. */
  constructor(form, headers, on) {
    this.#form = form;
    this.#headers = headers;
    this.#on = on;
    const { data, hint, format } = this.#parts;
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.send();
    });
    form.addEventListener('input', () => {
      this.#judge();
      on.changed();
    });
    data.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    format.addEventListener('click', () => {
      data.value = pretty(data.value);
      this.#judge();
      on.changed();
    });
    form.querySelector('#new-key').addEventListener('click', () => {
      form.querySelector('#publish-key').value = newKey();
      on.changed();
    });
    hint.textContent = 'Empty.';
  }

  get #parts() {
    const find = (id) => this.#form.querySelector(id);
    return { data: find('#publish-data'), hint: find('#data-hint'), format: find('#format'), answer: find('#publish-answer'), button: find('#publish') };
  }

  /** What the form holds. */
  get event() {
    const value = (id) => this.#form.querySelector(id).value;
    return {
      topic: value('#publish-topic').trim(),
      type: value('#publish-type').trim(),
      data: value('#publish-data'),
      end: this.#form.querySelector('#publish-end').checked,
      key: value('#publish-key').trim(),
    };
  }

  /** Puts something into the form. */
  fill({ topic, type, data }) {
    const set = (id, text) => text !== undefined && (this.#form.querySelector(id).value = text);
    set('#publish-topic', topic);
    set('#publish-type', type === 'message' ? '' : type);
    set('#publish-data', data);
    this.#judge();
    this.#on.changed();
  }

  #judge() {
    const { data, hint, format } = this.#parts;
    const text = data.value;
    const bytes = size(bytesOf(text));
    const { error } = json(text);
    format.hidden = text === '' || error !== undefined;
    const looksLikeJson = /^\s*[{["]/.test(text);
    hint.dataset.kind = text === '' ? '' : error === undefined ? 'good' : looksLikeJson ? 'warn' : '';
    if (text === '') hint.textContent = this.event.end ? 'Empty: only the end is stored.' : 'Empty.';
    else if (error === undefined) hint.textContent = `${bytes}, JSON. Sent as it stands.`;
    else if (looksLikeJson) hint.textContent = `${bytes}, no JSON: ${reason(error)}. Sent as text.`;
    else hint.textContent = `${bytes} of text.`;
  }

  async send() {
    if (this.#busy) return;
    const { button } = this.#parts;
    const event = this.event;
    this.#busy = true;
    button.disabled = true;
    const begun = performance.now();
    try {
      const response = await fetch('/publish', {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...this.#headers() },
        body: JSON.stringify(body(event)),
        cache: 'no-store',
      });
      const took = performance.now() - begun;
      const answer = await response.json().catch(() => ({}));
      if (response.ok) {
        this.#say('good', answer.duplicate ? 'Was there already' : 'Stored', ['id ', { code: answer.id }, ` in ${answer.topic}, ${span(took)}`]);
        this.#on.published(event, answer);
      } else {
        const after = response.headers.get('retry-after');
        this.#say('bad', answer.title ?? `Status ${response.status}`, [
          `${answer.detail ?? ''}${answer.detail ? ' ' : ''}(${response.status}`,
          ...(answer.code ? [' ', { code: answer.code }] : []),
          `${after ? `, again in ${after} s` : ''})`,
        ]);
      }
    } catch {
      this.#say('bad', 'No answer', ['The gateway was not reached. Whether the event is stored is not known; with an idempotency key it can be sent again.']);
    } finally {
      this.#busy = false;
      button.disabled = false;
    }
  }

  #say(kind, title, parts) {
    const { answer } = this.#parts;
    const strong = document.createElement('strong');
    strong.textContent = title;
    const rest = parts.map((part) => {
      if (typeof part === 'string') return part;
      const code = document.createElement('code');
      code.textContent = part.code;
      return code;
    });
    answer.className = `notice ${kind}`;
    answer.replaceChildren(strong, ...rest);
    answer.hidden = false;
    answer.scrollIntoView({ block: 'nearest' });
  }
}

/** What the browser says is wrong with JSON, without its own preamble. */
const reason = ({ message }) => message.replace(/^JSON\.parse: /, '').replace(/ of the JSON data$/, '').slice(0, 90);

function newKey() {
  // `randomUUID` is there only with TLS or on this machine.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
