// Sums over rows, in two steps of fixed order, and sums of arrays.

// Threads of a block that sums columns.
#define SUM_THREADS 256

// The columns and rows of a thread of `SUM_THREADS`: a pack of neighboring columns, in every `step`th
// row of a chunk. A block has up to 32 packs of columns, and as many rows at a time as it has
// threads for.
struct column_place {
    int column, row, last, step, packs;
};

__device__ inline column_place place_in(int rows, int columns, int chunk) {
    column_place here;
    here.packs = min((columns + PACK - 1) / PACK - (int)blockIdx.x * WARP, WARP);
    here.step = SUM_THREADS / here.packs;
    here.column = (blockIdx.x * WARP + threadIdx.x % here.packs) * PACK;
    here.row = blockIdx.y * chunk + threadIdx.x / here.packs;
    here.last = min((int)(blockIdx.y + 1) * chunk, rows);
    if ((int)threadIdx.x >= here.step * here.packs)
        here.row = here.last; // one too many
    return here;
}

// Does `f(whole, row)` for each row of a thread.
template <class F>
__device__ inline void each_row(const column_place &here, bool whole, F f) {
    if (whole) {
#pragma unroll 4
        for (int row = here.row; row < here.last; row += here.step)
            f(true, row);
    } else
        for (int row = here.row; row < here.last; row += here.step)
            f(false, row);
}

// Adds up what the threads of a block hold for the same columns.
__device__ inline void put_column_sums(const float (&x)[PACK], float *sums, const column_place &here,
                                       int columns) {
    __shared__ float all[SUM_THREADS][PACK + 1];
    __syncthreads(); // the last use is over
    for (int i = 0; i < PACK; ++i)
        all[threadIdx.x][i] = x[i];
    __syncthreads();
    int first = blockIdx.x * WARP * PACK;
    for (int at = threadIdx.x; at < here.packs * PACK && first + at < columns; at += SUM_THREADS) {
        float sum = 0;
        for (int row = 0; row < here.step; ++row)
            sum += all[row * here.packs + at / PACK][at % PACK];
        sums[first + at] = sum;
    }
}

// `[rows, columns]` -> `[chunks, columns]`: the sums over `chunk` rows each.
KERNEL(column_sums)(const value *x, float *parts, int rows, int columns, int chunk) {
    column_place here = place_in(rows, columns, chunk);
    float sum[PACK] = {};
    each_row(here, are_whole(columns, x), [&](bool whole, int row) {
        float a[PACK];
        load(whole, a, x + (index_t)row * columns, here.column, columns);
        for (int i = 0; i < PACK; ++i)
            sum[i] += a[i];
    });
    put_column_sums(sum, parts + (index_t)blockIdx.y * columns, here, columns);
}

// Adds the sum of `chunks` parts, `stride` values apart, times `factor` to `sum`. A block has 32
// columns, and every eighth part in each of its warps.
KERNEL(fold)(const float *parts, float *sum, int count, int stride, int chunks, float factor) {
    __shared__ float all[SUM_THREADS / WARP][WARP];
    int lane = threadIdx.x % WARP, at = blockIdx.x * WARP + lane;
    float x = 0;
    if (at < count)
        for (int chunk = threadIdx.x / WARP; chunk < chunks; chunk += SUM_THREADS / WARP)
            x += parts[(index_t)chunk * stride + at];
    all[threadIdx.x / WARP][lane] = x;
    __syncthreads();
    if (threadIdx.x < WARP && at < count) {
        x = 0;
        for (int warp = 0; warp < SUM_THREADS / WARP; ++warp)
            x += all[warp][lane];
        sum[at] += factor * x;
    }
}

KERNEL(add)(const value *a, const value *b, value *sum, index_t count) {
    combine(a, b, sum, count, [](float x, float z) { return x + z; });
}

KERNEL(add_relu)(const value *a, const value *b, value *y, index_t count) {
    combine(a, b, y, count, [](float x, float z) { return fmaxf(x + z, 0); });
}

// The gradient of both: that of `y` where it is above 0.
KERNEL(add_relu_back)(const value *y, const value *dy, value *dx, index_t count) {
    combine(y, dy, dx, count, [](float x, float g) { return x > 0 ? g : 0; });
}

KERNEL(zero)(float *x, index_t count) {
    index_t at = place();
    if (at < count)
        x[at] = 0;
}

// float to `value`.
KERNEL(narrow)(const float *x, value *y, index_t count) {
    index_t at = place();
    if (at < count)
        put(&y[at], x[at]);
}
