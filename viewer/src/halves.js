// Half floats, as textures of four a texel: one texel a Gaussian, and as many layers as its numbers need.

/** Texels of a row. Gaussians fill a texture row by row. */
export const ROW = 1024;

/** Width and height of a texture with a texel for each of `count` Gaussians. */
export function textureSize(count) {
  return { width: ROW, height: Math.max(1, Math.ceil(count / ROW)) };
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The bits of the nearest half float; beyond their range, of the largest one. */
export function toHalf(value) {
  float[0] = value;
  const sign = (bits[0] >>> 16) & 0x8000;
  const magnitude = bits[0] & 0x7fffffff;
  const exponent = magnitude >>> 23;
  if (exponent < 102) return sign;
  if (exponent < 113) {
    const shift = 126 - exponent;
    return sign | ((((magnitude & 0x7fffff) | 0x800000) + (1 << (shift - 1))) >>> shift);
  }
  return sign | Math.min((magnitude - 0x38000000 + 0x1000) >>> 13, 0x7bff);
}

/** Layers of a texture. texels: Uint16Array [layers, height, ROW, 4]. */
export class HalfLayers {
  constructor(count, layers) {
    this.count = count;
    this.layers = layers;
    Object.assign(this, textureSize(count));
    this.texels = new Uint16Array(4 * this.width * this.height * layers);
  }

  /** One channel of a layer, to be written: its texels from the channel on, at every fourth place. */
  channel(layer, channel) {
    return this.texels.subarray(4 * this.width * this.height * layer + channel);
  }

  /** Write numbers [count, stride] to channels of a layer, those of columns from, from + 1, … from + length - 1. */
  write(layer, channel, numbers, { stride, from = 0, length = stride }) {
    for (let c = 0; c < length; ++c) {
      const out = this.channel(layer, channel + c);
      for (let i = 0, at = from + c; i < this.count; ++i, at += stride) out[4 * i] = toHalf(numbers[at]);
    }
  }
}
