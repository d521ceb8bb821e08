// Reads packed avatars, which src/specularip/viewer/pack.py writes; docs/viewer.md describes the format.

import { HalfLayers, toHalf } from "./halves.js";
import { unposed } from "./skeleton.js";

const MAGIC = "SIPV";
const VERSION = 1;

/** The most that packed bytes may grow to, so that a small file cannot fill the memory. */
const mostBytes = (packed) => (1 << 26) + 32 * packed;

/** More lobes than any file has, and few enough for a texture's layers. */
const MOST_LOBES = 64;

const UNWARP = {
  linear: (value) => value,
  root: (value) => value * Math.abs(value),
  log: Math.exp,
};

const KINDS = ["asg", "sh3", "betas", "diffuse"];

/**
 * The avatar in packed bytes (ArrayBuffer or typed array):
 *
 * count N; kind, one of KINDS; antialiased; meta (JSON); bounds {centre, radius}.
 * means, scales, diffuse, normals [3N]; quats [4N] wxyz; opacities [N]; all Float32Array.
 * colors: HalfLayers, what the shader reads of the view-dependent colour (see COLORS in shaders.js), or null.
 * binding: {names, parents, order, joints [3J], stance [4J], unposed, bindJoints [4N], bindWeights [4N]} or null;
 * order: the joints, parents before their children; stance and unposed: see `skinMatrices`, null without one.
 * expressions: {names, index [n], offsets [E, n, 3]} or null.
 * clips: [{name, fps, loops, frames T, rotations [T, J, 4], translation [T, 3], expressions [T, E] or null}],
 * the joints in the binding's order.
 *
 * Throws an Error that says what is wrong with damaged data.
 */
export async function unpack(data) {
  const bytes = await inflated(data);
  const header = headerOf(bytes);
  const table = sectionsOf(bytes, header);
  const find = (name, rows, columns) => {
    const section = table.get(name);
    if (!section) throw damaged(`it has no ${name}`);
    if (section.rows !== rows || section.columns !== columns) {
      throw damaged(`${name} has ${section.rows} rows of ${section.columns}, not ${rows} of ${columns}`);
    }
    return section;
  };
  const read = (name, rows, columns) => numbers(find(name, rows, columns));
  const { count, kind } = header;
  if (!Number.isInteger(count) || count < 0) throw damaged("its count is not a number");
  if (!KINDS.includes(kind)) throw damaged(`it has colours of an unknown kind, ${kind}`);
  const means = read("means", count, 3);
  const avatar = {
    count,
    kind,
    antialiased: header.antialiased === true,
    meta: header.meta ?? {},
    bounds: boundsOf(means),
    means,
    quats: rotations(read("quats.rest", count, 3), read("quats.largest", count, 1)),
    scales: read("log_scales", count, 3).map(Math.exp),
    opacities: read("opacities", count, 1),
    diffuse: read("diffuse", count, 3),
    normals: null,
    colors: null,
    binding: null,
    expressions: null,
    clips: [],
  };
  if (kind === "asg") {
    const frames = rotations(read("asg.quats.rest", count, 3), read("asg.quats.largest", count, 1));
    avatar.colors = asgLayers(frames, find, count);
    avatar.normals = axesZ(frames);
  } else {
    avatar.normals = directions(read("normals", count, 2));
    if (kind !== "diffuse") avatar.colors = harmonicLayers(find, count, kind === "betas" ? lobesOf(table) : 0);
  }
  if (header.binding) avatar.binding = bindingOf(header.binding, table.has("stance"), read, count);
  if (header.expressions) avatar.expressions = expressionsOf(header.expressions, table, read, count);
  if (avatar.binding) {
    avatar.clips = (header.clips ?? []).map((clip, k) => clipOf(clip, `clips.${k}`, avatar, table, read));
  }
  return avatar;
}

const damaged = (what) => new Error(`This avatar cannot be read: ${what}.`);

async function inflated(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  const reader = stream.getReader();
  const most = mostBytes(data.byteLength);
  const parts = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      length += value.length;
      if (length > most) throw damaged("it is too large");
      parts.push(value);
    }
  } catch (error) {
    await reader.cancel().catch(() => {});
    throw error instanceof TypeError ? damaged("it is incomplete, or no packed avatar") : error;
  }
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

