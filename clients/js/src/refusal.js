// Why a transport ended: a reason is
// { done }                              nothing more will come
// { silent }                            it never said anything
// { status, code, detail, retryMs }     a refusal, as far as it is known; retryMs: not before
// { detail }                            the network

import { parseJson } from './items.js';

/** A refusal asks for so many seconds; a third more at most, so that not all come at once. */
export const afterSeconds = (seconds) => seconds * (1000 + 333 * Math.random()) || 0;

/** @param {Response} response with a status that is no stream */
export async function refusalOf(response) {
  const { status } = response;
  const problem = parseJson(await response.text().catch(() => ''));
  return {
    done: status === 204,
    status: status === 200 ? undefined : status,
    code: problem?.code,
    detail: problem?.detail ?? `${status} ${response.headers.get('content-type') ?? ''}`.trim(),
    retryMs: afterSeconds(+response.headers.get('retry-after')),
  };
}

/** Whether the same request would be refused again. */
export const isFinal = (status) => status >= 400 && status < 500 && ![401, 408, 425, 429].includes(status);
