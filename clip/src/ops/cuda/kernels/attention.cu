// softmax(q k^T / sqrt(d)) v with the softmax of a row built up while its keys go by (Milakov &
// Gimelshein 2018; Dao et al. 2022): no table of queries by keys is kept. The way back computes the
// shares again from the logarithm of each row's sum.
//
// Head h of token t of sequence b begins at `x[(b tokens + t) stride + h d]`. A block is one head of
// one sequence and `HEAD_WARPS` rows, one warp each; 32 rows of the other side at a time lie in
// shared memory, for all warps.

#define HEAD_MAX 128
#define HEAD_WARPS 8
#define HEAD_PARTS (HEAD_MAX / WARP)

// One row of padding, so that 32 lanes that read a column meet 32 banks.
typedef float tile_t[WARP][HEAD_MAX + 1];

struct attention_sizes {
    int queries, keys, head, query_stride, key_stride, causal;
};

// Keys that a query of sequence `batch` sees.
__device__ inline int keys_seen(const attention_sizes &size, const int *last, int batch, int query) {
    return last ? last[batch] + 1 : size.causal ? query + 1 : size.keys;
}

// Rows `first..first + 32` of one head; zeros where there are none.
__device__ inline void load_tile(tile_t &tile, const value *x, int first, int rows, int stride,
                                 int head) {
    for (int at = threadIdx.x; at < WARP * head; at += blockDim.x) {
        int row = at / head, column = at % head;
        bool is_there = first + row < rows;
        tile[row][column] = is_there ? to_float(x[(index_t)(first + row) * stride + column]) : 0;
    }
}

// One row, `head` values, of each warp.
__device__ inline void load_row(float *row, const value *x, int head, bool is_there) {
    for (int i = threadIdx.x % WARP; i < head; i += WARP)
        row[i] = is_there ? to_float(x[i]) : 0;
}

__device__ inline float dot(const float *a, const float *b, int head) {
    float sum = 0;
    for (int i = 0; i < head; ++i)
        sum += a[i] * b[i];
    return sum;
}

// `sums += share of row r times row r of the tile`, the share of row r lying in lane r.
__device__ inline void add_rows(float *sums, float share, const tile_t &tile, int head) {
    for (int row = 0; row < WARP; ++row) {
        float factor = __shfl_sync(ALL_LANES, share, row);
        for (int part = 0; part < HEAD_PARTS; ++part) {
            int column = part * WARP + threadIdx.x % WARP;
            if (column < head)
                sums[part] += factor * tile[row][column];
        }
    }
}

__device__ inline void store_row(value *x, const float *sums, float factor, int head) {
    for (int part = 0; part < HEAD_PARTS; ++part) {
        int column = part * WARP + threadIdx.x % WARP;
        if (column < head)
            put(&x[column], sums[part] * factor);
    }
}

// `y` is `[B, queries, heads head]`; `sums`, `[B, heads, queries]`, takes the logarithms.
KERNEL(attention)(const value *q, const value *k, const value *v, const int *last, value *y,
                  float *sums, int queries, int keys, int head, int query_stride, int key_stride,
                  int causal, float factor) {
    __shared__ tile_t k_tile, v_tile;
    __shared__ float rows[HEAD_WARPS][HEAD_MAX];
    attention_sizes size = {queries, keys, head, query_stride, key_stride, causal};
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, width = gridDim.y * head;
    int query = blockIdx.x * HEAD_WARPS + warp, start = blockIdx.y * head, batch = blockIdx.z;
    bool is_there = query < queries;
    float *row = rows[warp];
    load_row(row, q + ((index_t)batch * queries + query) * query_stride + start, head, is_there);
    int seen = is_there ? keys_seen(size, last, batch, query) : 0;
    float highest = -INFINITY, sum = 0, mixed[HEAD_PARTS] = {};
    for (int first = 0; first < keys; first += WARP) {
        __syncthreads(); // the last tile is done with
        load_tile(k_tile, k + (index_t)batch * keys * key_stride + start, first, keys, key_stride, head);
        load_tile(v_tile, v + (index_t)batch * keys * key_stride + start, first, keys, key_stride, head);
        __syncthreads();
        if (first >= seen)
            continue;
        float score = first + lane < seen ? factor * dot(row, k_tile[lane], head) : -INFINITY;
        float higher = fmaxf(highest, warp_max(score));
        float share = expf(score - higher), shrink = expf(highest - higher);
        sum = sum * shrink + warp_sum(share);
        for (int part = 0; part < HEAD_PARTS; ++part)
            mixed[part] *= shrink;
        add_rows(mixed, share, v_tile, head);
        highest = higher;
    }
    if (!is_there)
        return;
    store_row(y + ((index_t)batch * queries + query) * width + start, mixed, 1 / sum, head);
    if (lane == 0)
        sums[((index_t)batch * gridDim.y + blockIdx.y) * queries + query] = highest + logf(sum);
}

