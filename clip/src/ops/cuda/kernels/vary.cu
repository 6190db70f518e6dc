// Pictures of bytes to varied, normalised pixels; see `image::Variation`.

#define BRIGHTNESS 0
#define CONTRAST 1
#define SATURATION 2
#define HUE 3

struct change_t {
    int kind;
    float amount;
};

struct variation_t {
    float left, top, wide, high;
    int flip;
    // Its own among all changes.
    int first, end;
};

struct color_t {
    float of[3];
};

__device__ inline float luma(color_t x) {
    return 0.299f * x.of[0] + 0.587f * x.of[1] + 0.114f * x.of[2];
}

// Before the source pixel of an output pixel's centre, and how far it lies behind that.
__device__ inline int source(float start, float extent, int at, int side, float *behind) {
    float centre = start + (at + 0.5f) * extent / side - 0.5f;
    centre = fminf(fmaxf(centre, 0), side - 1);
    int before = min((int)centre, side - 1);
    *behind = centre - before;
    return before;
}

// A pixel of the rectangle at the size of the whole, bilinear; 0 to 1.
__device__ inline color_t cropped(const unsigned char *bytes, const variation_t &v, int side, int at) {
    float along, down;
    int x = at % side, y = source(v.top, v.high, at / side, side, &down);
    x = source(v.left, v.wide, v.flip ? side - 1 - x : x, side, &along);
    int right = min(x + 1, side - 1), below = min(y + 1, side - 1);
    color_t color;
    for (int c = 0; c < 3; ++c) {
        float p = bytes[3 * (y * side + x) + c], q = bytes[3 * (y * side + right) + c];
        float r = bytes[3 * (below * side + x) + c], s = bytes[3 * (below * side + right) + c];
        float upper = p + (q - p) * along, lower = r + (s - r) * along;
        color.of[c] = (upper + (lower - upper) * down) / 255;
    }
    return color;
}

__device__ inline float unit(float x) { return fminf(fmaxf(x, 0), 1); }

__device__ inline color_t turned(color_t x, float angle) {
    float r = x.of[0], g = x.of[1], b = x.of[2];
    float most = fmaxf(fmaxf(r, g), b), chroma = most - fminf(fminf(r, g), b);
    if (chroma == 0)
        return x; // gray has no hue
    float sixth = most == r ? (g - b) / chroma : most == g ? 2 + (b - r) / chroma : 4 + (r - g) / chroma;
    float turn = sixth / 6 + angle;
    turn = 6 * (turn - floorf(turn));
    for (int c = 0; c < 3; ++c) {
        float distance = fabsf(turn - 2 * c);
        distance = fminf(distance, 6 - distance);
        x.of[c] = most - chroma * unit(distance - 1);
    }
    return x;
}

__device__ inline color_t changed(color_t x, change_t change, float mean) {
    if (change.kind == HUE)
        return turned(x, change.amount);
    float base = change.kind == CONTRAST ? mean : change.kind == SATURATION ? luma(x) : 0;
    for (int c = 0; c < 3; ++c)
        x.of[c] = unit(base + change.amount * (x.of[c] - base));
    return x;
}

// `[B, S, S, 3]` bytes -> `[B, 3, S, S]`, a block for each picture; normalised if there are
// `statistics`, the mean of each channel and then its deviation. A change of contrast waits for the
// mean of what comes before it: between two of them a picture is passed over once.
KERNEL(vary)(const unsigned char *bytes, const variation_t *variations, const change_t *changes,
             const float *statistics, float *planes, int side) {
    variation_t own = variations[blockIdx.x];
    int area = side * side, from = own.first;
    bytes += (index_t)blockIdx.x * 3 * area;
    planes += (index_t)blockIdx.x * 3 * area;
    float mean = 0;
    for (bool is_first = true;; is_first = false) {
        int until = is_first ? from : from + 1;
        while (until < own.end && changes[until].kind != CONTRAST)
            ++until;
        float sum = 0;
        for (int at = threadIdx.x; at < area; at += blockDim.x) {
            color_t x;
            if (is_first)
                x = cropped(bytes, own, side, at);
            else
                for (int c = 0; c < 3; ++c)
                    x.of[c] = planes[c * area + at];
            for (int i = from; i < until; ++i)
                x = changed(x, changes[i], mean);
            sum += luma(x);
            for (int c = 0; c < 3; ++c)
                planes[c * area + at] = until == own.end && statistics
                                            ? (x.of[c] - statistics[c]) / statistics[3 + c]
                                            : x.of[c];
        }
        if (until == own.end)
            return;
        mean = block_sum(sum) / area;
        from = until;
    }
}

// Beyond the border a picture comes back, without its border pixel.
__device__ inline int mirrored(int at, int count) {
    at = abs(at);
    return min(at, 2 * (count - 1) - min(at, 2 * (count - 1)));
}

// Each row of `[B, 3, S, S]` under a row of `kernel` weights, `[B, kernel]`.
KERNEL(blur_rows)(const float *x, const float *weights, float *y, int side, int kernel) {
    int at = place(), area = side * side;
    if (at >= area)
        return;
    index_t plane = ((index_t)blockIdx.z * 3 + blockIdx.y) * area;
    weights += (index_t)blockIdx.z * kernel;
    x += plane + at / side * side;
    float sum = 0;
    for (int i = 0; i < kernel; ++i)
        sum += weights[i] * x[mirrored(at % side + i - kernel / 2, side)];
    y[plane + at] = sum;
}

// The same down the columns, then normalised.
KERNEL(blur_columns)(const float *x, const float *weights, const float *statistics, float *y,
                     int side, int kernel) {
    int at = place(), area = side * side;
    if (at >= area)
        return;
    index_t plane = ((index_t)blockIdx.z * 3 + blockIdx.y) * area;
    weights += (index_t)blockIdx.z * kernel;
    x += plane + at % side;
    float sum = 0;
    for (int i = 0; i < kernel; ++i)
        sum += weights[i] * x[mirrored(at / side + i - kernel / 2, side) * side];
    y[plane + at] = (sum - statistics[blockIdx.y]) / statistics[3 + blockIdx.y];
}
