// Tokens as a page's own back end would sign them (RFC 7519, HS256), and a gateway that believes them.

import { createHmac } from 'node:crypto';

const SECRET = 'a secret of these tests, and long enough';

// Long enough for a slow machine to renew a token, or to see what is told and publish, before it is over.
export const NOTICE_S = 5;
// Long enough for a slow machine to open a stream with it before that notice.
export const SHORT_S = 8;

/** A gateway that wants tokens, says early that one expires, and takes the clock at its word. */
export const wantsTokens = {
  TIDEGATE_AUTH__JWT__SECRET: SECRET,
  TIDEGATE_AUTH__JWT__LEEWAY: '0s',
  TIDEGATE_AUTH__EXPIRY_NOTICE: `${NOTICE_S}s`,
};

const EVERYTHING = { subscribe: ['*'], publish: ['*'] };

/** A token that is good for so many seconds from now on; `forged` is one that another secret has signed. */
export function token(seconds, { subject = 'ada', rights = EVERYTHING, forged = false } = {}) {
  // A token's time is in whole seconds. Rounded up: it must not be shorter than asked for.
  const exp = Math.ceil(Date.now() / 1_000) + seconds;
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: subject, exp, tidegate: rights })}`;
  const signature = createHmac('sha256', forged ? `not ${SECRET}` : SECRET).update(signed).digest('base64url');
  return `${signed}.${signature}`;
}
