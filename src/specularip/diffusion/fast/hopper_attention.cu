// Attention with heads of width 40 for Hopper; see hopper_attention.py for the method.
//
// A block has four consumer warpgroups of 128 threads, each with 64 queries of one head, and a producer warpgroup
// that copies keys and values, 64 at a time, into a ring buffer in shared memory. wgmma reads core matrices of 8
// keys by 16 bytes, so a tile is laid out as [8 groups of keys][6 core matrices][8 keys][16 bytes]. Five core
// matrices hold a head's 40 channels. The sixth holds a one and zeros: through it the products subtract each
// query's reference from its scores and sum its weights.

#define WIDTH 40
#define GROUPS 4
#define KEYS 64
#define STAGES 6
#define AHEAD 2            // tiles in flight before the producer waits for one
#define TILE 6144          // bytes of 64 keys or values
#define EIGHT 768          // bytes of eight of them
#define PIECE 128          // bytes of a core matrix: eight channels of eight keys
#define MARGIN 4.0f        // of a new reference above the largest score: headroom for growing scores

static_assert(STAGES >= AHEAD + 2, "else the producer waits for tiles that it has not published");

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;  // bits of half precision

// ---- barriers in shared memory

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\nbra again;\nover:\n}\n" ::"r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Makes ordinary stores to shared memory visible to the tensor cores.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- conversions

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ float to_float(u16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}

__device__ __forceinline__ u32 scaled(u32 pair, float by) {
  return pack(to_float(pair & 0xFFFF) * by, to_float(pair >> 16) * by);
}

__device__ __forceinline__ float rounded_to_half(float x) { return to_float(pack(x, 0) & 0xFFFF); }

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- products of a warpgroup: its 64 rows times a tile. A thread holds rows r and r + 8 of the result (r = lane
// / 4, 16 rows a warp): element 4i + n is in row r + 8 (n / 2), column 8i + 2 (lane % 4) + n % 2.

#define EIGHT_OF(x, i) \
  "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), "+f"(x[i + 6]), "+f"(x[i + 7])
#define BEGIN asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define END asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory")

// Keeps the compiler from reading results before END.
template <int N>
__device__ __forceinline__ void settle(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

// at: shared address / 16; leading, stride: bytes between core matrices in the two directions.
__device__ __forceinline__ u64 descriptor(u32 at, u32 leading, u32 stride) {
  u64 whole;
  asm("mov.b64 %0, {%1, %2};" : "=l"(whole) : "r"(at | leading << 12), "r"(stride >> 4));
  return whole;
}

template <int ADD>
__device__ __forceinline__ void multiply_16_numbers(float (&s)[32], const u32* q, u64 keys) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31},"
      "{%32,%33,%34,%35},%36,add,1,1,0;\n}\n"
      : EIGHT_OF(s, 0), EIGHT_OF(s, 8), EIGHT_OF(s, 16), EIGHT_OF(s, 24)
      : "r"(q[0]), "r"(q[1]), "r"(q[2]), "r"(q[3]), "l"(keys), "n"(ADD));
}

// s = scores for 64 keys.
__device__ __forceinline__ void multiply_keys(float (&s)[32], const u32 (&q)[12], u32 at) {
  multiply_16_numbers<0>(s, q, descriptor(at, PIECE, EIGHT));
  multiply_16_numbers<1>(s, q + 4, descriptor(at + 2 * PIECE / 16, PIECE, EIGHT));
  multiply_16_numbers<1>(s, q + 8, descriptor(at + 4 * PIECE / 16, PIECE, EIGHT));
}

// o += weights times 64 values.
__device__ __forceinline__ void multiply_values(float (&o)[24], const u32 (&p)[16], u32 at) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.f16.f16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23},"
        "{%24,%25,%26,%27},%28,1,1,1,1;\n"
        : EIGHT_OF(o, 0), EIGHT_OF(o, 8), EIGHT_OF(o, 16)
        : "r"(p[4 * i]), "r"(p[4 * i + 1]), "r"(p[4 * i + 2]), "r"(p[4 * i + 3]),
          "l"(descriptor(at + 2 * i * EIGHT / 16, EIGHT, PIECE)));
}

// ---- softmax

// Weights 2^s of a tile, packed as the left operand of multiply_values.
__device__ __forceinline__ void weigh(u32 (&p)[16], const float (&s)[32], float less0 = 0, float less1 = 0) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    p[2 * i] = pack(power_of_two(s[4 * i] - less0), power_of_two(s[4 * i + 1] - less0));
    p[2 * i + 1] = pack(power_of_two(s[4 * i + 2] - less1), power_of_two(s[4 * i + 3] - less1));
  }
}

// Whether a weight is >= 2, inf or NaN: the top bit of its exponent is set.
__device__ __forceinline__ bool any_large(const u32 (&p)[16]) {
  u32 bits = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) bits |= p[i];
  return bits & 0x40004000;
}

// The largest score of a row in a tile; a row is spread over four threads.
__device__ __forceinline__ float largest(const float (&s)[32], int row) {
  float most = s[2 * row];
#pragma unroll
  for (int i = 0; i < 8; ++i) most = fmaxf(most, fmaxf(s[4 * i + 2 * row], s[4 * i + 2 * row + 1]));
  most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
  return fmaxf(most, __shfl_xor_sync(~0u, most, 2));
}

