// Convolution as a product with what lies under the window, and pooling; pictures are `[B, H, W, C]`.

// `[B, H, W, C]` -> `[B, H', W', C side side]`, the order of a kernel in a checkpoint.
KERNEL(unfold)(const value *x, value *y, index_t count, int height, int width, int channels, int side,
               int stride, int padding, int high, int wide) {
    index_t at = place();
    if (at >= count)
        return;
    int column = at % side, row = at / side % side, channel = at / (side * side) % channels;
    index_t cell = at / ((index_t)side * side * channels);
    int left = cell % wide * stride + column - padding;
    int top = cell / wide % high * stride + row - padding;
    bool is_inside = left >= 0 && left < width && top >= 0 && top < height;
    index_t from = ((cell / wide / high * height + top) * width + left) * channels + channel;
    put(&y[at], is_inside ? to_float(x[from]) : 0);
}

// The gradient of a pixel: the sum over all windows that saw it.
KERNEL(unfold_back)(const value *dy, value *dx, index_t count, int height, int width, int channels,
                    int side, int stride, int padding, int high, int wide) {
    index_t at = place();
    if (at >= count)
        return;
    int channel = at % channels, left = at / channels % width;
    int top = at / channels / width % height;
    index_t picture = at / channels / width / height;
    float sum = 0;
    for (int row = 0; row < side; ++row)
        for (int column = 0; column < side; ++column) {
            int y = top + padding - row, x = left + padding - column;
            if (y < 0 || x < 0 || y % stride || x % stride || y / stride >= high || x / stride >= wide)
                continue;
            index_t cell = (picture * high + y / stride) * wide + x / stride;
            sum += to_float(dy[((cell * channels + channel) * side + row) * side + column]);
        }
    put(&dx[at], sum);
}

// The mean of each `side` x `side` tile.
KERNEL(avg_pool)(const value *x, value *y, index_t count, int height, int width, int channels,
                 int side) {
    index_t at = place();
    if (at >= count)
        return;
    int high = height / side, wide = width / side;
    int channel = at % channels, left = at / channels % wide * side;
    int top = at / channels / wide % high * side;
    index_t picture = at / channels / wide / high;
    float sum = 0;
    for (int row = top; row < top + side; ++row)
        for (int column = left; column < left + side; ++column)
            sum += to_float(x[((picture * height + row) * width + column) * channels + channel]);
    put(&y[at], sum / (side * side));
}

KERNEL(avg_pool_back)(const value *dy, value *dx, index_t count, int height, int width, int channels,
                      int side) {
    index_t at = place();
    if (at >= count)
        return;
    int channel = at % channels, column = at / channels % width;
    int row = at / channels / width % height;
    index_t picture = at / channels / width / height;
    index_t cell = (picture * (height / side) + row / side) * (width / side) + column / side;
    put(&dx[at], to_float(dy[cell * channels + channel]) / (side * side));
}
