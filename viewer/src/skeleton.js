// Forward kinematics with the package's convention: a joint's rest frame has the world's axes.

/** Numbers a joint of `skinMatrices`. */
export const STRIDE = 16;

/**
 * As `restMatrices`, but from the skeleton's stance, in which the Gaussians are, if it has one: stance [4J], and
 * unposed [16J], what brings it to the rest pose (`unposed`).
 */
export function skinMatrices(skeleton, rotations, translation) {
  const skin = restMatrices(skeleton, rotations, translation);
  if (!skeleton.unposed) return skin;
  for (let at = 0; at < skin.length; at += STRIDE) {
    const first = skeleton.unposed.subarray(at, at + STRIDE);
    const then = Float64Array.from(skin.subarray(at, at + STRIDE));
    for (let r = 0; r < 3; ++r) {
      for (let c = 0; c < 4; ++c) {
        let sum = c === 3 ? then[4 * r + 3] : 0;
        for (let k = 0; k < 3; ++k) sum += then[4 * r + k] * first[4 * k + c];
        skin[at + 4 * r + c] = sum;
      }
    }
    skin.set(product(then.subarray(12), first.subarray(12)), at + 12);
  }
  return skin;
}

/** The inverses of the matrices of a stance [4J] wxyz, and of their quaternions, in the form of `skinMatrices`. */
export function unposed(skeleton, stance) {
  const skin = restMatrices(skeleton, stance, [0, 0, 0]);
  const result = new Float64Array(skin.length);
  for (let at = 0; at < skin.length; at += STRIDE) {
    for (let r = 0; r < 3; ++r) {
      for (let c = 0; c < 3; ++c) {
        result[at + 4 * r + c] = skin[at + 4 * c + r];
        result[at + 4 * r + 3] -= skin[at + 4 * c + r] * skin[at + 4 * c + 3];
      }
    }
    result.set([skin[at + 12], -skin[at + 13], -skin[at + 14], -skin[at + 15]], at + 12);
  }
  return result;
}

/**
 * For each joint the three rows of its skin matrix, 3x4, and the quaternion wxyz of its rotation, [16J], from
 * the joints' rotations relative to the rest pose and to the parent.
 *
 * skeleton: parents [J], -1 for a root; order [J], parents before children; joints [3J], rest positions, metres.
 * rotations: quaternions [4J] wxyz. translation: metres, of the roots.
 */
function restMatrices({ parents, order, joints }, rotations, translation) {
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

/** Means [3N] at expression weights [E]: rest means plus offsets, in `out`. */
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
  return out;
}
