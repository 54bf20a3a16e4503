// Builds dist/tidegate.js, one minified ES module, and holds it to its size.
//
//   node build.js            writes it
//   node build.js --check    fails when the committed one is another

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const LIMIT = 6 * 1024;
const here = (name) => fileURLToPath(new URL(name, import.meta.url));

const { outputFiles } = await build({
  entryPoints: [here('src/index.js')],
  bundle: true,
  format: 'esm',
  minify: true,
  target: 'es2022',
  charset: 'utf8',
  legalComments: 'none',
  banner: { js: '/* Tidegate, Apache-2.0 */' },
  write: false,
});
const [{ contents }] = outputFiles;
const built = Buffer.from(contents);
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
