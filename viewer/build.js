// Bundles src/main.js to one classic script, `viewer.js`, and copies the page's other files as they are:
//
//     npm ci && npm run build [-- FOLDER]
//
// FOLDER defaults to the package's assets. The script defines `specularip`, what main.js exports. It is one
// file without modules so that it runs inside an .html that is opened from disk.

import { copyFile, mkdir, readdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../src/specularip/assets/viewer"));

await mkdir(out, { recursive: true });
await build({
  entryPoints: [join(here, "src/main.js")],
  outfile: join(out, "viewer.js"),
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "specularip",
  target: ["chrome100", "firefox113", "safari16.4"],
  legalComments: "none",
});
for (const name of await readdir(join(here, "src"))) {
  if (/\.(css|html|svg)$/.test(name)) await copyFile(join(here, "src", name), join(out, name));
}
