// three.js core: its own Gaussian splats, which need WebGPURenderer (here with its WebGL2 backend).

import { Color, LinearSRGBColorSpace, PerspectiveCamera, Scene, WebGPURenderer } from "three/webgpu";
import { GLTFGaussianSplatLoaderExtension } from "three/addons/loaders/GLTFGaussianSplatLoaderExtension.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { GaussianSplatPLYLoader } from "three/addons/loaders/GaussianSplatPLYLoader.js";
import { SPZLoader } from "three/addons/loaders/SPZLoader.js";
import { GaussianSplat } from "three/addons/objects/GaussianSplat.js";

async function load(url) {
  if (url.endsWith(".ply")) return new GaussianSplat(await new GaussianSplatPLYLoader().loadAsync(url));
  if (url.endsWith(".spz")) return new GaussianSplat(await new SPZLoader().loadAsync(url));
  const loader = new GLTFLoader();
  loader.register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
  return (await loader.loadAsync(url)).scene;
}

window.show = async ({ url, zUp, size, position, target, fovDeg, background }) => {
  const canvas = document.getElementById("canvas");
  const renderer = new WebGPURenderer({ canvas, forceWebGL: true });
  // Splats' colours are sRGB already, and blended as such: without this, they would be encoded a second time.
  renderer.outputColorSpace = LinearSRGBColorSpace;
  await renderer.init();
  renderer.setSize(size, size);
  const scene = new Scene();
  scene.background = new Color(...background.map((value) => value / 255));
  const camera = new PerspectiveCamera(fovDeg, 1, 0.05, 50);
  camera.position.set(...position);
  camera.lookAt(...target);
  const splats = await load(url);
  if (zUp) splats.rotation.x = -Math.PI / 2;
  scene.add(splats);
  for (let frame = 0; frame < 3; frame++) {
    await renderer.render(scene, camera);
    await new Promise(requestAnimationFrame);
  }
};
