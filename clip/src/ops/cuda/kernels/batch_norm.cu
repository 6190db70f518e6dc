// Batch normalisation (Ioffe & Szegedy 2015) along the rows of `[rows, columns]`, and perhaps a ReLU.

// Parts of the sums of x - s and of (x - s)^2, `[chunks, 2, columns]`, see `column_sums`; s is the
// first row, so that little cancels in `moments`.
KERNEL(moment_sums)(const value *x, float *parts, int rows, int columns, int chunk) {
    column_place here = place_in(rows, columns, chunk);
    float sum[PACK] = {}, squares[PACK] = {}, shift[PACK];
    load(shift, x, here.column, columns);
    each_row(here, are_whole(columns, x), [&](bool whole, int row) {
        float a[PACK];
        load(whole, a, x + (index_t)row * columns, here.column, columns);
        for (int i = 0; i < PACK; ++i) {
            sum[i] += a[i] - shift[i];
            squares[i] += (a[i] - shift[i]) * (a[i] - shift[i]);
        }
    });
    float *part = parts + (index_t)blockIdx.y * 2 * columns;
    put_column_sums(sum, part, here, columns);
    put_column_sums(squares, part + columns, here, columns);
}

// Mean and variance of each column, `[2, columns]`, from means of x - s and of (x - s)^2 in the same
// place.
KERNEL(moments)(const value *x, float *both, int columns) {
    int i = place();
    if (i >= columns)
        return;
    float off = both[i], square = both[columns + i];
    both[i] = to_float(x[i]) + off;
    both[columns + i] = fmaxf(square - off * off, 0);
}

// A batch normalisation makes `(x - mean) scale + bias` of a column's values.
struct column_norm {
    float mean, inverse, scale, bias;
};

__device__ inline column_norm norm_of(const float *mean, const float *variance, const float *weight,
                                      const float *bias, int column) {
    float inverse = 1 / sqrtf(variance[column] + 1e-5f);
    return {mean[column], inverse, inverse * weight[column], bias[column]};
}

__device__ inline float normed(float x, const column_norm &n) {
    return (x - n.mean) * n.scale + n.bias;
}

// Each thread goes down a pack of columns, see `column_place`: what it needs of them is computed once.
KERNEL(batch_norm)(const value *x, const float *mean, const float *variance, const float *weight,
                   const float *bias, value *y, int rows, int columns, int chunk, int relu) {
    column_place here = place_in(rows, columns, chunk);
    column_norm norms[PACK];
    for (int i = 0; i < PACK; ++i)
        norms[i] = norm_of(mean, variance, weight, bias, min(here.column + i, columns - 1));
    bool all = are_whole(columns, x) && are_whole(columns, y);
    each_row(here, all, [&](bool whole, int row) {
        float a[PACK];
        load(whole, a, x + (index_t)row * columns, here.column, columns);
        for (int i = 0; i < PACK; ++i) {
            a[i] = normed(a[i], norms[i]);
            a[i] = relu ? fmaxf(a[i], 0) : a[i];
        }
        store(whole, y + (index_t)row * columns, here.column, columns, a);
    });
}

// Parts of the gradients of weight and bias, `[chunks, 2, columns]`.
KERNEL(batch_norm_sums)(const value *x, const float *mean, const float *variance,
                        const float *weight, const float *bias, const value *dy, float *parts,
                        int rows, int columns, int chunk, int relu) {
    column_place here = place_in(rows, columns, chunk);
    float dw[PACK] = {}, db[PACK] = {};
    column_norm norms[PACK];
    for (int i = 0; i < PACK; ++i)
        norms[i] = norm_of(mean, variance, weight, bias, min(here.column + i, columns - 1));
    bool all = are_whole(columns, x) && are_whole(columns, dy);
    each_row(here, all, [&](bool whole, int row) {
        float a[PACK], g[PACK];
        load(whole, a, x + (index_t)row * columns, here.column, columns);
        load(whole, g, dy + (index_t)row * columns, here.column, columns);
        for (int i = 0; i < PACK; ++i) {
            if (relu && normed(a[i], norms[i]) <= 0)
                continue;
            dw[i] += g[i] * (a[i] - norms[i].mean) * norms[i].inverse;
            db[i] += g[i];
        }
    });
    float *part = parts + (index_t)blockIdx.y * 2 * columns;
    put_column_sums(dw, part, here, columns);
    put_column_sums(db, part + columns, here, columns);
}

// With n = (x - mean) inverse and g the gradient that the ReLU let through:
// dx = inverse weight (g - (db + n dw) / rows), where `sums` holds dw and db, and is null for
// statistics that are constants.
KERNEL(batch_norm_back)(const value *x, const float *mean, const float *variance,
                        const float *weight, const float *bias, const value *dy, const float *sums,
                        value *dx, int rows, int columns, int chunk, int relu) {
    column_place here = place_in(rows, columns, chunk);
    column_norm norms[PACK];
    float along[PACK] = {}, off[PACK] = {};
    for (int i = 0; i < PACK; ++i) {
        int column = min(here.column + i, columns - 1);
        norms[i] = norm_of(mean, variance, weight, bias, column);
        if (sums) {
            along[i] = norms[i].inverse * sums[column] / rows;
            off[i] = sums[columns + column] / rows;
        }
    }
    bool all = are_whole(columns, x) && are_whole(columns, dy) && are_whole(columns, dx);
    each_row(here, all, [&](bool whole, int row) {
        float a[PACK], g[PACK];
        load(whole, a, x + (index_t)row * columns, here.column, columns);
        load(whole, g, dy + (index_t)row * columns, here.column, columns);
        for (int i = 0; i < PACK; ++i) {
            float own = relu && normed(a[i], norms[i]) <= 0 ? 0 : g[i];
            g[i] = norms[i].scale * (own - off[i] - (a[i] - norms[i].mean) * along[i]);
        }
        store(whole, dx + (index_t)row * columns, here.column, columns, g);
    });
}
