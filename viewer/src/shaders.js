// GLSL of the renderer's three passes on the GPU. Formulas and thresholds are those of the package's own
// rasteriser (raster/projection.py) and of its explicit colours (docs/baking.md).

/** Layers that can be drawn, in the numbering of the shaders. */
export const LAYERS = ["final", "diffuse", "specular", "normal", "alpha", "depth"];

const HEADER = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp usampler2D;
`;

/** One triangle that covers the target. */
export const COVER = `${HEADER}
void main() {
  gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}`;

// 16 coefficients of red, then of green, then of blue, to degree 3, as in 3DGS.
const HARMONICS = `
vec3 harmonics(ivec2 texel, vec3 d) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  vec4 basis[4] = vec4[](
    vec4(0.28209479177387814, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x),
    vec4(1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (3.0 * zz - 1.0),
         -1.0925484305920792 * x * z),
    vec4(0.5462742152960396 * (xx - yy), -0.5900435899266435 * y * (3.0 * xx - yy),
         2.890611442640554 * x * y * z, -0.4570457994644658 * y * (5.0 * zz - 1.0)),
    vec4(0.3731763325901154 * z * (5.0 * zz - 3.0), -0.4570457994644658 * x * (5.0 * zz - 1.0),
         1.445305721320277 * z * (xx - yy), -0.5900435899266435 * x * (xx - 3.0 * yy)));
  vec3 value = vec3(0.5);
  for (int c = 0; c < 3; ++c)
    for (int j = 0; j < 4; ++j) value[c] += dot(at(texel, 4 * c + j), basis[j]);
  return max(value, 0.0);
}`;

// Colours seen along v, unit, from the Gaussian to the camera, both in the Gaussian's frame. The arguments of
// `at` are the Gaussian's texel and the layer.
const COLORS = {
  // Layers: 0 frame (quaternion); 1-10 smooth part, whose first four w are b of the lobes; then for each lobe
  // its light and a, its amplitude and q.
  asg: `
vec3 lobe(ivec2 texel, int layer, float b, vec4 q, mat3 turn, vec3 v) {
  vec4 light = at(texel, layer), amplitude = at(texel, layer + 1);
  vec3 l = light.xyz;
  if (uPosed) {
    // The light stays in the world when the body turns, and the lobe follows its cosine with the normal.
    l = unturned(q, turned(q, l) * turn);
    amplitude.rgb *= min(max(abs(l.z), 0.1) / max(abs(light.z), 0.1), 2.0);
  }
  vec3 m = 0.5 * (v + l);
  vec2 g = vec2(light.w * m.x + amplitude.w * m.y, b * m.y);
  float near = max(dot(m, m), 0.02);
  return v.z * l.z > 0.0 ? amplitude.rgb * (exp(-dot(g, g) / near) / near) : vec3(0.0);
}

vec3 colour(ivec2 texel, mat3 turn, vec3 toCamera) {
  vec4 q = at(texel, 0);
  vec3 v = unturned(q, toCamera * turn);
  float rim = 1.0 - min(abs(v.z), 1.0);
  vec4 s0 = at(texel, 1), s1 = at(texel, 2), s2 = at(texel, 3), s3 = at(texel, 4);
  vec3 value = s0.rgb + s1.rgb * v.x + s2.rgb * v.y + s3.rgb * v.z
    + at(texel, 5).rgb * (v.x * v.y) + at(texel, 6).rgb * (v.y * v.z) + at(texel, 7).rgb * (v.z * v.x)
    + at(texel, 8).rgb * (v.x * v.x - v.y * v.y) + at(texel, 9).rgb * (v.z * v.z)
    + at(texel, 10).rgb * (rim * rim * rim * rim * rim);
  value += lobe(texel, 11, s0.w, q, turn, v) + lobe(texel, 13, s1.w, q, turn, v)
    + lobe(texel, 15, s2.w, q, turn, v) + lobe(texel, 17, s3.w, q, turn, v);
  return mix(value, 0.95 + 0.05 * value, greaterThan(value, vec3(1.0)));
}`,
  sh3: `${HARMONICS}
