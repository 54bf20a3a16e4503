// Free ports on loopback.

import net from 'node:net';

// Below the range from which systems draw the ports of outgoing connections: a gateway that is
// restarted on its old port must find it free, whatever was dialled in between.
const LOWEST = 20_000;
const HIGHEST = 32_000;
const given = new Set();

/** A port that nobody listens on, and that this process has not given out before. */
export async function freePort() {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const port = LOWEST + Math.floor(Math.random() * (HIGHEST - LOWEST));
    if (!given.has(port) && (await isFree(port))) {
      given.add(port);
      return port;
    }
  }
  throw new Error(`no free port between ${LOWEST} and ${HIGHEST}`);
}

function isFree(port) {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}
