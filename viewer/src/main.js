// What the bundle offers to pages as `specularip`.

export { OrbitCamera } from "./camera.js";
export { unpack } from "./pack.js";
export { Renderer } from "./renderer.js";
