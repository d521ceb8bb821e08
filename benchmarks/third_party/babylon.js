// Babylon.js.

import "@babylonjs/loaders/glTF/index.js";
import "@babylonjs/loaders/SPLAT/index.js";
import { FreeCamera } from "@babylonjs/core/Cameras/freeCamera.js";
import { Engine } from "@babylonjs/core/Engines/engine.js";
import { LoadAssetContainerAsync } from "@babylonjs/core/Loading/sceneLoader.js";
import { Color4 } from "@babylonjs/core/Maths/math.color.js";
import { Vector3 } from "@babylonjs/core/Maths/math.vector.js";
import { TransformNode } from "@babylonjs/core/Meshes/transformNode.js";
import { Scene } from "@babylonjs/core/scene.js";

window.show = async ({ url, zUp, size, position, target, fovDeg, background }) => {
  const canvas = document.getElementById("canvas");
  canvas.width = canvas.height = size;
  const engine = new Engine(canvas, false, { preserveDrawingBuffer: true });
  const scene = new Scene(engine);
  scene.useRightHandedSystem = true;
  scene.clearColor = new Color4(...background.map((value) => value / 255), 1);
  const camera = new FreeCamera("camera", new Vector3(...position), scene);
  camera.setTarget(new Vector3(...target));
  [camera.fov, camera.minZ, camera.maxZ] = [(fovDeg * Math.PI) / 180, 0.05, 50];
  // Its reader of .spz comes from another site, unless it is told to use its own.
  const pluginOptions = { splat: { spzLibraryUrl: undefined } };
  const container = await LoadAssetContainerAsync(url, scene, { pluginOptions });
  if (!url.endsWith(".glb")) {
    // Its loader turns files upside down, as most captures are; ours are not.
    for (const mesh of container.meshes) mesh.scaling.y = 1;
  }
  if (zUp) {
    const turn = new TransformNode("turn", scene);
    turn.rotation.x = -Math.PI / 2;
    for (const mesh of container.meshes) mesh.parent = turn;
  }
  container.addAllToScene();
  await scene.whenReadyAsync();
  // It sorts on a worker, and shows the order a few frames later.
  for (let frame = 0; frame < 12; frame++) {
    scene.render();
    await new Promise((done) => setTimeout(done, 100));
  }
};