// Gives rows with scores above their reference a new one and rescales their accumulators. References are rounded
// to half precision, so that the products subtract them exactly: negated, in column 40 of q.
__device__ __forceinline__ void refer(float (&reference)[2], u32 (&q)[12], float (&o)[24], u32 (&p)[16],
                                      const float (&s)[32], bool first) {
  float rise[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float above = largest(s, row), old = reference[row];
    if (first || above > 0) reference[row] = rounded_to_half(old + above + MARGIN);
    rise[row] = reference[row] - old;
    q[10 + row] = threadIdx.x % 4 == 0 ? pack(-reference[row], 0) : 0;
    const float by = first ? 1 : power_of_two(-rise[row]);
#pragma unroll
    for (int i = 0; i < 6; ++i) o[4 * i + 2 * row] *= by, o[4 * i + 2 * row + 1] *= by;
  }
  weigh(p, s, rise[0], rise[1]);
}

// ---- the kernel

// Strides of tokens and images are in elements. keys is a multiple of KEYS, scale is log2(e) / sqrt(WIDTH).
// Grid: (ceil(queries / 256), heads, images).
extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
attention(const u16* query, const u16* key, const u16* value, u16* out, int queries, int keys, int query_token,
          int key_token, int value_token, int query_image, int key_image, int value_image, float scale) {
  extern __shared__ __align__(128) unsigned char memory[];
  const u32 shared = (u32)__cvta_generic_to_shared(memory);
  const u32 full = shared + STAGES * 2 * TILE, empty = full + 8 * STAGES;
  const int thread = threadIdx.x % 128, group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int head = blockIdx.y, heads = gridDim.y, tiles = keys / KEYS;
  const u64 image = blockIdx.z;

  if (threadIdx.x == 0)
    for (int stage = 0; stage < STAGES; ++stage) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(full + 8 * stage), "r"(128));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + 8 * stage), "r"(4 * GROUPS));
    }
  for (int i = threadIdx.x; i < STAGES * 2 * KEYS; i += blockDim.x) {
    const u32 at = shared + i / 8 * EIGHT + 5 * PIECE + i % 8 * 16;
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %2, %2};" ::"r"(at), "r"(0x3C00), "r"(0) : "memory");
  }
  publish();
  __syncthreads();

  if (group == GROUPS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    // A tile of keys and one of values are 640 pieces of 16 bytes, of which each thread copies five.
    const u16* from[5];
    u32 to[5];
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const int piece = thread + 128 * i, token = piece / 5 % KEYS, column = piece % 5;
      const bool values = piece >= 5 * KEYS;
      from[i] = values ? value + image * value_image + (u64)token * value_token
                       : key + image * key_image + (u64)token * key_token;
      from[i] += head * WIDTH + column * 8;
      to[i] = shared + (values ? TILE : 0) + token / 8 * EIGHT + column * PIECE + token % 8 * 16;
    }
    int stage = 0, next = 0;
    u32 parity = 1;
    for (int tile = 0; tile < tiles + AHEAD; ++tile) {
      if (tile < tiles) {
        wait(empty + 8 * stage, parity);
#pragma unroll
        for (int i = 0; i < 5; ++i) {
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to[i] + stage * 2 * TILE), "l"(from[i]) : "memory");
          from[i] += KEYS * (thread + 128 * i < 5 * KEYS ? key_token : value_token);
        }
        if (++stage == STAGES) stage = 0, parity ^= 1;
      }
      asm volatile("cp.async.commit_group;" ::: "memory");
      if (tile >= AHEAD) {
        asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD) : "memory");
        publish();
        arrive(full + 8 * next);
        if (++next == STAGES) next = 0;
      }
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
  const int row = (blockIdx.x * GROUPS + group) * 64 + thread / 32 * 16 + lane / 4, column = lane % 4 * 2;
  u32 q[12] = {};
#pragma unroll
  for (int i = 0; i < 10; ++i) {
    const int token = min(row + i % 2 * 8, queries - 1);
    const u16* at = query + image * query_image + (u64)token * query_token + head * WIDTH + column;
    q[i] = scaled(*(const u32*)(at + i / 2 * 8), scale);
  }
  float s[32] = {}, o[24] = {}, reference[2] = {};
  u32 p[16], parity = 0, quiet;
  asm volatile("mov.u32 %0, %1;" : "=r"(quiet) : "r"(lane));  // kept in a register instead of being recomputed
  const u32 at = shared / 16;
  int stage = 0;

  wait(full, 0);
  BEGIN;
  multiply_keys(s, q, at);
  END;
  settle(s);
  for (int tile = 0; tile < tiles; ++tile) {
    const bool last = tile + 1 == tiles;
    const int next = stage + 1 == STAGES ? 0 : stage + 1;
    parity ^= next == 0;
    if (!last) wait(full + 8 * next, parity);
    weigh(p, s);
    if (__any_sync(~0u, any_large(p) || tile == 0)) refer(reference, q, o, p, s, tile == 0);
    BEGIN;
    multiply_keys(s, q, at + (last ? stage : next) * (2 * TILE / 16));  // unused after the last tile
    multiply_values(o, p, at + (stage * 2 + 1) * (TILE / 16));
    END;
    settle(s);
    settle(o);
    if (quiet == 0) arrive(empty + 8 * stage);
    stage = next;
  }

#pragma unroll
  for (int second = 0; second < 2; ++second) {
    const float by = 1 / __shfl_sync(~0u, o[20 + 2 * second], lane / 4 * 4);
    const int token = row + 8 * second;
    u16* to = out + ((image * queries + token) * heads + head) * WIDTH + column;
    if (token < queries)
#pragma unroll
      for (int i = 0; i < 5; ++i)
        *(u32*)(to + 8 * i) = pack(o[4 * i + 2 * second] * by, o[4 * i + 2 * second + 1] * by);
  }
}
