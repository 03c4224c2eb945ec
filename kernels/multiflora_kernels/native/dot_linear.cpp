// y = x W^T + bias for few rows of x, by instructions of AVX-512 that multiply several narrow values of a lane and add
// up their products in 32 bits: two of bfloat16, or four bytes. x is rounded to such values.
//
// One to a few rows: vectors run over k, and W streams once for up to four rows of x. More rows: x is transposed lane
// by lane, and each lane of W, read where it lies, is broadcast against a vector of rows. W is never copied.
#include "pairs.h"
#include "rounding.h"

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
static_assert(LANES == 16, "AVX-512");

static inline __m512i load_lanes(const void* p) { return _mm512_loadu_si512(p); }

#if defined(__AVX512BF16__)
// Rows of x and W are bfloat16; so is what a sum is rounded to, as a library's product of them would be.
struct Pairs {
    static constexpr int VALUES = 2;  // of a lane
    typedef __m512 Sums;
    const NarrowArgs& args;

    static inline Sums add(Sums sums, __m512i x, __m512i w) {
        return _mm512_dpbf16_ps(sums, (__m512bh)x, (__m512bh)w);
    }
    static inline Vec rounded(Vec v) {
        const __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)v);
        return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
    }
    void round(int64_t t, float* lanes) const {
        pair_inputs(args.product.x + t * args.product.x_stride, args.product.k, lanes);
    }
    // Of a column, and of as many rows from `row` on as there are lanes.
    inline Vec finish(Sums sums, int64_t, int64_t) const { return rounded((Vec)sums); }
    inline float finish_one(Sums sums, int64_t, int64_t) const { return rounded(splat(sum((Vec)sums)))[0]; }
};
#endif

#if defined(__AVX512VNNI__)
// Codes of x are unsigned in the instruction: 128 is added to them, and what that adds to sums is taken off at the end.
struct Quads {
    static constexpr int VALUES = 4;
    typedef __m512i Sums;
    const NarrowArgs& args;
    const int32_t* column_sums;  // of W's codes
    float* row_scales;
    int64_t limit;

    static inline Sums add(Sums sums, __m512i x, __m512i w) { return _mm512_dpbusd_epi32(sums, x, w); }
    void round(int64_t t, float* lanes) const {
        const Product& a = args.product;
        row_scales[t] = round_row(a.x + t * a.x_stride, a.k, limit, reinterpret_cast<int8_t*>(lanes), a.k);
        const __m512i signs = _mm512_set1_epi8(-128);
        for (int64_t i = 0; i < a.k / VALUES; i += LANES)
            _mm512_storeu_si512(lanes + i, _mm512_xor_si512(load_lanes(lanes + i), signs));
    }
    inline Vec finish(Sums sums, int64_t column, int64_t row) const {
        const VecInt whole = (VecInt)sums - 128 * column_sums[column];
        return to_float(whole) * (load(row_scales + row) * args.scales[column]);
    }
    inline float finish_one(Sums sums, int64_t column, int64_t row) const {
        const int32_t whole = _mm512_reduce_add_epi32(sums) - 128 * column_sums[column];
        return whole * (row_scales[row] * args.scales[column]);
    }
};
#endif

// y[t][c] of ROWS rows of x and COLUMNS rows of W. a: the product, its inputs lanes of rounded values
template <class Form, int ROWS, int COLUMNS>
static inline void dot_block(const Form& form, const Product& a, const int32_t* w, int64_t row, int64_t column) {
    const float* x = a.x + row * a.k;
    w += column * a.k;
    typename Form::Sums total[ROWS][COLUMNS] = {};
    for (int64_t i = 0; i < a.k; i += LANES) {
        __m512i values[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            __builtin_prefetch(w + (c + COLUMNS) * a.k + i);
            values[c] = load_lanes(w + c * a.k + i);
        }
        for (int t = 0; t < ROWS; ++t) {
            const __m512i v = load_lanes(x + t * a.k + i);
            for (int c = 0; c < COLUMNS; ++c) total[t][c] = Form::add(total[t][c], v, values[c]);
        }
    }
    for (int t = 0; t < ROWS; ++t)
        for (int c = 0; c < COLUMNS; ++c)
            a.y[(row + t) * a.y_stride + column + c] =
                form.finish_one(total[t][c], column + c, row + t) + (a.bias != nullptr ? a.bias[column + c] : 0.0f);
}

