// In place of a model: the same words for the same prompt, one token after another.
//
// With a real one, `generate` calls it and yields what it streams; most clients take `signal` as it is:
//
//   const stream = await client.chat.completions.create({ model, messages, stream: true }, { signal });
//   for await (const part of stream) yield part.choices[0]?.delta.content ?? '';
import { setTimeout as sleep } from 'node:timers/promises';

const PAUSE_MS = Number(process.env.TOKEN_MS ?? 60);

const ANSWER = `A tide gate lets water pass one way, and so does this answer: each token is an event of one topic.

You asked: “%s”

- Reload this page: what was said so far comes again, and then the rest.
- Open it in a second window: both of them see the same.
- Close it, have a coffee, come back: the answer went on without you.

    const source = new TidegateSource(url, { lastEventId: 'earliest' });
    source.addEventListener('token', (event) => answer.append(event.data));

That is all that the page has to do. The end of the topic says that there is nothing more to wait for.`;

/** Yields tokens until the answer is complete, or `signal` is aborted: then it throws. */
export async function* generate(prompt, signal) {
  for (const token of ANSWER.replace('%s', prompt).match(/\s*\S+/g)) {
    await sleep(PAUSE_MS, undefined, { signal });
    yield token;
  }
}
