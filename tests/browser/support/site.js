// The pages of these tests and the scripts that they load, as they are served below `/page`: by the page server, which to the
// gateway is another origin, and by the proxy before the gateway, which makes it the gateway's own.

import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

export const PAGE_TARGET = '/page';

const TYPES = { html: 'text/html; charset=utf-8', js: 'text/javascript; charset=utf-8' };
const FILES = {
  [PAGE_TARGET]: './page.html',
  [`${PAGE_TARGET}/worker.js`]: './worker.js',
  [`${PAGE_TARGET}/client`]: './client.html',
  // What the gateway serves as /tidegate.js; another build of it may be named.
  [`${PAGE_TARGET}/tidegate.js`]: process.env.TIDEGATE_CLIENT ? pathToFileURL(process.env.TIDEGATE_CLIENT).href : '../../../clients/js/dist/tidegate.js',
};

/** What stands at the target of a request, `{type, body}`, or undefined where nothing does. */
export function fileAt(target) {
  const path = target.split('?')[0];
  if (!Object.hasOwn(FILES, path)) return undefined;
  const name = FILES[path];
  return { type: TYPES[name.split('.').pop()], body: readFileSync(new URL(name, import.meta.url)) };
}
