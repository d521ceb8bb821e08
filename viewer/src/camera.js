// An orbit camera with the conventions of `specularip.cameras`: world z up, the body faces -y; camera axes as
// in OpenCV (x right, y down, z forward); pixel centres at +0.5.

const radians = (degrees) => (degrees * Math.PI) / 180;
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

/** The steepest elevation, in degrees: straight from above, left and right are undefined. */
export const STEEPEST = 89;

export class OrbitCamera {
  /**
   * azimuth: degrees, 0 in front of the body (-y), 90 at its left (+x). elevation: degrees above the horizon,
   * within ±STEEPEST. distance in metres from target [x, y, z]. fovY: vertical field of view in degrees.
   */
  constructor({ azimuth = 0, elevation = 5, distance = 2.2, target = [0, 0, 0], fovY = 45 } = {}) {
    Object.assign(this, { azimuth, elevation, distance, target: [...target], fovY });
  }

  /** Rows of the rotation from world to camera: right, down, forward. */
  axes() {
    const azimuth = radians(this.azimuth);
    const elevation = radians(Math.min(Math.max(this.elevation, -STEEPEST), STEEPEST));
    const level = Math.cos(elevation);
    const forward = [-level * Math.sin(azimuth), level * Math.cos(azimuth), -Math.sin(elevation)];
    const right = [Math.cos(azimuth), Math.sin(azimuth), 0];
    return [right, cross(forward, right), forward];
  }

  position() {
    const forward = this.axes()[2];
    return this.target.map((value, k) => value - this.distance * forward[k]);
  }

  /** What `Renderer.draw` takes, for an image of width × height pixels. */
  view(width, height) {
    const rows = this.axes();
    const position = this.position();
    const viewmat = new Float64Array(16);
    rows.forEach((row, k) => viewmat.set([...row, -dot(row, position)], 4 * k));
    viewmat[15] = 1;
    const focal = (0.5 * height) / Math.tan(0.5 * radians(this.fovY));
    return { viewmat, fx: focal, fy: focal, cx: width / 2, cy: height / 2, width, height };
  }

  /** Turn by angles in degrees. */
  orbit(azimuth, elevation) {
    this.azimuth = ((((this.azimuth + azimuth + 180) % 360) + 360) % 360) - 180;
    this.elevation = Math.min(Math.max(this.elevation + elevation, -STEEPEST), STEEPEST);
  }

  /** Move the target so that what is at its distance follows the pointer by (dx, dy) pixels of an image of
   * that height. */
  pan(dx, dy, height) {
    const metres = (2 * this.distance * Math.tan(0.5 * radians(this.fovY))) / height;
    const [right, down] = this.axes();
    this.target = this.target.map((value, k) => value - metres * (dx * right[k] + dy * down[k]));
  }

  /** Multiply the distance by `factor`, within `limits` [nearest, farthest] in metres. */
  zoom(factor, limits = [0.05, 100]) {
    this.distance = Math.min(Math.max(this.distance * factor, limits[0]), limits[1]);
  }

  /** Look at all of `bounds` {centre, radius} from where the camera is; aspect: width / height of the image. */
  fit(bounds, aspect = 1) {
    const half = 0.5 * radians(this.fovY);
    const narrow = aspect < 1 ? Math.atan(Math.tan(half) * aspect) : half;
    this.target = [...bounds.centre];
    this.distance = bounds.radius / Math.sin(narrow);
  }
}
