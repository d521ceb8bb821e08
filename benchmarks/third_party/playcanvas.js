// The PlayCanvas engine, which SuperSplat is made with.

import * as pc from "playcanvas";

window.show = async ({ url, zUp, size, position, target, fovDeg, background }) => {
  const canvas = document.getElementById("canvas");
  const options = { graphicsDeviceOptions: { antialias: false, preserveDrawingBuffer: true } };
  const app = new pc.Application(canvas, options);
  app.setCanvasFillMode(pc.FILLMODE_NONE, size, size);
  app.setCanvasResolution(pc.RESOLUTION_FIXED, size, size);
  const camera = new pc.Entity("camera");
  camera.addComponent("camera", {
    clearColor: new pc.Color(...background.map((value) => value / 255)),
    fov: fovDeg,
    nearClip: 0.05,
    farClip: 50,
  });
  app.root.addChild(camera);
  camera.setPosition(...position);
  camera.lookAt(...target);
  const asset = new pc.Asset("avatar", url.endsWith(".glb") ? "container" : "gsplat", { url });
  app.assets.add(asset);
  await new Promise((done, failed) => {
    asset.ready(done);
    asset.once("error", failed);
    app.assets.load(asset);
  });
  let entity;
  if (asset.type === "container") {
    entity = asset.resource.instantiateRenderEntity();
  } else {
    entity = new pc.Entity("avatar");
    entity.addComponent("gsplat", { asset });
  }
  if (zUp) entity.setLocalEulerAngles(-90, 0, 0);
  app.root.addChild(entity);
  app.start();
  // It sorts on a worker, and shows the order a few frames later.
  await new Promise((done) => setTimeout(done, 2000));
};
