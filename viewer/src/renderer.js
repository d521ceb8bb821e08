// Draws Gaussians with explicit view-dependent colours in WebGL2.
//
// A frame takes four passes, of which the first three are skipped when nothing has changed:
//   1. shade: one fragment a Gaussian poses and projects it and computes its colour;
//   2. sort, on the main thread: back to front by depth;
//   3. splat: one instanced draw, blended into a half-float target, because colours exceed 1 until the end;
//   4. resolve: background, clamp, to the canvas.

import { HalfLayers, textureSize } from "./halves.js";
import { BATCH, COVER, LAYERS, RESOLVE, SPLAT_FRAGMENT, SPLAT_VERTEX, shade } from "./shaders.js";
import { STRIDE, expressedMeans, skinMatrices } from "./skeleton.js";
import { DepthSort, depthsOf, posedDepthsOf } from "./sort.js";

/** Scales are stored in these parts of a metre, so that half floats keep their precision down to 60 nm. */
const SCALE_UNITS = 1024;

/** A pixel with less opacity than this is empty for `pick`. */
const SOLID = 0.2;

export class Renderer {
  /** onNote gets sentences for the user. Throws where WebGL2 is missing. */
  constructor(canvas, { onNote = () => {} } = {}) {
    this.canvas = canvas;
    this.onNote = onNote;
    this.avatar = null;
    this._pose = null;
    this._last = null;
    this.gl = canvas.getContext("webgl2", { alpha: true, antialias: false, depth: false, stencil: false });
    if (!this.gl) {
      throw new Error(
        "This browser does not offer WebGL2, which the viewer needs: update it, or turn on hardware acceleration.",
      );
    }
    this._onLost = (event) => event.preventDefault();
    this._onRestored = () => this._restore();
    canvas.addEventListener("webglcontextlost", this._onLost);
    canvas.addEventListener("webglcontextrestored", this._onRestored);
    this._create();
  }

  /** Draw another avatar from now on, what `unpack` returns, in its rest pose. null: nothing. */
  setAvatar(avatar) {
    this._freeAvatar();
    this.avatar = avatar;
    this._pose = null;
    this._upload();
  }

  /**
   * rotations: Float32Array [4J] wxyz of the binding's joints, relative to the rest pose and to the parent;
   * translation: metres, of the root; expressions: Float32Array [E] weights. Each may be missing. null: the
   * rest pose.
   */
  setPose(pose) {
    if (pose === null && this._pose === null) return;
    this._pose = pose;
    this._applyPose();
  }

  /**
   * view: {viewmat, fx, fy, cx, cy, width, height}; viewmat: world to camera, 16 numbers row by row, OpenCV
   * axes; the rest in pixels. settings: layer, one of LAYERS; specular: strength of the highlights, 0: diffuse
   * colours; size: factor of the Gaussians' sizes; background: [r, g, b] in 0..1, or null for a transparent one.
   */
  draw(view, settings = {}) {
    const options = { layer: "final", specular: 1, size: 1, background: [0.6, 0.6, 0.6], ...settings };
    this._last = { view, settings: options };
    if (this.gl.isContextLost()) return;
    this._accumulate(view, options);
    this._resolve();
  }

  /** The image of the last `draw`, Uint8Array [height, width, 4], premultiplied, the top row first. */
  readPixels() {
    if (!this._last) throw new Error("nothing has been drawn");
    this._accumulate(this._last.view, this._last.settings);
    this._resolve();
    const { gl, canvas } = this;
    const { width, height } = canvas;
    const pixels = new Uint8Array(4 * width * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    const flipped = new Uint8Array(pixels.length);
    for (let y = 0; y < height; ++y) {
      flipped.set(pixels.subarray(4 * width * (height - 1 - y), 4 * width * (height - y)), 4 * width * y);
    }
    return flipped;
  }

  /** The point [x, y, z] in the world that the pixel (x, y) of the last `draw` shows, null where it is empty. */
  pick(x, y) {
    const { gl, _last: last } = this;
    if (!last || !this.avatar || gl.isContextLost()) return null;
    const { viewmat: m, fx, fy, cx, cy, width, height } = last.view;
    if (!(x >= 0 && x < width && y >= 0 && y < height)) return null;
    this._accumulate(last.view, { ...last.settings, layer: "depth" });
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.sum.framebuffer);
    const pixel = this.floats ? new Float32Array(4) : new Uint8Array(4);
    gl.readPixels(Math.floor(x), Math.floor(y), 1, 1, gl.RGBA, this.floats ? gl.FLOAT : gl.UNSIGNED_BYTE, pixel);
    if (pixel[3] < SOLID * (this.floats ? 1 : 255)) return null;
    const [near, far] = this._range(last.view);
    const depth = near + (far - near) * (pixel[0] / pixel[3]);
    const offset = [((x - cx) / fx) * depth - m[3], ((y - cy) / fy) * depth - m[7], depth - m[11]];
    return [0, 1, 2].map((k) => m[k] * offset[0] + m[4 + k] * offset[1] + m[8 + k] * offset[2]);
  }

