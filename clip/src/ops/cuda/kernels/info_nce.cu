// InfoNCE (CLIP, section 2.3) over a table of cosines `[B, B]`, and the nearest rows of a pool.
//
// Pairs of one group are no negatives of each other; `groups` may be null.

__device__ inline bool is_negative(const int *groups, int row, int column) {
    return !groups || row == column || groups[row] != groups[column];
}

// The logarithm of the sum of exponentials along each row of the table, or down each column where
// `across` is the table's width and `along` 1: element j of line i lies at `i along + j across`.
KERNEL(nce_sums)(const float *cosines, const float *logit_scale, const int *groups, float *sums,
                 int count, int along, int across) {
    int line = place() / WARP, lane = threadIdx.x % WARP;
    if (line >= count)
        return;
    float scale = expf(*logit_scale), highest = -INFINITY, sum = 0;
    for (int j = lane; j < count; j += WARP)
        if (is_negative(groups, line, j))
            highest = fmaxf(highest, scale * cosines[(index_t)line * along + (index_t)j * across]);
    highest = warp_max(highest);
    for (int j = lane; j < count; j += WARP)
        if (is_negative(groups, line, j))
            sum += expf(scale * cosines[(index_t)line * along + (index_t)j * across] - highest);
    sum = warp_sum(sum);
    if (lane == 0)
        sums[line] = highest + logf(sum);
}

// The gradient of the loss at each cosine, `[B, B]`, and of each row its part of the loss and of the
// gradient of the logit scale, `[B, 2]`. One warp per row; the gradient may take the cosines' place.
KERNEL(nce_gradient)(const float *cosines, const float *logit_scale, const int *groups,
                     const float *row_sums, const float *column_sums, value *gradient, float *parts,
                     int count) {
    int row = place() / WARP, lane = threadIdx.x % WARP;
    if (row >= count)
        return;
    float scale = expf(*logit_scale), along = 0;
    float own = scale * cosines[(index_t)row * count + row];
    own = __shfl_sync(ALL_LANES, own, 0); // all have read it: the gradient may take its place
    for (int j = lane; j < count; j += WARP) {
        index_t at = (index_t)row * count + j;
        float logit = scale * cosines[at], share = 0;
        if (is_negative(groups, row, j))
            share = expf(logit - row_sums[row]) + expf(logit - column_sums[j]);
        float g = (share - (row == j ? 2 : 0)) / (2 * count);
        along += g * logit;
        put(&gradient[at], g * scale);
    }
    along = warp_sum(along);
    if (lane == 0) {
        parts[2 * row] = (row_sums[row] + column_sums[row] - 2 * own) / (2 * count);
        parts[2 * row + 1] = along;
    }
}

// The greatest cosine of each image among the pool's slots `first..first + count` and those before,
// passing over slots of the image's own row; of equal ones the lowest slot. One warp per image.
KERNEL(nearest)(const float *cosines, const int *owners, const int *rows, float *best, int *slots,
                int images, int first, int count) {
    int image = place() / WARP, lane = threadIdx.x % WARP;
    if (image >= images)
        return;
    float highest = -INFINITY;
    int slot = 0x7fffffff;
    for (int at = lane; at < count; at += WARP) {
        float cosine = cosines[(index_t)image * count + at];
        if (owners[first + at] != rows[image] && cosine > highest) {
            highest = cosine;
            slot = first + at;
        }
    }
    float found = warp_max(highest);
    if (highest != found)
        slot = 0x7fffffff;
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        slot = min(slot, __shfl_xor_sync(ALL_LANES, slot, offset));
    if (lane == 0 && (first == 0 || found > best[image])) {
        best[image] = found;
        slots[image] = found > -INFINITY ? slot : 0;
    }
}
