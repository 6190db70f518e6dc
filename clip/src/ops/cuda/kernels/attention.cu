// softmax(q k^T / sqrt(d)) v with the softmax of a row built up while its keys go by (Milakov &
// Gimelshein 2018; Dao 2023, FlashAttention-2): no table of queries by keys is kept. The way back
// computes the shares again from the logarithm, to base 2, of each row's sum.
//
// Head h of token t of sequence b begins at `x[(b tokens + t) stride + h d]`. A block is one head of
// one sequence; each of its warps has 16 rows in its registers, as tensor cores want them (see
// `multiply`), and `TILE` rows of the other side at a time lie in shared memory, for all warps.

// Rows of a warp.
#define ROWS 16
#ifdef VALUE_F32
#define TILE 32
#else
#define TILE 64
#endif
// Values between rows, so that lanes which read a column meet different banks.
#define PAD 8
#define LOG2_E 1.44269504f

// Rows of one head of at most `HEAD` values.
template <int HEAD> struct alignas(16) tile {
    value of[TILE][HEAD + PAD];
};

struct attention_t {
    const value *q, *k, *v;
    const int *last;
    int queries, keys, head, query_stride, key_stride, causal;
    float factor;
};

// Keys that a query of this sequence sees; of a query that is not there, one.
__device__ inline int keys_seen(const attention_t &all, int query) {
    if (query >= all.queries)
        return 1;
    return all.last ? all.last[blockIdx.z] + 1 : all.causal ? query + 1 : all.keys;
}

// The first row of this warp.
__device__ inline int first_row() {
    return (blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * ROWS;
}

// This head of the first token of this sequence.
template <class T>
__device__ inline T *head_of(T *x, int tokens, int stride, int head) {
    return x + (index_t)blockIdx.z * tokens * stride + blockIdx.y * head;
}

// Rows `first..first + TILE`; zeros where there are none.
template <int HEAD>
__device__ inline void load_tile(tile<HEAD> &y, const value *x, int first, int rows, int stride,
                                 int head) {
    const int packs = HEAD / PACK; // known when it is compiled: division takes dozens of instructions
    for (int at = threadIdx.x; at < TILE * packs; at += blockDim.x) {
        int row = at / packs, column = at % packs * PACK;
        const value *from = x + (index_t)(first + row) * stride;
        pack some = {};
        if (first + row < rows)
            some = head == HEAD ? *(const pack *)(from + column) : load_pack(from, column, head);
        *(pack *)&y.of[row][column] = some;
    }
}

__device__ inline duo load_duo(const value *x, int column, int head) {
    if (head % 2 == 0)
        return column < head ? *(const duo *)(x + column) : duet(0.0f, 0.0f);
    return duet(column < head ? to_float(x[column]) : 0,
                column + 1 < head ? to_float(x[column + 1]) : 0);
}

__device__ inline void store_duo(value *x, int column, int head, float a, float b) {
    if (head % 2 == 0) {
        if (column < head)
            *(duo *)(x + column) = duet(a, b);
        return;
    }
    if (column < head)
        put(&x[column], a);
    if (column + 1 < head)
        put(&x[column + 1], b);
}

// The 16 rows of a warp as left factor, `HEAD / 16` tiles; zeros where there are none. Heads that
// fill a tile are the usual ones, and need no look at each column.
template <int HEAD>
__device__ inline void load_rows(duo (&y)[HEAD / 16][4], const value *x, int rows, int stride,
                                 int head) {
    int row = first_row() + threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
    const value *both[2] = {x + (index_t)row * stride, x + (index_t)(row + 8) * stride};
    bool are_there[2] = {row < rows, row + 8 < rows};
#pragma unroll
    for (int part = 0; part < HEAD / 16; ++part)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int at = column + part * 16 + i / 2 * 8;
            y[part][i] = duet(0.0f, 0.0f);
            if (are_there[i % 2] && head == HEAD)
                y[part][i] = *(const duo *)(both[i % 2] + at);
            else if (are_there[i % 2] && part * 16 < head)
                y[part][i] = load_duo(both[i % 2], at, head);
        }
}

template <int HEAD>
__device__ inline void store_rows(value *y, const float (&x)[HEAD / 8][4], const float (&factor)[2],
                                  int rows, int stride, int head) {
    int row = first_row() + threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        value *to = y + (index_t)(row + i * 8) * stride;
        if (row + i * 8 >= rows)
            continue;
#pragma unroll
        for (int part = 0; part < HEAD / 8; ++part) {
            float left = x[part][2 * i] * factor[i], right = x[part][2 * i + 1] * factor[i];
            if (head == HEAD)
                *(duo *)(to + column + part * 8) = duet(left, right);
            else if (part * 8 < head)
                store_duo(to, column + part * 8, head, left, right);
        }
    }
}

