// Bundles each viewer's page, one script and one HTML file each, into a folder:
//
//     npm ci && npm run build -- FOLDER

import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "built"));
const pages = ["babylon", "playcanvas", "spark", "three"];

await mkdir(out, { recursive: true });
await build({
  entryPoints: pages.map((page) => join(here, `${page}.js`)),
  outdir: out,
  bundle: true,
  format: "esm",
  target: "chrome115",
  minify: true,
  legalComments: "none",
  external: ["node:*"],
});
for (const page of pages) {
  const style = "html, body { margin: 0; background: #999 } canvas { display: block }";
  const body = `<canvas id="canvas"></canvas><script type="module" src="${page}.js"></script>`;
  await writeFile(join(out, `${page}.html`), `<!doctype html><title>${page}</title><style>${style}</style>${body}\n`);
}
