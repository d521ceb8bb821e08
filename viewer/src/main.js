// What the bundle offers to pages as `specularip`. On the viewer's own page, `page` is what it shows.

import { Page } from "./page.js";

export { OrbitCamera } from "./camera.js";
export { unpack } from "./pack.js";
export { Renderer } from "./renderer.js";

export const page = document.body?.dataset.page === "viewer" ? new Page() : null;
page?.start();
