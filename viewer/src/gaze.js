// Eyes that follow a point: rotations of the joints eye.L and eye.R, which look along -y at rest.

const MAX_SIDE = 0.6;
const MAX_UP = 0.35;

/** Set the eyes' rotations in `pose` so that they look at `point` [x, y, z], as far as eyes turn (radians). */
export function eyesTowards(point, binding, pose) {
  for (const name of ["eye.L", "eye.R"]) {
    const eye = binding.names.indexOf(name);
    if (eye < 0) continue;
    const { rotation, position } = parentFrame(binding, pose, eye);
    const towards = turn(conjugate(rotation), [0, 1, 2].map((k) => point[k] - position[k]));
    const length = Math.hypot(...towards) || 1;
    const side = clamp(Math.atan2(towards[0], -towards[1]), MAX_SIDE);
    const up = clamp(Math.asin(towards[2] / length), MAX_UP);
    // About z by `side`, after about x by -`up`: -y goes to (sin side, -cos side, sin up).
    const z = [Math.cos(side / 2), 0, 0, Math.sin(side / 2)];
    const x = [Math.cos(up / 2), -Math.sin(up / 2), 0, 0];
    pose.rotations.set(multiply(z, x), 4 * eye);
  }
}

/** The world rotation of a joint's parent, and the joint's world position. */
export function parentFrame(binding, pose, joint) {
  const chain = [];
  for (let at = joint; at >= 0; at = binding.parents[at]) chain.unshift(at);
  let rotation = [1, 0, 0, 0];
  let position = [...pose.translation];
  let before = [0, 0, 0];
  for (const at of chain) {
    const here = [0, 1, 2].map((k) => binding.joints[3 * at + k]);
    const offset = turn(rotation, here.map((value, k) => value - before[k]));
    position = position.map((value, k) => value + offset[k]);
    if (at !== joint) rotation = multiply(rotation, pose.rotations.subarray(4 * at, 4 * at + 4));
    before = here;
  }
  return { rotation, position };
}

const clamp = (value, limit) => Math.min(Math.max(value, -limit), limit);
const conjugate = ([w, x, y, z]) => [w, -x, -y, -z];

function multiply([a, b, c, d], [e, f, g, h]) {
  return [
    a * e - b * f - c * g - d * h,
    a * f + b * e + c * h - d * g,
    a * g - b * h + c * e + d * f,
    a * h + b * g - c * f + d * e,
  ];
}

function turn(quat, vector) {
  return multiply(multiply(quat, [0, ...vector]), conjugate(quat)).slice(1);
}