  /** Free what the GPU holds. The renderer cannot be used afterwards. */
  dispose() {
    const { gl, canvas } = this;
    canvas.removeEventListener("webglcontextlost", this._onLost);
    canvas.removeEventListener("webglcontextrestored", this._onRestored);
    this._freeAvatar();
    this._freeSum();
    for (const program of Object.values(this.programs)) gl.deleteProgram(program.program);
    gl.deleteVertexArray(this.cover);
    gl.deleteVertexArray(this.quads.vertices);
    gl.deleteBuffer(this.quads.indices);
    gl.deleteTexture(this.unused);
    gl.deleteTexture(this.unusedArray);
    gl.deleteTexture(this.unusedIntegers);
    this.avatar = null;
  }

  // What depends on the context alone.

  _create() {
    const { gl } = this;
    this.floats = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    if (!this.floats) {
      this.onNote("This device draws with 8 bits a channel: bright highlights are less exact.");
    }
    this.programs = {};
    this.data = null;
    this.sum = null;
    this.cover = gl.createVertexArray();
    // Samplers that a shader does not use still need a texture of their type.
    this.unused = texture2D(gl, gl.RGBA32F, 1, 1, new Float32Array(4));
    this.unusedIntegers = texture2D(gl, gl.RGBA16UI, 1, 1, new Uint16Array(4));
    this.unusedArray = textureArray(gl, new HalfLayers(0, 1));
    this.quads = quadrilaterals(gl, BATCH);
    // Compiled by the time that an avatar has been read.
    for (const name of ["asg", "splat", "resolve"]) this._program(name);
    gl.disable(gl.DEPTH_TEST);
    gl.disable(gl.DITHER);
  }

  _restore() {
    this._create();
    this._upload();
    if (this._last) this.draw(this._last.view, this._last.settings);
  }

  _program(name) {
    if (!this.programs[name]) {
      const sources = {
        splat: [SPLAT_VERTEX, SPLAT_FRAGMENT],
        resolve: [COVER, RESOLVE],
      };
      this.programs[name] = new Program(this.gl, ...(sources[name] ?? [COVER, shade(name)]));
    }
    return this.programs[name];
  }

  // What depends on the avatar.

  _upload() {
    const { gl, avatar } = this;
    if (!avatar || gl.isContextLost()) return;
    const { count } = avatar;
    const { width, height } = textureSize(count);
    if (height > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
      throw new Error(`${count} Gaussians are more than this device can draw.`);
    }
    const texels = width * height;
    const shapes = new HalfLayers(count, 2);
    shapes.write(0, 0, avatar.quats, { stride: 4 });
    shapes.write(1, 0, avatar.scales.map((scale) => scale * SCALE_UNITS), { stride: 3 });
    const surfaces = new HalfLayers(count, 2);
    surfaces.write(0, 0, avatar.diffuse, { stride: 3 });
    surfaces.write(1, 0, avatar.normals, { stride: 3 });
    this.data = {
      width,
      height,
      positions: texture2D(gl, gl.RGBA32F, width, height, null),
      shapes: textureArray(gl, shapes),
      surfaces: textureArray(gl, surfaces),
      colors: avatar.colors ? textureArray(gl, avatar.colors) : null,
      bindJoints: null,
      bindWeights: null,
      joints: null,
      skin: null,
      means: null,
      places: texture2D(gl, gl.RGBA32UI, width, height, null),
      splats: texture2D(gl, gl.RGBA32UI, width, height, null),
      order: texture2D(gl, gl.R32UI, width, height, null),
      sort: new DepthSort(texels),
      depths: new Float32Array(count),
      drawn: 0,
      shaded: "",
      sorted: "",
      splatted: "",
      version: 0,
    };
    const { data } = this;
    if (avatar.binding) {
      const joints = new Uint16Array(4 * texels);
      joints.set(avatar.binding.bindJoints);
      const weights = new Float32Array(4 * texels);
      weights.set(avatar.binding.bindWeights);
      data.bindJoints = texture2D(gl, gl.RGBA16UI, width, height, joints);
      data.bindWeights = texture2D(gl, gl.RGBA32F, width, height, weights);
      data.joints = texture2D(gl, gl.RGBA32F, STRIDE / 4, avatar.binding.parents.length, null);
    }
    data.framebuffer = framebuffer(gl, data.places, data.splats);
    this._applyPose();
  }

