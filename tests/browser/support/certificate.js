// A certificate for 127.0.0.1 that nobody has signed but itself, one for all tests of a process; the browsers of these tests
// are told to take it.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

let made;

/** Paths of two PEM files, `{certificate, key}`. */
export function certificate() {
  if (made) return made;
  const folder = mkdtempSync(path.join(tmpdir(), 'tidegate-browser-certificate-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const files = { certificate: path.join(folder, 'certificate.pem'), key: path.join(folder, 'key.pem') };
  const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  execFileSync('openssl', ['req', '-x509', ...kind, ...subject, '-keyout', files.key, '-out', files.certificate], { stdio: 'ignore' });
  made = files;
  return files;
}