// `y = a x^T` with 16 rows x of a tile, from row `from` on, in two halves of 8.
template <int HEAD>
__device__ inline void times_rows(float (&y)[2][4], const duo (&a)[HEAD / 16][4],
                                  const tile<HEAD> &x, int from, int head) {
    int lane = threadIdx.x % WARP;
    for (int half = 0; half < 2; ++half) {
        const value *row = x.of[from + half * 8 + lane / 4] + lane % 4 * 2;
        for (int i = 0; i < 4; ++i)
            y[half][i] = 0;
#pragma unroll
        for (int part = 0; part < HEAD / 16; ++part)
            if (part * 16 < head) {
                duo b[2] = {*(const duo *)(row + part * 16), *(const duo *)(row + part * 16 + 8)};
                multiply(y[half], a[part], b);
            }
    }
}

// `y += a x` with the same rows, of which a has the shares.
template <int HEAD>
__device__ inline void add_shares(float (&y)[HEAD / 8][4], const float (&shares)[2][4],
                                  const tile<HEAD> &x, int from, int head) {
    duo a[4] = {duet(shares[0][0], shares[0][1]), duet(shares[0][2], shares[0][3]),
                duet(shares[1][0], shares[1][1]), duet(shares[1][2], shares[1][3])};
#pragma unroll
    for (int part = 0; part < HEAD / 16; ++part)
        if (part * 16 < head) {
            duo b[2][2];
            load_factors(b, &x.of[from][part * 16], HEAD + PAD);
            multiply(y[2 * part], a, b[0]);
            multiply(y[2 * part + 1], a, b[1]);
        }
}

// `y` is `[B, queries, heads head]`; `sums`, `[B, heads, queries]`, takes the logarithms.
template <int HEAD, bool IS_EXACT>
__device__ inline void attend(tile<HEAD> (&tiles)[2], const attention_t &all, value *y, float *sums) {
    const int head = IS_EXACT ? HEAD : all.head;
    int lane = threadIdx.x % WARP, row = first_row() + lane / 4, width = gridDim.y * head;
    const value *k = head_of(all.k, all.keys, all.key_stride, head);
    const value *v = head_of(all.v, all.keys, all.key_stride, head);
    duo q[HEAD / 16][4];
    load_rows<HEAD>(q, head_of(all.q, all.queries, all.query_stride, head), all.queries,
                    all.query_stride, head);
    int seen[2] = {keys_seen(all, row), keys_seen(all, row + 8)};
    int most = keys_seen(all, min(first_row() + ROWS, all.queries) - 1);
    float highest[2] = {-INFINITY, -INFINITY}, sum[2] = {}, mixed[HEAD / 8][4] = {};
    float factor = all.factor * LOG2_E;
    for (int first = 0; first < all.keys; first += TILE) {
        __syncthreads(); // the last tile is done with
        load_tile(tiles[0], k, first, all.keys, all.key_stride, head);
        load_tile(tiles[1], v, first, all.keys, all.key_stride, head);
        __syncthreads();
        for (int from = 0; from < TILE && first + from < most; from += ROWS) {
            float shares[2][4];
            times_rows<HEAD>(shares, q, tiles[0], from, head);
            for (int half = 0; half < 2; ++half)
                for (int i = 0; i < 4; ++i) {
                    int key = first + from + half * 8 + lane % 4 * 2 + i % 2;
                    shares[half][i] = key < seen[i / 2] ? factor * shares[half][i] : -INFINITY;
                }
            float shrink[2];
            for (int i = 0; i < 2; ++i) {
                float *left = &shares[0][2 * i], *right = &shares[1][2 * i];
                float here = fmaxf(fmaxf(left[0], left[1]), fmaxf(right[0], right[1]));
                float higher = fmaxf(highest[i], quad_max(here));
                shrink[i] = exp2f(highest[i] - higher);
                left[0] = exp2f(left[0] - higher), left[1] = exp2f(left[1] - higher);
                right[0] = exp2f(right[0] - higher), right[1] = exp2f(right[1] - higher);
                sum[i] = sum[i] * shrink[i] + left[0] + left[1] + right[0] + right[1];
                highest[i] = higher;
            }
            for (int part = 0; part < HEAD / 8; ++part)
                for (int i = 0; i < 4; ++i)
                    mixed[part][i] *= shrink[i / 2];
            add_shares<HEAD>(mixed, shares, tiles[1], from, head);
        }
    }
    sum[0] = quad_sum(sum[0]), sum[1] = quad_sum(sum[1]);
    float factors[2] = {1 / sum[0], 1 / sum[1]};
    store_rows<HEAD>(head_of(y, all.queries, width, head), mixed, factors, all.queries, width,
                     head);
    sums += ((index_t)blockIdx.z * gridDim.y + blockIdx.y) * all.queries;
    for (int i = 0; i < 2; ++i)
        if (lane % 4 == 0 && row + i * 8 < all.queries)
            sums[row + i * 8] = highest[i] + log2f(sum[i]);
}

