// Layer normalisation (Ba et al. 2016): one warp per row of `[rows, columns]`.

__device__ inline void norm_row(bool whole, const value *x, const float *weight, const float *bias,
                                value *y, float *mean, float *scale, int columns) {
    int lane = threadIdx.x % WARP;
    float a[PACK], w[PACK], b[PACK], sum = 0;
#pragma unroll 4
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(whole, a, x, at, columns);
        for (int i = 0; i < PACK; ++i)
            sum += a[i];
    }
    float m = warp_sum(sum) / columns;
    float squares = 0; // about the mean, so that nothing cancels
#pragma unroll 4
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(whole, a, x, at, columns);
        for (int i = 0; i < PACK; ++i)
            squares += whole || at + i < columns ? (a[i] - m) * (a[i] - m) : 0;
    }
    float s = 1 / sqrtf(warp_sum(squares) / columns + 1e-5f);
#pragma unroll 4
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(whole, a, x, at, columns);
        load_floats(whole, w, weight, at, columns);
        load_floats(whole, b, bias, at, columns);
        for (int i = 0; i < PACK; ++i)
            a[i] = (a[i] - m) * s * w[i] + b[i];
        store(whole, y, at, columns, a);
    }
    if (lane == 0) {
        *mean = m;
        *scale = s;
    }
}

KERNEL(layer_norm)(const value *x, const float *weight, const float *bias, value *y, float *mean,
                   float *scale, int rows, int columns) {
    int row = place() / WARP;
    if (row >= rows)
        return;
    index_t start = (index_t)row * columns;
    bool whole = are_whole(columns, x) && are_whole(columns, y) && is_aligned(weight);
    if (whole && is_aligned(bias))
        norm_row(true, x + start, weight, bias, y + start, mean + row, scale + row, columns);
    else
        norm_row(false, x + start, weight, bias, y + start, mean + row, scale + row, columns);
}

// With n = (x - mean) scale and g = dy weight: dx = scale (g - mean(g) - n mean(g n)), and `other`
// on top, which may be null.
__device__ inline void norm_row_back(bool whole, const value *x, const float *weight, float m, float s,
                                     const value *dy, const value *other, value *dx, int columns) {
    int lane = threadIdx.x % WARP;
    float a[PACK], g[PACK], w[PACK], sum = 0, along = 0;
#pragma unroll 4
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(whole, a, x, at, columns);
        load(whole, g, dy, at, columns);
        load_floats(whole, w, weight, at, columns);
        for (int i = 0; i < PACK; ++i)
            if (whole || at + i < columns) {
                g[i] *= w[i];
                sum += g[i];
                along += g[i] * (a[i] - m) * s;
            }
    }
    sum = warp_sum(sum) / columns;
    along = warp_sum(along) / columns;
#pragma unroll 4
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        float more[PACK] = {};
        load(whole, a, x, at, columns);
        load(whole, g, dy, at, columns);
        load_floats(whole, w, weight, at, columns);
        if (other)
            load(whole, more, other, at, columns);
        for (int i = 0; i < PACK; ++i)
            g[i] = more[i] + s * (g[i] * w[i] - sum - (a[i] - m) * s * along);
        store(whole, dx, at, columns, g);
    }
}

KERNEL(layer_norm_back)(const value *x, const float *weight, const float *mean, const float *scale,
                        const value *dy, const value *other, value *dx, int rows, int columns) {
    int row = place() / WARP;
    if (row >= rows)
        return;
    index_t start = (index_t)row * columns;
    const value *more = other ? other + start : other;
    bool whole = are_whole(columns, x) && are_whole(columns, dy) && are_whole(columns, dx);
    if (whole && is_aligned(weight) && is_aligned(other))
        norm_row_back(true, x + start, weight, mean[row], scale[row], dy + start, more,
                      dx + start, columns);
    else
        norm_row_back(false, x + start, weight, mean[row], scale[row], dy + start, more,
                      dx + start, columns);
}

// Parts of the gradients of weight and bias, `[chunks, 2, columns]`: see `column_sums`.
KERNEL(layer_norm_sums)(const value *x, const float *mean, const float *scale, const value *dy,
                        float *parts, int rows, int columns, int chunk) {
    column_place here = place_in(rows, columns, chunk);
    float dw[PACK] = {}, db[PACK] = {};
    bool all = are_whole(columns, x) && are_whole(columns, dy);
    each_row(here, all, [&](bool whole, int row) {
        float a[PACK], g[PACK];
        load(whole, a, x + (index_t)row * columns, here.column, columns);
        load(whole, g, dy + (index_t)row * columns, here.column, columns);
        float m = mean[row], s = scale[row];
        for (int i = 0; i < PACK; ++i) {
            dw[i] += g[i] * (a[i] - m) * s;
            db[i] += g[i];
        }
    });
    float *part = parts + (index_t)blockIdx.y * 2 * columns;
    put_column_sums(dw, part, here, columns);
    put_column_sums(db, part + columns, here, columns);
}
