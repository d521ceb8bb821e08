// Forward kinematics with the package's convention: a joint's rest frame has the world's axes.

/** Numbers a joint of `skinMatrices`. */
export const STRIDE = 16;

/**
 * For each joint the three rows of its skin matrix, 3x4, and the quaternion wxyz of its rotation, [16J], from
 * the joints' rotations relative to the rest pose and to the parent.
 *
 * skeleton: parents [J], -1 for a root; order [J], parents before children; joints [3J], rest positions, metres.
 * rotations: quaternions [4J] wxyz. translation: metres, of the roots.
 */
export function skinMatrices({ parents, order, joints }, rotations, translation) {
  const count = parents.length;
  const turns = new Float64Array(9 * count);
  const quats = new Float64Array(4 * count);
  const origins = new Float64Array(3 * count);
  const skin = new Float32Array(STRIDE * count);
  for (const j of order) {
    const parent = parents[j];
    const quat = unit(rotations.subarray(4 * j, 4 * j + 4));
    const local = rotationMatrix(quat);
    const turn = turns.subarray(9 * j, 9 * j + 9);
    const origin = origins.subarray(3 * j, 3 * j + 3);
    const rest = joints.subarray(3 * j, 3 * j + 3);
    if (parent < 0) {
      turn.set(local);
      quats.set(quat, 4 * j);
      for (let r = 0; r < 3; ++r) origin[r] = rest[r] + translation[r];
    } else {
      const above = turns.subarray(9 * parent, 9 * parent + 9);
      quats.set(product(quats.subarray(4 * parent, 4 * parent + 4), quat), 4 * j);
      for (let r = 0; r < 3; ++r) {
        origin[r] = origins[3 * parent + r];
        for (let c = 0; c < 3; ++c) {
          origin[r] += above[3 * r + c] * (rest[c] - joints[3 * parent + c]);
          for (let k = 0; k < 3; ++k) turn[3 * r + c] += above[3 * r + k] * local[3 * k + c];
        }
      }
    }
    for (let r = 0; r < 3; ++r) {
      let shift = origin[r];
      for (let c = 0; c < 3; ++c) {
        skin[STRIDE * j + 4 * r + c] = turn[3 * r + c];
        shift -= turn[3 * r + c] * rest[c];
      }
      skin[STRIDE * j + 4 * r + 3] = shift;
    }
    skin.set(quats.subarray(4 * j, 4 * j + 4), STRIDE * j + 12);
  }
  return skin;
}

function unit(quat) {
  const length = Math.hypot(...quat);
  return length > 0 ? Array.from(quat, (value) => value / length) : [1, 0, 0, 0];
}

function product([a, b, c, d], [w, x, y, z]) {
  return [
    a * w - b * x - c * y - d * z, a * x + b * w + c * z - d * y,
    a * y - b * z + c * w + d * x, a * z + b * y - c * x + d * w,
  ];
}

function rotationMatrix([w, x, y, z]) {
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
  ];
}

/** Means [3N] at expression weights [E]: rest means plus offsets, into `out`. */
export function expressedMeans(means, { index, offsets }, weights, out) {
  out.set(means);
  const moved = index.length;
  weights.forEach((weight, e) => {
    if (weight === 0) return;
    const from = 3 * moved * e;
    for (let k = 0; k < moved; ++k) {
      const to = 3 * index[k];
      for (let c = 0; c < 3; ++c) out[to + c] += weight * offsets[from + 3 * k + c];
    }
  });
}
