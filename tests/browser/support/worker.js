// A worker, dedicated or shared, that follows topics with an EventSource of its own and tells each page what it sees.
//
// Messages in: `{url}` follows, `{close: true}` closes. Messages out: `{opened | event | error | state | connected}`.

let source;
const told = []; // a page that connects to a shared worker later hears all of it
const ports = [];

function tell(what) {
  told.push(what);
  for (const port of ports) port.postMessage(what);
}

function obey(port) {
  ports.push(port);
  port.onmessage = ({ data }) => {
    if (data.close) {
      source.close();
      tell({ state: source.readyState });
    } else if (!source) {
      source = new EventSource(data.url);
      tell({ state: source.readyState });
      source.onmessage = (event) => tell({ event: { id: event.lastEventId, type: event.type, data: event.data } });
      source.onerror = () => tell({ error: source.readyState });
      source.addEventListener('$open', (event) => tell({ opened: { id: event.lastEventId, ...JSON.parse(event.data) } }));
    }
  };
  for (const what of told) port.postMessage(what);
}

if (self.onconnect === undefined) obey(self);
else self.onconnect = ({ ports: [port] }) => obey(port);
