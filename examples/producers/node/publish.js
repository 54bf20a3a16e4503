// Publishes one event to a topic of Tidegate: node publish.js TOPIC DATA [TYPE] [KEY]
//
// An empty TYPE is message. With a KEY a repetition is safe: it stores the event once. REDIS_URL says where.
// Exit code 0: stored. 1: refused, and would be again. 75: try again later, with the same key.
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient, ErrorReply } from 'redis';

const PREFIX = 'tidegate'; // redis.prefix of the gateways
const PUBLISHER = 'example'; // so that two publishers may use the same key
// Nothing was stored, and it may be another time.
const TEMPORARY = /^(LOADING|BUSY|OOM|READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN) /;

/** Returns the id of the event, and "stored" or "duplicate". */
async function publish(client, topic, data, type = '', key = '') {
  const base = `${PREFIX}:{0}:`;
  const keys = ['meta', 'last', 'heads', `topic:${topic}`, `ch:${topic}`].map((name) => base + name);
  if (key) {
    const hash = createHash('sha1').update([PUBLISHER, topic, key].join('\n'));
    keys.push(`${base}idem:${hash.digest('hex')}`);
  }
  return client.fCall('tidegate_publish', { keys, arguments: [type, data] });
}

async function main(topic, data, type, key) {
  const url = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379';
  for (const pause of [100, 500, 2000, 0]) {
    // A connection for each attempt, which waits neither for a server that is away nor for an answer that does not come.
    const socket = { reconnectStrategy: false, connectTimeout: 5000, socketTimeout: 5000 };
    const client = createClient({ url, socket, disableOfflineQueue: true });
    client.on('error', () => {}); // told below
    let sent = false;
    try {
      await client.connect();
      sent = true;
      console.log(...(await publish(client, topic, data, type, key)));
      return 0;
    } catch (error) {
      if (error instanceof ErrorReply && /Function not found/.test(error.message)) {
        console.error('the functions of Tidegate are not in this Redis: start a gateway once, or load functions.lua');
        return 1;
      }
      const answered = error instanceof ErrorReply;
      if (answered && !TEMPORARY.test(error.message)) {
        console.error(`refused: ${error.message}`);
        return 1;
      }
      console.error(sent && !answered ? 'whether it was stored is unknown:' : 'not stored:', error.message);
      if (sent && !answered && !key) return 75;
    } finally {
      client.destroy();
    }
    await sleep(pause);
  }
  return 75;
}

if (process.argv.length < 4) throw new Error('usage: node publish.js TOPIC DATA [TYPE] [KEY]');
process.exitCode = await main(...process.argv.slice(2));
