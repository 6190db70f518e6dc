// Layer normalisation (Ba et al. 2016): one warp per row of `[rows, columns]`.

KERNEL(layer_norm)(const value *x, const float *weight, const float *bias, value *y, float *mean,
                   float *scale, int rows, int columns) {
    int row = place() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows)
        return;
    x += (index_t)row * columns;
    y += (index_t)row * columns;
    float sum = 0;
    for (int i = lane; i < columns; i += WARP)
        sum += to_float(x[i]);
    float m = warp_sum(sum) / columns;
    float squares = 0; // about the mean, so that nothing cancels
    for (int i = lane; i < columns; i += WARP)
        squares += (to_float(x[i]) - m) * (to_float(x[i]) - m);
    float s = 1 / sqrtf(warp_sum(squares) / columns + 1e-5f);
    for (int i = lane; i < columns; i += WARP)
        put(&y[i], (to_float(x[i]) - m) * s * weight[i] + bias[i]);
    if (lane == 0) {
        mean[row] = m;
        scale[row] = s;
    }
}

// With n = (x - mean) scale and g = dy weight: dx = scale (g - mean(g) - n mean(g n)).
KERNEL(layer_norm_back)(const value *x, const float *weight, const float *mean, const float *scale,
                        const value *dy, value *dx, int rows, int columns) {
    int row = place() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows)
        return;
    x += (index_t)row * columns;
    dy += (index_t)row * columns;
    dx += (index_t)row * columns;
    float m = mean[row], s = scale[row], sum = 0, along = 0;
    for (int i = lane; i < columns; i += WARP) {
        float g = to_float(dy[i]) * weight[i];
        sum += g;
        along += g * (to_float(x[i]) - m) * s;
    }
    sum = warp_sum(sum) / columns;
    along = warp_sum(along) / columns;
    for (int i = lane; i < columns; i += WARP) {
        float n = (to_float(x[i]) - m) * s;
        put(&dx[i], s * (to_float(dy[i]) * weight[i] - sum - n * along));
    }
}

// Parts of the gradients of weight and bias, `[chunks, 2, columns]`: see `column_sums`.
KERNEL(layer_norm_sums)(const value *x, const float *mean, const float *scale, const value *dy,
                        float *parts, int rows, int columns, int chunk) {
    int column = blockIdx.x * WARP + threadIdx.x % WARP;
    int first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float dw = 0, db = 0;
    if (column < columns)
        for (int row = first + threadIdx.x / WARP; row < last; row += SUM_WARPS) {
            index_t at = (index_t)row * columns + column;
            dw += to_float(dy[at]) * (to_float(x[at]) - mean[row]) * scale[row];
            db += to_float(dy[at]);
        }
    float *part = parts + (index_t)blockIdx.y * 2 * columns;
    put_column_sum(dw, part, column, columns);
    put_column_sum(db, part + columns, column, columns);
}
