// Convolution as a product with what lies under the window, and pooling; pictures are `[B, H, W, C]`.
// A thread has a pack of one pixel's channels.

// The order of a kernel in a checkpoint, `[O, C, side side]`, to that of cells, `[O, side side, C]`.
KERNEL(kernel_cells)(const value *x, value *y, index_t count, int channels, int area) {
    index_t at = place();
    if (at >= count)
        return;
    int channel = at % channels, place = at / channels % area;
    y[at] = x[(at / channels / area * channels + channel) * area + place];
}

// Adds the gradient of cells to that of a kernel.
template <class T>
__device__ inline void add_cells(const T *dy, float *dx, index_t count, int channels, int area) {
    index_t at = place();
    if (at >= count)
        return;
    int place = at % area, channel = at / area % channels;
    dx[at] += to_float(dy[(at / channels / area * area + place) * channels + channel]);
}

KERNEL(kernel_back)(const value *dy, float *dx, index_t count, int channels, int area) {
    add_cells(dy, dx, count, channels, area);
}

KERNEL(kernel_sums_back)(const float *dy, float *dx, index_t count, int channels, int area) {
    add_cells(dy, dx, count, channels, area);
}

// `[B, H, W, C]` -> `[B, H', W', side side, C]`; `count` packs of `[B, H', W', C]`.
KERNEL(unfold)(const value *x, value *y, unsigned count, int height, int width, int channels,
               int side, int stride, int padding, int high, int wide) {
    unsigned at = place(), packs = (channels + PACK - 1) / PACK;
    if (place() >= count)
        return;
    unsigned cell = at / packs, picture = cell / wide / high;
    int channel = at % packs * PACK;
    int left = cell % wide * stride - padding, top = cell / wide % high * stride - padding;
    x += (index_t)picture * height * width * channels;
    y += (index_t)cell * side * side * channels;
    for (int row = top; row < top + side; ++row)
        for (int column = left; column < left + side; ++column, y += channels) {
            float a[PACK] = {};
            if (column >= 0 && column < width && row >= 0 && row < height)
                load(a, x + ((index_t)row * width + column) * channels, channel, channels);
            store(y, channel, channels, a);
        }
}

// The gradient of a pixel: the sum over all windows that saw it; `count` packs.
KERNEL(unfold_back)(const value *dy, value *dx, unsigned count, int height, int width, int channels,
                    int side, int stride, int padding, int high, int wide) {
    unsigned at = place(), packs = (channels + PACK - 1) / PACK;
    if (place() >= count)
        return;
    unsigned pixel = at / packs, picture = pixel / width / height;
    int channel = at % packs * PACK, left = pixel % width, top = pixel / width % height;
    float sum[PACK] = {}, a[PACK];
    for (int row = 0; row < side; ++row)
        for (int column = 0; column < side; ++column) {
            int y = top + padding - row, x = left + padding - column;
            if (y < 0 || x < 0 || y % stride || x % stride || y / stride >= high || x / stride >= wide)
                continue;
            index_t cell = ((index_t)picture * high + y / stride) * wide + x / stride;
            load(a, dy + ((cell * side + row) * side + column) * channels, channel, channels);
            for (int i = 0; i < PACK; ++i)
                sum[i] += a[i];
        }
    store(dx + (index_t)pixel * channels, channel, channels, sum);
}

// The mean of each `side` x `side` tile; `count` packs.
KERNEL(avg_pool)(const value *x, value *y, unsigned count, int height, int width, int channels,
                 int side) {
    unsigned at = place(), packs = (channels + PACK - 1) / PACK;
    if (place() >= count)
        return;
    int high = height / side, wide = width / side, channel = at % packs * PACK;
    unsigned tile = at / packs, picture = tile / wide / high;
    int left = tile % wide * side, top = tile / wide % high * side;
    float sum[PACK] = {}, a[PACK], share = 1.0f / (side * side);
    for (int row = top; row < top + side; ++row)
        for (int column = left; column < left + side; ++column) {
            load(a, x + (((index_t)picture * height + row) * width + column) * channels, channel,
                 channels);
            for (int i = 0; i < PACK; ++i)
                sum[i] += a[i] * share;
        }
    store(y + (index_t)tile * channels, channel, channels, sum);
}

KERNEL(avg_pool_back)(const value *dy, value *dx, unsigned count, int height, int width,
                      int channels, int side) {
    unsigned at = place(), packs = (channels + PACK - 1) / PACK;
    if (place() >= count)
        return;
    unsigned pixel = at / packs, picture = pixel / width / height;
    int channel = at % packs * PACK, column = pixel % width, row = pixel / width % height;
    index_t tile = ((index_t)picture * (height / side) + row / side) * (width / side) + column / side;
    float a[PACK];
    load(a, dy + tile * channels, channel, channels);
    for (int i = 0; i < PACK; ++i)
        a[i] *= 1.0f / (side * side);
    store(dx + (index_t)pixel * channels, channel, channels, a);
}