function headerOf(bytes) {
  if (bytes.length < 12 || String.fromCharCode(...bytes.subarray(0, 4)) !== MAGIC) {
    throw damaged("it is no packed avatar");
  }
  const numbers = new DataView(bytes.buffer, bytes.byteOffset);
  const version = numbers.getUint32(4, true);
  if (version !== VERSION) throw damaged(`its version is ${version}, and this viewer reads ${VERSION}`);
  const length = numbers.getUint32(8, true);
  if (12 + length > bytes.length) throw damaged("it ends too early");
  try {
    const header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(12, 12 + length)));
    header.start = 12 + length;
    return header;
  } catch {
    throw damaged("its header is not JSON");
  }
}

/** Where each section lies: a Map from its name to its description and bytes. */
function sectionsOf(bytes, header) {
  if (header.sections === null || typeof header.sections !== "object") throw damaged("it has no sections");
  const table = new Map();
  let offset = header.start;
  for (const [name, section] of Object.entries(header.sections)) {
    const { rows, columns, bits, warp, low, high } = section ?? {};
    const whole = [rows, columns, bits].every((number) => Number.isInteger(number) && number >= 0);
    const limits = [low, high].every(
      (list) => Array.isArray(list) && list.length === columns && list.every(Number.isFinite),
    );
    if (!whole || bits < 1 || bits > 32 || !limits || !Object.hasOwn(UNWARP, warp)) {
      throw damaged(`${name} is described wrongly`);
    }
    const planes = (bits + 7) >> 3;
    const end = offset + rows * columns * planes;
    if (end > bytes.length) throw damaged(`it ends within ${name}`);
    table.set(name, { rows, columns, bits, warp, low, high, planes, bytes: bytes.subarray(offset, end) });
    offset = end;
  }
  return table;
}

/** A section's numbers, Float32Array [rows, columns]. */
function numbers(section) {
  const out = new Float32Array(section.rows * section.columns);
  for (let c = 0; c < section.columns; ++c) decode(section, c, (value) => value, out.subarray(c), section.columns);
  return out;
}

/** Write convert(number) of each row of a column to every `stride`-th place of `out`. */
function decode({ rows, bits, warp, low, high, planes, bytes }, column, convert, out, stride) {
  const step = (high[column] - low[column]) / (2 ** bits - 1);
  const number = (q) => convert(UNWARP[warp](low[column] + step * q));
  const lowest = bytes.subarray(column * planes * rows);
  const next = lowest.subarray(rows);
  if (planes <= 2 && 2 ** bits < rows) {
    // Few numbers are possible: each is computed once.
    const known = new out.constructor(2 ** bits);
    for (let q = 0; q < known.length; ++q) known[q] = number(q);
    const mask = known.length - 1;
    if (planes === 1) for (let i = 0; i < rows; ++i) out[i * stride] = known[lowest[i] & mask];
    else for (let i = 0; i < rows; ++i) out[i * stride] = known[(lowest[i] | (next[i] << 8)) & mask];
    return;
  }
  for (let i = 0; i < rows; ++i) {
    let q = 0;
    for (let plane = planes - 1; plane >= 0; --plane) q = 256 * q + lowest[plane * rows + i];
    out[i * stride] = number(q);
  }
}

/** The same of whole numbers, exact up to 2^32 - 1. */
function wholeNumbers({ rows, columns, planes, bytes }) {
  const out = new Uint32Array(rows * columns);
  for (let c = 0; c < columns; ++c) {
    for (let i = 0; i < rows; ++i) {
      let q = 0;
      for (let plane = planes - 1; plane >= 0; --plane) q = 256 * q + bytes[(c * planes + plane) * rows + i];
      out[i * columns + c] = q;
    }
  }
  return out;
}