// dq = sum over keys of ds k, with p the share and ds = factor p (<dy, v> - <dy, y>); `dots`,
// `[B, heads, queries]`, takes <dy, y>.
template <int HEAD, bool IS_EXACT>
__device__ inline void attend_back_queries(tile<HEAD> (&tiles)[2], const attention_t &all,
                                           const value *y, const value *dy, const float *sums,
                                           float *dots, value *dq) {
    const int head = IS_EXACT ? HEAD : all.head;
    int lane = threadIdx.x % WARP, row = first_row() + lane / 4, width = gridDim.y * head;
    const value *k = head_of(all.k, all.keys, all.key_stride, head);
    const value *v = head_of(all.v, all.keys, all.key_stride, head);
    duo q[HEAD / 16][4], g[HEAD / 16][4], out[HEAD / 16][4];
    load_rows<HEAD>(q, head_of(all.q, all.queries, all.query_stride, head), all.queries,
                    all.query_stride, head);
    load_rows<HEAD>(g, head_of(dy, all.queries, width, head), all.queries, width, head);
    load_rows<HEAD>(out, head_of(y, all.queries, width, head), all.queries, width, head);
    float along[2] = {}, sum[2] = {}, found[HEAD / 8][4] = {}, factor = all.factor * LOG2_E;
    for (int part = 0; part < HEAD / 16; ++part)
        for (int i = 0; i < 4; ++i)
            along[i % 2] += low(g[part][i]) * low(out[part][i]) + high(g[part][i]) * high(out[part][i]);
    sums += ((index_t)blockIdx.z * gridDim.y + blockIdx.y) * all.queries;
    dots += ((index_t)blockIdx.z * gridDim.y + blockIdx.y) * all.queries;
    for (int i = 0; i < 2; ++i) {
        along[i] = quad_sum(along[i]);
        if (row + i * 8 < all.queries) {
            sum[i] = sums[row + i * 8];
            if (lane % 4 == 0)
                dots[row + i * 8] = along[i];
        }
    }
    int seen[2] = {keys_seen(all, row), keys_seen(all, row + 8)};
    int most = keys_seen(all, min(first_row() + ROWS, all.queries) - 1);
    for (int first = 0; first < all.keys; first += TILE) {
        __syncthreads(); // the last tile is done with
        load_tile(tiles[0], k, first, all.keys, all.key_stride, head);
        load_tile(tiles[1], v, first, all.keys, all.key_stride, head);
        __syncthreads();
        for (int from = 0; from < TILE && first + from < most; from += ROWS) {
            float scores[2][4], ds[2][4];
            times_rows<HEAD>(scores, q, tiles[0], from, head);
            times_rows<HEAD>(ds, g, tiles[1], from, head);
            for (int half = 0; half < 2; ++half)
                for (int i = 0; i < 4; ++i) {
                    int key = first + from + half * 8 + lane % 4 * 2 + i % 2;
                    float share = exp2f(factor * scores[half][i] - sum[i / 2]);
                    share = key < seen[i / 2] ? share : 0;
                    ds[half][i] = all.factor * share * (ds[half][i] - along[i / 2]);
                }
            add_shares<HEAD>(found, ds, tiles[0], from, head);
        }
    }
    float factors[2] = {1, 1};
    store_rows<HEAD>(head_of(dq, all.queries, all.query_stride, head), found, factors,
                     all.queries, all.query_stride, head);
}

