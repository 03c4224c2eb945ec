// y = x W^T + bias for few rows of x, where a general matrix product leaves most of the processor idle.
//
// One to a few rows: W streams once, vectors run over k. More rows: x is transposed once so that vectors run over the
// rows of x, and each element of W, read where it lies, is broadcast against them. W is never repacked or copied.
#include "vector.h"

#include <algorithm>

struct LinearArgs {
    float* y;
    const float *x, *w, *bias;
    int64_t rows, columns, k, x_stride, y_stride;
};

#if defined(__AVX512F__)
constexpr int UNROLL = 8, BLOCK = 16;
#else
constexpr int UNROLL = 6, BLOCK = 24;
#endif
// UNROLL x 2 vectors fill the registers; one work item finishes BLOCK columns of y.
constexpr int DOT_ROWS = 4;

// y[t][c] = x[t] . w[c] + bias[c] for ROWS rows of x and COLUMNS rows of w
template <int ROWS, int COLUMNS>
static void dot_block(const LinearArgs& a, int64_t row, int64_t column) {
    const float *x = a.x + row * a.x_stride, *w = a.w + column * a.k;
    Vec total[ROWS][COLUMNS] = {};
    int64_t i = 0;
    for (; i + LANES <= a.k; i += LANES) {
        Vec lanes[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            __builtin_prefetch(w + (c + COLUMNS) * a.k + i);
            lanes[c] = load(w + c * a.k + i);
        }
        for (int t = 0; t < ROWS; ++t) {
            const Vec v = load(x + t * a.x_stride + i);
            for (int c = 0; c < COLUMNS; ++c) total[t][c] += v * lanes[c];
        }
    }
    for (int t = 0; t < ROWS; ++t)
        for (int c = 0; c < COLUMNS; ++c) {
            float rest = a.bias != nullptr ? a.bias[column + c] : 0.0f;
            for (int64_t j = i; j < a.k; ++j) rest += x[t * a.x_stride + j] * w[c * a.k + j];
            a.y[(row + t) * a.y_stride + column + c] = sum(total[t][c]) + rest;
        }
}

template <int COLUMNS>
static void dot_columns(const LinearArgs& a, int64_t column) {
    int64_t row = 0;
    for (; row + DOT_ROWS <= a.rows; row += DOT_ROWS) dot_block<DOT_ROWS, COLUMNS>(a, row, column);
    for (; row + 2 <= a.rows; row += 2) dot_block<2, COLUMNS>(a, row, column);
    for (; row < a.rows; ++row) dot_block<1, COLUMNS>(a, row, column);
}

static void dot_item(const LinearArgs& a, int64_t first, int64_t last) {
    int64_t column = first;
    for (; column + 4 <= last; column += 4) dot_columns<4>(a, column);
    for (; column < last; ++column) dot_columns<1>(a, column);
}

constexpr int LINE = 16;  // floats of a cache line

// out[c][lane] = w[c] . x[lane] for COLUMNS rows of w and VECS vectors of rows of x; x transposed: [k][VECS * LANES]
template <int COLUMNS, int VECS>
static void broadcast_block(const float* w, int64_t k, const float* x, float* out) {
    Vec total[COLUMNS][VECS] = {};
    for (int64_t start = 0; start < k; start += LINE) {
        // Rows of W are short streams that end before the processor's own prefetcher is in stride.
        for (int c = 0; c < COLUMNS; ++c) __builtin_prefetch(w + (c + COLUMNS) * k + start);
        const int64_t end = std::min(k, start + LINE);
        for (int64_t i = start; i < end; ++i) {
            Vec lanes[VECS];
            for (int j = 0; j < VECS; ++j) lanes[j] = load(x + (i * VECS + j) * LANES);
            for (int c = 0; c < COLUMNS; ++c)
                for (int j = 0; j < VECS; ++j) total[c][j] += w[c * k + i] * lanes[j];
        }
    }
    for (int c = 0; c < COLUMNS; ++c)
        for (int j = 0; j < VECS; ++j) store(out + (c * VECS + j) * LANES, total[c][j]);
}

template <int VECS>
static void broadcast_panel(const LinearArgs& a, const float* x, int64_t row, int64_t first, int64_t last) {
    float out[BLOCK][VECS * LANES];
    int64_t column = first;
    for (; column + UNROLL <= last; column += UNROLL)
        broadcast_block<UNROLL, VECS>(a.w + column * a.k, a.k, x, out[column - first]);
    for (; column < last; ++column)
        broadcast_block<1, VECS>(a.w + column * a.k, a.k, x, out[column - first]);
    const int64_t rows = std::min<int64_t>(VECS * LANES, a.rows - row);
    for (int64_t t = 0; t < rows; ++t)
        for (int64_t c = first; c < last; ++c)
            a.y[(row + t) * a.y_stride + c] = out[c - first][t] + (a.bias != nullptr ? a.bias[c] : 0.0f);
}

// x transposed lies in panels of two vectors of rows ([k][2 * LANES]), the last of one vector where that suffices.
constexpr int PANEL = 2 * LANES;

static void broadcast_item(const LinearArgs& a, const float* x, int64_t first, int64_t last) {
    int64_t row = 0;
    for (; row + LANES < a.rows; row += PANEL) broadcast_panel<2>(a, x + row * a.k, row, first, last);
    if (row < a.rows) broadcast_panel<1>(a, x + row * a.k, row, first, last);
}

static void transpose(const LinearArgs& a, float* x, int64_t start) {
    const int64_t end = std::min(a.k, start + LANES);
    for (int64_t row = 0; row < a.rows; row += PANEL) {
        const int64_t width = row + LANES < a.rows ? PANEL : LANES, rows = std::min(width, a.rows - row);
        float* panel = x + row * a.k;
        for (int64_t t = 0; t < width; ++t)
            for (int64_t i = start; i < end; ++i)
                panel[i * width + t] = t < rows ? a.x[(row + t) * a.x_stride + i] : 0.0f;
    }
}

extern "C" void multiflora_linear(const LinearArgs* args, int64_t dots) {
    const LinearArgs a = *args;
    const int64_t items = (a.columns + BLOCK - 1) / BLOCK, width = (a.rows + LANES - 1) / LANES * LANES;
    const int threads = threads_for(a.columns * a.k, 1 << 16);
    static thread_local std::vector<float> transposed;
    if (!dots) transposed.resize(a.k * width);
    float* x = transposed.data();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (!dots) {
#pragma omp for schedule(static)
            for (int64_t start = 0; start < a.k; start += LANES) transpose(a, x, start);
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; ++item) {
            const int64_t first = item * BLOCK, last = std::min(a.columns, first + BLOCK);
            if (dots) dot_item(a, first, last);
            else broadcast_item(a, x, first, last);
        }
    }
}