/** The layers of `asg` in shaders.js. frames: quaternions [4N]. */
function asgLayers(frames, find, count) {
  const layers = new HalfLayers(count, 19);
  const copy = (section, column, layer, channel) => decode(section, column, toHalf, layers.channel(layer, channel), 4);
  const smooth = find("asg.smooth", count, 30);
  const widths = find("asg.widths", count, 8);
  const skews = find("asg.skews", count, 4);
  const amplitudes = find("asg.amplitudes", count, 12);
  const lights = directions(numbers(find("asg.lights", count, 8)));
  layers.write(0, 0, frames, { stride: 4 });
  for (let column = 0; column < 30; ++column) copy(smooth, column, 1 + Math.floor(column / 3), column % 3);
  for (let k = 0; k < 4; ++k) {
    const light = 11 + 2 * k;
    layers.write(light, 0, lights, { stride: 12, from: 3 * k, length: 3 });
    copy(widths, 2 * k, light, 3);
    copy(widths, 2 * k + 1, 1 + k, 3);
    for (let c = 0; c < 3; ++c) copy(amplitudes, 3 * k + c, light + 1, c);
    copy(skews, k, light + 1, 3);
  }
  return layers;
}

/** How many Spherical Betas a Gaussian has. */
const lobesOf = (table) => Math.min(table.get("betas.exponents")?.columns ?? 0, MOST_LOBES);

/** The layers of `sh3` in shaders.js, and of `betas` where there are lobes. */
function harmonicLayers(find, count, lobes) {
  const layers = new HalfLayers(count, 12 + 2 * lobes);
  const copy = (section, column, layer, channel) => decode(section, column, toHalf, layers.channel(layer, channel), 4);
  const coefficients = find("coefficients", count, 48);
  for (let c = 0; c < 3; ++c) {
    for (let j = 0; j < 16; ++j) copy(coefficients, 3 * j + c, 4 * c + (j >> 2), j & 3);
  }
  if (lobes === 0) return layers;
  const axes = directions(numbers(find("betas.directions", count, 2 * lobes)));
  const exponents = find("betas.exponents", count, lobes);
  const amplitudes = find("betas.amplitudes", count, 3 * lobes);
  for (let k = 0; k < lobes; ++k) {
    const layer = 12 + 2 * k;
    layers.write(layer, 0, axes, { stride: 3 * lobes, from: 3 * k, length: 3 });
    copy(exponents, k, layer, 3);
    for (let c = 0; c < 3; ++c) copy(amplitudes, 3 * k + c, layer + 1, c);
  }
  return layers;
}

function bindingOf({ names, parents }, stands, read, count) {
  const joints = Array.isArray(names) && Array.isArray(parents) ? names.length : 0;
  if (joints === 0 || parents.length !== joints) throw damaged("its skeleton is incomplete");
  if (!parents.every((parent) => Number.isInteger(parent) && parent >= -1 && parent < joints)) {
    throw damaged("a joint has a parent that is missing");
  }
  const order = parentsFirst(parents);
  if (order.length < joints) throw damaged("its skeleton goes round in a circle");
  const bindJoints = Uint16Array.from(read("bind_joints", count, 4));
  if (bindJoints.some((joint) => joint >= joints)) throw damaged("a Gaussian hangs on a joint that is missing");
  const bindWeights = read("bind_weights", count, 4);
  for (let i = 0; i < bindWeights.length; i += 4) {
    const sum = bindWeights[i] + bindWeights[i + 1] + bindWeights[i + 2] + bindWeights[i + 3];
    for (let k = i; k < i + 4; ++k) bindWeights[k] = sum > 0 ? bindWeights[k] / sum : 0;
  }
  const binding = { names, parents: Int32Array.from(parents), order, joints: read("joints", joints, 3) };
  const stance = stands ? read("stance", joints, 4) : null;
  return { ...binding, stance, unposed: stance && unposed(binding, stance), bindJoints, bindWeights };
}

function parentsFirst(parents) {
  const order = [];
  const children = parents.map(() => []);
  parents.forEach((parent, j) => (parent < 0 ? order : children[parent]).push(j));
  for (let k = 0; k < order.length; ++k) order.push(...children[order[k]]);
  return order;
}

