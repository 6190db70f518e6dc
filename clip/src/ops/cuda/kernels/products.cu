// What tensor cores multiply: tiles of matrices, held by the lanes of a warp.

// Two neighboring values: what a register of a tile holds.
#ifdef VALUE_F32
struct alignas(8) duo {
    float low, high;
};

__device__ inline duo duet(float low, float high) { return {low, high}; }

__device__ inline float low(duo x) { return x.low; }

__device__ inline float high(duo x) { return x.high; }
#else
struct duo {
    unsigned bits;
};

__device__ inline duo duet(bf16 low, bf16 high) { return {low.bits | (unsigned)high.bits << 16}; }

__device__ inline duo duet(float low, float high) {
#ifdef __CUDA_ARCH__
    duo both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both.bits) : "f"(high), "f"(low));
    return both;
#else
    bf16 halves[2];
    put(&halves[0], low);
    put(&halves[1], high);
    return duet(halves[0], halves[1]);
#endif
}

__device__ inline float low(duo x) { return __uint_as_float(x.bits << 16); }

__device__ inline float high(duo x) { return __uint_as_float(x.bits & 0xffff0000u); }
#endif

// `c += a b`, `[16, 8] += [16, 16] [16, 8]`, by one warp, in float. With g = lane / 4 and
// t = lane % 4 a lane holds
//   of a: rows g and g + 8 of columns 2t and 2t + 1, then the same of columns 8 further;
//   of b: column g of rows 2t and 2t + 1, then of rows 8 further;
//   of c: row g of columns 2t and 2t + 1, then row g + 8.
__device__ inline void multiply(float (&c)[4], const duo (&a)[4], const duo (&b)[2]) {
#if defined(__CUDA_ARCH__) && !defined(VALUE_F32)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0].bits), "r"(a[1].bits), "r"(a[2].bits), "r"(a[3].bits), "r"(b[0].bits),
          "r"(b[1].bits));
#else
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    for (int half = 0; half < 2; ++half)
        for (int from = 0; from < 8; ++from) { // row of b, from 8 half on
            duo b_here = b[half], upper = a[2 * half], lower = a[2 * half + 1];
            float to_right = from % 2 ? high(b_here) : low(b_here);
            float left = __shfl_sync(ALL_LANES, to_right, 8 * t + from / 2);
            float right = __shfl_sync(ALL_LANES, to_right, 8 * t + 4 + from / 2);
            float x = __shfl_sync(ALL_LANES, from % 2 ? high(upper) : low(upper), 4 * g + from / 2);
            float y = __shfl_sync(ALL_LANES, from % 2 ? high(lower) : low(lower), 4 * g + from / 2);
            c[0] += x * left, c[1] += x * right;
            c[2] += y * left, c[3] += y * right;
        }
#endif
}

// Two neighboring factors b out of rows of shared memory, `stride` values apart and 16 bytes aligned:
// 16 rows from x on, of 8 columns and the next 8.
__device__ inline void load_factors(duo (&b)[2][2], const value *x, int stride) {
    int lane = threadIdx.x % WARP;
#if defined(__CUDA_ARCH__) && !defined(VALUE_F32)
    const value *row = x + lane % 16 * stride + lane / 16 * 8; // which this lane points out
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0][0].bits), "=r"(b[0][1].bits), "=r"(b[1][0].bits), "=r"(b[1][1].bits)
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
#else
    for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 2; ++i) {
            const value *upper = x + (lane % 4 * 2 + i * 8) * stride + half * 8 + lane / 4;
            b[half][i] = duet(upper[0], upper[stride]);
        }
#endif
}

// Sum and maximum of the four lanes that hold a row of c.
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
