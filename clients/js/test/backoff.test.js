import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createBackoff } from '../src/backoff.js';

const many = (draw) => Array.from({ length: 2_000 }, draw);

test('a connection that was open comes back after what the gateway said', () => {
  const backoff = createBackoff({ retryMs: 3_000, maxRetryMs: 60_000 });
  backoff.told(1_234);
  assert.deepEqual(new Set(many(() => backoff.delay(false))), new Set([1_234]));
});

test('before the gateway has said anything, the pace is drawn around the default', () => {
  const draws = many(() => createBackoff({ retryMs: 3_000, maxRetryMs: 60_000 }).delay(false));
  assert.ok(Math.min(...draws) >= 2_000 && Math.max(...draws) <= 4_000);
  assert.ok(Math.max(...draws) - Math.min(...draws) > 1_500);
});

test('failures in a row are drawn from a range that doubles, up to the greatest', () => {
  for (const [failures, most] of [[1, 2_000], [2, 4_000], [3, 8_000], [10, 60_000]]) {
    const draws = many(() => {
      const backoff = createBackoff({ retryMs: 3_000, maxRetryMs: 60_000 });
      backoff.told(1_000);
      for (let more = 1; more < failures; more++) backoff.delay(true);
      return backoff.delay(true);
    });
    assert.ok(Math.min(...draws) >= 1_000, `${failures} failures`);
    assert.ok(Math.max(...draws) <= most, `${failures} failures`);
    assert.ok(Math.max(...draws) > 0.9 * most && Math.min(...draws) < 1_000 + 0.1 * most, 'full jitter');
  }
});

test('an open connection ends the row', () => {
  const backoff = createBackoff({ retryMs: 3_000, maxRetryMs: 60_000 });
  backoff.told(100);
  for (let more = 0; more < 8; more++) backoff.delay(true);
  backoff.opened();
  assert.ok(Math.max(...many(() => { backoff.opened(); return backoff.delay(true); })) <= 200);
});

test('what a refusal asks for is the least', () => {
  const backoff = createBackoff({ retryMs: 10, maxRetryMs: 100 });
  assert.ok(Math.min(...many(() => backoff.delay(true, 5_000))) >= 5_000);
  assert.equal(backoff.delay(false, 70_000), 70_000);
});