// dk = sum over queries of ds q, dv = sum over queries of p dy; the rows of a warp are keys.
template <int HEAD, bool IS_EXACT>
__device__ inline void attend_back_keys(tile<HEAD> (&tiles)[2], const attention_t &all,
                                        const value *dy, const float *sums, const float *dots,
                                        value *dk, value *dv) {
    const int head = IS_EXACT ? HEAD : all.head;
    int lane = threadIdx.x % WARP, row = first_row() + lane / 4, width = gridDim.y * head;
    const value *q = head_of(all.q, all.queries, all.query_stride, head);
    duo k[HEAD / 16][4], v[HEAD / 16][4];
    load_rows<HEAD>(k, head_of(all.k, all.keys, all.key_stride, head), all.keys, all.key_stride,
                    head);
    load_rows<HEAD>(v, head_of(all.v, all.keys, all.key_stride, head), all.keys, all.key_stride,
                    head);
    sums += ((index_t)blockIdx.z * gridDim.y + blockIdx.y) * all.queries;
    dots += ((index_t)blockIdx.z * gridDim.y + blockIdx.y) * all.queries;
    dy = head_of(dy, all.queries, width, head);
    float k_found[HEAD / 8][4] = {}, v_found[HEAD / 8][4] = {}, factor = all.factor * LOG2_E;
    for (int first = 0; first < all.queries; first += TILE) {
        __syncthreads(); // the last tile is done with
        load_tile(tiles[0], q, first, all.queries, all.query_stride, head);
        load_tile(tiles[1], dy, first, all.queries, width, head);
        __syncthreads();
        for (int from = 0; from < TILE && first + from < all.queries; from += ROWS) {
            if (all.causal && first + from + ROWS <= first_row())
                continue; // all of them come before these keys
            float shares[2][4], ds[2][4];
            times_rows<HEAD>(shares, k, tiles[0], from, head);
            times_rows<HEAD>(ds, v, tiles[1], from, head);
            for (int half = 0; half < 2; ++half)
                for (int i = 0; i < 4; ++i) {
                    int query = first + from + half * 8 + lane % 4 * 2 + i % 2, key = row + i / 2 * 8;
                    bool is_seen = query < all.queries && key < keys_seen(all, query);
                    float share = is_seen ? exp2f(factor * shares[half][i] - sums[query]) : 0;
                    shares[half][i] = share;
                    ds[half][i] = is_seen ? all.factor * share * (ds[half][i] - dots[query]) : 0;
                }
            add_shares<HEAD>(k_found, ds, tiles[0], from, head);
            add_shares<HEAD>(v_found, shares, tiles[1], from, head);
        }
    }
    float factors[2] = {1, 1};
    store_rows<HEAD>(head_of(dk, all.keys, all.key_stride, head), k_found, factors, all.keys,
                     all.key_stride, head);
    store_rows<HEAD>(head_of(dv, all.keys, all.key_stride, head), v_found, factors, all.keys,
                     all.key_stride, head);
}

#define ATTENTION_INPUTS                                                                            \
    const value *q, const value *k, const value *v, const int *last, int queries, int keys, int head, \
        int query_stride, int key_stride, int causal, float factor
#define ATTENTION                                                                                   \
    attention_t { q, k, v, last, queries, keys, head, query_stride, key_stride, causal, factor }

// Of heads of the usual width, which the compiler then knows, and of any up to 128.
KERNEL(attention_64)(ATTENTION_INPUTS, value *y, float *sums) {
    __shared__ tile<64> tiles[2];
    attend<64, true>(tiles, ATTENTION, y, sums);
}

KERNEL(attention_any)(ATTENTION_INPUTS, value *y, float *sums) {
    __shared__ tile<128> tiles[2];
    attend<128, false>(tiles, ATTENTION, y, sums);
}

KERNEL(attention_back_queries_64)(ATTENTION_INPUTS, const value *y, const value *dy,
                                  const float *sums, float *dots, value *dq) {
    __shared__ tile<64> tiles[2];
    attend_back_queries<64, true>(tiles, ATTENTION, y, dy, sums, dots, dq);
}

KERNEL(attention_back_queries_any)(ATTENTION_INPUTS, const value *y, const value *dy,
                                   const float *sums, float *dots, value *dq) {
    __shared__ tile<128> tiles[2];
    attend_back_queries<128, false>(tiles, ATTENTION, y, dy, sums, dots, dq);
}

KERNEL(attention_back_keys_64)(ATTENTION_INPUTS, const value *dy, const float *sums,
                               const float *dots, value *dk, value *dv) {
    __shared__ tile<64> tiles[2];
    attend_back_keys<64, true>(tiles, ATTENTION, dy, sums, dots, dk, dv);
}

KERNEL(attention_back_keys_any)(ATTENTION_INPUTS, const value *dy, const float *sums,
                                const float *dots, value *dk, value *dv) {
    __shared__ tile<128> tiles[2];
    attend_back_keys<128, false>(tiles, ATTENTION, dy, sums, dots, dk, dv);
}
