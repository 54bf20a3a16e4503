// Why a transport ended. A reason is
// { done }                              nothing more will come
// { dead }                              a refusal that the transport could not see
// { code: SILENT }, { code: SILENCE }   nothing came from the start, or any more
// { status, code, detail, retryMs }     a refusal, as far as it is known; retryMs: not before
// { detail }                            the network

import { parseJson } from './items.js';

export const SILENT = 'silent';
export const SILENCE = 'silence';

/** A refusal asks for so many seconds; a third more at most, so that not all come at once. */
export const afterSeconds = (seconds) => seconds * (1000 + 333 * Math.random()) || 0;

/** @param {Response} response with a status that is no stream; its text, if that has been read */
export async function refusalOf(response, text) {
  const { status, headers } = response;
  const { code, detail } = parseJson(text ?? (await response.text())) ?? {};
  return {
    done: status === 204,
    status,
    code,
    detail: detail ?? `${status} ${headers.get('content-type')}`,
    retryMs: afterSeconds(headers.get('retry-after')),
  };
}

/** Whether the same request would be refused again. */
export const isFinal = (status) => /^4(?!01|08|25|29)/.test(status);
