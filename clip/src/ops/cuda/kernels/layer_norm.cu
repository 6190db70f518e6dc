// Layer normalisation (Ba et al. 2016): one warp per row of `[rows, columns]`.

KERNEL(layer_norm)(const value *x, const float *weight, const float *bias, value *y, float *mean,
                   float *scale, int rows, int columns) {
    int row = place() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows)
        return;
    x += (index_t)row * columns;
    y += (index_t)row * columns;
    float a[PACK], sum = 0;
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(a, x, at, columns);
        for (int i = 0; i < PACK; ++i)
            sum += a[i];
    }
    float m = warp_sum(sum) / columns;
    float squares = 0; // about the mean, so that nothing cancels
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(a, x, at, columns);
        for (int i = 0; i < PACK; ++i)
            squares += at + i < columns ? (a[i] - m) * (a[i] - m) : 0;
    }
    float s = 1 / sqrtf(warp_sum(squares) / columns + 1e-5f);
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(a, x, at, columns);
        for (int i = 0; i < PACK; ++i)
            if (at + i < columns)
                a[i] = (a[i] - m) * s * weight[at + i] + bias[at + i];
        store(y, at, columns, a);
    }
    if (lane == 0) {
        mean[row] = m;
        scale[row] = s;
    }
}

// With n = (x - mean) scale and g = dy weight: dx = scale (g - mean(g) - n mean(g n)), and `other`
// on top, which may be null.
KERNEL(layer_norm_back)(const value *x, const float *weight, const float *mean, const float *scale,
                        const value *dy, const value *other, value *dx, int rows, int columns) {
    int row = place() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows)
        return;
    index_t start = (index_t)row * columns;
    float m = mean[row], s = scale[row], a[PACK], g[PACK], sum = 0, along = 0;
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        load(a, x + start, at, columns);
        load(g, dy + start, at, columns);
        for (int i = 0; i < PACK; ++i)
            if (at + i < columns) {
                g[i] *= weight[at + i];
                sum += g[i];
                along += g[i] * (a[i] - m) * s;
            }
    }
    sum = warp_sum(sum) / columns;
    along = warp_sum(along) / columns;
    for (int at = PACK * lane; at < columns; at += PACK * WARP) {
        float more[PACK] = {};
        load(a, x + start, at, columns);
        load(g, dy + start, at, columns);
        if (other)
            load(more, other + start, at, columns);
        for (int i = 0; i < PACK; ++i)
            if (at + i < columns)
                g[i] = more[i] + s * (g[i] * weight[at + i] - sum - (a[i] - m) * s * along);
        store(dx + start, at, columns, g);
    }
}

// Parts of the gradients of weight and bias, `[chunks, 2, columns]`: see `column_sums`.
KERNEL(layer_norm_sums)(const value *x, const float *mean, const float *scale, const value *dy,
                        float *parts, int rows, int columns, int chunk) {
    column_place here = place_in(rows, columns, chunk);
    float dw[PACK] = {}, db[PACK] = {}, a[PACK], g[PACK];
    for (int row = here.row; row < here.last; row += here.step) {
        load(a, x + (index_t)row * columns, here.column, columns);
        load(g, dy + (index_t)row * columns, here.column, columns);
        float m = mean[row], s = scale[row];
        for (int i = 0; i < PACK; ++i) {
            dw[i] += g[i] * (a[i] - m) * s;
            db[i] += g[i];
        }
    }
    float *part = parts + (index_t)blockIdx.y * 2 * columns;
    put_column_sums(dw, part, here, columns);
    put_column_sums(db, part + columns, here, columns);
}
