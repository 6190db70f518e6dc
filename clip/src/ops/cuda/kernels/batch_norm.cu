// Batch normalisation (Ioffe & Szegedy 2015) along the rows of `[rows, columns]`, and perhaps a ReLU.

// Parts of the sums of (x - mean)^2, `[chunks, columns]`: see `column_sums`.
KERNEL(square_sums)(const value *x, const float *mean, float *parts, int rows, int columns,
                    int chunk) {
    int column = blockIdx.x * WARP + threadIdx.x % WARP;
    int first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float sum = 0;
    if (column < columns)
        for (int row = first + threadIdx.x / WARP; row < last; row += SUM_WARPS) {
            float off = to_float(x[(index_t)row * columns + column]) - mean[column];
            sum += off * off;
        }
    put_column_sum(sum, parts + (index_t)blockIdx.y * columns, column, columns);
}

// What a batch normalisation makes of x.
__device__ inline float normed(float x, float mean, float variance, float weight, float bias) {
    return (x - mean) / sqrtf(variance + 1e-5f) * weight + bias;
}

KERNEL(batch_norm)(const value *x, const float *mean, const float *variance, const float *weight,
                   const float *bias, value *y, index_t count, int columns, int relu) {
    index_t at = place();
    if (at >= count)
        return;
    int i = at % columns;
    float n = normed(to_float(x[at]), mean[i], variance[i], weight[i], bias[i]);
    put(&y[at], relu ? fmaxf(n, 0) : n);
}

// Parts of the gradients of weight and bias, `[chunks, 2, columns]`.
KERNEL(batch_norm_sums)(const value *x, const float *mean, const float *variance,
                        const float *weight, const float *bias, const value *dy, float *parts,
                        int rows, int columns, int chunk, int relu) {
    int i = blockIdx.x * WARP + threadIdx.x % WARP;
    int first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float dw = 0, db = 0;
    if (i < columns)
        for (int row = first + threadIdx.x / WARP; row < last; row += SUM_WARPS) {
            index_t at = (index_t)row * columns + i;
            float here = to_float(x[at]);
            if (relu && normed(here, mean[i], variance[i], weight[i], bias[i]) <= 0)
                continue;
            dw += to_float(dy[at]) * (here - mean[i]) / sqrtf(variance[i] + 1e-5f);
            db += to_float(dy[at]);
        }
    float *part = parts + (index_t)blockIdx.y * 2 * columns;
    put_column_sum(dw, part, i, columns);
    put_column_sum(db, part + columns, i, columns);
}

// With n = (x - mean) scale and g the gradient that the ReLU let through:
// dx = scale weight (g - (db + n dw) / rows), where `sums` holds dw and db, and is null for
// statistics that are constants.
KERNEL(batch_norm_back)(const value *x, const float *mean, const float *variance,
                        const float *weight, const float *bias, const value *dy, const float *sums,
                        value *dx, index_t count, int columns, int relu) {
    index_t at = place();
    if (at >= count)
        return;
    int i = at % columns;
    float here = to_float(x[at]), scale = 1 / sqrtf(variance[i] + 1e-5f);
    bool is_shut = relu && normed(here, mean[i], variance[i], weight[i], bias[i]) <= 0;
    float g = is_shut ? 0 : to_float(dy[at]);
    if (sums)
        g -= (sums[columns + i] + (here - mean[i]) * scale * sums[i]) * columns / count;
    put(&dx[at], scale * weight[i] * g);
}