  _freeAvatar() {
    const { gl, data } = this;
    if (!data) return;
    const rest = [data.positions, data.shapes, data.surfaces, data.colors];
    const motion = [data.bindJoints, data.bindWeights, data.joints];
    for (const texture of [...rest, ...motion, data.places, data.splats, data.order]) gl.deleteTexture(texture);
    gl.deleteFramebuffer(data.framebuffer);
    this.data = null;
  }

  _applyPose() {
    const { gl, data, avatar, _pose: pose } = this;
    if (!data) return;
    ++data.version;
    const { binding, expressions } = avatar;
    data.skin = null;
    if (pose?.rotations && binding) {
      data.skin = skinMatrices(binding, pose.rotations, pose.translation ?? [0, 0, 0]);
      gl.bindTexture(gl.TEXTURE_2D, data.joints);
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, STRIDE / 4, binding.parents.length, gl.RGBA, gl.FLOAT, data.skin);
    }
    const strengths = pose?.expressions?.some((strength) => strength !== 0) ? pose.expressions : null;
    if (strengths && expressions) {
      const out = data.means && data.means !== avatar.means ? data.means : new Float32Array(avatar.means.length);
      data.means = expressedMeans(avatar.means, expressions, strengths, out);
    } else if (data.means === avatar.means) {
      return;
    } else {
      data.means = avatar.means;
    }
    const texels = new Float32Array(4 * data.width * data.height);
    for (let i = 0; i < avatar.count; ++i) {
      for (let c = 0; c < 3; ++c) texels[4 * i + c] = data.means[3 * i + c];
      texels[4 * i + 3] = avatar.opacities[i];
    }
    gl.bindTexture(gl.TEXTURE_2D, data.positions);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, data.width, data.height, gl.RGBA, gl.FLOAT, texels);
  }

  // The passes.

  _accumulate(view, settings) {
    const { gl, data } = this;
    this._resize(view.width, view.height);
    if (!data || this.avatar.count === 0) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.sum.framebuffer);
      gl.clearBufferfv(gl.COLOR, 0, [0, 0, 0, 0]);
      return;
    }
    const place = `${data.version} ${Array.from(view.viewmat)}`;
    const { fx, fy, cx, cy, width, height } = view;
    const shown = [fx, fy, cx, cy, width, height, settings.layer, settings.specular, settings.size];
    const shaded = `${place} ${shown}`;
    if (data.sorted !== place) this._sort(view);
    if (data.shaded !== shaded) this._shade(view, settings);
    if (data.splatted !== shaded) this._splat(view);
    data.sorted = place;
    data.shaded = data.splatted = shaded;
  }

  _shade(view, settings) {
    const { gl, data, avatar } = this;
    const { viewmat: m, fx, fy, cx, cy, width, height } = view;
    const program = this._program(avatar.kind);
    program.use();
    program.texture("uPositions", 0, gl.TEXTURE_2D, data.positions);
    program.texture("uShapes", 1, gl.TEXTURE_2D_ARRAY, data.shapes);
    program.texture("uSurfaces", 2, gl.TEXTURE_2D_ARRAY, data.surfaces);
    program.texture("uColors", 3, gl.TEXTURE_2D_ARRAY, data.colors ?? this.unusedArray);
    program.texture("uBindJoints", 4, gl.TEXTURE_2D, data.bindJoints ?? this.unusedIntegers);
    program.texture("uBindWeights", 5, gl.TEXTURE_2D, data.bindWeights ?? this.unused);
    program.texture("uJoints", 6, gl.TEXTURE_2D, data.joints ?? this.unused);
    gl.uniform1i(program.at("uPosed"), data.skin ? 1 : 0);
    gl.uniform1i(program.at("uCount"), avatar.count);
    gl.uniform4fv(program.at("uView"), Float32Array.from(m).subarray(0, 12));
    const camera = [0, 1, 2].map((k) => -(m[k] * m[3] + m[4 + k] * m[7] + m[8 + k] * m[11]));
    gl.uniform3fv(program.at("uCamera"), camera);
    gl.uniform4f(program.at("uIntrinsics"), fx, fy, cx, cy);
    // 1.3 times the field of view, as far as the Jacobian is meaningful.
    const marginX = (0.15 * width) / fx;
    const marginY = (0.15 * height) / fy;
    const limitsX = [-cx / fx - marginX, (width - cx) / fx + marginX];
    const limitsY = [-cy / fy - marginY, (height - cy) / fy + marginY];
    gl.uniform4f(program.at("uLimits"), ...limitsX, ...limitsY);
    gl.uniform1i(program.at("uAntialiased"), avatar.antialiased ? 1 : 0);
    gl.uniform1f(program.at("uSize"), settings.size);
    gl.uniform1f(program.at("uSpecular"), settings.specular);
    gl.uniform2fv(program.at("uRange"), this._range(view));
    gl.uniform1i(program.at("uLayer"), LAYERS.indexOf(settings.layer));
    gl.bindFramebuffer(gl.FRAMEBUFFER, data.framebuffer);
    gl.viewport(0, 0, data.width, data.height);
    gl.bindVertexArray(this.cover);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  _sort(view) {
    const { gl, data, avatar } = this;
    const row = view.viewmat.slice(8, 12);
    if (data.skin) {
      const { bindJoints: joints, bindWeights: weights } = avatar.binding;
      posedDepthsOf(data.means, { joints, weights }, data.skin, row, data.depths);
    } else {
      depthsOf(data.means, row, data.depths);
    }
    data.drawn = data.sort.sort(data.depths).length;
    gl.bindTexture(gl.TEXTURE_2D, data.order);
    const rows = Math.ceil(data.drawn / data.width);
    const { order } = data.sort;
    if (rows) gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, data.width, rows, gl.RED_INTEGER, gl.UNSIGNED_INT, order);
  }

  _splat(view) {
    const { gl, data } = this;
    const program = this._program("splat");
    program.use();
    program.texture("uPlaces", 0, gl.TEXTURE_2D, data.places);
    program.texture("uSplats", 1, gl.TEXTURE_2D, data.splats);
    program.texture("uOrder", 2, gl.TEXTURE_2D, data.order);
    gl.uniform1i(program.at("uDrawn"), data.drawn);
    gl.uniform2f(program.at("uPixels"), view.width, view.height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.sum.framebuffer);
    gl.viewport(0, 0, view.width, view.height);
    gl.clearBufferfv(gl.COLOR, 0, [0, 0, 0, 0]);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.quads.vertices);
    gl.drawElementsInstanced(gl.TRIANGLES, 6 * BATCH, gl.UNSIGNED_SHORT, 0, Math.ceil(data.drawn / BATCH));
    gl.disable(gl.BLEND);
  }

  _resolve() {
    const { gl, canvas } = this;
    const { background, layer } = this._last.settings;
    const program = this._program("resolve");
    program.use();
    program.texture("uSum", 0, gl.TEXTURE_2D, this.sum.texture);
    gl.uniform4f(program.at("uBackground"), ...(background ?? [0, 0, 0]), background ? 1 : 0);
    gl.uniform1i(program.at("uLayer"), LAYERS.indexOf(layer));
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.bindVertexArray(this.cover);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  _resize(width, height) {
    const { gl, canvas, sum } = this;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    if (sum?.width === width && sum.height === height) return;
    this._freeSum();
    const texture = texture2D(gl, this.floats ? gl.RGBA16F : gl.RGBA8, width, height, null);
    this.sum = { width, height, texture, framebuffer: framebuffer(gl, texture) };
    if (this.data) this.data.splatted = "";
  }

  _freeSum() {
    if (!this.sum) return;
    this.gl.deleteTexture(this.sum.texture);
    this.gl.deleteFramebuffer(this.sum.framebuffer);
    this.sum = null;
  }

  /** Depths [near, far] between which the avatar lies. */
  _range({ viewmat }) {
    const { centre, radius } = this.avatar.bounds;
    const middle = viewmat[8] * centre[0] + viewmat[9] * centre[1] + viewmat[10] * centre[2] + viewmat[11];
    return [Math.max(middle - radius, 0), Math.max(middle + radius, 1e-3)];
  }
}

