var specularip=(()=>{var z=Object.defineProperty;var Q=Object.getOwnPropertyDescriptor;var tt=Object.getOwnPropertyNames;var et=Object.prototype.hasOwnProperty;var rt=(s,t)=>{for(var e in t)z(s,e,{get:t[e],enumerable:!0})},st=(s,t,e,r)=>{if(t&&typeof t=="object"||typeof t=="function")for(let n of tt(t))!et.call(s,n)&&n!==e&&z(s,n,{get:()=>t[n],enumerable:!(r=Q(t,n))||r.enumerable});return s};var nt=s=>st(z({},"__esModule",{value:!0}),s);var zt={};rt(zt,{OrbitCamera:()=>F,Renderer:()=>M,unpack:()=>N});var w=s=>s*Math.PI/180,ot=(s,t)=>s[0]*t[0]+s[1]*t[1]+s[2]*t[2],it=(s,t)=>[s[1]*t[2]-s[2]*t[1],s[2]*t[0]-s[0]*t[2],s[0]*t[1]-s[1]*t[0]];var F=class{constructor({azimuth:t=0,elevation:e=5,distance:r=2.2,target:n=[0,0,0],fovY:o=45}={}){Object.assign(this,{azimuth:t,elevation:e,distance:r,target:[...n],fovY:o})}axes(){let t=w(this.azimuth),e=w(Math.min(Math.max(this.elevation,-89),89)),r=Math.cos(e),n=[-r*Math.sin(t),r*Math.cos(t),-Math.sin(e)],o=[Math.cos(t),Math.sin(t),0];return[o,it(n,o),n]}position(){let t=this.axes()[2];return this.target.map((e,r)=>e-this.distance*t[r])}view(t,e){let r=this.axes(),n=this.position(),o=new Float64Array(16);r.forEach((c,i)=>o.set([...c,-ot(c,n)],4*i)),o[15]=1;let a=.5*e/Math.tan(.5*w(this.fovY));return{viewmat:o,fx:a,fy:a,cx:t/2,cy:e/2,width:t,height:e}}orbit(t,e){this.azimuth=((this.azimuth+t+180)%360+360)%360-180,this.elevation=Math.min(Math.max(this.elevation+e,-89),89)}pan(t,e,r){let n=2*this.distance*Math.tan(.5*w(this.fovY))/r,[o,a]=this.axes();this.target=this.target.map((c,i)=>c-n*(t*o[i]+e*a[i]))}zoom(t,e=[.05,100]){this.distance=Math.min(Math.max(this.distance*t,e[0]),e[1])}fit(t,e=1){let r=.5*w(this.fovY),n=e<1?Math.atan(Math.tan(r)*e):r;this.target=[...t.centre],this.distance=t.radius/Math.sin(n)}};var at="SIPV";var ct=s=>67108864+32*s,P={linear:s=>s,root:s=>s*Math.abs(s),log:Math.exp},lt=["asg","sh3","diffuse"];async function N(s){let t=await ut(s),e=ht(t),r=ft(t,e),n=(u,l,d)=>{let h=r.get(u);if(!h)throw g(`it has no ${u}`);if(h.rows!==l||h.columns!==d)throw g(`${u} has ${h.rows} rows of ${h.columns}, not ${l} of ${d}`);return dt(h)},{count:o,kind:a}=e;if(!Number.isInteger(o)||o<0)throw g("its count is not a number");if(!lt.includes(a))throw g(`it has colours of an unknown kind, ${a}`);let c=n("means",o,3),i={count:o,kind:a,antialiased:e.antialiased===!0,meta:e.meta??{},bounds:bt(c),means:c,quats:C(n("quats.rest",o,3),n("quats.largest",o,1)),scales:n("log_scales",o,3).map(Math.exp),opacities:n("opacities",o,1),diffuse:n("diffuse",o,3),normals:null,colors:null,binding:null,expressions:null,clips:[]};return a==="asg"?(i.colors=vt(n,o),i.normals=Et(i.colors.quats)):(i.normals=G(n("normals",o,2)),a==="sh3"&&(i.colors={coefficients:n("coefficients",o,48)})),e.binding&&(i.binding=xt(e.binding,n,o)),e.expressions&&(i.expressions=gt(e.expressions,r,n,o)),i.binding&&(i.clips=(e.clips??[]).map((u,l)=>yt(u,`clips.${l}`,i,r,n))),i}var g=s=>new Error(`This avatar cannot be read: ${s}.`);async function ut(s){let e=new Blob([s]).stream().pipeThrough(new DecompressionStream("gzip")).getReader(),r=ct(s.byteLength),n=[],o=0;try{for(;;){let{done:i,value:u}=await e.read();if(i)break;if(o+=u.length,o>r)throw g("it is too large");n.push(u)}}catch(i){throw await e.cancel().catch(()=>{}),i instanceof TypeError?g("it is incomplete, or no packed avatar"):i}let a=new Uint8Array(o),c=0;for(let i of n)a.set(i,c),c+=i.length;return a}function ht(s){if(s.length<12||String.fromCharCode(...s.subarray(0,4))!==at)throw g("it is no packed avatar");let t=new DataView(s.buffer,s.byteOffset),e=t.getUint32(4,!0);if(e!==1)throw g(`its version is ${e}, and this viewer reads 1`);let r=t.getUint32(8,!0);if(12+r>s.length)throw g("it ends too early");try{let n=JSON.parse(new TextDecoder("utf-8",{fatal:!0}).decode(s.subarray(12,12+r)));return n.start=12+r,n}catch{throw g("its header is not JSON")}}function ft(s,t){if(t.sections===null||typeof t.sections!="object")throw g("it has no sections");let e=new Map,r=t.start;for(let[n,o]of Object.entries(t.sections)){let{rows:a,columns:c,bits:i,warp:u,low:l,high:d}=o??{},h=[a,c,i].every(x=>Number.isInteger(x)&&x>=0),f=[l,d].every(x=>Array.isArray(x)&&x.length===c&&x.every(Number.isFinite));if(!h||i<1||i>32||!f||!Object.hasOwn(P,u))throw g(`${n} is described wrongly`);let v=i+7>>3,m=r+a*c*v;if(m>s.length)throw g(`it ends within ${n}`);e.set(n,{rows:a,columns:c,bits:i,warp:u,low:l,high:d,planes:v,bytes:s.subarray(r,m)}),r=m}return e}function dt({rows:s,columns:t,bits:e,warp:r,low:n,high:o,planes:a,bytes:c}){let i=new Float32Array(s*t),u=P[r],l=e<=12&&s>2**e?new Float32Array(2**e):null;for(let d=0;d<t;++d){let h=(o[d]-n[d])/(2**e-1),f=n[d],v=c.subarray(d*a*s,(d+1)*a*s);if(l)for(let m=0;m<l.length;++m)l[m]=u(f+h*m);if(l&&a===1)for(let m=0,x=d;m<s;++m,x+=t)i[x]=l[v[m]&l.length-1];else if(l)for(let m=0,x=d;m<s;++m,x+=t)i[x]=l[(v[m]|v[s+m]<<8)&l.length-1];else for(let m=0,x=d;m<s;++m,x+=t){let p=0;for(let y=a-1;y>=0;--y)p=256*p+v[y*s+m];i[x]=u(f+h*p)}}return i}function mt({rows:s,columns:t,planes:e,bytes:r}){let n=new Uint32Array(s*t);for(let o=0;o<t;++o)for(let a=0;a<s;++a){let c=0;for(let i=e-1;i>=0;--i)c=256*c+r[(o*e+i)*s+a];n[a*t+o]=c}return n}function vt(s,t){let e=s("asg.widths",t,8),r=s("asg.skews",t,4),n=new Float32Array(12*t);for(let o=0;o<4*t;++o)n[3*o]=e[2*o],n[3*o+1]=r[o],n[3*o+2]=e[2*o+1];return{quats:C(s("asg.quats.rest",t,3),s("asg.quats.largest",t,1)),smooth:s("asg.smooth",t,30),lights:G(s("asg.lights",t,8)),shapes:n,amplitudes:s("asg.amplitudes",t,12)}}function xt({names:s,parents:t},e,r){let n=Array.isArray(s)&&Array.isArray(t)?s.length:0;if(n===0||t.length!==n)throw g("its skeleton is incomplete");if(!t.every(i=>Number.isInteger(i)&&i>=-1&&i<n))throw g("a joint has a parent that is missing");let o=pt(t);if(o.length<n)throw g("its skeleton goes round in a circle");let a=Uint16Array.from(e("bind_joints",r,4));if(a.some(i=>i>=n))throw g("a Gaussian hangs on a joint that is missing");let c=e("bind_weights",r,4);for(let i=0;i<c.length;i+=4){let u=c[i]+c[i+1]+c[i+2]+c[i+3];for(let l=i;l<i+4;++l)c[l]=u>0?c[l]/u:0}return{names:s,parents:Int32Array.from(t),order:o,joints:e("joints",n,3),bindJoints:a,bindWeights:c}}function pt(s){let t=[],e=s.map(()=>[]);s.forEach((r,n)=>(r<0?t:e[r]).push(n));for(let r=0;r<t.length;++r)t.push(...e[t[r]]);return t}function gt(s,t,e,r){let n=t.get("expressions.index")?.rows??0;if(!Array.isArray(s)||n===0)throw g("its expressions are incomplete");e("expressions.index",n,1);let o=mt(t.get("expressions.index"));if(o.some(i=>i>=r))throw g("an expression moves a Gaussian that is missing");let a=e("expressions.offsets",n,3*s.length),c=new Float32Array(a.length);for(let i=0;i<s.length;++i)for(let u=0;u<n;++u)for(let l=0;l<3;++l)c[3*(i*n+u)+l]=a[3*(u*s.length+i)+l];return{names:s,index:o,offsets:c}}function yt({name:s,fps:t,loops:e},r,{binding:n,expressions:o},a,c){let i=a.get(`${r}.rotations`)?.rows??0;if(i===0||!(t>0))throw g(`its motion ${s} is incomplete`);return{name:String(s),fps:t,loops:e===!0,frames:i,rotations:c(`${r}.rotations`,i,4*n.names.length),translation:c(`${r}.translation`,i,3),expressions:o&&a.has(`${r}.expressions`)?c(`${r}.expressions`,i,o.names.length):null}}function C(s,t){let e=new Float32Array(4*t.length);for(let r=0;r<t.length;++r){let[n,o,a]=[s[3*r],s[3*r+1],s[3*r+2]],c=Math.sqrt(Math.max(0,1-n*n-o*o-a*a)),i=Math.round(t[r]);e[4*r]=i===0?c:n,e[4*r+1]=i===0?n:i===1?c:o,e[4*r+2]=i<=1?o:i===2?c:a,e[4*r+3]=i<=2?a:c}return e}function G(s){let t=new Float32Array(s.length/2*3);for(let e=0;2*e<s.length;++e){let r=s[2*e],n=s[2*e+1],o=1-Math.abs(r)-Math.abs(n),a=Math.max(-o,0);r-=r<0?-a:a,n-=n<0?-a:a;let c=Math.hypot(r,n,o);t[3*e]=r/c,t[3*e+1]=n/c,t[3*e+2]=o/c}return t}function Et(s){let t=new Float32Array(s.length/4*3);for(let e=0;4*e<s.length;++e){let[r,n,o,a]=s.subarray(4*e,4*e+4);t[3*e]=2*(n*a+r*o),t[3*e+1]=2*(o*a-r*n),t[3*e+2]=1-2*(n*n+o*o)}return t}function bt(s){let t=[1/0,1/0,1/0],e=[-1/0,-1/0,-1/0];for(let o=0;o<s.length;++o)t[o%3]=Math.min(t[o%3],s[o]),e[o%3]=Math.max(e[o%3],s[o]);if(s.length===0)return{centre:[0,0,0],radius:1};let r=t.map((o,a)=>(o+e[a])/2),n=0;for(let o=0;o<s.length;o+=3)n=Math.max(n,Math.hypot(s[o]-r[0],s[o+1]-r[1],s[o+2]-r[2]));return{centre:r,radius:n+.001}}var B=["final","diffuse","specular","normal","alpha","depth"],A=`#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp usampler2D;
`,L=`${A}
void main() {
  gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}`,wt={asg:`
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
}`};function k(s){return`${A}
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
${wt[s]}

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
}`}var T=1024,q=`${A}
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
  int place = ${T} * gl_InstanceID + gl_VertexID / 4;
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
}`,X=`${A}
in vec2 vOffset;
flat in vec4 vColor;
out vec4 oColor;

void main() {
  float alpha = min(0.999, vColor.w * exp(-0.5 * dot(vOffset, vOffset)));
  if (alpha < 1.0 / 255.0) discard;
  oColor = vec4(vColor.rgb * alpha, alpha);
}`,V=`${A}
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
}`;function $({parents:s,order:t,joints:e},r,n){let o=s.length,a=new Float64Array(9*o),c=new Float64Array(4*o),i=new Float64Array(3*o),u=new Float32Array(16*o);for(let l of t){let d=s[l],h=At(r.subarray(4*l,4*l+4)),f=_t(h),v=a.subarray(9*l,9*l+9),m=i.subarray(3*l,3*l+3),x=e.subarray(3*l,3*l+3);if(d<0){v.set(f),c.set(h,4*l);for(let p=0;p<3;++p)m[p]=x[p]+n[p]}else{let p=a.subarray(9*d,9*d+9);c.set(Tt(c.subarray(4*d,4*d+4),h),4*l);for(let y=0;y<3;++y){m[y]=i[3*d+y];for(let E=0;E<3;++E){m[y]+=p[3*y+E]*(x[E]-e[3*d+E]);for(let S=0;S<3;++S)v[3*y+E]+=p[3*y+S]*f[3*S+E]}}}for(let p=0;p<3;++p){let y=m[p];for(let E=0;E<3;++E)u[16*l+4*p+E]=v[3*p+E],y-=v[3*p+E]*x[E];u[16*l+4*p+3]=y}u.set(c.subarray(4*l,4*l+4),16*l+12)}return u}function At(s){let t=Math.hypot(...s);return t>0?Array.from(s,e=>e/t):[1,0,0,0]}function Tt([s,t,e,r],[n,o,a,c]){return[s*n-t*o-e*a-r*c,s*o+t*n+e*c-r*a,s*a-t*c+e*n+r*o,s*c+t*a-e*o+r*n]}function _t([s,t,e,r]){return[1-2*(e*e+r*r),2*(t*e-s*r),2*(t*r+s*e),2*(t*e+s*r),1-2*(t*t+r*r),2*(e*r-s*t),2*(t*r-s*e),2*(e*r+s*t),1-2*(t*t+e*e)]}function j(s,{index:t,offsets:e},r,n){n.set(s);let o=t.length;r.forEach((a,c)=>{if(a===0)return;let i=3*o*c;for(let u=0;u<o;++u){let l=3*t[u];for(let d=0;d<3;++d)n[l+d]+=a*e[i+3*u+d]}})}var D=11,_=1<<D,Rt=(1<<2*D)-1,J=.01,I=class{constructor(t){this.keys=new Uint32Array(t),this.indices=new Uint32Array(t),this.halfway=new Uint32Array(t),this.order=new Uint32Array(t),this.low=new Uint32Array(_),this.high=new Uint32Array(_)}sort(t){let{keys:e,indices:r,halfway:n,order:o,low:a,high:c}=this,i=1/0,u=-1/0;for(let h=0;h<t.length;++h){let f=t[h];f<i&&(i=f),f>u&&(u=f)}i=Math.max(i,J);let l=Rt/Math.max(u-i,1e-6);a.fill(0),c.fill(0);let d=0;for(let h=0;h<t.length;++h){let f=t[h];if(!(f>=J))continue;let v=(u-f)*l|0;e[h]=v,r[d++]=h,++a[v&_-1],++c[v>>>D]}for(let h=0,f=0,v=0;h<_;++h)f+=a[h],a[h]=f-a[h],v+=c[h],c[h]=v-c[h];for(let h=0;h<d;++h){let f=r[h];n[a[e[f]&_-1]++]=f}for(let h=0;h<d;++h){let f=n[h];o[c[e[f]>>>D]++]=f}return o.subarray(0,d)}};function H(s,t,e){let[r,n,o,a]=t;for(let c=0,i=0;c<e.length;++c,i+=3)e[c]=r*s[i]+n*s[i+1]+o*s[i+2]+a}function W(s,{joints:t,weights:e},r,n,o){let a=r.length/16,c=new Float32Array(4*a);for(let i=0;i<a;++i)for(let u=0;u<4;++u){let l=16*i+u;c[4*i+u]=n[0]*r[l]+n[1]*r[l+4]+n[2]*r[l+8]+(u===3?n[3]:0)}for(let i=0;i<o.length;++i){let u=s[3*i],l=s[3*i+1],d=s[3*i+2],h=0;for(let f=4*i;f<4*i+4;++f){let v=e[f];if(v===0)continue;let m=4*t[f];h+=v*(c[m]*u+c[m+1]*l+c[m+2]*d+c[m+3])}o[i]=h}}var St=1024,Ft=1024,Dt=.2,M=class{constructor(t,{onNote:e=()=>{}}={}){if(this.canvas=t,this.onNote=e,this.avatar=null,this._pose=null,this._last=null,this.gl=t.getContext("webgl2",{alpha:!0,antialias:!1,depth:!1,stencil:!1}),!this.gl)throw new Error("This browser does not offer WebGL2, which the viewer needs: update it, or turn on hardware acceleration.");this._onLost=r=>r.preventDefault(),this._onRestored=()=>this._restore(),t.addEventListener("webglcontextlost",this._onLost),t.addEventListener("webglcontextrestored",this._onRestored),this._create()}setAvatar(t){this._freeAvatar(),this.avatar=t,this._pose=null,this._upload()}setPose(t){this._pose=t,this._applyPose()}draw(t,e={}){let r={layer:"final",specular:1,size:1,background:[.6,.6,.6],...e};this._last={view:t,settings:r},!this.gl.isContextLost()&&(this._accumulate(t,r),this._resolve())}readPixels(){if(!this._last)throw new Error("nothing has been drawn");this._accumulate(this._last.view,this._last.settings),this._resolve();let{gl:t,canvas:e}=this,{width:r,height:n}=e,o=new Uint8Array(4*r*n);t.readPixels(0,0,r,n,t.RGBA,t.UNSIGNED_BYTE,o);let a=new Uint8Array(o.length);for(let c=0;c<n;++c)a.set(o.subarray(4*r*(n-1-c),4*r*(n-c)),4*r*c);return a}pick(t,e){let{gl:r,_last:n}=this;if(!n||!this.avatar||r.isContextLost())return null;let{viewmat:o,fx:a,fy:c,cx:i,cy:u,width:l,height:d}=n.view;if(!(t>=0&&t<l&&e>=0&&e<d))return null;this._accumulate(n.view,{...n.settings,layer:"depth"}),r.bindFramebuffer(r.FRAMEBUFFER,this.sum.framebuffer);let h=this.floats?new Float32Array(4):new Uint8Array(4);if(r.readPixels(Math.floor(t),Math.floor(e),1,1,r.RGBA,this.floats?r.FLOAT:r.UNSIGNED_BYTE,h),h[3]<Dt*(this.floats?1:255))return null;let[f,v]=this._range(n.view),m=f+(v-f)*(h[0]/h[3]),x=[(t-i)/a*m-o[3],(e-u)/c*m-o[7],m-o[11]];return[0,1,2].map(p=>o[p]*x[0]+o[4+p]*x[1]+o[8+p]*x[2])}dispose(){let{gl:t,canvas:e}=this;e.removeEventListener("webglcontextlost",this._onLost),e.removeEventListener("webglcontextrestored",this._onRestored),this._freeAvatar(),this._freeSum();for(let r of Object.values(this.programs))t.deleteProgram(r.program);t.deleteVertexArray(this.cover),t.deleteVertexArray(this.quads.vertices),t.deleteBuffer(this.quads.indices),t.deleteTexture(this.unused),t.deleteTexture(this.unusedArray),t.deleteTexture(this.unusedIntegers),this.avatar=null}_create(){let{gl:t}=this;this.floats=!!(t.getExtension("EXT_color_buffer_float")||t.getExtension("EXT_color_buffer_half_float")),this.floats||this.onNote("This device draws with 8 bits a channel: bright highlights are less exact."),this.programs={},this.data=null,this.sum=null,this.cover=t.createVertexArray(),this.unused=b(t,t.RGBA32F,1,1,new Float32Array(4)),this.unusedIntegers=b(t,t.RGBA16UI,1,1,new Uint16Array(4)),this.unusedArray=U(t,1,1,1,new Float32Array(4)),this.quads=Mt(t,T),t.disable(t.DEPTH_TEST),t.disable(t.DITHER)}_restore(){this._create(),this._upload(),this._last&&this.draw(this._last.view,this._last.settings)}_program(t){if(!this.programs[t]){let e={splat:[q,X],resolve:[L,V]};this.programs[t]=new O(this.gl,...e[t]??[L,k(t)])}return this.programs[t]}_upload(){let{gl:t,avatar:e}=this;if(!e||t.isContextLost())return;let{count:r}=e,n=Math.min(St,Math.max(r,1)),o=Math.max(Math.ceil(r/n),1);if(o>t.getParameter(t.MAX_TEXTURE_SIZE))throw new Error(`${r} Gaussians are more than this device can draw.`);let a=n*o,c=(...d)=>{let h=new Float32Array(4*a*d.length);return d.forEach((f,v)=>f&&Y(h.subarray(4*a*v,4*a*(v+1)),r,f)),h},i=e.scales.map(d=>d*Ft);this.data={width:n,height:o,positions:b(t,t.RGBA32F,n,o,c([[e.means,3],[e.opacities,1]])),shapes:U(t,n,o,2,c([[e.quats,4]],[[i,3]])),surfaces:U(t,n,o,2,c([[e.diffuse,3]],[[e.normals,3]])),colors:null,bindJoints:null,bindWeights:null,joints:null,skin:null,means:e.means,places:b(t,t.RGBA32UI,n,o,null),splats:b(t,t.RGBA32UI,n,o,null),order:b(t,t.R32UI,n,o,null),sort:new I(a),depths:new Float32Array(r),drawn:0,shaded:"",sorted:"",splatted:"",version:0};let{data:u}=this,l=It(e);if(l.length&&(u.colors=U(t,n,o,l.length,c(...l))),e.binding){let d=new Uint16Array(4*a);d.set(e.binding.bindJoints),u.bindJoints=b(t,t.RGBA16UI,n,o,d),u.bindWeights=b(t,t.RGBA32F,n,o,c([[e.binding.bindWeights,4]])),u.joints=b(t,t.RGBA32F,16/4,e.binding.parents.length,null)}u.framebuffer=K(t,u.places,u.splats),this._applyPose()}_freeAvatar(){let{gl:t,data:e}=this;if(e){for(let r of["positions","shapes","surfaces","colors","bindJoints","bindWeights","joints","places","splats","order"])t.deleteTexture(e[r]);t.deleteFramebuffer(e.framebuffer),this.data=null}}_applyPose(){let{gl:t,data:e,avatar:r,_pose:n}=this;if(!e)return;++e.version;let{binding:o,expressions:a}=r;e.skin=null,n?.rotations&&o&&(e.skin=$(o,n.rotations,n.translation??[0,0,0]),t.bindTexture(t.TEXTURE_2D,e.joints),t.texSubImage2D(t.TEXTURE_2D,0,0,0,16/4,o.parents.length,t.RGBA,t.FLOAT,e.skin));let c=!!(n?.expressions?.some(u=>u!==0)&&a);if(!c&&e.means===r.means)return;c?(e.means===r.means&&(e.means=new Float32Array(r.means.length)),j(r.means,a,n.expressions,e.means)):e.means=r.means;let i=new Float32Array(4*e.width*e.height);Y(i,r.count,[[e.means,3],[r.opacities,1]]),t.bindTexture(t.TEXTURE_2D,e.positions),t.texSubImage2D(t.TEXTURE_2D,0,0,0,e.width,e.height,t.RGBA,t.FLOAT,i)}_accumulate(t,e){let{gl:r,data:n}=this;if(this._resize(t.width,t.height),!n||this.avatar.count===0){r.bindFramebuffer(r.FRAMEBUFFER,this.sum.framebuffer),r.clearBufferfv(r.COLOR,0,[0,0,0,0]);return}let o=`${n.version} ${Array.from(t.viewmat)}`,{fx:a,fy:c,cx:i,cy:u,width:l,height:d}=t,h=`${o} ${[a,c,i,u,l,d]} ${e.layer} ${e.specular} ${e.size}`;n.sorted!==o&&this._sort(t),n.shaded!==h&&this._shade(t,e),n.splatted!==h&&this._splat(t),n.sorted=o,n.shaded=n.splatted=h}_shade(t,e){let{gl:r,data:n,avatar:o}=this,{viewmat:a,fx:c,fy:i,cx:u,cy:l,width:d,height:h}=t,f=this._program(o.kind);r.useProgram(f.program),f.texture("uPositions",0,r.TEXTURE_2D,n.positions),f.texture("uShapes",1,r.TEXTURE_2D_ARRAY,n.shapes),f.texture("uSurfaces",2,r.TEXTURE_2D_ARRAY,n.surfaces),f.texture("uColors",3,r.TEXTURE_2D_ARRAY,n.colors??this.unusedArray),f.texture("uBindJoints",4,r.TEXTURE_2D,n.bindJoints??this.unusedIntegers),f.texture("uBindWeights",5,r.TEXTURE_2D,n.bindWeights??this.unused),f.texture("uJoints",6,r.TEXTURE_2D,n.joints??this.unused),r.uniform1i(f.at("uPosed"),n.skin?1:0),r.uniform1i(f.at("uCount"),o.count),r.uniform4fv(f.at("uView"),Float32Array.from(a).subarray(0,12)),r.uniform3fv(f.at("uCamera"),[0,1,2].map(x=>-(a[x]*a[3]+a[4+x]*a[7]+a[8+x]*a[11]))),r.uniform4f(f.at("uIntrinsics"),c,i,u,l);let v=.15*d/c,m=.15*h/i;r.uniform4f(f.at("uLimits"),-u/c-v,(d-u)/c+v,-l/i-m,(h-l)/i+m),r.uniform1i(f.at("uAntialiased"),o.antialiased?1:0),r.uniform1f(f.at("uSize"),e.size),r.uniform1f(f.at("uSpecular"),e.specular),r.uniform2fv(f.at("uRange"),this._range(t)),r.uniform1i(f.at("uLayer"),B.indexOf(e.layer)),r.bindFramebuffer(r.FRAMEBUFFER,n.framebuffer),r.viewport(0,0,n.width,n.height),r.bindVertexArray(this.cover),r.drawArrays(r.TRIANGLES,0,3)}_sort(t){let{gl:e,data:r,avatar:n}=this,o=t.viewmat.slice(8,12);if(r.skin){let{bindJoints:i,bindWeights:u}=n.binding;W(r.means,{joints:i,weights:u},r.skin,o,r.depths)}else H(r.means,o,r.depths);let a=r.sort.sort(r.depths);r.drawn=a.length,e.bindTexture(e.TEXTURE_2D,r.order);let c=Math.ceil(r.drawn/r.width);c&&e.texSubImage2D(e.TEXTURE_2D,0,0,0,r.width,c,e.RED_INTEGER,e.UNSIGNED_INT,r.sort.order)}_splat(t){let{gl:e,data:r}=this,n=this._program("splat");e.useProgram(n.program),n.texture("uPlaces",0,e.TEXTURE_2D,r.places),n.texture("uSplats",1,e.TEXTURE_2D,r.splats),n.texture("uOrder",2,e.TEXTURE_2D,r.order),e.uniform1i(n.at("uDrawn"),r.drawn),e.uniform2f(n.at("uPixels"),t.width,t.height),e.bindFramebuffer(e.FRAMEBUFFER,this.sum.framebuffer),e.viewport(0,0,t.width,t.height),e.clearBufferfv(e.COLOR,0,[0,0,0,0]),e.enable(e.BLEND),e.blendFunc(e.ONE,e.ONE_MINUS_SRC_ALPHA),e.bindVertexArray(this.quads.vertices),e.drawElementsInstanced(e.TRIANGLES,6*T,e.UNSIGNED_SHORT,0,Math.ceil(r.drawn/T)),e.disable(e.BLEND)}_resolve(){let{gl:t,canvas:e}=this,{background:r,layer:n}=this._last.settings,o=this._program("resolve");t.useProgram(o.program),o.texture("uSum",0,t.TEXTURE_2D,this.sum.texture),t.uniform4f(o.at("uBackground"),...r??[0,0,0],r?1:0),t.uniform1i(o.at("uLayer"),B.indexOf(n)),t.bindFramebuffer(t.FRAMEBUFFER,null),t.viewport(0,0,e.width,e.height),t.bindVertexArray(this.cover),t.drawArrays(t.TRIANGLES,0,3)}_resize(t,e){let{gl:r,canvas:n,sum:o}=this;if(n.width!==t&&(n.width=t),n.height!==e&&(n.height=e),o?.width===t&&o.height===e)return;this._freeSum();let a=b(r,this.floats?r.RGBA16F:r.RGBA8,t,e,null);this.sum={width:t,height:e,texture:a,framebuffer:K(r,a)},this.data&&(this.data.splatted="")}_freeSum(){this.sum&&(this.gl.deleteTexture(this.sum.texture),this.gl.deleteFramebuffer(this.sum.framebuffer),this.sum=null)}_range({viewmat:t}){let{centre:e,radius:r}=this.avatar.bounds,n=t[8]*e[0]+t[9]*e[1]+t[10]*e[2]+t[11];return[Math.max(n-r,0),Math.max(n+r,.001)]}},O=class{constructor(t,e,r){this.gl=t,this.locations=new Map,this.program=t.createProgram();let n=[[t.VERTEX_SHADER,e],[t.FRAGMENT_SHADER,r]].map(([o,a])=>{let c=t.createShader(o);return t.shaderSource(c,a),t.compileShader(c),t.attachShader(this.program,c),c});if(t.linkProgram(this.program),!t.getProgramParameter(this.program,t.LINK_STATUS)&&!t.isContextLost()){let o=[t.getProgramInfoLog(this.program),...n.map(a=>t.getShaderInfoLog(a))];throw new Error(`A shader does not compile on this device: ${o.filter(Boolean).join(" ")}`)}for(let o of n)t.deleteShader(o)}at(t){return this.locations.has(t)||this.locations.set(t,this.gl.getUniformLocation(this.program,t)),this.locations.get(t)}texture(t,e,r,n){this.gl.activeTexture(this.gl.TEXTURE0+e),this.gl.bindTexture(r,n),this.gl.uniform1i(this.at(t),e)}};function It({kind:s,colors:t,count:e}){if(s==="sh3")return Array.from({length:12},(u,l)=>{let d=new Float32Array(4*e),h=l>>2;for(let f=0;f<e;++f)for(let v=0;v<4;++v)d[4*f+v]=t.coefficients[48*f+3*(4*(l&3)+v)+h];return[[d,4]]});if(s!=="asg")return[];let{quats:r,smooth:n,lights:o,shapes:a,amplitudes:c}=t,i=(u,l,d,h)=>[u,h,l,d];return[[[r,4]],...Array.from({length:10},(u,l)=>l<4?[i(n,30,3*l,3),i(a,12,3*l+2,1)]:[i(n,30,3*l,3)]),...Array.from({length:4},(u,l)=>[[i(o,12,3*l,3),i(a,12,3*l,1)],[i(c,12,3*l,3),i(a,12,3*l+1,1)]]).flat()]}function Y(s,t,e){let r=0;for(let[n,o,a=o,c=0]of e){for(let i=0;i<o;++i)for(let u=0,l=r+i,d=c+i;u<t;++u,l+=4,d+=a)s[l]=n[d];r+=o}}var Ut={RGBA32F:["RGBA","FLOAT"],RGBA16F:["RGBA","HALF_FLOAT"],RGBA8:["RGBA","UNSIGNED_BYTE"],RGBA16UI:["RGBA_INTEGER","UNSIGNED_SHORT"],RGBA32UI:["RGBA_INTEGER","UNSIGNED_INT"],R32UI:["RED_INTEGER","UNSIGNED_INT"]};function b(s,t,e,r,n){let[o,a]=Object.entries(Ut).find(([i])=>s[i]===t)[1],c=s.createTexture();return s.bindTexture(s.TEXTURE_2D,c),s.texImage2D(s.TEXTURE_2D,0,t,e,r,0,s[o],s[a],n),Z(s,s.TEXTURE_2D),c}function U(s,t,e,r,n){let o=s.createTexture();return s.bindTexture(s.TEXTURE_2D_ARRAY,o),s.texImage3D(s.TEXTURE_2D_ARRAY,0,s.RGBA16F,t,e,r,0,s.RGBA,s.FLOAT,n),Z(s,s.TEXTURE_2D_ARRAY),o}function Z(s,t){s.texParameteri(t,s.TEXTURE_MIN_FILTER,s.NEAREST),s.texParameteri(t,s.TEXTURE_MAG_FILTER,s.NEAREST),s.texParameteri(t,s.TEXTURE_WRAP_S,s.CLAMP_TO_EDGE),s.texParameteri(t,s.TEXTURE_WRAP_T,s.CLAMP_TO_EDGE)}function K(s,...t){let e=s.createFramebuffer();s.bindFramebuffer(s.FRAMEBUFFER,e);let r=t.map((n,o)=>(s.framebufferTexture2D(s.FRAMEBUFFER,s.COLOR_ATTACHMENT0+o,s.TEXTURE_2D,n,0),s.COLOR_ATTACHMENT0+o));return s.drawBuffers(r),e}function Mt(s,t){let e=s.createVertexArray(),r=s.createBuffer();s.bindVertexArray(e),s.bindBuffer(s.ELEMENT_ARRAY_BUFFER,r);let n=Uint16Array.from({length:6*t},(o,a)=>4*Math.floor(a/6)+[0,1,2,2,1,3][a%6]);return s.bufferData(s.ELEMENT_ARRAY_BUFFER,n,s.STATIC_DRAW),s.bindVertexArray(null),{vertices:e,indices:r}}return nt(zt);})();
