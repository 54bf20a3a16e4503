// Who asks: headers, a token, tickets.

/** Values may be given as they are, or as functions that are asked for them. */
const ask = async (value, about) => (typeof value === 'function' ? value(about) : value);

/** A page that cannot say who it is has not been refused by the gateway. */
const orExplain = (promise) =>
  promise.catch((error) => {
    throw { code: 'credentials', detail: `${error?.message ?? error}` };
  });

/**
 * @param {{ headers?: any, token?: any, ticket?: any }} options
 * @param {(headers: Record<string, string>) => Promise<string>} exchange asks the gateway for a ticket
 */
export function createCredentials({ headers, token, ticket }, exchange) {
  let known;
  let reason = 'connect';
  const credentials = {
    /** A refused one may be followed by a better one. */
    isRenewable: [headers, token, ticket].some((value) => typeof value === 'function'),
    /** Without any, the browser sends cookies, which may become better by themselves. */
    isGiven: !!(headers || token || ticket),
    /** The token that is known, or one that the page is asked for now. */
    token() {
      known ??= orExplain(ask(token, { reason })).catch((error) => {
        known = undefined;
        throw error;
      });
      return known;
    },
    /** What was shown is not good any more, or not for long. */
    forget(why) {
      known = undefined;
      reason = why;
    },
    /** For what goes by fetch. */
    async headers() {
      const bearer = await credentials.token();
      const more = await orExplain(ask(headers));
      return { ...more, ...(bearer && { Authorization: `Bearer ${bearer}` }) };
    },
    /** For a URL, good for one request; `must`: there will be no headers. */
    async ticket(must) {
      if (ticket) return orExplain(ask(ticket));
      const shown = must && new Headers(await credentials.headers());
      // Other headers are for somebody on the way.
      if (shown && shown.has('authorization')) return exchange(shown);
    },
  };
  return credentials;
}
