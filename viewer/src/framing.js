// Where a camera has to be to see the whole body, or the face.

const MARGIN = 1.12;
const STRAY = 0.002;
const MOST = 20000;

/** {whole, face}: each {centre [x, y, z], halfHeight, halfWidth} in metres. Stray Gaussians do not count. */
export function subjects(means) {
  const step = Math.max(1, Math.ceil(means.length / 3 / MOST));
  const points = [];
  for (let at = 0; at < means.length; at += 3 * step) points.push(means.subarray(at, at + 3));
  const whole = box(points);
  const height = 2 * whole.halfHeight;
  const top = whole.centre[2] + whole.halfHeight;
  const head = box(points.filter((point) => point[2] > top - 0.14 * height));
  return { whole, face: { ...head, halfHeight: 0.085 * height, halfWidth: 0.085 * height } };
}

function box(points) {
  const ranges = [0, 1, 2].map((axis) => {
    const values = Float32Array.from(points, (point) => point[axis]).sort();
    const skipped = Math.floor(STRAY * values.length);
    return [values[skipped], values[values.length - 1 - skipped]];
  });
  return {
    centre: ranges.map(([low, high]) => (low + high) / 2),
    halfHeight: Math.max(1e-3, (ranges[2][1] - ranges[2][0]) / 2),
    halfWidth: Math.max(1e-3, Math.hypot(ranges[0][1] - ranges[0][0], ranges[1][1] - ranges[1][0]) / 2),
  };
}

/** The distance at which a camera with that vertical field of view, in degrees, sees all of the subject. */
export function framingDistance({ halfHeight, halfWidth }, fovY, aspect) {
  const slope = Math.tan((0.5 * fovY * Math.PI) / 180);
  return MARGIN * Math.max(halfHeight / slope, halfWidth / (slope * aspect)) + 0.5 * halfWidth;
}
