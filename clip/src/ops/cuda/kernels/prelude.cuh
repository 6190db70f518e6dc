// What all kernels share. Activations are `value`: bfloat16, or float where `VALUE_F32` is defined.
// Everything is computed in float. No sum is atomic, so its order, and with it each last bit, is
// always the same.

#define KERNEL(name) extern "C" __global__ void name
#define WARP 32
#define ALL_LANES 0xffffffffu

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

typedef long long index_t;

// bfloat16: the upper half of a float, rounded to the nearest, ties to even.
struct bf16 {
    unsigned short bits;
};

__device__ inline float to_float(float x) { return x; }

__device__ inline float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

__device__ inline void put(float *x, float y) { *x = y; }

__device__ inline void put(bf16 *x, float y) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(x->bits) : "f"(y));
#else
    unsigned bits = __float_as_uint(y);
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    x->bits = is_nan ? 0x7fff : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
}

#ifdef VALUE_F32
typedef float value;
#else
typedef bf16 value;
#endif

// Values that a thread reads or writes at once: 16 bytes.
#define PACK (16 / (int)sizeof(value))

struct alignas(16) pack {
    value of[PACK];
};

template <class T>
__device__ inline bool is_aligned(const T *x) { return ((unsigned long long)x & 15) == 0; }

// The values `at..at + PACK` of `count`; zeros beyond the end.
__device__ inline pack load_pack(const value *x, index_t at, index_t count) {
    if (at + PACK <= count && is_aligned(x + at))
        return *(const pack *)(x + at);
    pack all = {};
    for (int i = 0; i < PACK; ++i)
        if (at + i < count)
            all.of[i] = x[at + i];
    return all;
}

__device__ inline void load(float (&y)[PACK], const value *x, index_t at, index_t count) {
    pack all = load_pack(x, at, count);
    for (int i = 0; i < PACK; ++i)
        y[i] = to_float(all.of[i]);
}

// The values `at..at + PACK` of `count`; none beyond the end.
__device__ inline void store(value *y, index_t at, index_t count, const float (&x)[PACK]) {
    pack all;
    for (int i = 0; i < PACK; ++i)
        put(&all.of[i], x[i]);
    if (at + PACK <= count && is_aligned(y + at))
        *(pack *)(y + at) = all;
    else
        for (int i = 0; i < PACK; ++i)
            if (at + i < count)
                y[at + i] = all.of[i];
}

// The same where `whole` is known beforehand: all packs are whole and aligned. Read past the cache that
// sees writes, so that several reads are under way at a time: of no array that the kernel writes, so
// that none of these kernels may be asked in place.
__device__ inline void load(bool whole, float (&y)[PACK], const value *x, index_t at, index_t count) {
    if (!whole)
        return load(y, x, at, count);
    pack all;
#ifdef __CUDA_ARCH__
    *(uint4 *)&all = __ldg((const uint4 *)(x + at));
#else
    all = *(const pack *)(x + at);
#endif
    for (int i = 0; i < PACK; ++i)
        y[i] = to_float(all.of[i]);
}

__device__ inline void store(bool whole, value *y, index_t at, index_t count,
                             const float (&x)[PACK]) {
    if (!whole)
        return store(y, at, count, x);
    pack all;
    for (int i = 0; i < PACK; ++i)
        put(&all.of[i], x[i]);
    *(pack *)(y + at) = all;
}

struct alignas(16) quad {
    float of[4];
};

// The floats that belong to a pack, as those of a weight do; zeros beyond the end.
__device__ inline void load_floats(bool whole, float (&y)[PACK], const float *x, index_t at,
                                   index_t count) {
    for (int i = 0; i < PACK; i += 4) {
        quad four = {};
        if (whole)
            four = *(const quad *)(x + at + i);
        for (int j = 0; j < 4; ++j)
            y[i + j] = whole ? four.of[j] : at + i + j < count ? x[at + i + j] : 0;
    }
}

// Whether all packs of `[rows, columns]` values are whole and aligned.
template <class T>
__device__ inline bool are_whole(int columns, const T *x) {
    return columns % PACK == 0 && is_aligned(x);
}

// The place of this thread among all of a grid of one dimension.
__device__ inline index_t place() { return (index_t)blockIdx.x * blockDim.x + threadIdx.x; }

// The same sum in every lane.
__device__ inline float warp_sum(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The same sum in every thread of a block of `blockDim.x` threads, a multiple of 32.
__device__ inline float block_sum(float x) {
    __shared__ float sums[WARP];
    x = warp_sum(x);
    __syncthreads(); // the last use is over
    if (threadIdx.x % WARP == 0)
        sums[threadIdx.x / WARP] = x;
    __syncthreads();
    x = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp)
        x += sums[warp];
    return x;
}

// A pack of `y = f(a, b)`, value by value, by each thread.
template <class F>
__device__ inline void combine(const value *a, const value *b, value *y, index_t count, F f) {
    index_t at = PACK * place();
    if (at >= count)
        return;
    float x[PACK], z[PACK];
    load(x, a, at, count);
    load(z, b, at, count);
    for (int i = 0; i < PACK; ++i)
        x[i] = f(x[i], z[i]);
    store(y, at, count, x);
}
