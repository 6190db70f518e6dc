// Carries out kernels on the CPU, one block after another, each thread of a block as a fibre: what
// the kernels need of CUDA, and nothing else. Stricter than a card: a barrier that part of the
// threads miss is an error, shared memory begins as NaN, and what lies around an array is watched.
// With `reversed` threads and blocks run in the opposite order, so that a missing barrier shows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__ static
#define __shared__ static __attribute__((section("shared")))

using std::isfinite;
using std::max;
using std::min;

struct place_t {
    unsigned x, y, z;
};
static place_t threadIdx, blockIdx, blockDim, gridDim;

static float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

static unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

enum state_t { READY, AT_WARP, AT_BLOCK, DONE };

struct fibre_t {
    ucontext_t context;
    std::vector<char> stack;
    state_t state;
    unsigned shuffles;
};

static std::vector<fibre_t> fibres;
static ucontext_t scheduler;
static unsigned running;
static std::vector<uint64_t> exchanged[2]; // one value of each thread, of even and odd shuffles

static void wait_at(state_t barrier) {
    fibres[running].state = barrier;
    swapcontext(&fibres[running].context, &scheduler);
}

static void __syncthreads() { wait_at(AT_BLOCK); }

template <class T> static T shuffle(T x, unsigned from) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "one register");
    auto &values = exchanged[fibres[running].shuffles++ % 2];
    std::memcpy(&values[running], &x, sizeof x);
    wait_at(AT_WARP);
    std::memcpy(&x, &values[running / 32 * 32 + from], sizeof x);
    return x;
}

template <class T> static T __shfl_xor_sync(unsigned, T x, int offset) {
    return shuffle(x, running % 32 ^ offset);
}

template <class T> static T __shfl_sync(unsigned, T x, int from) { return shuffle(x, from); }

#include "kernels.cuh"

extern "C" char __start_shared[], __stop_shared[];

typedef void (*caller_t)(const uint64_t *);

template <class T> static T argument(uint64_t bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

template <class... P, size_t... I>
static void spread(void (*kernel)(P...), const uint64_t *values, std::index_sequence<I...>) {
    kernel(argument<P>(values[I])...);
}

template <auto kernel> struct entry;
template <class... P, void (*kernel)(P...)> struct entry<kernel> {
    static constexpr unsigned count = sizeof...(P);
    static void call(const uint64_t *values) {
        spread(kernel, values, std::make_index_sequence<sizeof...(P)>());
    }
};

struct known_t {
    const char *name;
    unsigned arguments;
    caller_t call;
};

#define KNOWN(name) {#name, entry<name>::count, entry<name>::call},
static const known_t KERNELS[] = {
#include "known.inc"
};

static caller_t called;
static const uint64_t *arguments;

static void body() {
    called(arguments);
    fibres[running].state = DONE;
    swapcontext(&fibres[running].context, &scheduler);
}

static bool all_of(unsigned first, unsigned last, state_t state) {
    return std::all_of(&fibres[first], &fibres[last], [=](fibre_t &f) { return f.state == state; });
}

// Lets through the barriers that everybody has reached; false if there is none.
static bool release(unsigned threads) {
    bool any = false;
    auto free = [&](unsigned first, unsigned last) {
        std::for_each(&fibres[first], &fibres[last], [](fibre_t &f) { f.state = READY; });
        any = true;
    };
    for (unsigned first = 0; first < threads; first += 32)
        if (all_of(first, min(first + 32, threads), AT_WARP))
            free(first, min(first + 32, threads));
    if (all_of(0, threads, AT_BLOCK))
        free(0, threads);
    return any;
}

static bool run_block(unsigned threads, bool reversed) {
    std::memset(__start_shared, 0xff, __stop_shared - __start_shared);
    for (unsigned at = 0; at < threads; ++at) {
        fibre_t &fibre = fibres[at];
        fibre.stack.resize(1 << 16);
        fibre.state = READY;
        fibre.shuffles = 0;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        makecontext(&fibre.context, body, 0);
    }
    do {
        for (unsigned turn = 0; turn < threads; ++turn) {
            running = reversed ? threads - 1 - turn : turn;
            if (fibres[running].state != READY)
                continue;
            threadIdx = {running, 0, 0};
            swapcontext(&scheduler, &fibres[running].context);
        }
    } while (release(threads));
    return all_of(0, threads, DONE);
}

// Null, or what went wrong.
extern "C" const char *launch(const char *name, const unsigned *grid, unsigned threads,
                              const uint64_t *values, unsigned count, int reversed) {
    static std::string problem;
    auto same = [=](const known_t &known) { return !std::strcmp(known.name, name); };
    auto known = std::find_if(std::begin(KERNELS), std::end(KERNELS), same);
    if (known == std::end(KERNELS))
        return (problem = std::string("no kernel ") + name).c_str();
    if (known->arguments != count)
        return (problem = std::string("wrong number of arguments for ") + name).c_str();
    called = known->call;
    arguments = values;
    if (fibres.size() < threads)
        fibres.resize(threads);
    for (auto &values : exchanged)
        values.resize(max<size_t>(values.size(), (threads + 31) / 32 * 32));
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    for (uint64_t turn = 0; turn < blocks; ++turn) {
        uint64_t block = reversed ? blocks - 1 - turn : turn;
        blockIdx = {(unsigned)(block % grid[0]), (unsigned)(block / grid[0] % grid[1]),
                    (unsigned)(block / grid[0] / grid[1])};
        if (!run_block(threads, reversed))
            return (problem = std::string("threads miss a barrier in ") + name).c_str();
    }
    return nullptr;
}

struct operand_t {
    uint64_t address, stride, is_transposed;
};

struct product_t {
    operand_t a, b;
    uint64_t c, bias, d, d_stride, rows, columns, inner, is_wide;
    double beta;
};

template <class T> static float at(uint64_t address, uint64_t index) {
    return to_float(reinterpret_cast<const T *>(address)[index]);
}

static float element(const operand_t &x, uint64_t row, uint64_t column) {
    return at<value>(x.address, x.is_transposed ? column * x.stride + row : row * x.stride + column);
}

// `d = a b + beta c + bias`; d, c and bias are floats where `is_wide`, else values.
extern "C" void multiply(const product_t *p) {
    for (uint64_t row = 0; row < p->rows; ++row)
        for (uint64_t column = 0; column < p->columns; ++column) {
            float sum = 0;
            for (uint64_t i = 0; i < p->inner; ++i)
                sum += element(p->a, row, i) * element(p->b, i, column);
            uint64_t index = row * p->d_stride + column;
            auto other = p->is_wide ? at<float> : at<value>;
            if (p->beta != 0)
                sum += (float)p->beta * other(p->c, index);
            if (p->bias)
                sum += other(p->bias, column);
            if (p->is_wide)
                put(&reinterpret_cast<float *>(p->d)[index], sum);
            else
                put(&reinterpret_cast<value *>(p->d)[index], sum);
        }
}