function expressionsOf(names, table, read, count) {
  const moved = table.get("expressions.index")?.rows ?? 0;
  if (!Array.isArray(names) || moved === 0) throw damaged("its expressions are incomplete");
  read("expressions.index", moved, 1);
  const index = wholeNumbers(table.get("expressions.index"));
  if (index.some((i) => i >= count)) throw damaged("an expression moves a Gaussian that is missing");
  const rows = read("expressions.offsets", moved, 3 * names.length);
  const offsets = new Float32Array(rows.length);
  for (let e = 0; e < names.length; ++e) {
    for (let i = 0; i < moved; ++i) {
      for (let c = 0; c < 3; ++c) offsets[3 * (e * moved + i) + c] = rows[3 * (i * names.length + e) + c];
    }
  }
  return { names, index, offsets };
}

function clipOf({ name, fps, loops }, place, { binding, expressions }, table, read) {
  const frames = table.get(`${place}.rotations`)?.rows ?? 0;
  if (frames === 0 || !(fps > 0)) throw damaged(`its motion ${name} is incomplete`);
  return {
    name: String(name),
    fps,
    loops: loops === true,
    frames,
    rotations: read(`${place}.rotations`, frames, 4 * binding.names.length),
    translation: read(`${place}.translation`, frames, 3),
    expressions:
      expressions && table.has(`${place}.expressions`)
        ? read(`${place}.expressions`, frames, expressions.names.length)
        : null,
  };
}

/** Quaternions [4N] from the three numbers that are not the largest, and which one that is. */
function rotations(rest, largest) {
  const out = new Float32Array(4 * largest.length);
  for (let i = 0; i < largest.length; ++i) {
    const [a, b, c] = [rest[3 * i], rest[3 * i + 1], rest[3 * i + 2]];
    const big = Math.sqrt(Math.max(0, 1 - a * a - b * b - c * c));
    const at = Math.round(largest[i]);
    out[4 * i] = at === 0 ? big : a;
    out[4 * i + 1] = at === 0 ? a : at === 1 ? big : b;
    out[4 * i + 2] = at <= 1 ? b : at === 2 ? big : c;
    out[4 * i + 3] = at <= 2 ? c : big;
  }
  return out;
}

/** Unit vectors [3N] from octahedral coordinates [2N]. */
function directions(flat) {
  const out = new Float32Array((flat.length / 2) * 3);
  for (let i = 0; 2 * i < flat.length; ++i) {
    let x = flat[2 * i];
    let y = flat[2 * i + 1];
    const z = 1 - Math.abs(x) - Math.abs(y);
    const fold = Math.max(-z, 0);
    x -= x < 0 ? -fold : fold;
    y -= y < 0 ? -fold : fold;
    const length = Math.hypot(x, y, z);
    out[3 * i] = x / length;
    out[3 * i + 1] = y / length;
    out[3 * i + 2] = z / length;
  }
  return out;
}

/** The z axes [3N] of frames given as quaternions. */
function axesZ(quats) {
  const out = new Float32Array((quats.length / 4) * 3);
  for (let i = 0; 4 * i < quats.length; ++i) {
    const [w, x, y, z] = quats.subarray(4 * i, 4 * i + 4);
    out[3 * i] = 2 * (x * z + w * y);
    out[3 * i + 1] = 2 * (y * z - w * x);
    out[3 * i + 2] = 1 - 2 * (x * x + y * y);
  }
  return out;
}

/** A sphere around the bounding box's centre that holds all points. */
function boundsOf(points) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (let k = 0; k < points.length; ++k) {
    low[k % 3] = Math.min(low[k % 3], points[k]);
    high[k % 3] = Math.max(high[k % 3], points[k]);
  }
  if (points.length === 0) return { centre: [0, 0, 0], radius: 1 };
  const centre = low.map((value, c) => (value + high[c]) / 2);
  let radius = 0;
  for (let k = 0; k < points.length; k += 3) {
    radius = Math.max(radius, Math.hypot(points[k] - centre[0], points[k + 1] - centre[1], points[k + 2] - centre[2]));
  }
  return { centre, radius: radius + 1e-3 };
}
