var specularip=(()=>{var R=Object.defineProperty;var q=Object.getOwnPropertyDescriptor;var Y=Object.getOwnPropertyNames;var J=Object.prototype.hasOwnProperty;var W=(n,t)=>{for(var e in t)R(n,e,{get:t[e],enumerable:!0})},H=(n,t,e,r)=>{if(t&&typeof t=="object"||typeof t=="function")for(let s of Y(t))!J.call(n,s)&&s!==e&&R(n,s,{get:()=>t[s],enumerable:!(r=q(t,s))||r.enumerable});return n};var K=n=>H(R({},"__esModule",{value:!0}),n);var At={};W(At,{OrbitCamera:()=>b,Renderer:()=>_,unpack:()=>U});var A=n=>n*Math.PI/180,Z=(n,t)=>n[0]*t[0]+n[1]*t[1]+n[2]*t[2],Q=(n,t)=>[n[1]*t[2]-n[2]*t[1],n[2]*t[0]-n[0]*t[2],n[0]*t[1]-n[1]*t[0]];var b=class{constructor({azimuth:t=0,elevation:e=5,distance:r=2.2,target:s=[0,0,0],fovY:o=45}={}){Object.assign(this,{azimuth:t,elevation:e,distance:r,target:[...s],fovY:o})}axes(){let t=A(this.azimuth),e=A(Math.min(Math.max(this.elevation,-89),89)),r=Math.cos(e),s=[-r*Math.sin(t),r*Math.cos(t),-Math.sin(e)],o=[Math.cos(t),Math.sin(t),0];return[o,Q(s,o),s]}position(){let t=this.axes()[2];return this.target.map((e,r)=>e-this.distance*t[r])}view(t,e){let r=this.axes(),s=this.position(),o=new Float64Array(16);r.forEach((i,a)=>o.set([...i,-Z(i,s)],4*a)),o[15]=1;let c=.5*e/Math.tan(.5*A(this.fovY));return{viewmat:o,fx:c,fy:c,cx:t/2,cy:e/2,width:t,height:e}}orbit(t,e){this.azimuth=((this.azimuth+t+180)%360+360)%360-180,this.elevation=Math.min(Math.max(this.elevation+e,-89),89)}pan(t,e,r){let s=2*this.distance*Math.tan(.5*A(this.fovY))/r,[o,c]=this.axes();this.target=this.target.map((i,a)=>i-s*(t*o[a]+e*c[a]))}zoom(t,e=[.05,100]){this.distance=Math.min(Math.max(this.distance*t,e[0]),e[1])}fit(t,e=1){let r=.5*A(this.fovY),s=e<1?Math.atan(Math.tan(r)*e):r;this.target=[...t.centre],this.distance=t.radius/Math.sin(s)}};var tt="SIPV";var I={linear:n=>n,root:n=>n*Math.abs(n),log:Math.exp},et=["asg","sh3","diffuse"];async function U(n){let t=await rt(n),e=st(t),r=ot(t,e),s=(l,h,m)=>{let u=r.get(l);if(!u)throw v(`it has no ${l}`);if(u.rows!==h||u.columns!==m)throw v(`${l} has ${u.rows} rows of ${u.columns}, not ${h} of ${m}`);return nt(u)},{count:o,kind:c}=e;if(!Number.isInteger(o)||o<0)throw v("its count is not a number");if(!et.includes(c))throw v(`it has colours of an unknown kind, ${c}`);let i=s("means",o,3),a={count:o,kind:c,antialiased:e.antialiased===!0,meta:e.meta??{},bounds:ft(i),means:i,quats:B(s("quats.rest",o,3),s("quats.largest",o,1)),scales:s("log_scales",o,3).map(Math.exp),opacities:s("opacities",o,1),diffuse:s("diffuse",o,3),normals:null,colors:null,binding:null,expressions:null,clips:[]};return c==="asg"?(a.colors=at(s,o),a.normals=ht(a.colors.quats)):(a.normals=D(s("normals",o,2)),c==="sh3"&&(a.colors={coefficients:s("coefficients",o,48)})),e.binding&&(a.binding=ct(e.binding,s,o)),e.expressions&&(a.expressions=lt(e.expressions,r,s,o)),a.binding&&(a.clips=(e.clips??[]).map((l,h)=>ut(l,`clips.${h}`,a,r,s))),a}var v=n=>new Error(`This avatar cannot be read: ${n}.`);async function rt(n){let e=new Blob([n]).stream().pipeThrough(new DecompressionStream("gzip")).getReader(),r=[],s=0;try{for(;;){let{done:i,value:a}=await e.read();if(i)break;if(s+=a.length,s>536870912)throw v("it is too large");r.push(a)}}catch(i){throw await e.cancel().catch(()=>{}),i instanceof TypeError?v("it is incomplete, or no packed avatar"):i}let o=new Uint8Array(s),c=0;for(let i of r)o.set(i,c),c+=i.length;return o}function st(n){if(n.length<12||String.fromCharCode(...n.subarray(0,4))!==tt)throw v("it is no packed avatar");let t=new DataView(n.buffer,n.byteOffset),e=t.getUint32(4,!0);if(e!==1)throw v(`its version is ${e}, and this viewer reads 1`);let r=t.getUint32(8,!0);if(12+r>n.length)throw v("it ends too early");try{let s=JSON.parse(new TextDecoder("utf-8",{fatal:!0}).decode(n.subarray(12,12+r)));return s.start=12+r,s}catch{throw v("its header is not JSON")}}function ot(n,t){if(t.sections===null||typeof t.sections!="object")throw v("it has no sections");let e=new Map,r=t.start;for(let[s,o]of Object.entries(t.sections)){let{rows:c,columns:i,bits:a,warp:l,low:h,high:m}=o??{},u=[c,i,a].every(x=>Number.isInteger(x)&&x>=0),f=[h,m].every(x=>Array.isArray(x)&&x.length===i&&x.every(Number.isFinite));if(!u||a<1||a>32||!f||!Object.hasOwn(I,l))throw v(`${s} is described wrongly`);let d=a+7>>3,p=r+c*i*d;if(p>n.length)throw v(`it ends within ${s}`);e.set(s,{rows:c,columns:i,bits:a,warp:l,low:h,high:m,planes:d,bytes:n.subarray(r,p)}),r=p}return e}function nt({rows:n,columns:t,bits:e,warp:r,low:s,high:o,planes:c,bytes:i}){let a=new Float32Array(n*t),l=I[r];for(let h=0;h<t;++h){let m=(o[h]-s[h])/(2**e-1),u=s[h],f=i.subarray(h*c*n,(h+1)*c*n);if(c===1){let d=Float32Array.from({length:2**e},(p,x)=>l(u+m*x));for(let p=0,x=h;p<n;++p,x+=t)a[x]=d[f[p]]}else if(c===2)for(let d=0,p=h;d<n;++d,p+=t)a[p]=l(u+m*(f[d]+256*f[n+d]));else for(let d=0,p=h;d<n;++d,p+=t){let x=0;for(let g=c-1;g>=0;--g)x=256*x+f[g*n+d];a[p]=l(u+m*x)}}return a}function it({rows:n,columns:t,planes:e,bytes:r}){let s=new Uint32Array(n*t);for(let o=0;o<t;++o)for(let c=0;c<n;++c){let i=0;for(let a=e-1;a>=0;--a)i=256*i+r[(o*e+a)*n+c];s[c*t+o]=i}return s}function at(n,t){let e=n("asg.widths",t,8),r=n("asg.skews",t,4),s=new Float32Array(12*t);for(let o=0;o<4*t;++o)s[3*o]=e[2*o],s[3*o+1]=r[o],s[3*o+2]=e[2*o+1];return{quats:B(n("asg.quats.rest",t,3),n("asg.quats.largest",t,1)),smooth:n("asg.smooth",t,30),lights:D(n("asg.lights",t,8)),shapes:s,amplitudes:n("asg.amplitudes",t,12)}}function ct({names:n,parents:t},e,r){let s=Array.isArray(n)&&Array.isArray(t)?n.length:0;if(s===0||t.length!==s)throw v("its skeleton is incomplete");if(!t.every((i,a)=>Number.isInteger(i)&&i>=-1&&i<a))throw v("a joint comes before its parent");let o=Uint16Array.from(e("bind_joints",r,4));if(o.some(i=>i>=s))throw v("a Gaussian hangs on a joint that is missing");let c=e("bind_weights",r,4);for(let i=0;i<c.length;i+=4){let a=c[i]+c[i+1]+c[i+2]+c[i+3];for(let l=i;l<i+4;++l)c[l]=a>0?c[l]/a:0}return{names:n,parents:Int32Array.from(t),joints:e("joints",s,3),bindJoints:o,bindWeights:c}}function lt(n,t,e,r){let s=t.get("expressions.index")?.rows??0;if(!Array.isArray(n)||s===0)throw v("its expressions are incomplete");e("expressions.index",s,1);let o=it(t.get("expressions.index"));if(o.some(a=>a>=r))throw v("an expression moves a Gaussian that is missing");let c=e("expressions.offsets",s,3*n.length),i=new Float32Array(c.length);for(let a=0;a<n.length;++a)for(let l=0;l<s;++l)for(let h=0;h<3;++h)i[3*(a*s+l)+h]=c[3*(l*n.length+a)+h];return{names:n,index:o,offsets:i}}function ut({name:n,fps:t,loops:e},r,{binding:s,expressions:o},c,i){let a=c.get(`${r}.rotations`)?.rows??0;if(a===0||!(t>0))throw v(`its motion ${n} is incomplete`);return{name:String(n),fps:t,loops:e===!0,frames:a,rotations:i(`${r}.rotations`,a,4*s.names.length),translation:i(`${r}.translation`,a,3),expressions:o&&c.has(`${r}.expressions`)?i(`${r}.expressions`,a,o.names.length):null}}function B(n,t){let e=new Float32Array(4*t.length);for(let r=0;r<t.length;++r){let[s,o,c]=[n[3*r],n[3*r+1],n[3*r+2]],i=Math.sqrt(Math.max(0,1-s*s-o*o-c*c)),a=Math.round(t[r]);e[4*r]=a===0?i:s,e[4*r+1]=a===0?s:a===1?i:o,e[4*r+2]=a<=1?o:a===2?i:c,e[4*r+3]=a<=2?c:i}return e}function D(n){let t=new Float32Array(n.length/2*3);for(let e=0;2*e<n.length;++e){let r=n[2*e],s=n[2*e+1],o=1-Math.abs(r)-Math.abs(s),c=Math.max(-o,0);r-=r<0?-c:c,s-=s<0?-c:c;let i=Math.hypot(r,s,o);t[3*e]=r/i,t[3*e+1]=s/i,t[3*e+2]=o/i}return t}function ht(n){let t=new Float32Array(n.length/4*3);for(let e=0;4*e<n.length;++e){let[r,s,o,c]=n.subarray(4*e,4*e+4);t[3*e]=2*(s*c+r*o),t[3*e+1]=2*(o*c-r*s),t[3*e+2]=1-2*(s*s+o*o)}return t}function ft(n){let t=[1/0,1/0,1/0],e=[-1/0,-1/0,-1/0];for(let o=0;o<n.length;++o)t[o%3]=Math.min(t[o%3],n[o]),e[o%3]=Math.max(e[o%3],n[o]);if(n.length===0)return{centre:[0,0,0],radius:1};let r=t.map((o,c)=>(o+e[c])/2),s=0;for(let o=0;o<n.length;o+=3)s=Math.max(s,Math.hypot(n[o]-r[0],n[o+1]-r[1],n[o+2]-r[2]));return{centre:r,radius:s+.001}}var S=["final","diffuse","specular","normal","alpha","depth"],M={asg:19,sh3:12,diffuse:0},E=`#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp usampler2D;
`,F=`${E}
void main() {
  gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}`,dt={asg:`
vec3 colour(ivec2 texel, mat3 turn, vec3 toCamera) {
  vec4 q = at(texel, 0);
  vec3 v = unturned(q, toCamera * turn);
  float basis[10] = float[](1.0, v.x, v.y, v.z, v.x * v.y, v.y * v.z, v.z * v.x,
                            v.x * v.x - v.y * v.y, v.z * v.z, pow(1.0 - min(abs(v.z), 1.0), 5.0));
  vec3 value = vec3(0.0);
  vec4 widths = vec4(0.0);
  for (int j = 0; j < 10; ++j) {
    vec4 texels = at(texel, 1 + j);
    value += texels.rgb * basis[j];
    if (j < 4) widths[j] = texels.w;
  }
  for (int k = 0; k < 4; ++k) {
    vec4 light = at(texel, 11 + 2 * k), amplitude = at(texel, 12 + 2 * k);
    // A light's direction stays in the world when the body turns.
    vec3 l = uPosed ? unturned(q, turned(q, light.xyz) * turn) : light.xyz;
    if (v.z * l.z <= 0.0) continue;
    vec3 m = 0.5 * (v + l);
    vec2 g = vec2(light.w * m.x + amplitude.w * m.y, widths[k] * m.y);
    float near = max(dot(m, m), 0.02);
    value += amplitude.rgb * exp(-dot(g, g) / near) / near;
  }
  return mix(value, 0.95 + 0.05 * value, greaterThan(value, vec3(1.0)));
}`,sh3:`
vec3 colour(ivec2 texel, mat3 turn, vec3 toCamera) {
  vec3 d = -(toCamera * turn);
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
}`,diffuse:`
vec3 colour(ivec2 texel, mat3 turn, vec3 toCamera) {
  return texelFetch(uSurfaces, ivec3(texel, 0), 0).rgb;
}`};function L(n){return`${E}
uniform sampler2D uPositions;      // mean, opacity
uniform sampler2DArray uShapes;    // quaternion; scales * 1024
uniform sampler2DArray uSurfaces;  // diffuse colour; normal
uniform sampler2DArray uColors;
uniform usampler2D uBindJoints;
uniform sampler2D uBindWeights;
uniform sampler2D uJoints;         // a row for each joint: the three rows of its skin matrix
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

// The rotation in a blend of rotations, by Newton's iteration for the polar decomposition.
mat3 rotation(mat3 blend) {
  for (int k = 0; k < 3; ++k) blend = 0.5 * (blend + transpose(inverse(blend)));
  return blend;
}
${dt[n]}

void main() {
  oPlace = oSplat = uvec4(0u);
  ivec2 texel = ivec2(gl_FragCoord.xy);
  if (texel.y * textureSize(uPositions, 0).x + texel.x >= uCount) return;
  vec4 position = texelFetch(uPositions, texel, 0);
  vec3 mean = position.xyz;
  mat3 turn = mat3(1.0);
  if (uPosed) {
    uvec4 joints = texelFetch(uBindJoints, texel, 0);
    vec4 weights = texelFetch(uBindWeights, texel, 0);
    mat3x4 rows = mat3x4(0.0);
    for (int k = 0; k < 4; ++k) {
      int j = int(joints[k]);
      rows += weights[k] * mat3x4(texelFetch(uJoints, ivec2(0, j), 0), texelFetch(uJoints, ivec2(1, j), 0),
                                  texelFetch(uJoints, ivec2(2, j), 0));
    }
    mean = vec4(mean, 1.0) * rows;
    turn = rotation(transpose(mat3(rows)));
  }
  vec3 p = vec3(dot(uView[0], vec4(mean, 1.0)), dot(uView[1], vec4(mean, 1.0)), dot(uView[2], vec4(mean, 1.0)));
  if (!(p.z >= 0.01 && p.z < 1e10)) return;

  // EWA projection: the covariance is M M\u1D40 with M = J W R S, of which the third row is not needed.
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
}`}var C=`${E}
uniform usampler2D uPlaces;
uniform usampler2D uSplats;
uniform vec2 uPixels;
layout(location = 0) in uint aIndex;
out vec2 vOffset;      // from the centre, in standard deviations
flat out vec4 vColor;  // opacity in w

void main() {
  uint width = uint(textureSize(uPlaces, 0).x);
  ivec2 texel = ivec2(aIndex % width, aIndex / width);
  uvec4 splat = texelFetch(uSplats, texel, 0);
  float opacity = uintBitsToFloat(splat.w);
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);  // outside
  vOffset = vec2(0.0);
  vColor = vec4(0.0);
  if (opacity == 0.0) return;
  uvec4 place = texelFetch(uPlaces, texel, 0);
  vec2 along = uintBitsToFloat(splat.xy);
  vec2 across = uintBitsToFloat(splat.z) * normalize(vec2(-along.y, along.x));
  float extent = min(3.33, sqrt(2.0 * log(255.0 * opacity)));
  vOffset = (extent * 1.0001 + 1e-3) * vec2(gl_VertexID % 2 == 0 ? -1.0 : 1.0, gl_VertexID < 2 ? -1.0 : 1.0);
  vec2 pixel = uintBitsToFloat(place.xy) + vOffset.x * along + vOffset.y * across;
  gl_Position = vec4(2.0 * pixel / uPixels - 1.0, 0.0, 1.0);
  vColor = vec4(unpackHalf2x16(place.z), unpackHalf2x16(place.w).x, opacity);
}`,O=`${E}
in vec2 vOffset;
flat in vec4 vColor;
out vec4 oColor;

void main() {
  float alpha = min(0.999, vColor.w * exp(-0.5 * dot(vOffset, vOffset)));
  if (alpha < 1.0 / 255.0) discard;
  oColor = vec4(vColor.rgb * alpha, alpha);
}`,P=`${E}
uniform sampler2D uSum;
uniform vec4 uBackground;  // alpha 0: transparent
uniform int uLayer;
out vec4 oColor;

void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  vec4 sum = texelFetch(uSum, ivec2(pixel.x, textureSize(uSum, 0).y - 1 - pixel.y), 0);
  vec3 rgb = sum.rgb;
  if (uLayer == 2) {
    oColor = vec4(clamp(rgb, 0.0, 1.0), 1.0);
    return;
  }
  if (uLayer == 3) rgb = sum.a * (0.5 + 0.5 * rgb / max(length(rgb), 1e-6));
  if (uLayer == 4) { oColor = vec4(vec3(sum.a), 1.0); return; }
  if (uLayer == 5) { oColor = vec4(clamp(sum.aaa - rgb, 0.0, 1.0), 1.0); return; }
  float alpha = sum.a + (1.0 - sum.a) * uBackground.a;
  oColor = vec4(clamp(rgb + (1.0 - sum.a) * uBackground.rgb * uBackground.a, 0.0, alpha), alpha);
}`;function G({parents:n,joints:t},e,r){let s=n.length,o=new Float64Array(9*s),c=new Float64Array(3*s),i=new Float32Array(12*s);for(let a=0;a<s;++a){let l=n[a],h=mt(e.subarray(4*a,4*a+4)),m=o.subarray(9*a,9*a+9),u=c.subarray(3*a,3*a+3),f=t.subarray(3*a,3*a+3);if(l<0){m.set(h);for(let d=0;d<3;++d)u[d]=f[d]+r[d]}else{let d=o.subarray(9*l,9*l+9);for(let p=0;p<3;++p){u[p]=c[3*l+p];for(let x=0;x<3;++x){u[p]+=d[3*p+x]*(f[x]-t[3*l+x]);for(let g=0;g<3;++g)m[3*p+x]+=d[3*p+g]*h[3*g+x]}}}for(let d=0;d<3;++d){let p=u[d];for(let x=0;x<3;++x)i[12*a+4*d+x]=m[3*d+x],p-=m[3*d+x]*f[x];i[12*a+4*d+3]=p}}return i}function mt(n){let t=Math.hypot(...n)||1,[e,r,s,o]=Array.from(n,c=>c/t);return[1-2*(s*s+o*o),2*(r*s-e*o),2*(r*o+e*s),2*(r*s+e*o),1-2*(r*r+o*o),2*(s*o-e*r),2*(r*o-e*s),2*(s*o+e*r),1-2*(r*r+s*s)]}function N(n,{index:t,offsets:e},r,s){s.set(n);let o=t.length;r.forEach((c,i)=>{if(c===0)return;let a=3*o*i;for(let l=0;l<o;++l){let h=3*t[l];for(let m=0;m<3;++m)s[h+m]+=c*e[a+3*l+m]}})}var w=class{constructor(t){this.keys=new Uint32Array(t),this.indices=new Uint32Array(t),this.halfway=new Uint32Array(t),this.order=new Uint32Array(t),this.low=new Uint32Array(2048),this.high=new Uint32Array(2048)}sort(t){let{keys:e,indices:r,halfway:s,order:o,low:c,high:i}=this,a=1/0,l=-1/0;for(let u=0;u<t.length;++u){let f=t[u];f<a&&(a=f),f>l&&(l=f)}a=Math.max(a,.01);let h=4194303/Math.max(l-a,1e-6);c.fill(0),i.fill(0);let m=0;for(let u=0;u<t.length;++u){let f=t[u];if(!(f>=.01))continue;let d=(l-f)*h|0;e[u]=d,r[m++]=u,++c[d&2047],++i[d>>>11]}for(let u=0,f=0,d=0;u<2048;++u)f+=c[u],c[u]=f-c[u],d+=i[u],i[u]=d-i[u];for(let u=0;u<m;++u){let f=r[u];s[c[e[f]&2047]++]=f}for(let u=0;u<m;++u){let f=s[u];o[i[e[f]>>>11]++]=f}return o.subarray(0,m)}};function k(n,t,e){let[r,s,o,c]=t;for(let i=0,a=0;i<e.length;++i,a+=3)e[i]=r*n[a]+s*n[a+1]+o*n[a+2]+c}function j(n,{joints:t,weights:e},r,s,o){let c=new Float32Array(r.length/3);for(let i=0;i<c.length;i+=4)for(let a=0;a<4;++a){let l=3*i+a;c[i+a]=s[0]*r[l]+s[1]*r[l+4]+s[2]*r[l+8]+(a===3?s[3]:0)}for(let i=0;i<o.length;++i){let a=n[3*i],l=n[3*i+1],h=n[3*i+2],m=0;for(let u=4*i;u<4*i+4;++u){let f=e[u];if(f===0)continue;let d=4*t[u];m+=f*(c[d]*a+c[d+1]*l+c[d+2]*h+c[d+3])}o[i]=m}}var xt=1024,pt=1024,vt=.2,_=class{constructor(t,{onNote:e=()=>{}}={}){if(this.canvas=t,this.onNote=e,this.avatar=null,this._pose=null,this._last=null,this.gl=t.getContext("webgl2",{alpha:!0,antialias:!1,depth:!1,stencil:!1}),!this.gl)throw new Error("This browser does not offer WebGL2, which the viewer needs: update it, or turn on hardware acceleration.");this._onLost=r=>r.preventDefault(),this._onRestored=()=>this._restore(),t.addEventListener("webglcontextlost",this._onLost),t.addEventListener("webglcontextrestored",this._onRestored),this._create()}setAvatar(t){this._freeAvatar(),this.avatar=t,this._pose=null,this._upload()}setPose(t){this._pose=t,this._applyPose()}draw(t,e={}){let r={layer:"final",specular:1,size:1,background:[.6,.6,.6],...e};this._last={view:t,settings:r},!this.gl.isContextLost()&&(this._accumulate(t,r),this._resolve())}readPixels(){if(!this._last)throw new Error("nothing has been drawn");this._accumulate(this._last.view,this._last.settings),this._resolve();let{gl:t,canvas:e}=this,{width:r,height:s}=e,o=new Uint8Array(4*r*s);t.readPixels(0,0,r,s,t.RGBA,t.UNSIGNED_BYTE,o);let c=new Uint8Array(o.length);for(let i=0;i<s;++i)c.set(o.subarray(4*r*(s-1-i),4*r*(s-i)),4*r*i);return c}pick(t,e){let{gl:r,_last:s}=this;if(!s||!this.avatar||r.isContextLost())return null;let{viewmat:o,fx:c,fy:i,cx:a,cy:l,width:h,height:m}=s.view;if(!(t>=0&&t<h&&e>=0&&e<m))return null;this._accumulate(s.view,{...s.settings,layer:"depth"}),r.bindFramebuffer(r.FRAMEBUFFER,this.sum.framebuffer);let u=this.floats?new Float32Array(4):new Uint8Array(4);if(r.readPixels(Math.floor(t),Math.floor(e),1,1,r.RGBA,this.floats?r.FLOAT:r.UNSIGNED_BYTE,u),u[3]<vt*(this.floats?1:255))return null;let[f,d]=this._range(s.view),p=f+(d-f)*(u[0]/u[3]),x=[(t-a)/c*p-o[3],(e-l)/i*p-o[7],p-o[11]];return[0,1,2].map(g=>o[g]*x[0]+o[4+g]*x[1]+o[8+g]*x[2])}dispose(){let{gl:t,canvas:e}=this;e.removeEventListener("webglcontextlost",this._onLost),e.removeEventListener("webglcontextrestored",this._onRestored),this._freeAvatar(),this._freeSum();for(let r of Object.values(this.programs))t.deleteProgram(r.program);t.deleteVertexArray(this.cover),t.deleteTexture(this.unused),t.deleteTexture(this.unusedArray),t.deleteTexture(this.unusedIntegers),this.avatar=null}_create(){let{gl:t}=this;this.floats=!!(t.getExtension("EXT_color_buffer_float")||t.getExtension("EXT_color_buffer_half_float")),this.floats||this.onNote("This device draws with 8 bits a channel: bright highlights are less exact."),this.programs={},this.data=null,this.sum=null,this.cover=t.createVertexArray(),this.unused=y(t,t.RGBA32F,1,1,new Float32Array(4)),this.unusedIntegers=y(t,t.RGBA16UI,1,1,new Uint16Array(4)),this.unusedArray=T(t,1,1,1,new Float32Array(4)),t.disable(t.DEPTH_TEST),t.disable(t.DITHER)}_restore(){this._create(),this._upload(),this._last&&this.draw(this._last.view,this._last.settings)}_program(t){if(!this.programs[t]){let e={splat:[C,O],resolve:[F,P]};this.programs[t]=new z(this.gl,...e[t]??[F,L(t)])}return this.programs[t]}_upload(){let{gl:t,avatar:e}=this;if(!e||t.isContextLost())return;let{count:r}=e,s=Math.min(xt,Math.max(r,1)),o=Math.max(Math.ceil(r/s),1);if(o>Math.min(t.getParameter(t.MAX_TEXTURE_SIZE)))throw new Error(`${r} Gaussians are more than this device can draw.`);let c=s*o,i=(...m)=>{let u=new Float32Array(4*c*m.length);return m.forEach((f,d)=>f&&V(u.subarray(4*c*d,4*c*(d+1)),r,f)),u},a=e.scales.map(m=>m*pt);this.data={width:s,height:o,positions:y(t,t.RGBA32F,s,o,i([[e.means,3],[e.opacities,1]])),shapes:T(t,s,o,2,i([[e.quats,4]],[[a,3]])),surfaces:T(t,s,o,2,i([[e.diffuse,3]],[[e.normals,3]])),colors:null,bindJoints:null,bindWeights:null,joints:null,skin:null,means:e.means,places:y(t,t.RGBA32UI,s,o,null),splats:y(t,t.RGBA32UI,s,o,null),sort:new w(r),depths:new Float32Array(r),drawn:0,shaded:"",sorted:"",splatted:"",version:0};let{data:l}=this,h=gt(e);if(h.length&&(l.colors=T(t,s,o,h.length,i(...h))),e.binding){let m=new Uint16Array(4*c);m.set(e.binding.bindJoints),l.bindJoints=y(t,t.RGBA16UI,s,o,m),l.bindWeights=y(t,t.RGBA32F,s,o,i([[e.binding.bindWeights,4]])),l.joints=y(t,t.RGBA32F,3,e.binding.parents.length,null)}l.framebuffer=X(t,l.places,l.splats),l.order=t.createBuffer(),l.instances=t.createVertexArray(),t.bindVertexArray(l.instances),t.bindBuffer(t.ARRAY_BUFFER,l.order),t.bufferData(t.ARRAY_BUFFER,4*Math.max(r,1),t.DYNAMIC_DRAW),t.enableVertexAttribArray(0),t.vertexAttribIPointer(0,1,t.UNSIGNED_INT,0,0),t.vertexAttribDivisor(0,1),t.bindVertexArray(null),this._applyPose()}_freeAvatar(){let{gl:t,data:e}=this;if(e){for(let r of["positions","shapes","surfaces","colors","bindJoints","bindWeights","joints","places","splats"])t.deleteTexture(e[r]);t.deleteFramebuffer(e.framebuffer),t.deleteBuffer(e.order),t.deleteVertexArray(e.instances),this.data=null}}_applyPose(){let{gl:t,data:e,avatar:r,_pose:s}=this;if(!e)return;++e.version;let{binding:o,expressions:c}=r;e.skin=null,s?.rotations&&o&&(e.skin=G(o,s.rotations,s.translation??[0,0,0]),t.bindTexture(t.TEXTURE_2D,e.joints),t.texSubImage2D(t.TEXTURE_2D,0,0,0,3,o.parents.length,t.RGBA,t.FLOAT,e.skin));let i=!!(s?.expressions?.some(l=>l!==0)&&c);if(!i&&e.means===r.means)return;i?(e.means===r.means&&(e.means=new Float32Array(r.means.length)),N(r.means,c,s.expressions,e.means)):e.means=r.means;let a=new Float32Array(4*e.width*e.height);V(a,r.count,[[e.means,3],[r.opacities,1]]),t.bindTexture(t.TEXTURE_2D,e.positions),t.texSubImage2D(t.TEXTURE_2D,0,0,0,e.width,e.height,t.RGBA,t.FLOAT,a)}_accumulate(t,e){let{gl:r,data:s}=this;if(this._resize(t.width,t.height),!s||this.avatar.count===0){r.bindFramebuffer(r.FRAMEBUFFER,this.sum.framebuffer),r.clearBufferfv(r.COLOR,0,[0,0,0,0]);return}let o=`${s.version} ${Array.from(t.viewmat)}`,{fx:c,fy:i,cx:a,cy:l,width:h,height:m}=t,u=`${o} ${[c,i,a,l,h,m]} ${e.layer} ${e.specular} ${e.size}`;s.sorted!==o&&this._sort(t),s.shaded!==u&&this._shade(t,e),s.splatted!==u&&this._splat(t),s.sorted=o,s.shaded=s.splatted=u}_shade(t,e){let{gl:r,data:s,avatar:o}=this,{viewmat:c,fx:i,fy:a,cx:l,cy:h,width:m,height:u}=t,f=this._program(o.kind);r.useProgram(f.program),f.texture("uPositions",0,r.TEXTURE_2D,s.positions),f.texture("uShapes",1,r.TEXTURE_2D_ARRAY,s.shapes),f.texture("uSurfaces",2,r.TEXTURE_2D_ARRAY,s.surfaces),f.texture("uColors",3,r.TEXTURE_2D_ARRAY,s.colors??this.unusedArray),f.texture("uBindJoints",4,r.TEXTURE_2D,s.bindJoints??this.unusedIntegers),f.texture("uBindWeights",5,r.TEXTURE_2D,s.bindWeights??this.unused),f.texture("uJoints",6,r.TEXTURE_2D,s.joints??this.unused),r.uniform1i(f.at("uPosed"),s.skin?1:0),r.uniform1i(f.at("uCount"),o.count),r.uniform4fv(f.at("uView"),Float32Array.from(c).subarray(0,12)),r.uniform3fv(f.at("uCamera"),[0,1,2].map(x=>-(c[x]*c[3]+c[4+x]*c[7]+c[8+x]*c[11]))),r.uniform4f(f.at("uIntrinsics"),i,a,l,h);let d=.15*m/i,p=.15*u/a;r.uniform4f(f.at("uLimits"),-l/i-d,(m-l)/i+d,-h/a-p,(u-h)/a+p),r.uniform1i(f.at("uAntialiased"),o.antialiased?1:0),r.uniform1f(f.at("uSize"),e.size),r.uniform1f(f.at("uSpecular"),e.specular),r.uniform2fv(f.at("uRange"),this._range(t)),r.uniform1i(f.at("uLayer"),S.indexOf(e.layer)),r.bindFramebuffer(r.FRAMEBUFFER,s.framebuffer),r.viewport(0,0,s.width,s.height),r.bindVertexArray(this.cover),r.drawArrays(r.TRIANGLES,0,3)}_sort(t){let{gl:e,data:r,avatar:s}=this,o=t.viewmat.slice(8,12);if(r.skin){let{bindJoints:i,bindWeights:a}=s.binding;j(r.means,{joints:i,weights:a},r.skin,o,r.depths)}else k(r.means,o,r.depths);let c=r.sort.sort(r.depths);r.drawn=c.length,e.bindBuffer(e.ARRAY_BUFFER,r.order),e.bufferSubData(e.ARRAY_BUFFER,0,c)}_splat(t){let{gl:e,data:r}=this,s=this._program("splat");e.useProgram(s.program),s.texture("uPlaces",0,e.TEXTURE_2D,r.places),s.texture("uSplats",1,e.TEXTURE_2D,r.splats),e.uniform2f(s.at("uPixels"),t.width,t.height),e.bindFramebuffer(e.FRAMEBUFFER,this.sum.framebuffer),e.viewport(0,0,t.width,t.height),e.clearBufferfv(e.COLOR,0,[0,0,0,0]),e.enable(e.BLEND),e.blendFunc(e.ONE,e.ONE_MINUS_SRC_ALPHA),e.bindVertexArray(r.instances),e.drawArraysInstanced(e.TRIANGLE_STRIP,0,4,r.drawn),e.disable(e.BLEND)}_resolve(){let{gl:t,canvas:e}=this,{background:r,layer:s}=this._last.settings,o=this._program("resolve");t.useProgram(o.program),o.texture("uSum",0,t.TEXTURE_2D,this.sum.texture),t.uniform4f(o.at("uBackground"),...r??[0,0,0],r?1:0),t.uniform1i(o.at("uLayer"),S.indexOf(s)),t.bindFramebuffer(t.FRAMEBUFFER,null),t.viewport(0,0,e.width,e.height),t.bindVertexArray(this.cover),t.drawArrays(t.TRIANGLES,0,3)}_resize(t,e){let{gl:r,canvas:s,sum:o}=this;if(s.width!==t&&(s.width=t),s.height!==e&&(s.height=e),o?.width===t&&o.height===e)return;this._freeSum();let c=y(r,this.floats?r.RGBA16F:r.RGBA8,t,e,null);this.sum={width:t,height:e,texture:c,framebuffer:X(r,c)},this.data&&(this.data.splatted="")}_freeSum(){this.sum&&(this.gl.deleteTexture(this.sum.texture),this.gl.deleteFramebuffer(this.sum.framebuffer),this.sum=null)}_range({viewmat:t}){let{centre:e,radius:r}=this.avatar.bounds,s=t[8]*e[0]+t[9]*e[1]+t[10]*e[2]+t[11];return[Math.max(s-r,0),Math.max(s+r,.001)]}},z=class{constructor(t,e,r){this.gl=t,this.locations=new Map,this.program=t.createProgram();let s=[[t.VERTEX_SHADER,e],[t.FRAGMENT_SHADER,r]].map(([o,c])=>{let i=t.createShader(o);return t.shaderSource(i,c),t.compileShader(i),t.attachShader(this.program,i),i});if(t.linkProgram(this.program),!t.getProgramParameter(this.program,t.LINK_STATUS)&&!t.isContextLost()){let o=[t.getProgramInfoLog(this.program),...s.map(c=>t.getShaderInfoLog(c))];throw new Error(`A shader does not compile on this device: ${o.filter(Boolean).join(" ")}`)}for(let o of s)t.deleteShader(o)}at(t){return this.locations.has(t)||this.locations.set(t,this.gl.getUniformLocation(this.program,t)),this.locations.get(t)}texture(t,e,r,s){this.gl.activeTexture(this.gl.TEXTURE0+e),this.gl.bindTexture(r,s),this.gl.uniform1i(this.at(t),e)}};function gt({kind:n,colors:t,count:e}){if(n==="sh3")return Array.from({length:M.sh3},(l,h)=>{let m=new Float32Array(4*e),u=h>>2;for(let f=0;f<e;++f)for(let d=0;d<4;++d)m[4*f+d]=t.coefficients[48*f+3*(4*(h&3)+d)+u];return[[m,4]]});if(n!=="asg")return[];let{quats:r,smooth:s,lights:o,shapes:c,amplitudes:i}=t,a=(l,h,m,u)=>[l,u,h,m];return[[[r,4]],...Array.from({length:10},(l,h)=>h<4?[a(s,30,3*h,3),a(c,12,3*h+2,1)]:[a(s,30,3*h,3)]),...Array.from({length:4},(l,h)=>[[a(o,12,3*h,3),a(c,12,3*h,1)],[a(i,12,3*h,3),a(c,12,3*h+1,1)]]).flat()]}function V(n,t,e){let r=0;for(let[s,o,c=o,i=0]of e){for(let a=0;a<o;++a)for(let l=0,h=r+a,m=i+a;l<t;++l,h+=4,m+=c)n[h]=s[m];r+=o}}var yt={RGBA32F:["RGBA","FLOAT"],RGBA16F:["RGBA","HALF_FLOAT"],RGBA8:["RGBA","UNSIGNED_BYTE"],RGBA16UI:["RGBA_INTEGER","UNSIGNED_SHORT"],RGBA32UI:["RGBA_INTEGER","UNSIGNED_INT"]};function y(n,t,e,r,s){let[o,c]=Object.entries(yt).find(([a])=>n[a]===t)[1],i=n.createTexture();return n.bindTexture(n.TEXTURE_2D,i),n.texImage2D(n.TEXTURE_2D,0,t,e,r,0,n[o],n[c],s),$(n,n.TEXTURE_2D),i}function T(n,t,e,r,s){let o=n.createTexture();return n.bindTexture(n.TEXTURE_2D_ARRAY,o),n.texImage3D(n.TEXTURE_2D_ARRAY,0,n.RGBA16F,t,e,r,0,n.RGBA,n.FLOAT,s),$(n,n.TEXTURE_2D_ARRAY),o}function $(n,t){n.texParameteri(t,n.TEXTURE_MIN_FILTER,n.NEAREST),n.texParameteri(t,n.TEXTURE_MAG_FILTER,n.NEAREST),n.texParameteri(t,n.TEXTURE_WRAP_S,n.CLAMP_TO_EDGE),n.texParameteri(t,n.TEXTURE_WRAP_T,n.CLAMP_TO_EDGE)}function X(n,...t){let e=n.createFramebuffer();n.bindFramebuffer(n.FRAMEBUFFER,e);let r=t.map((s,o)=>(n.framebufferTexture2D(n.FRAMEBUFFER,n.COLOR_ATTACHMENT0+o,n.TEXTURE_2D,s,0),n.COLOR_ATTACHMENT0+o));return n.drawBuffers(r),e}return K(At);})();
