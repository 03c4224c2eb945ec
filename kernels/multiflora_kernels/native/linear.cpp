// y = x W^T + bias for few rows of x, where a general matrix product leaves most of the processor idle.
//
// One to a few rows: W streams once, vectors run over k. More rows: x is transposed once so that vectors run over the
// rows of x, and each element of W, read where it lies, is broadcast against them. W is never repacked or copied.
#include "product.h"

struct LinearArgs {
    Product product;
    const float* w;
};

constexpr int DOT_ROWS = 4;

// y[t][c] = x[t] . w[c] + bias[c] for ROWS rows of x and COLUMNS rows of w
template <int ROWS, int COLUMNS>
static void dot_block(const Product& a, const float* w, int64_t row, int64_t column) {
    const float* x = a.x + row * a.x_stride;
    w += column * a.k;
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
static void dot_columns(const Product& a, const float* w, int64_t column) {
    int64_t row = 0;
    for (; row + DOT_ROWS <= a.rows; row += DOT_ROWS) dot_block<DOT_ROWS, COLUMNS>(a, w, row, column);
    for (; row + 2 <= a.rows; row += 2) dot_block<2, COLUMNS>(a, w, row, column);
    for (; row < a.rows; ++row) dot_block<1, COLUMNS>(a, w, row, column);
}

static void dot_item(const Product& a, const float* w, int64_t first, int64_t last) {
    int64_t column = first;
    for (; column + 4 <= last; column += 4) dot_columns<4>(a, w, column);
    for (; column < last; ++column) dot_columns<1>(a, w, column);
}

static void broadcast_item(const Product& a, const float* w, const float* x, int64_t first, int64_t last) {
    float out[BLOCK * PANEL];
    w += first * a.k;
    for (int64_t row = 0; row < a.rows; row += PANEL) {
        const float* panel = x + row * a.k;
        const bool is_wide = row + LANES < a.rows;
        if (is_wide) broadcast_columns<2, false>(w, a.k, a.k, panel, out, last - first);
        else broadcast_columns<1, false>(w, a.k, a.k, panel, out, last - first);
        write_panel(a, out, is_wide ? PANEL : LANES, row, first, last);
    }
}

extern "C" void multiflora_linear(const LinearArgs* args, int64_t dots) {
    const Product a = args->product;
    const float* w = args->w;
    multiply_items(
        a, dots, AsTheyLie{}, [&](int64_t first, int64_t last) { dot_item(a, w, first, last); },
        [&](const float* x, int64_t first, int64_t last) { broadcast_item(a, w, x, first, last); });
}
