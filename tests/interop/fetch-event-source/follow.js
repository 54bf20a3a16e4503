// Follows a stream by the npm package `@microsoft/fetch-event-source`: node follow.js URL
//
// Says what it sees, a line of JSON for each: see tests/interop.rs.

// It is made for pages. What it takes of one:
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };

const { fetchEventSource } = await import('@microsoft/fetch-event-source');

const say = (line) => console.log(JSON.stringify(line));

/** What the gateway will not answer otherwise the next time. */
class Final extends Error {
  constructor(status, problem) {
    super(problem.code);
    this.status = status;
  }
}

// The library takes an id as seen when its line has come, and what was cut after that line would be lost. So the cursor is
// kept here: that of the last event that was whole.
let cursor;
const leave = new AbortController();
await fetchEventSource(process.argv[2], {
  signal: leave.signal,
  openWhenHidden: true, // else a page that is hidden hangs up
  fetch(url, init) {
    const headers = { ...init.headers };
    delete headers['last-event-id'];
    if (cursor) headers['last-event-id'] = cursor;
    return fetch(url, { ...init, headers });
  },
  async onopen(response) {
    if (response.status === 204) throw new Final(204, { code: 'finished' });
    if (response.ok) return say({ saw: 'open' });
    const problem = await response.json();
    if ([429, 503].includes(response.status)) throw new Error(problem.code); // tried again
    throw new Final(response.status, problem);
  },
  onmessage({ event, data, id }) {
    if (!event && !id) return; // what it makes of a keepalive
    if (id) cursor = id;
    say({ saw: 'event', type: event || 'message', id, data });
    if (event === '$end') leave.abort();
  },
  onclose() {
    throw new Error('the stream ended'); // else it does not come back after a polite end
  },
  onerror(error) {
    if (error instanceof Final) {
      say({ saw: 'over', status: error.status, why: error.message });
      throw error;
    }
    say({ saw: 'cut', why: error.message });
  },
}).then(
  () => say({ saw: 'over', why: 'left' }),
  () => {}, // told above
);
