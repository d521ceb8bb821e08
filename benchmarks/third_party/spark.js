// Spark: three.js with splats of its own.

import { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";
import { Color, PerspectiveCamera, Scene, WebGLRenderer } from "three";

window.show = async ({ url, zUp, size, position, target, fovDeg, background }) => {
  const canvas = document.getElementById("canvas");
  const renderer = new WebGLRenderer({ canvas, antialias: false, preserveDrawingBuffer: true });
  renderer.setSize(size, size);
  const scene = new Scene();
  scene.background = new Color(...background.map((value) => value / 255)).convertSRGBToLinear();
  scene.add(new SparkRenderer({ renderer }));
  const camera = new PerspectiveCamera(fovDeg, 1, 0.05, 50);
  camera.position.set(...position);
  camera.lookAt(...target);
  const splats = new SplatMesh({ url });
  if (zUp) splats.rotation.x = -Math.PI / 2;
  scene.add(splats);
  await splats.initialized;
  // It sorts on a worker, and shows the order a few frames later.
  for (let frame = 0; frame < 12; frame++) {
    renderer.render(scene, camera);
    await new Promise((done) => setTimeout(done, 100));
  }
};