// `<dy, y>` of each head and query, `[B, heads, queries]`: what the softmax takes off.
KERNEL(attention_dots)(const value *y, const value *dy, float *dots, int queries, int head) {
    int query = blockIdx.x, lane = threadIdx.x, width = gridDim.y * head;
    index_t at = ((index_t)blockIdx.z * queries + query) * width + blockIdx.y * head;
    float sum = 0;
    for (int i = lane; i < head; i += WARP)
        sum += to_float(y[at + i]) * to_float(dy[at + i]);
    sum = warp_sum(sum);
    if (lane == 0)
        dots[((index_t)blockIdx.z * gridDim.y + blockIdx.y) * queries + query] = sum;
}

// dq = sum over keys of ds k, with p the share and ds = factor p (<dy, v> - <dy, y>).
KERNEL(attention_back_queries)(const value *q, const value *k, const value *v, const int *last,
                               const float *sums, const float *dots, const value *dy, value *dq,
                               int queries, int keys, int head, int query_stride, int key_stride,
                               int causal, float factor) {
    __shared__ tile_t k_tile, v_tile;
    __shared__ float rows[HEAD_WARPS][HEAD_MAX], gradients[HEAD_WARPS][HEAD_MAX];
    attention_sizes size = {queries, keys, head, query_stride, key_stride, causal};
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, width = gridDim.y * head;
    int query = blockIdx.x * HEAD_WARPS + warp, start = blockIdx.y * head, batch = blockIdx.z;
    bool is_there = query < queries;
    index_t token = (index_t)batch * queries + query;
    float *row = rows[warp], *gradient = gradients[warp];
    load_row(row, q + token * query_stride + start, head, is_there);
    load_row(gradient, dy + token * width + start, head, is_there);
    index_t at = ((index_t)batch * gridDim.y + blockIdx.y) * queries + query;
    float sum = is_there ? sums[at] : 0, along = is_there ? dots[at] : 0;
    int seen = is_there ? keys_seen(size, last, batch, query) : 0;
    float found[HEAD_PARTS] = {};
    for (int first = 0; first < keys; first += WARP) {
        __syncthreads(); // the last tile is done with
        load_tile(k_tile, k + (index_t)batch * keys * key_stride + start, first, keys, key_stride, head);
        load_tile(v_tile, v + (index_t)batch * keys * key_stride + start, first, keys, key_stride, head);
        __syncthreads();
        if (first >= seen)
            continue;
        float share = 0;
        if (first + lane < seen)
            share = expf(factor * dot(row, k_tile[lane], head) - sum);
        float ds = factor * share * (dot(gradient, v_tile[lane], head) - along);
        add_rows(found, ds, k_tile, head);
    }
    if (is_there)
        store_row(dq + token * query_stride + start, found, 1, head);
}

// dk = sum over queries of ds q, dv = sum over queries of p dy; one warp per key.
KERNEL(attention_back_keys)(const value *q, const value *k, const value *v, const int *last,
                            const float *sums, const float *dots, const value *dy, value *dk,
                            value *dv, int queries, int keys, int head, int query_stride,
                            int key_stride, int causal, float factor) {
    __shared__ tile_t q_tile, dy_tile;
    __shared__ float k_rows[HEAD_WARPS][HEAD_MAX], v_rows[HEAD_WARPS][HEAD_MAX];
    attention_sizes size = {queries, keys, head, query_stride, key_stride, causal};
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, width = gridDim.y * head;
    int key = blockIdx.x * HEAD_WARPS + warp, start = blockIdx.y * head, batch = blockIdx.z;
    bool is_there = key < keys;
    index_t token = (index_t)batch * keys + key;
    float *k_row = k_rows[warp], *v_row = v_rows[warp];
    load_row(k_row, k + token * key_stride + start, head, is_there);
    load_row(v_row, v + token * key_stride + start, head, is_there);
    sums += ((index_t)batch * gridDim.y + blockIdx.y) * queries;
    dots += ((index_t)batch * gridDim.y + blockIdx.y) * queries;
    float k_found[HEAD_PARTS] = {}, v_found[HEAD_PARTS] = {};
    for (int first = 0; first < queries; first += WARP) {
        __syncthreads(); // the last tile is done with
        load_tile(q_tile, q + (index_t)batch * queries * query_stride + start, first, queries,
                  query_stride, head);
        load_tile(dy_tile, dy + (index_t)batch * queries * width + start, first, queries, width, head);
        __syncthreads();
        int query = first + lane;
        float share = 0, ds = 0;
        if (is_there && query < queries && key < keys_seen(size, last, batch, query)) {
            share = expf(factor * dot(k_row, q_tile[lane], head) - sums[query]);
            ds = factor * share * (dot(v_row, dy_tile[lane], head) - dots[query]);
        }
        add_rows(k_found, ds, q_tile, head);
        add_rows(v_found, share, dy_tile, head);
    }
    if (!is_there)
        return;
    store_row(dk + token * key_stride + start, k_found, 1, head);
    store_row(dv + token * key_stride + start, v_found, 1, head);
}
