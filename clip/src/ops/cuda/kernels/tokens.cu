// From pixels and ids to sequences of tokens, and from sequences to one row each.

// `[B, 3, H, W]` floats -> `[B, H, W, 3]`.
KERNEL(image)(const float *pixels, value *y, index_t count, int channels, int area) {
    index_t at = PACK * place();
    if (at >= count)
        return;
    int channel = at % channels, pixel = at / channels % area;
    index_t picture = at / channels / area;
    float a[PACK];
    for (int i = 0; i < PACK; ++i) {
        a[i] = at + i < count ? pixels[(picture * channels + channel) * area + pixel] : 0;
        if (++channel == channels)
            channel = 0, ++pixel;
        if (pixel == area)
            pixel = 0, ++picture;
    }
    store(y, at, count, a);
}

// `[B, 3, H, W]` floats -> `[B, N, 3 side side]`, tiles in reading order, each channel by channel.
KERNEL(patches)(const float *pixels, value *y, index_t count, int channels, int height, int width,
                int side) {
    index_t at = PACK * place();
    if (at >= count)
        return;
    int columns = width / side, tiles = height / side * columns, area = side * side;
    int pixel = at % area, channel = at / area % channels;
    int tile = at / area / channels % tiles;
    index_t picture = at / area / channels / tiles;
    float a[PACK];
    for (int i = 0; i < PACK; ++i) {
        int row = tile / columns * side + pixel / side, column = tile % columns * side + pixel % side;
        index_t from = ((picture * channels + channel) * height + row) * width + column;
        a[i] = at + i < count ? pixels[from] : 0;
        if (++pixel == area)
            pixel = 0, ++channel;
        if (channel == channels)
            channel = 0, ++tile;
        if (tile == tiles)
            tile = 0, ++picture;
    }
    store(y, at, count, a);
}

// Rows of a table, and positions on top: `[B, T]` -> `[B, T, C]`.
KERNEL(embed)(const int *ids, const float *table, const float *positions, value *y, index_t count,
              int length, int columns) {
    index_t at = place();
    if (at >= count)
        return;
    index_t token = at / columns;
    int column = at % columns;
    float row = table[(index_t)ids[token] * columns + column];
    put(&y[at], row + positions[token % length * columns + column]);
}

// Of each stretch of places that hold one id the sum of their gradients: `[stretches, C]`; stretch s
// is `places[starts[s]..starts[s + 1]]`. One block each.
KERNEL(embed_sums)(const value *dy, const int *places, const int *starts, float *parts, int columns) {
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        float sum = 0;
        for (int at = starts[blockIdx.x]; at < starts[blockIdx.x + 1]; ++at)
            sum += to_float(dy[(index_t)places[at] * columns + column]);
        parts[(index_t)blockIdx.x * columns + column] = sum;
    }
}

// Adds the stretches `firsts[i]..firsts[i + 1]` to row `ids[i]` of the table's gradient.
KERNEL(embed_fold)(const float *parts, const int *ids, const int *firsts, float *table, int columns) {
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        float sum = 0;
        for (int at = firsts[blockIdx.x]; at < firsts[blockIdx.x + 1]; ++at)
            sum += parts[(index_t)at * columns + column];
        table[(index_t)ids[blockIdx.x] * columns + column] += sum;
    }
}

// A token before all others and positions on top: `[B, N, C]` -> `[B, 1 + N, C]`. The token is
// `first`, or the mean of the others where that is null.
KERNEL(with_first)(const value *x, const float *first, const float *positions, value *y,
                   index_t count, int tokens, int columns) {
    index_t at = place();
    if (at >= count)
        return;
    int column = at % columns, token = at / columns % (tokens + 1);
    x += at / columns / (tokens + 1) * tokens * columns + column;
    float sum = 0;
    if (token > 0)
        sum = to_float(x[(index_t)(token - 1) * columns]);
    else if (first)
        sum = first[column];
    else
        for (int other = 0; other < tokens; ++other)
            sum += to_float(x[(index_t)other * columns]) / tokens;
    put(&y[at], sum + positions[token * columns + column]);
}

// The gradient of the others, `[B, N, C]`; with `is_mean` each has its share in the first token's.
KERNEL(with_first_back)(const value *dy, value *dx, index_t count, int tokens, int columns,
                        int is_mean) {
    index_t at = place();
    if (at >= count)
        return;
    int column = at % columns, token = at / columns % tokens;
    dy += at / columns / tokens * (tokens + 1) * columns + column;
    float share = is_mean ? to_float(dy[0]) / tokens : 0;
    put(&dx[at], to_float(dy[(index_t)(token + 1) * columns]) + share);
}

// One token of each sequence: `[B, T, C]` -> `[B, C]`.
KERNEL(pick)(const value *x, const int *tokens, value *y, index_t count, int length, int columns) {
    index_t at = place();
    if (at >= count)
        return;
    index_t sequence = at / columns;
    y[at] = x[(sequence * length + tokens[sequence]) * columns + at % columns];
}

// Zero but at the tokens that were picked.
KERNEL(pick_back)(const value *dy, const int *tokens, value *dx, index_t count, int length,
                  int columns) {
    index_t at = place();
    if (at >= count)
        return;
    index_t token = at / columns, sequence = token / length;
    bool is_picked = tokens[sequence] == token % length;
    put(&dx[at], is_picked ? to_float(dy[sequence * columns + at % columns]) : 0);
}

// Each row divided by its Euclidean length; one warp per row.
KERNEL(normalize)(const value *x, float *y, float *lengths, int rows, int columns) {
    int row = place() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows)
        return;
    index_t start = (index_t)row * columns;
    float squares = 0;
    for (int i = lane; i < columns; i += WARP)
        squares += to_float(x[start + i]) * to_float(x[start + i]);
    float length = sqrtf(warp_sum(squares) + 1e-24f);
    for (int i = lane; i < columns; i += WARP)
        y[start + i] = to_float(x[start + i]) / length;
    if (lane == 0)
        lengths[row] = length;
}

// dx = (dy - y <y, dy>) / length.
KERNEL(normalize_back)(const float *y, const float *lengths, const float *dy, value *dx, int rows,
                       int columns) {
    int row = place() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows)
        return;
    index_t start = (index_t)row * columns;
    float along = 0;
    for (int i = lane; i < columns; i += WARP)
        along += y[start + i] * dy[start + i];
    along = warp_sum(along);
    for (int i = lane; i < columns; i += WARP)
        put(&dx[start + i], (dy[start + i] - y[start + i] * along) / lengths[row]);
}
