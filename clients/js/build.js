// Builds dist/tidegate.js, one minified ES module, and holds it to its size.
//
//   node build.js            writes it
//   node build.js --check    fails when the committed one is another

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { minify } from 'terser';

const LIMIT = 6 * 1024;

/**
 * Members that are seen inside of one tab alone, by none of the platform's objects, and in no JSON: the minifier may rename
 * them. (What one tab says to another is not among them: they may have loaded different versions.)
 */
const INSIDE = `
  address backoff begun beside better dead delay doubted each enveloped everyType follow forget hasStart head heard
  isBare isEnveloped isFirst isGiven isRenewable item kind ladder missed online opened renew resume rounds seeing
  settings store suspend temporary timer told waitMs wake
`;

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

const { outputFiles } = await build({
  entryPoints: [here('src/index.js')],
  bundle: true,
  format: 'esm',
  target: 'es2022',
  charset: 'utf8',
  legalComments: 'none',
  mangleProps: new RegExp(`^(${INSIDE.trim().split(/\s+/).join('|')})$`),
  write: false,
});
const { code } = await minify(outputFiles[0].text, {
  module: true,
  compress: { passes: 3, ecma: 2020, unsafe: true, unsafe_arrows: true, unsafe_methods: true },
  format: { preamble: '/* Apache-2.0 */' },
});
const built = Buffer.from(`${code}\n`);
const gzip = gzipSync(built, { level: 9 }).length;
console.log(`dist/tidegate.js: ${built.length} bytes, ${gzip} with gzip, ${LIMIT} allowed`);
if (gzip >= LIMIT) {
  console.error('dist/tidegate.js is too large');
  process.exit(1);
}
const target = here('dist/tidegate.js');
if (!process.argv.includes('--check')) writeFileSync(target, built);
else if (!built.equals(readFileSync(target))) {
  console.error('dist/tidegate.js is not what the sources give: run `npm run build` and commit it');
  process.exit(1);
}
