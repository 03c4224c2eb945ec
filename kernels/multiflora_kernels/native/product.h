// What the products y = x W^T + bias of few rows of x share, in whatever form W is stored.
#pragma once

#include "vector.h"

#include <algorithm>
#include <type_traits>

struct Product {
    float* y;
    const float *x, *bias;
    int64_t rows, columns, k, x_stride, y_stride;
};

#if defined(__AVX512F__)
constexpr int UNROLL = 8, BLOCK = 16;
#else
constexpr int UNROLL = 6, BLOCK = 24;
#endif
// UNROLL x 2 vectors fill the registers; one work item finishes BLOCK columns of y.

constexpr int LINE = 16;  // floats of a cache line

// out[c][lane] = w[c] . x[lane], or more by it, for COLUMNS rows of w, stride apart, and VECS vectors of rows of x;
// x transposed: [k][VECS * LANES]
template <int COLUMNS, int VECS, bool MORE>
static inline void broadcast_block(const float* w, int64_t stride, int64_t k, const float* x, float* out) {
    Vec total[COLUMNS][VECS] = {};
    if (MORE)
        for (int c = 0; c < COLUMNS; ++c)
            for (int j = 0; j < VECS; ++j) total[c][j] = load(out + (c * VECS + j) * LANES);
    for (int64_t start = 0; start < k; start += LINE) {
        // Rows of W are short streams that end before the processor's own prefetcher is in stride.
        for (int c = 0; c < COLUMNS; ++c) __builtin_prefetch(w + (c + COLUMNS) * stride + start);
        const int64_t end = std::min(k, start + LINE);
        for (int64_t i = start; i < end; ++i) {
            Vec lanes[VECS];
            for (int j = 0; j < VECS; ++j) lanes[j] = load(x + (i * VECS + j) * LANES);
            for (int c = 0; c < COLUMNS; ++c)
                for (int j = 0; j < VECS; ++j) total[c][j] += w[c * stride + i] * lanes[j];
        }
    }
    for (int c = 0; c < COLUMNS; ++c)
        for (int j = 0; j < VECS; ++j) store(out + (c * VECS + j) * LANES, total[c][j]);
}

// The same for `columns` rows of w, at most BLOCK.
template <int VECS, bool MORE>
static inline void broadcast_columns(const float* w, int64_t stride, int64_t k, const float* x, float* out,
                                     int64_t columns) {
    int64_t c = 0;
    for (; c + UNROLL <= columns; c += UNROLL)
        broadcast_block<UNROLL, VECS, MORE>(w + c * stride, stride, k, x, out + c * VECS * LANES);
    for (; c < columns; ++c) broadcast_block<1, VECS, MORE>(w + c * stride, stride, k, x, out + c * VECS * LANES);
}

// y of `width` rows from `row` on and columns first to last, out of what broadcast_columns has left for them
static void write_panel(const Product& a, const float* out, int64_t width, int64_t row, int64_t first, int64_t last) {
    const int64_t rows = std::min(width, a.rows - row);
    for (int64_t t = 0; t < rows; ++t)
        for (int64_t c = first; c < last; ++c)
            a.y[(row + t) * a.y_stride + c] = out[(c - first) * width + t] + (a.bias != nullptr ? a.bias[c] : 0.0f);
}

// x transposed lies in panels of two vectors of rows ([k][2 * LANES]), the last of one vector where that suffices.
constexpr int PANEL = 2 * LANES;

static inline int64_t transposed_floats(const Product& a) { return a.k * ((a.rows + LANES - 1) / LANES * LANES); }

static void transpose(const Product& a, float* x, int64_t start) {
    const int64_t end = std::min(a.k, start + LANES);
    for (int64_t row = 0; row < a.rows; row += PANEL) {
        const int64_t width = row + LANES < a.rows ? PANEL : LANES, rows = std::min(width, a.rows - row);
        float* panel = x + row * a.k;
        for (int64_t t = 0; t < width; ++t)
            for (int64_t i = start; i < end; ++i)
                panel[i * width + t] = t < rows ? a.x[(row + t) * a.x_stride + i] : 0.0f;
    }
}

struct AsTheyLie {};  // rows of x that need not be made first

// All work items of a product: make(t) writes row t of x, then dot(first, last) reads x as it lies, or
// broadcast(x, first, last) has it transposed.
template <class Make, class Dot, class Broadcast>
static void multiply_items(const Product& a, bool dots, Make make, Dot dot, Broadcast broadcast) {
    const int64_t items = (a.columns + BLOCK - 1) / BLOCK;
    const int threads = threads_for(a.columns * a.k, 1 << 16);
    static thread_local std::vector<float> transposed;
    if (!dots) transposed.resize(transposed_floats(a));
    float* x = transposed.data();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if constexpr (!std::is_same_v<Make, AsTheyLie>) {
#pragma omp for schedule(static)
            for (int64_t t = 0; t < a.rows; ++t) make(t);
        }
        if (!dots) {
#pragma omp for schedule(static)
            for (int64_t start = 0; start < a.k; start += LANES) transpose(a, x, start);
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; ++item) {
            const int64_t first = item * BLOCK, last = std::min(a.columns, first + BLOCK);
            if (dots) dot(first, last);
            else broadcast(x, first, last);
        }
    }
}