class Program {
  constructor(gl, vertex, fragment) {
    this.gl = gl;
    this.locations = new Map();
    this.program = gl.createProgram();
    this.shaders = [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]].map(([type, source]) => {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
      return shader;
    });
    gl.linkProgram(this.program);
  }

  /** Use it. The first time waits until it is compiled. */
  use() {
    const { gl, program } = this;
    if (this.shaders) {
      if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
        const logs = [gl.getProgramInfoLog(program), ...this.shaders.map((shader) => gl.getShaderInfoLog(shader))];
        throw new Error(`A shader does not compile on this device: ${logs.filter(Boolean).join(" ")}`);
      }
      for (const shader of this.shaders) gl.deleteShader(shader);
      this.shaders = null;
    }
    gl.useProgram(program);
  }

  at(name) {
    if (!this.locations.has(name)) this.locations.set(name, this.gl.getUniformLocation(this.program, name));
    return this.locations.get(name);
  }

  texture(name, unit, target, texture) {
    this.gl.activeTexture(this.gl.TEXTURE0 + unit);
    this.gl.bindTexture(target, texture);
    this.gl.uniform1i(this.at(name), unit);
  }
}

const FORMATS = {
  RGBA32F: ["RGBA", "FLOAT"],
  RGBA16F: ["RGBA", "HALF_FLOAT"],
  RGBA8: ["RGBA", "UNSIGNED_BYTE"],
  RGBA16UI: ["RGBA_INTEGER", "UNSIGNED_SHORT"],
  RGBA32UI: ["RGBA_INTEGER", "UNSIGNED_INT"],
  R32UI: ["RED_INTEGER", "UNSIGNED_INT"],
};

