// AdamW (Loshchilov & Hutter 2019) over flat buffers, and the length of a whole gradient.

// Each block's part of the sum of squares.
KERNEL(norm_sums)(const float *gradient, float *parts, index_t count) {
    float sum = 0;
    for (index_t at = place(); at < count; at += (index_t)gridDim.x * blockDim.x)
        sum += gradient[at] * gradient[at];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

// mean = b1 mean + (1 - b1) g, square = b2 square + (1 - b2) g^2,
// weight = kept weight - size mean / (sqrt(factor square) + epsilon). Nothing moves if the gradient
// is not finite, which nobody waits here to hear.
KERNEL(adamw)(float *weight, bf16 *copy, float *mean, float *square, const float *gradient,
              const float *norm, index_t count, float scale, float b1, float b2, float size,
              float factor, float epsilon, float kept) {
    index_t at = place();
    if (at >= count || !isfinite(*norm))
        return;
    float g = scale * gradient[at];
    float m = b1 * mean[at] + (1 - b1) * g, s = b2 * square[at] + (1 - b2) * g * g;
    float w = kept * weight[at] - size * m / (sqrtf(s * factor) + epsilon);
    mean[at] = m;
    square[at] = s;
    weight[at] = w;
    put(&copy[at], w);
}
