// The order in which Gaussians are drawn: back to front by depth along the optical axis.

import { STRIDE } from "./skeleton.js";

const DIGIT = 11;
const BUCKETS = 1 << DIGIT;
const LARGEST = (1 << (2 * DIGIT)) - 1;

/** What is nearer to the camera plane than this, in metres, is not drawn. */
export const NEAR = 0.01;

/**
 * Sorts up to `capacity` Gaussians in linear time: depths become whole numbers of 22 bits, finer than a
 * thousandth of a millimetre in a scene of four metres, which two stable passes of a radix sort put in order.
 */
export class DepthSort {
  constructor(capacity) {
    this.keys = new Uint32Array(capacity);
    this.indices = new Uint32Array(capacity);
    this.halfway = new Uint32Array(capacity);
    this.order = new Uint32Array(capacity);
    this.low = new Uint32Array(BUCKETS);
    this.high = new Uint32Array(BUCKETS);
  }

  /** Indices of all Gaussians in front of the camera, the farthest first. depths: Float32Array, metres. */
  sort(depths) {
    const { keys, indices, halfway, order, low, high } = this;
    let nearest = Infinity;
    let farthest = -Infinity;
    for (let i = 0; i < depths.length; ++i) {
      const depth = depths[i];
      if (depth < nearest) nearest = depth;
      if (depth > farthest) farthest = depth;
    }
    nearest = Math.max(nearest, NEAR);
    const scale = LARGEST / Math.max(farthest - nearest, 1e-6);
    low.fill(0);
    high.fill(0);
    let count = 0;
    for (let i = 0; i < depths.length; ++i) {
      const depth = depths[i];
      if (!(depth >= NEAR)) continue;
      const key = ((farthest - depth) * scale) | 0;
      keys[i] = key;
      indices[count++] = i;
      ++low[key & (BUCKETS - 1)];
      ++high[key >>> DIGIT];
    }
    for (let bucket = 0, before = 0, above = 0; bucket < BUCKETS; ++bucket) {
      before += low[bucket];
      low[bucket] = before - low[bucket];
      above += high[bucket];
      high[bucket] = above - high[bucket];
    }
    for (let k = 0; k < count; ++k) {
      const i = indices[k];
      halfway[low[keys[i] & (BUCKETS - 1)]++] = i;
    }
    for (let k = 0; k < count; ++k) {
      const i = halfway[k];
      order[high[keys[i] >>> DIGIT]++] = i;
    }
    return order.subarray(0, count);
  }
}

/** Depths of points, Float32Array [3N], into `out`; row: the third row of the world-to-camera matrix. */
export function depthsOf(points, row, out) {
  const [x, y, z, w] = row;
  for (let i = 0, k = 0; i < out.length; ++i, k += 3) {
    out[i] = x * points[k] + y * points[k + 1] + z * points[k + 2] + w;
  }
}

/**
 * The same of points that move with bones: joints and weights [4N]; skin as `skinMatrices` gives it. The row
 * is applied to each joint's matrix first, so that a Gaussian costs four dot products.
 */
export function posedDepthsOf(points, { joints, weights }, skin, row, out) {
  const count = skin.length / STRIDE;
  const rows = new Float32Array(4 * count);
  for (let j = 0; j < count; ++j) {
    for (let c = 0; c < 4; ++c) {
      const at = STRIDE * j + c;
      rows[4 * j + c] = row[0] * skin[at] + row[1] * skin[at + 4] + row[2] * skin[at + 8] + (c === 3 ? row[3] : 0);
    }
  }
  for (let i = 0; i < out.length; ++i) {
    const x = points[3 * i];
    const y = points[3 * i + 1];
    const z = points[3 * i + 2];
    let depth = 0;
    for (let k = 4 * i; k < 4 * i + 4; ++k) {
      const weight = weights[k];
      if (weight === 0) continue;
      const j = 4 * joints[k];
      depth += weight * (rows[j] * x + rows[j + 1] * y + rows[j + 2] * z + rows[j + 3]);
    }
    out[i] = depth;
  }
}