vec3 colour(ivec2 texel, mat3 turn, vec3 toCamera) {
  return harmonics(texel, -(toCamera * turn));
}`,
  // Layers: 0-11 harmonics; then for each lobe its direction and exponent, and its amplitude. Directions are
  // those from the camera.
  betas: `${HARMONICS}
vec3 colour(ivec2 texel, mat3 turn, vec3 toCamera) {
  vec3 d = -(toCamera * turn), value = harmonics(texel, d);
  int layers = textureSize(uColors, 0).z;
  for (int layer = 12; layer < layers; layer += 2) {
    vec4 lobe = at(texel, layer);
    value += at(texel, layer + 1).rgb * pow(max(dot(d, lobe.xyz), 0.0), lobe.w);
  }
  return value;
}`,
  diffuse: `
vec3 colour(ivec2 texel, mat3 turn, vec3 toCamera) {
  return texelFetch(uSurfaces, ivec3(texel, 0), 0).rgb;
}`,
};

/**
 * Pass 1, once a Gaussian: pose it, project it, and compute the colour that the camera sees. The result is
 * eight words a Gaussian. Integer targets need no extension.
 */
export function shade(kind) {
  return `${HEADER}
uniform sampler2D uPositions;      // mean, opacity
uniform sampler2DArray uShapes;    // quaternion; scales * 1024
uniform sampler2DArray uSurfaces;  // diffuse colour; normal
uniform sampler2DArray uColors;
uniform usampler2D uBindJoints;
uniform sampler2D uBindWeights;
uniform sampler2D uJoints;         // a row for each joint: the three rows of its skin matrix, its quaternion
uniform bool uPosed;
uniform int uCount;
uniform vec4 uView[3];             // rows of the world-to-camera matrix
uniform vec3 uCamera;              // its position
uniform vec4 uIntrinsics;          // fx fy cx cy
uniform vec4 uLimits;              // of x / z and y / z, for the Jacobian
uniform bool uAntialiased;
uniform float uSize;
uniform float uSpecular;
uniform vec2 uRange;               // depths that are drawn as 0 and 1
uniform int uLayer;
layout(location = 0) out uvec4 oPlace;  // u, v, red and green, blue
layout(location = 1) out uvec4 oSplat;  // long axis of one standard deviation, length of the other, opacity

vec4 at(ivec2 texel, int layer) { return texelFetch(uColors, ivec3(texel, layer), 0); }
vec3 turned(vec4 q, vec3 v) { return v + 2.0 * cross(q.yzw, cross(q.yzw, v) + q.x * v); }
vec3 unturned(vec4 q, vec3 v) { return turned(vec4(q.x, -q.yzw), v); }

mat3 matrix(vec4 q) { return mat3(turned(q, vec3(1, 0, 0)), turned(q, vec3(0, 1, 0)), turned(q, vec3(0, 0, 1))); }
${COLORS[kind]}