template <class Form, int COLUMNS>
static void dot_columns(const Form& form, const Product& a, const int32_t* w, int64_t column) {
    int64_t row = 0;
    for (; row + 4 <= a.rows; row += 4) dot_block<Form, 4, COLUMNS>(form, a, w, row, column);
    for (; row + 2 <= a.rows; row += 2) dot_block<Form, 2, COLUMNS>(form, a, w, row, column);
    for (; row < a.rows; ++row) dot_block<Form, 1, COLUMNS>(form, a, w, row, column);
}

template <class Form>
static void dot_item(const Form& form, const Product& a, const int32_t* w, int64_t first, int64_t last) {
    int64_t column = first;
    for (; column + 4 <= last; column += 4) dot_columns<Form, 4>(form, a, w, column);
    for (; column < last; ++column) dot_columns<Form, 1>(form, a, w, column);
}

// x: a panel of rows from `row` on, transposed
template <class Form, int COLUMNS, int VECS>
static inline void broadcast_block(const Form& form, const float* x, const int32_t* w, int64_t lanes, int64_t row,
                                   int64_t column, float* out) {
    w += column * lanes;
    typename Form::Sums total[COLUMNS][VECS] = {};
    for (int64_t start = 0; start < lanes; start += LINE) {
        for (int c = 0; c < COLUMNS; ++c) __builtin_prefetch(w + (c + COLUMNS) * lanes + start);
        for (int64_t i = start; i < start + LINE; ++i) {
            __m512i rows[VECS];
            for (int j = 0; j < VECS; ++j) rows[j] = load_lanes(x + (i * VECS + j) * LANES);
            for (int c = 0; c < COLUMNS; ++c) {
                const __m512i value = _mm512_set1_epi32(w[c * lanes + i]);
                for (int j = 0; j < VECS; ++j) total[c][j] = Form::add(total[c][j], rows[j], value);
            }
        }
    }
    for (int c = 0; c < COLUMNS; ++c)
        for (int j = 0; j < VECS; ++j)
            store(out + (c * VECS + j) * LANES, form.finish(total[c][j], column + c, row + j * LANES));
}

template <class Form, int VECS>
static void broadcast_columns(const Form& form, const float* x, const int32_t* w, int64_t lanes, int64_t row,
                              int64_t first, int64_t last, float* out) {
    int64_t c = first;
    for (; c + UNROLL <= last; c += UNROLL)
        broadcast_block<Form, UNROLL, VECS>(form, x, w, lanes, row, c, out + (c - first) * VECS * LANES);
    for (; c < last; ++c) broadcast_block<Form, 1, VECS>(form, x, w, lanes, row, c, out + (c - first) * VECS * LANES);
}

template <class Form>
static void broadcast_item(const Form& form, const Product& a, const float* x, const int32_t* w, int64_t first,
                           int64_t last) {
    float out[BLOCK * PANEL];
    for (int64_t row = 0; row < a.rows; row += PANEL) {
        const bool is_wide = row + LANES < a.rows;
        if (is_wide) broadcast_columns<Form, 2>(form, x + row * a.k, w, a.k, row, first, last, out);
        else broadcast_columns<Form, 1>(form, x + row * a.k, w, a.k, row, first, last, out);
        write_panel(a, out, is_wide ? PANEL : LANES, row, first, last);
    }
}

template <class Form>
static void multiply(const Form& form, bool dots) {
    // Lanes of rounded values travel as floats do.
    static thread_local std::vector<float> rounded;
    Product a = form.args.product;
    a.k /= Form::VALUES;
    a.x_stride = a.k;
    rounded.resize(a.rows * a.k);
    float* x = rounded.data();
    a.x = x;
    const int32_t* w = reinterpret_cast<const int32_t*>(form.args.codes);
    multiply_items(
        a, dots, [&](int64_t t) { form.round(t, x + t * a.k); },
        [&](int64_t first, int64_t last) { dot_item(form, a, w, first, last); },
        [&](const float* turned, int64_t first, int64_t last) { broadcast_item(form, a, turned, w, first, last); });
}
#endif

// k is a multiple of 32. dots: few rows, of which vectors run over k.
#if defined(__AVX512BF16__)
extern "C" void multiflora_bfloat16_dots(const NarrowArgs* args, int64_t dots) {
    multiply(Pairs{*args}, dots);
}
#endif

// k is a multiple of 64 and at most 65536. limit: of x's codes, at most 127
#if defined(__AVX512VNNI__)
extern "C" void multiflora_byte_dots(const NarrowArgs* args, int64_t dots, int64_t limit, const int32_t* column_sums) {
    static thread_local std::vector<float> row_scales;
    row_scales.resize((args->product.rows + LANES - 1) / LANES * LANES);
    multiply(Quads{*args, column_sums, row_scales.data(), limit}, dots);
}
#endif
