// Which pose the avatar is in: a clip at a time, expressions set by hand, and eyes that follow.

import { eyesTowards } from "./gaze.js";

const REST = [1, 0, 0, 0];

export class Player {
  /** avatar: as `unpack` returns it. */
  constructor(avatar) {
    this.binding = avatar.binding;
    this.names = avatar.expressions?.names ?? [];
    this.clips = avatar.clips;
    this.clip = null;
    this.time = 0;
    this.playing = false;
    this.speed = 1;
    this.loop = true;
    /** Strengths set by hand, 0 to 1, by expression. They are added to those of the clip. */
    this.strengths = new Float32Array(this.names.length);
    /** The point [x, y, z] that the eyes look at, null: straight ahead. */
    this.lookAt = null;
  }

  get canLook() {
    return Boolean(this.binding?.names.includes("eye.L") && this.binding.names.includes("eye.R"));
  }

  get duration() {
    if (!this.clip) return 0;
    return (this.clip.frames - (this.clip.loops ? 0 : 1)) / this.clip.fps;
  }

  /** Choose a clip, null for the pose the avatar is in, and start at its beginning. */
  choose(clip) {
    this.clip = clip;
    this.time = 0;
    this.playing = clip !== null;
  }

  seek(time) {
    this.time = Math.min(Math.max(time, 0), this.duration);
  }

  /** Move by whole frames, and stop there. */
  step(frames) {
    if (!this.clip) return;
    this.playing = false;
    this.seek((Math.round(this.time * this.clip.fps) + frames) / this.clip.fps);
  }

  play() {
    if (!this.clip) return;
    if (!this.loop && this.time >= this.duration) this.time = 0;
    this.playing = true;
  }

  /** Go on by `seconds` of wall time, if it plays. */
  advance(seconds) {
    if (!this.playing || !this.clip) return;
    this.time += this.speed * seconds;
    if (this.time < this.duration) return;
    if (this.loop && this.duration > 0) this.time %= this.duration;
    else {
      this.time = this.duration;
      this.playing = false;
    }
  }

  /** What `Renderer.setPose` takes; null for the rest pose. */
  pose() {
    const still = !this.clip && !this.lookAt && !this.strengths.some((value) => value !== 0);
    if (still) return null;
    const count = this.binding ? this.binding.names.length : 0;
    const pose = {
      rotations: new Float32Array(4 * count),
      translation: new Float32Array(3),
      expressions: Float32Array.from(this.strengths),
    };
    if (this.binding?.stance) pose.rotations.set(this.binding.stance);
    else for (let joint = 0; joint < count; joint++) pose.rotations.set(REST, 4 * joint);
    if (this.clip) this.#sample(this.clip, count, pose);
    if (this.lookAt && this.canLook) eyesTowards(this.lookAt, this.binding, pose);
    return pose;
  }

  #sample(clip, joints, pose) {
    const { frames } = clip;
    const at = this.time * clip.fps;
    const first = Math.min(Math.floor(at), frames - 1);
    const second = first + 1 < frames ? first + 1 : clip.loops ? 0 : first;
    const share = at - first;
    const a = clip.rotations.subarray(4 * joints * first, 4 * joints * (first + 1));
    const b = clip.rotations.subarray(4 * joints * second, 4 * joints * (second + 1));
    for (let joint = 0; joint < a.length / 4; joint++) between(a, b, 4 * joint, share, pose.rotations);
    for (let k = 0; k < 3; k++) {
      const [from, to] = [clip.translation[3 * first + k], clip.translation[3 * second + k]];
      pose.translation[k] = from + share * (to - from);
    }
    if (!clip.expressions) return;
    const count = this.names.length;
    for (let k = 0; k < count; k++) {
      const [from, to] = [clip.expressions[count * first + k], clip.expressions[count * second + k]];
      pose.expressions[k] = Math.min(1, pose.expressions[k] + from + share * (to - from));
    }
  }
}

/** Write the normalised blend of the quaternions a and b at `at` to `out`, the short way. */
function between(a, b, at, share, out) {
  let dot = 0;
  for (let k = 0; k < 4; k++) dot += a[at + k] * b[at + k];
  const sign = dot < 0 ? -share : share;
  let norm = 0;
  for (let k = 0; k < 4; k++) {
    out[at + k] = (1 - share) * a[at + k] + sign * b[at + k];
    norm += out[at + k] ** 2;
  }
  norm = Math.sqrt(norm) || 1;
  for (let k = 0; k < 4; k++) out[at + k] /= norm;
}