void main() {
  oPlace = oSplat = uvec4(0u);
  ivec2 texel = ivec2(gl_FragCoord.xy);
  if (texel.y * textureSize(uPositions, 0).x + texel.x >= uCount) return;
  vec4 position = texelFetch(uPositions, texel, 0);
  vec3 mean = position.xyz;
  mat3 turn = mat3(1.0);
  if (uPosed) {
    // Linear blending moves the mean. A Gaussian is rigid: it turns by the blended quaternions, of which all
    // are on the side of the one with the largest weight.
    uvec4 joints = texelFetch(uBindJoints, texel, 0);
    vec4 weights = texelFetch(uBindWeights, texel, 0);
    mat3x4 rows = mat3x4(0.0);
    vec4 quats[4] = vec4[](vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
    int heaviest = 0;
    for (int k = 0; k < 4; ++k) {
      int j = int(joints[k]);
      rows += weights[k] * mat3x4(texelFetch(uJoints, ivec2(0, j), 0), texelFetch(uJoints, ivec2(1, j), 0),
                                  texelFetch(uJoints, ivec2(2, j), 0));
      quats[k] = texelFetch(uJoints, ivec2(3, j), 0);
      if (weights[k] > weights[heaviest]) heaviest = k;
    }
    vec4 blended = vec4(0.0);
    for (int k = 0; k < 4; ++k) blended += (dot(quats[k], quats[heaviest]) < 0.0 ? -weights[k] : weights[k]) * quats[k];
    mean = vec4(mean, 1.0) * rows;
    turn = matrix(normalize(blended));
  }
  vec3 p = vec3(dot(uView[0], vec4(mean, 1.0)), dot(uView[1], vec4(mean, 1.0)), dot(uView[2], vec4(mean, 1.0)));
  if (!(p.z >= 0.01 && p.z < 1e10)) return;

  // EWA projection: the covariance is M Mᵀ with M = J W R S, of which the third row is not needed.
  vec4 q = normalize(texelFetch(uShapes, ivec3(texel, 0), 0));
  vec3 scales = texelFetch(uShapes, ivec3(texel, 1), 0).xyz * (uSize / 1024.0);
  vec2 slope = clamp(p.xy / p.z, uLimits.xz, uLimits.yw);
  vec3 toU = (uIntrinsics.x / p.z) * (uView[0].xyz - slope.x * uView[2].xyz);
  vec3 toV = (uIntrinsics.y / p.z) * (uView[1].xyz - slope.y * uView[2].xyz);
  vec3 mu = unturned(q, toU * turn) * scales, mv = unturned(q, toV * turn) * scales;
  vec3 cov = vec3(dot(mu, mu), dot(mu, mv), dot(mv, mv));
  vec3 normal = cross(mu, mv);
  float sharp = dot(normal, normal);  // the determinant before the low-pass filter, without cancellation
  cov += vec3(0.3, 0.0, 0.3);
  float det = cov.x * cov.z - cov.y * cov.y;
  float opacity = position.w;
  if (uAntialiased) opacity *= sqrt(sharp / det);
  if (!(opacity >= 1.0 / 255.0 && det > 0.0 && det < 1e30)) return;
  float middle = 0.5 * (cov.x + cov.z);
  float longest = middle + length(vec2(0.5 * (cov.x - cov.z), cov.y));
  vec2 along = cov.x > cov.z ? vec2(longest - cov.z, cov.y) : vec2(cov.y, longest - cov.x);
  float size = length(along);
  along = size > 1e-12 ? along / size : vec2(1.0, 0.0);
  vec2 centre = uIntrinsics.xy * p.xy / p.z + uIntrinsics.zw;

  vec3 toCamera = normalize(uCamera - mean), diffuse = texelFetch(uSurfaces, ivec3(texel, 0), 0).rgb, rgb;
  if (uLayer == 3) {
    rgb = turn * texelFetch(uSurfaces, ivec3(texel, 1), 0).xyz;
    if (dot(rgb, toCamera) < 0.0) rgb = -rgb;
  } else if (uLayer == 4) {
    rgb = vec3(0.0);
  } else if (uLayer == 5) {
    rgb = vec3((p.z - uRange.x) / (uRange.y - uRange.x));
  } else if (uLayer == 1 || uSpecular == 0.0) {
    rgb = uLayer == 2 ? vec3(0.0) : diffuse;
  } else {
    rgb = uSpecular * (colour(texel, turn, toCamera) - diffuse);
    if (uLayer == 0) rgb += diffuse;
  }
  oPlace = uvec4(floatBitsToUint(centre), packHalf2x16(rgb.rg), packHalf2x16(vec2(rgb.b, 0.0)));
  oSplat = uvec4(floatBitsToUint(sqrt(longest) * along), floatBitsToUint(sqrt(det / longest)),
                 floatBitsToUint(opacity));
}`;
}

/** Quadrilaterals of one instance. An instance for each would cost more than its pixels, in software above all. */
export const BATCH = 1024;

/**
 * Pass 3: a quadrilateral for each Gaussian, in its order, as far as its opacity is at least 1/255. The first
 * row of the target is the top of the image.
 */
export const SPLAT_VERTEX = `${HEADER}
uniform usampler2D uPlaces;
uniform usampler2D uSplats;
uniform usampler2D uOrder;  // the Gaussian that is drawn first, second...
uniform int uDrawn;         // how many are drawn
uniform vec2 uPixels;
out vec2 vOffset;      // from the centre, in standard deviations
flat out vec4 vColor;  // opacity in w

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);  // outside
  vOffset = vec2(0.0);
  vColor = vec4(0.0);
  int place = ${BATCH} * gl_InstanceID + gl_VertexID / 4;
  if (place >= uDrawn) return;
  int width = textureSize(uPlaces, 0).x;
  int index = int(texelFetch(uOrder, ivec2(place % width, place / width), 0).x);
  ivec2 texel = ivec2(index % width, index / width);
  uvec4 splat = texelFetch(uSplats, texel, 0);
  float opacity = uintBitsToFloat(splat.w);
  if (opacity == 0.0) return;
  uvec4 shaded = texelFetch(uPlaces, texel, 0);
  vec2 along = uintBitsToFloat(splat.xy);
  vec2 across = uintBitsToFloat(splat.z) * normalize(vec2(-along.y, along.x));
  float extent = min(3.33, sqrt(2.0 * log(255.0 * opacity)));
  vOffset = (extent * 1.0001 + 1e-3) * vec2(gl_VertexID % 2 == 0 ? -1.0 : 1.0, gl_VertexID % 4 < 2 ? -1.0 : 1.0);
  vec2 pixel = uintBitsToFloat(shaded.xy) + vOffset.x * along + vOffset.y * across;
  gl_Position = vec4(2.0 * pixel / uPixels - 1.0, 0.0, 1.0);
  vColor = vec4(unpackHalf2x16(shaded.z), unpackHalf2x16(shaded.w).x, opacity);
}`;

export const SPLAT_FRAGMENT = `${HEADER}
in vec2 vOffset;
flat in vec4 vColor;
out vec4 oColor;

