// Sums over rows, in two steps of fixed order, and sums of arrays.

// A block of 32 columns and this many warps, each with every eighth row of a chunk.
#define SUM_WARPS 8

// Adds up what the warps of a block hold for the same column.
__device__ inline void put_column_sum(float x, float *sums, int column, int columns) {
    __shared__ float all[SUM_WARPS][WARP];
    __syncthreads(); // the last use is over
    all[threadIdx.x / WARP][threadIdx.x % WARP] = x;
    __syncthreads();
    if (threadIdx.x < WARP && column < columns) {
        float sum = 0;
        for (int warp = 0; warp < SUM_WARPS; ++warp)
            sum += all[warp][threadIdx.x];
        sums[column] = sum;
    }
}

// `[rows, columns]` -> `[chunks, columns]`: the sums over `chunk` rows each.
KERNEL(column_sums)(const value *x, float *parts, int rows, int columns, int chunk) {
    int column = blockIdx.x * WARP + threadIdx.x % WARP;
    int first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float sum = 0;
    if (column < columns)
        for (int row = first + threadIdx.x / WARP; row < last; row += SUM_WARPS)
            sum += to_float(x[(index_t)row * columns + column]);
    put_column_sum(sum, parts + (index_t)blockIdx.y * columns, column, columns);
}

// Adds the sum of `chunks` parts, `stride` values apart, times `factor` to `sum`.
KERNEL(fold)(const float *parts, float *sum, int count, int stride, int chunks, float factor) {
    index_t at = place();
    if (at >= count)
        return;
    float x = 0;
    for (int chunk = 0; chunk < chunks; ++chunk)
        x += parts[(index_t)chunk * stride + at];
    sum[at] += factor * x;
}

KERNEL(add)(const value *a, const value *b, value *sum, index_t count) {
    index_t at = place();
    if (at < count)
        put(&sum[at], to_float(a[at]) + to_float(b[at]));
}

KERNEL(add_relu)(const value *a, const value *b, value *y, index_t count) {
    index_t at = place();
    if (at < count)
        put(&y[at], fmaxf(to_float(a[at]) + to_float(b[at]), 0));
}

// The gradient of both: that of `y` where it is above 0.
KERNEL(add_relu_back)(const value *y, const value *dy, value *dx, index_t count) {
    index_t at = place();
    if (at < count)
        put(&dx[at], to_float(y[at]) > 0 ? to_float(dy[at]) : 0);
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

// `value` to float.
KERNEL(widen)(const value *x, float *y, index_t count) {
    index_t at = place();
    if (at < count)
        y[at] = to_float(x[at]);
}