function texture2D(gl, internal, width, height, data) {
  const [format, type] = Object.entries(FORMATS).find(([name]) => gl[name] === internal)[1];
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, gl[format], gl[type], data);
  unfiltered(gl, gl.TEXTURE_2D);
  return texture;
}

/** layers: HalfLayers. */
function textureArray(gl, { width, height, layers, texels }) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D_ARRAY, texture);
  gl.texImage3D(gl.TEXTURE_2D_ARRAY, 0, gl.RGBA16F, width, height, layers, 0, gl.RGBA, gl.HALF_FLOAT, texels);
  unfiltered(gl, gl.TEXTURE_2D_ARRAY);
  return texture;
}

function unfiltered(gl, target) {
  gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  gl.texParameteri(target, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(target, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
}

function framebuffer(gl, ...textures) {
  const target = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, target);
  const points = textures.map((texture, k) => {
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + k, gl.TEXTURE_2D, texture, 0);
    return gl.COLOR_ATTACHMENT0 + k;
  });
  gl.drawBuffers(points);
  return target;
}

/** `count` quadrilaterals of two triangles, vertices 4k to 4k + 3. */
function quadrilaterals(gl, count) {
  const vertices = gl.createVertexArray();
  const indices = gl.createBuffer();
  gl.bindVertexArray(vertices);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, indices);
  const order = Uint16Array.from({ length: 6 * count }, (_, k) => 4 * Math.floor(k / 6) + [0, 1, 2, 2, 1, 3][k % 6]);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.STATIC_DRAW);
  gl.bindVertexArray(null);
  return { vertices, indices };
}