void main() {
  float alpha = min(0.999, vColor.w * exp(-0.5 * dot(vOffset, vOffset)));
  if (alpha < 1.0 / 255.0) discard;
  oColor = vec4(vColor.rgb * alpha, alpha);
}`;

/** Pass 4: to the canvas, premultiplied. The last row is the bottom of the image, as WebGL has it. */
export const RESOLVE = `${HEADER}
uniform sampler2D uSum;
uniform vec4 uBackground;  // alpha 0: transparent
uniform int uLayer;
out vec4 oColor;

void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  vec4 sum = texelFetch(uSum, ivec2(pixel.x, textureSize(uSum, 0).y - 1 - pixel.y), 0);
  vec3 rgb = sum.rgb;
  if (uLayer == 2 || uLayer == 4) {  // on black
    oColor = vec4(uLayer == 4 ? sum.aaa : clamp(rgb, 0.0, 1.0), 1.0);
    return;
  }
  if (uLayer == 3) rgb = sum.a * (0.5 + 0.5 * rgb / max(length(rgb), 1e-6));
  if (uLayer == 5) rgb = sum.aaa - 0.85 * clamp(rgb, 0.0, sum.a);
  float alpha = sum.a + (1.0 - sum.a) * uBackground.a;
  oColor = vec4(clamp(rgb + (1.0 - sum.a) * uBackground.rgb * uBackground.a, 0.0, alpha), alpha);
}`;
