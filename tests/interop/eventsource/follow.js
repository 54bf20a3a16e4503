// Follows a stream by the npm package `eventsource`: node follow.js eventsource|eventsource-4 URL
//
// Says what it sees, a line of JSON for each: see tests/interop.rs.
const { EventSource } = await import(process.argv[2]);

const say = (line) => console.log(JSON.stringify(line));
const source = new EventSource(process.argv[3]);
source.onopen = () => say({ saw: 'open' });
// As with the EventSource of a browser: a type that nobody listens to is not seen.
for (const type of ['message', 'created', '$open', '$live', '$cursor', '$gap', '$end', '$drain', '$refused']) {
  source.addEventListener(type, ({ data, lastEventId }) => say({ saw: 'event', type, id: lastEventId, data }));
}
source.onerror = ({ code, message }) => {
  // It comes back by itself, unless it was answered with anything but 200: then it is over.
  if (source.readyState === EventSource.CLOSED) say({ saw: 'over', status: code, why: message });
  else say({ saw: 'cut', why: message ?? '' });
};

// Since version 5 it lets the process end while it waits to come back: something else has to keep it.
setInterval(() => {}, 60_000);
