var specularip=(()=>{var S=Object.defineProperty;var J=Object.getOwnPropertyDescriptor;var Y=Object.getOwnPropertyNames;var H=Object.prototype.hasOwnProperty;var W=(o,t)=>{for(var e in t)S(o,e,{get:t[e],enumerable:!0})},K=(o,t,e,r)=>{if(t&&typeof t=="object"||typeof t=="function")for(let s of Y(t))!H.call(o,s)&&s!==e&&S(o,s,{get:()=>t[s],enumerable:!(r=J(t,s))||r.enumerable});return o};var Z=o=>K(S({},"__esModule",{value:!0}),o);var bt={};W(bt,{OrbitCamera:()=>A,Renderer:()=>R,unpack:()=>z});var E=o=>o*Math.PI/180,Q=(o,t)=>o[0]*t[0]+o[1]*t[1]+o[2]*t[2],tt=(o,t)=>[o[1]*t[2]-o[2]*t[1],o[2]*t[0]-o[0]*t[2],o[0]*t[1]-o[1]*t[0]];var A=class{constructor({azimuth:t=0,elevation:e=5,distance:r=2.2,target:s=[0,0,0],fovY:n=45}={}){Object.assign(this,{azimuth:t,elevation:e,distance:r,target:[...s],fovY:n})}axes(){let t=E(this.azimuth),e=E(Math.min(Math.max(this.elevation,-89),89)),r=Math.cos(e),s=[-r*Math.sin(t),r*Math.cos(t),-Math.sin(e)],n=[Math.cos(t),Math.sin(t),0];return[n,tt(s,n),s]}position(){let t=this.axes()[2];return this.target.map((e,r)=>e-this.distance*t[r])}view(t,e){let r=this.axes(),s=this.position(),n=new Float64Array(16);r.forEach((i,c)=>n.set([...i,-Q(i,s)],4*c)),n[15]=1;let a=.5*e/Math.tan(.5*E(this.fovY));return{viewmat:n,fx:a,fy:a,cx:t/2,cy:e/2,width:t,height:e}}orbit(t,e){this.azimuth=((this.azimuth+t+180)%360+360)%360-180,this.elevation=Math.min(Math.max(this.elevation+e,-89),89)}pan(t,e,r){let s=2*this.distance*Math.tan(.5*E(this.fovY))/r,[n,a]=this.axes();this.target=this.target.map((i,c)=>i-s*(t*n[c]+e*a[c]))}zoom(t,e=[.05,100]){this.distance=Math.min(Math.max(this.distance*t,e[0]),e[1])}fit(t,e=1){let r=.5*E(this.fovY),s=e<1?Math.atan(Math.tan(r)*e):r;this.target=[...t.centre],this.distance=t.radius/Math.sin(s)}};var et="SIPV";var D={linear:o=>o,root:o=>o*Math.abs(o),log:Math.exp},rt=["asg","sh3","diffuse"];async function z(o){let t=await st(o),e=ot(t),r=nt(t,e),s=(l,h,m)=>{let u=r.get(l);if(!u)throw p(`it has no ${l}`);if(u.rows!==h||u.columns!==m)throw p(`${l} has ${u.rows} rows of ${u.columns}, not ${h} of ${m}`);return it(u)},{count:n,kind:a}=e;if(!Number.isInteger(n)||n<0)throw p("its count is not a number");if(!rt.includes(a))throw p(`it has colours of an unknown kind, ${a}`);let i=s("means",n,3),c={count:n,kind:a,antialiased:e.antialiased===!0,meta:e.meta??{},bounds:dt(i),means:i,quats:M(s("quats.rest",n,3),s("quats.largest",n,1)),scales:s("log_scales",n,3).map(Math.exp),opacities:s("opacities",n,1),diffuse:s("diffuse",n,3),normals:null,colors:null,binding:null,expressions:null,clips:[]};return a==="asg"?(c.colors=ct(s,n),c.normals=ft(c.colors.quats)):(c.normals=B(s("normals",n,2)),a==="sh3"&&(c.colors={coefficients:s("coefficients",n,48)})),e.binding&&(c.binding=lt(e.binding,s,n)),e.expressions&&(c.expressions=ut(e.expressions,r,s,n)),c.binding&&(c.clips=(e.clips??[]).map((l,h)=>ht(l,`clips.${h}`,c,r,s))),c}var p=o=>new Error(`This avatar cannot be read: ${o}.`);async function st(o){let e=new Blob([o]).stream().pipeThrough(new DecompressionStream("gzip")).getReader(),r=[],s=0;try{for(;;){let{done:i,value:c}=await e.read();if(i)break;if(s+=c.length,s>536870912)throw p("it is too large");r.push(c)}}catch(i){throw await e.cancel().catch(()=>{}),i instanceof TypeError?p("it is incomplete, or no packed avatar"):i}let n=new Uint8Array(s),a=0;for(let i of r)n.set(i,a),a+=i.length;return n}function ot(o){if(o.length<12||String.fromCharCode(...o.subarray(0,4))!==et)throw p("it is no packed avatar");let t=new DataView(o.buffer,o.byteOffset),e=t.getUint32(4,!0);if(e!==1)throw p(`its version is ${e}, and this viewer reads 1`);let r=t.getUint32(8,!0);if(12+r>o.length)throw p("it ends too early");try{let s=JSON.parse(new TextDecoder("utf-8",{fatal:!0}).decode(o.subarray(12,12+r)));return s.start=12+r,s}catch{throw p("its header is not JSON")}}function nt(o,t){if(t.sections===null||typeof t.sections!="object")throw p("it has no sections");let e=new Map,r=t.start;for(let[s,n]of Object.entries(t.sections)){let{rows:a,columns:i,bits:c,warp:l,low:h,high:m}=n??{},u=[a,i,c].every(x=>Number.isInteger(x)&&x>=0),f=[h,m].every(x=>Array.isArray(x)&&x.length===i&&x.every(Number.isFinite));if(!u||c<1||c>32||!f||!Object.hasOwn(D,l))throw p(`${s} is described wrongly`);let d=c+7>>3,v=r+a*i*d;if(v>o.length)throw p(`it ends within ${s}`);e.set(s,{rows:a,columns:i,bits:c,warp:l,low:h,high:m,planes:d,bytes:o.subarray(r,v)}),r=v}return e}function it({rows:o,columns:t,bits:e,warp:r,low:s,high:n,planes:a,bytes:i}){let c=new Float32Array(o*t),l=D[r];for(let h=0;h<t;++h){let m=(n[h]-s[h])/(2**e-1),u=s[h],f=i.subarray(h*a*o,(h+1)*a*o);if(a===1){let d=Float32Array.from({length:2**e},(v,x)=>l(u+m*x));for(let v=0,x=h;v<o;++v,x+=t)c[x]=d[f[v]]}else if(a===2)for(let d=0,v=h;d<o;++d,v+=t)c[v]=l(u+m*(f[d]+256*f[o+d]));else for(let d=0,v=h;d<o;++d,v+=t){let x=0;for(let g=a-1;g>=0;--g)x=256*x+f[g*o+d];c[v]=l(u+m*x)}}return c}function at({rows:o,columns:t,planes:e,bytes:r}){let s=new Uint32Array(o*t);for(let n=0;n<t;++n)for(let a=0;a<o;++a){let i=0;for(let c=e-1;c>=0;--c)i=256*i+r[(n*e+c)*o+a];s[a*t+n]=i}return s}function ct(o,t){let e=o("asg.widths",t,8),r=o("asg.skews",t,4),s=new Float32Array(12*t);for(let n=0;n<4*t;++n)s[3*n]=e[2*n],s[3*n+1]=r[n],s[3*n+2]=e[2*n+1];return{quats:M(o("asg.quats.rest",t,3),o("asg.quats.largest",t,1)),smooth:o("asg.smooth",t,30),lights:B(o("asg.lights",t,8)),shapes:s,amplitudes:o("asg.amplitudes",t,12)}}function lt({names:o,parents:t},e,r){let s=Array.isArray(o)&&Array.isArray(t)?o.length:0;if(s===0||t.length!==s)throw p("its skeleton is incomplete");if(!t.every((i,c)=>Number.isInteger(i)&&i>=-1&&i<c))throw p("a joint comes before its parent");let n=Uint16Array.from(e("bind_joints",r,4));if(n.some(i=>i>=s))throw p("a Gaussian hangs on a joint that is missing");let a=e("bind_weights",r,4);for(let i=0;i<a.length;i+=4){let c=a[i]+a[i+1]+a[i+2]+a[i+3];for(let l=i;l<i+4;++l)a[l]=c>0?a[l]/c:0}return{names:o,parents:Int32Array.from(t),joints:e("joints",s,3),bindJoints:n,bindWeights:a}}function ut(o,t,e,r){let s=t.get("expressions.index")?.rows??0;if(!Array.isArray(o)||s===0)throw p("its expressions are incomplete");e("expressions.index",s,1);let n=at(t.get("expressions.index"));if(n.some(c=>c>=r))throw p("an expression moves a Gaussian that is missing");let a=e("expressions.offsets",s,3*o.length),i=new Float32Array(a.length);for(let c=0;c<o.length;++c)for(let l=0;l<s;++l)for(let h=0;h<3;++h)i[3*(c*s+l)+h]=a[3*(l*o.length+c)+h];return{names:o,index:n,offsets:i}}function ht({name:o,fps:t,loops:e},r,{binding:s,expressions:n},a,i){let c=a.get(`${r}.rotations`)?.rows??0;if(c===0||!(t>0))throw p(`its motion ${o} is incomplete`);return{name:String(o),fps:t,loops:e===!0,frames:c,rotations:i(`${r}.rotations`,c,4*s.names.length),translation:i(`${r}.translation`,c,3),expressions:n&&a.has(`${r}.expressions`)?i(`${r}.expressions`,c,n.names.length):null}}function M(o,t){let e=new Float32Array(4*t.length);for(let r=0;r<t.length;++r){let[s,n,a]=[o[3*r],o[3*r+1],o[3*r+2]],i=Math.sqrt(Math.max(0,1-s*s-n*n-a*a)),c=Math.round(t[r]);e[4*r]=c===0?i:s,e[4*r+1]=c===0?s:c===1?i:n,e[4*r+2]=c<=1?n:c===2?i:a,e[4*r+3]=c<=2?a:i}return e}function B(o){let t=new Float32Array(o.length/2*3);for(let e=0;2*e<o.length;++e){let r=o[2*e],s=o[2*e+1],n=1-Math.abs(r)-Math.abs(s),a=Math.max(-n,0);r-=r<0?-a:a,s-=s<0?-a:a;let i=Math.hypot(r,s,n);t[3*e]=r/i,t[3*e+1]=s/i,t[3*e+2]=n/i}return t}function ft(o){let t=new Float32Array(o.length/4*3);for(let e=0;4*e<o.length;++e){let[r,s,n,a]=o.subarray(4*e,4*e+4);t[3*e]=2*(s*a+r*n),t[3*e+1]=2*(n*a-r*s),t[3*e+2]=1-2*(s*s+n*n)}return t}function dt(o){let t=[1/0,1/0,1/0],e=[-1/0,-1/0,-1/0];for(let n=0;n<o.length;++n)t[n%3]=Math.min(t[n%3],o[n]),e[n%3]=Math.max(e[n%3],o[n]);if(o.length===0)return{centre:[0,0,0],radius:1};let r=t.map((n,a)=>(n+e[a])/2),s=0;for(let n=0;n<o.length;n+=3)s=Math.max(s,Math.hypot(o[n]-r[0],o[n+1]-r[1],o[n+2]-r[2]));return{centre:r,radius:s+.001}}var F=["final","diffuse","specular","normal","alpha","depth"],L={asg:19,sh3:12,diffuse:0},w=`#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp usampler2D;
`,I=`${w}
void main() {
  gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}`,mt={asg:`
vec3 lobe(ivec2 texel, int layer, float b, vec4 q, mat3 turn, vec3 v) {
  vec4 light = at(texel, layer), amplitude = at(texel, layer + 1);
  vec3 l = light.xyz;
  if (uPosed) l = unturned(q, turned(q, l) * turn);  // lights stay in the world when the body turns
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
}`};function O(o){return`${w}
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
${mt[o]}

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
}`}var b=1024,C=`${w}
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
  int place = ${b} * gl_InstanceID + gl_VertexID / 4;
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
}`,G=`${w}
in vec2 vOffset;
flat in vec4 vColor;
out vec4 oColor;

void main() {
  float alpha = min(0.999, vColor.w * exp(-0.5 * dot(vOffset, vOffset)));
  if (alpha < 1.0 / 255.0) discard;
  oColor = vec4(vColor.rgb * alpha, alpha);
}`,N=`${w}
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
}`;function P({parents:o,joints:t},e,r){let s=o.length,n=new Float64Array(9*s),a=new Float64Array(3*s),i=new Float32Array(12*s);for(let c=0;c<s;++c){let l=o[c],h=xt(e.subarray(4*c,4*c+4)),m=n.subarray(9*c,9*c+9),u=a.subarray(3*c,3*c+3),f=t.subarray(3*c,3*c+3);if(l<0){m.set(h);for(let d=0;d<3;++d)u[d]=f[d]+r[d]}else{let d=n.subarray(9*l,9*l+9);for(let v=0;v<3;++v){u[v]=a[3*l+v];for(let x=0;x<3;++x){u[v]+=d[3*v+x]*(f[x]-t[3*l+x]);for(let g=0;g<3;++g)m[3*v+x]+=d[3*v+g]*h[3*g+x]}}}for(let d=0;d<3;++d){let v=u[d];for(let x=0;x<3;++x)i[12*c+4*d+x]=m[3*d+x],v-=m[3*d+x]*f[x];i[12*c+4*d+3]=v}}return i}function xt(o){let t=Math.hypot(...o)||1,[e,r,s,n]=Array.from(o,a=>a/t);return[1-2*(s*s+n*n),2*(r*s-e*n),2*(r*n+e*s),2*(r*s+e*n),1-2*(r*r+n*n),2*(s*n-e*r),2*(r*n-e*s),2*(s*n+e*r),1-2*(r*r+s*s)]}function k(o,{index:t,offsets:e},r,s){s.set(o);let n=t.length;r.forEach((a,i)=>{if(a===0)return;let c=3*n*i;for(let l=0;l<n;++l){let h=3*t[l];for(let m=0;m<3;++m)s[h+m]+=a*e[c+3*l+m]}})}var T=class{constructor(t){this.keys=new Uint32Array(t),this.indices=new Uint32Array(t),this.halfway=new Uint32Array(t),this.order=new Uint32Array(t),this.low=new Uint32Array(2048),this.high=new Uint32Array(2048)}sort(t){let{keys:e,indices:r,halfway:s,order:n,low:a,high:i}=this,c=1/0,l=-1/0;for(let u=0;u<t.length;++u){let f=t[u];f<c&&(c=f),f>l&&(l=f)}c=Math.max(c,.01);let h=4194303/Math.max(l-c,1e-6);a.fill(0),i.fill(0);let m=0;for(let u=0;u<t.length;++u){let f=t[u];if(!(f>=.01))continue;let d=(l-f)*h|0;e[u]=d,r[m++]=u,++a[d&2047],++i[d>>>11]}for(let u=0,f=0,d=0;u<2048;++u)f+=a[u],a[u]=f-a[u],d+=i[u],i[u]=d-i[u];for(let u=0;u<m;++u){let f=r[u];s[a[e[f]&2047]++]=f}for(let u=0;u<m;++u){let f=s[u];n[i[e[f]>>>11]++]=f}return n.subarray(0,m)}};function q(o,t,e){let[r,s,n,a]=t;for(let i=0,c=0;i<e.length;++i,c+=3)e[i]=r*o[c]+s*o[c+1]+n*o[c+2]+a}function X(o,{joints:t,weights:e},r,s,n){let a=new Float32Array(r.length/3);for(let i=0;i<a.length;i+=4)for(let c=0;c<4;++c){let l=3*i+c;a[i+c]=s[0]*r[l]+s[1]*r[l+4]+s[2]*r[l+8]+(c===3?s[3]:0)}for(let i=0;i<n.length;++i){let c=o[3*i],l=o[3*i+1],h=o[3*i+2],m=0;for(let u=4*i;u<4*i+4;++u){let f=e[u];if(f===0)continue;let d=4*t[u];m+=f*(a[d]*c+a[d+1]*l+a[d+2]*h+a[d+3])}n[i]=m}}var vt=1024,pt=1024,gt=.2,R=class{constructor(t,{onNote:e=()=>{}}={}){if(this.canvas=t,this.onNote=e,this.avatar=null,this._pose=null,this._last=null,this.gl=t.getContext("webgl2",{alpha:!0,antialias:!1,depth:!1,stencil:!1}),!this.gl)throw new Error("This browser does not offer WebGL2, which the viewer needs: update it, or turn on hardware acceleration.");this._onLost=r=>r.preventDefault(),this._onRestored=()=>this._restore(),t.addEventListener("webglcontextlost",this._onLost),t.addEventListener("webglcontextrestored",this._onRestored),this._create()}setAvatar(t){this._freeAvatar(),this.avatar=t,this._pose=null,this._upload()}setPose(t){this._pose=t,this._applyPose()}draw(t,e={}){let r={layer:"final",specular:1,size:1,background:[.6,.6,.6],...e};this._last={view:t,settings:r},!this.gl.isContextLost()&&(this._accumulate(t,r),this._resolve())}readPixels(){if(!this._last)throw new Error("nothing has been drawn");this._accumulate(this._last.view,this._last.settings),this._resolve();let{gl:t,canvas:e}=this,{width:r,height:s}=e,n=new Uint8Array(4*r*s);t.readPixels(0,0,r,s,t.RGBA,t.UNSIGNED_BYTE,n);let a=new Uint8Array(n.length);for(let i=0;i<s;++i)a.set(n.subarray(4*r*(s-1-i),4*r*(s-i)),4*r*i);return a}pick(t,e){let{gl:r,_last:s}=this;if(!s||!this.avatar||r.isContextLost())return null;let{viewmat:n,fx:a,fy:i,cx:c,cy:l,width:h,height:m}=s.view;if(!(t>=0&&t<h&&e>=0&&e<m))return null;this._accumulate(s.view,{...s.settings,layer:"depth"}),r.bindFramebuffer(r.FRAMEBUFFER,this.sum.framebuffer);let u=this.floats?new Float32Array(4):new Uint8Array(4);if(r.readPixels(Math.floor(t),Math.floor(e),1,1,r.RGBA,this.floats?r.FLOAT:r.UNSIGNED_BYTE,u),u[3]<gt*(this.floats?1:255))return null;let[f,d]=this._range(s.view),v=f+(d-f)*(u[0]/u[3]),x=[(t-c)/a*v-n[3],(e-l)/i*v-n[7],v-n[11]];return[0,1,2].map(g=>n[g]*x[0]+n[4+g]*x[1]+n[8+g]*x[2])}dispose(){let{gl:t,canvas:e}=this;e.removeEventListener("webglcontextlost",this._onLost),e.removeEventListener("webglcontextrestored",this._onRestored),this._freeAvatar(),this._freeSum();for(let r of Object.values(this.programs))t.deleteProgram(r.program);t.deleteVertexArray(this.cover),t.deleteVertexArray(this.quads.vertices),t.deleteBuffer(this.quads.indices),t.deleteTexture(this.unused),t.deleteTexture(this.unusedArray),t.deleteTexture(this.unusedIntegers),this.avatar=null}_create(){let{gl:t}=this;this.floats=!!(t.getExtension("EXT_color_buffer_float")||t.getExtension("EXT_color_buffer_half_float")),this.floats||this.onNote("This device draws with 8 bits a channel: bright highlights are less exact."),this.programs={},this.data=null,this.sum=null,this.cover=t.createVertexArray(),this.unused=y(t,t.RGBA32F,1,1,new Float32Array(4)),this.unusedIntegers=y(t,t.RGBA16UI,1,1,new Uint16Array(4)),this.unusedArray=_(t,1,1,1,new Float32Array(4)),this.quads=wt(t,b),t.disable(t.DEPTH_TEST),t.disable(t.DITHER)}_restore(){this._create(),this._upload(),this._last&&this.draw(this._last.view,this._last.settings)}_program(t){if(!this.programs[t]){let e={splat:[C,G],resolve:[I,N]};this.programs[t]=new U(this.gl,...e[t]??[I,O(t)])}return this.programs[t]}_upload(){let{gl:t,avatar:e}=this;if(!e||t.isContextLost())return;let{count:r}=e,s=Math.min(vt,Math.max(r,1)),n=Math.max(Math.ceil(r/s),1);if(n>Math.min(t.getParameter(t.MAX_TEXTURE_SIZE)))throw new Error(`${r} Gaussians are more than this device can draw.`);let a=s*n,i=(...m)=>{let u=new Float32Array(4*a*m.length);return m.forEach((f,d)=>f&&V(u.subarray(4*a*d,4*a*(d+1)),r,f)),u},c=e.scales.map(m=>m*pt);this.data={width:s,height:n,positions:y(t,t.RGBA32F,s,n,i([[e.means,3],[e.opacities,1]])),shapes:_(t,s,n,2,i([[e.quats,4]],[[c,3]])),surfaces:_(t,s,n,2,i([[e.diffuse,3]],[[e.normals,3]])),colors:null,bindJoints:null,bindWeights:null,joints:null,skin:null,means:e.means,places:y(t,t.RGBA32UI,s,n,null),splats:y(t,t.RGBA32UI,s,n,null),order:y(t,t.R32UI,s,n,null),sort:new T(a),depths:new Float32Array(r),drawn:0,shaded:"",sorted:"",splatted:"",version:0};let{data:l}=this,h=yt(e);if(h.length&&(l.colors=_(t,s,n,h.length,i(...h))),e.binding){let m=new Uint16Array(4*a);m.set(e.binding.bindJoints),l.bindJoints=y(t,t.RGBA16UI,s,n,m),l.bindWeights=y(t,t.RGBA32F,s,n,i([[e.binding.bindWeights,4]])),l.joints=y(t,t.RGBA32F,3,e.binding.parents.length,null)}l.framebuffer=$(t,l.places,l.splats),this._applyPose()}_freeAvatar(){let{gl:t,data:e}=this;if(e){for(let r of["positions","shapes","surfaces","colors","bindJoints","bindWeights","joints","places","splats","order"])t.deleteTexture(e[r]);t.deleteFramebuffer(e.framebuffer),this.data=null}}_applyPose(){let{gl:t,data:e,avatar:r,_pose:s}=this;if(!e)return;++e.version;let{binding:n,expressions:a}=r;e.skin=null,s?.rotations&&n&&(e.skin=P(n,s.rotations,s.translation??[0,0,0]),t.bindTexture(t.TEXTURE_2D,e.joints),t.texSubImage2D(t.TEXTURE_2D,0,0,0,3,n.parents.length,t.RGBA,t.FLOAT,e.skin));let i=!!(s?.expressions?.some(l=>l!==0)&&a);if(!i&&e.means===r.means)return;i?(e.means===r.means&&(e.means=new Float32Array(r.means.length)),k(r.means,a,s.expressions,e.means)):e.means=r.means;let c=new Float32Array(4*e.width*e.height);V(c,r.count,[[e.means,3],[r.opacities,1]]),t.bindTexture(t.TEXTURE_2D,e.positions),t.texSubImage2D(t.TEXTURE_2D,0,0,0,e.width,e.height,t.RGBA,t.FLOAT,c)}_accumulate(t,e){let{gl:r,data:s}=this;if(this._resize(t.width,t.height),!s||this.avatar.count===0){r.bindFramebuffer(r.FRAMEBUFFER,this.sum.framebuffer),r.clearBufferfv(r.COLOR,0,[0,0,0,0]);return}let n=`${s.version} ${Array.from(t.viewmat)}`,{fx:a,fy:i,cx:c,cy:l,width:h,height:m}=t,u=`${n} ${[a,i,c,l,h,m]} ${e.layer} ${e.specular} ${e.size}`;s.sorted!==n&&this._sort(t),s.shaded!==u&&this._shade(t,e),s.splatted!==u&&this._splat(t),s.sorted=n,s.shaded=s.splatted=u}_shade(t,e){let{gl:r,data:s,avatar:n}=this,{viewmat:a,fx:i,fy:c,cx:l,cy:h,width:m,height:u}=t,f=this._program(n.kind);r.useProgram(f.program),f.texture("uPositions",0,r.TEXTURE_2D,s.positions),f.texture("uShapes",1,r.TEXTURE_2D_ARRAY,s.shapes),f.texture("uSurfaces",2,r.TEXTURE_2D_ARRAY,s.surfaces),f.texture("uColors",3,r.TEXTURE_2D_ARRAY,s.colors??this.unusedArray),f.texture("uBindJoints",4,r.TEXTURE_2D,s.bindJoints??this.unusedIntegers),f.texture("uBindWeights",5,r.TEXTURE_2D,s.bindWeights??this.unused),f.texture("uJoints",6,r.TEXTURE_2D,s.joints??this.unused),r.uniform1i(f.at("uPosed"),s.skin?1:0),r.uniform1i(f.at("uCount"),n.count),r.uniform4fv(f.at("uView"),Float32Array.from(a).subarray(0,12)),r.uniform3fv(f.at("uCamera"),[0,1,2].map(x=>-(a[x]*a[3]+a[4+x]*a[7]+a[8+x]*a[11]))),r.uniform4f(f.at("uIntrinsics"),i,c,l,h);let d=.15*m/i,v=.15*u/c;r.uniform4f(f.at("uLimits"),-l/i-d,(m-l)/i+d,-h/c-v,(u-h)/c+v),r.uniform1i(f.at("uAntialiased"),n.antialiased?1:0),r.uniform1f(f.at("uSize"),e.size),r.uniform1f(f.at("uSpecular"),e.specular),r.uniform2fv(f.at("uRange"),this._range(t)),r.uniform1i(f.at("uLayer"),F.indexOf(e.layer)),r.bindFramebuffer(r.FRAMEBUFFER,s.framebuffer),r.viewport(0,0,s.width,s.height),r.bindVertexArray(this.cover),r.drawArrays(r.TRIANGLES,0,3)}_sort(t){let{gl:e,data:r,avatar:s}=this,n=t.viewmat.slice(8,12);if(r.skin){let{bindJoints:c,bindWeights:l}=s.binding;X(r.means,{joints:c,weights:l},r.skin,n,r.depths)}else q(r.means,n,r.depths);let a=r.sort.sort(r.depths);r.drawn=a.length,e.bindTexture(e.TEXTURE_2D,r.order);let i=Math.ceil(r.drawn/r.width);i&&e.texSubImage2D(e.TEXTURE_2D,0,0,0,r.width,i,e.RED_INTEGER,e.UNSIGNED_INT,r.sort.order)}_splat(t){let{gl:e,data:r}=this,s=this._program("splat");e.useProgram(s.program),s.texture("uPlaces",0,e.TEXTURE_2D,r.places),s.texture("uSplats",1,e.TEXTURE_2D,r.splats),s.texture("uOrder",2,e.TEXTURE_2D,r.order),e.uniform1i(s.at("uDrawn"),r.drawn),e.uniform2f(s.at("uPixels"),t.width,t.height),e.bindFramebuffer(e.FRAMEBUFFER,this.sum.framebuffer),e.viewport(0,0,t.width,t.height),e.clearBufferfv(e.COLOR,0,[0,0,0,0]),e.enable(e.BLEND),e.blendFunc(e.ONE,e.ONE_MINUS_SRC_ALPHA),e.bindVertexArray(this.quads.vertices),e.drawElementsInstanced(e.TRIANGLES,6*b,e.UNSIGNED_SHORT,0,Math.ceil(r.drawn/b)),e.disable(e.BLEND)}_resolve(){let{gl:t,canvas:e}=this,{background:r,layer:s}=this._last.settings,n=this._program("resolve");t.useProgram(n.program),n.texture("uSum",0,t.TEXTURE_2D,this.sum.texture),t.uniform4f(n.at("uBackground"),...r??[0,0,0],r?1:0),t.uniform1i(n.at("uLayer"),F.indexOf(s)),t.bindFramebuffer(t.FRAMEBUFFER,null),t.viewport(0,0,e.width,e.height),t.bindVertexArray(this.cover),t.drawArrays(t.TRIANGLES,0,3)}_resize(t,e){let{gl:r,canvas:s,sum:n}=this;if(s.width!==t&&(s.width=t),s.height!==e&&(s.height=e),n?.width===t&&n.height===e)return;this._freeSum();let a=y(r,this.floats?r.RGBA16F:r.RGBA8,t,e,null);this.sum={width:t,height:e,texture:a,framebuffer:$(r,a)},this.data&&(this.data.splatted="")}_freeSum(){this.sum&&(this.gl.deleteTexture(this.sum.texture),this.gl.deleteFramebuffer(this.sum.framebuffer),this.sum=null)}_range({viewmat:t}){let{centre:e,radius:r}=this.avatar.bounds,s=t[8]*e[0]+t[9]*e[1]+t[10]*e[2]+t[11];return[Math.max(s-r,0),Math.max(s+r,.001)]}},U=class{constructor(t,e,r){this.gl=t,this.locations=new Map,this.program=t.createProgram();let s=[[t.VERTEX_SHADER,e],[t.FRAGMENT_SHADER,r]].map(([n,a])=>{let i=t.createShader(n);return t.shaderSource(i,a),t.compileShader(i),t.attachShader(this.program,i),i});if(t.linkProgram(this.program),!t.getProgramParameter(this.program,t.LINK_STATUS)&&!t.isContextLost()){let n=[t.getProgramInfoLog(this.program),...s.map(a=>t.getShaderInfoLog(a))];throw new Error(`A shader does not compile on this device: ${n.filter(Boolean).join(" ")}`)}for(let n of s)t.deleteShader(n)}at(t){return this.locations.has(t)||this.locations.set(t,this.gl.getUniformLocation(this.program,t)),this.locations.get(t)}texture(t,e,r,s){this.gl.activeTexture(this.gl.TEXTURE0+e),this.gl.bindTexture(r,s),this.gl.uniform1i(this.at(t),e)}};function yt({kind:o,colors:t,count:e}){if(o==="sh3")return Array.from({length:L.sh3},(l,h)=>{let m=new Float32Array(4*e),u=h>>2;for(let f=0;f<e;++f)for(let d=0;d<4;++d)m[4*f+d]=t.coefficients[48*f+3*(4*(h&3)+d)+u];return[[m,4]]});if(o!=="asg")return[];let{quats:r,smooth:s,lights:n,shapes:a,amplitudes:i}=t,c=(l,h,m,u)=>[l,u,h,m];return[[[r,4]],...Array.from({length:10},(l,h)=>h<4?[c(s,30,3*h,3),c(a,12,3*h+2,1)]:[c(s,30,3*h,3)]),...Array.from({length:4},(l,h)=>[[c(n,12,3*h,3),c(a,12,3*h,1)],[c(i,12,3*h,3),c(a,12,3*h+1,1)]]).flat()]}function V(o,t,e){let r=0;for(let[s,n,a=n,i=0]of e){for(let c=0;c<n;++c)for(let l=0,h=r+c,m=i+c;l<t;++l,h+=4,m+=a)o[h]=s[m];r+=n}}var Et={RGBA32F:["RGBA","FLOAT"],RGBA16F:["RGBA","HALF_FLOAT"],RGBA8:["RGBA","UNSIGNED_BYTE"],RGBA16UI:["RGBA_INTEGER","UNSIGNED_SHORT"],RGBA32UI:["RGBA_INTEGER","UNSIGNED_INT"],R32UI:["RED_INTEGER","UNSIGNED_INT"]};function y(o,t,e,r,s){let[n,a]=Object.entries(Et).find(([c])=>o[c]===t)[1],i=o.createTexture();return o.bindTexture(o.TEXTURE_2D,i),o.texImage2D(o.TEXTURE_2D,0,t,e,r,0,o[n],o[a],s),j(o,o.TEXTURE_2D),i}function _(o,t,e,r,s){let n=o.createTexture();return o.bindTexture(o.TEXTURE_2D_ARRAY,n),o.texImage3D(o.TEXTURE_2D_ARRAY,0,o.RGBA16F,t,e,r,0,o.RGBA,o.FLOAT,s),j(o,o.TEXTURE_2D_ARRAY),n}function j(o,t){o.texParameteri(t,o.TEXTURE_MIN_FILTER,o.NEAREST),o.texParameteri(t,o.TEXTURE_MAG_FILTER,o.NEAREST),o.texParameteri(t,o.TEXTURE_WRAP_S,o.CLAMP_TO_EDGE),o.texParameteri(t,o.TEXTURE_WRAP_T,o.CLAMP_TO_EDGE)}function $(o,...t){let e=o.createFramebuffer();o.bindFramebuffer(o.FRAMEBUFFER,e);let r=t.map((s,n)=>(o.framebufferTexture2D(o.FRAMEBUFFER,o.COLOR_ATTACHMENT0+n,o.TEXTURE_2D,s,0),o.COLOR_ATTACHMENT0+n));return o.drawBuffers(r),e}function wt(o,t){let e=o.createVertexArray(),r=o.createBuffer();o.bindVertexArray(e),o.bindBuffer(o.ELEMENT_ARRAY_BUFFER,r);let s=Uint16Array.from({length:6*t},(n,a)=>4*Math.floor(a/6)+[0,1,2,2,1,3][a%6]);return o.bufferData(o.ELEMENT_ARRAY_BUFFER,s,o.STATIC_DRAW),o.bindVertexArray(null),{vertices:e,indices:r}}return Z(bt);})();
