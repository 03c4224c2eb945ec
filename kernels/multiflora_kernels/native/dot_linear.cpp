// y = x W^T + bias for few rows of x, by instructions of AVX-512 that multiply several narrow values of a lane and add
// up their products in 32 bits: two of bfloat16, or four bytes. x is rounded to such values.
//
// One to a few rows: vectors run over k, and W streams once for up to four rows of x. More rows: x is transposed lane
// by lane, and each lane of W, read where it lies, is broadcast against a vector of rows. W is never repacked or copied.
#include "rounding.h"

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
static_assert(LANES == 16, "AVX-512");

static inline __m512i load_lanes(const int32_t* p) { return _mm512_loadu_si512(p); }

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
    void round(int64_t t, int32_t* lanes) const {
        const Product& a = args.product;
        const float* x = a.x + t * a.x_stride;
        for (int64_t i = 0; i < a.k; i += 2 * LANES) {
            const __m512 first = (__m512)load(x + i), second = (__m512)load(x + i + LANES);
            _mm512_storeu_si512(lanes + i / VALUES, (__m512i)_mm512_cvtne2ps_pbh(second, first));
        }
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
    void round(int64_t t, int32_t* lanes) const {
        const Product& a = args.product;
        row_scales[t] = round_row(a.x + t * a.x_stride, a.k, limit, reinterpret_cast<int8_t*>(lanes), a.k);
        for (int64_t i = 0; i < a.k / VALUES; ++i) lanes[i] ^= static_cast<int32_t>(0x80808080);
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

template <class Form, int ROWS, int COLUMNS>
static inline void dot_block(const Form& form, const int32_t* x, const int32_t* w, int64_t lanes, int64_t row,
                             int64_t column) {
    const Product& a = form.args.product;
    x += row * lanes;
    w += column * lanes;
    typename Form::Sums total[ROWS][COLUMNS] = {};
    for (int64_t i = 0; i < lanes; i += LANES) {
        __m512i values[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            __builtin_prefetch(w + (c + COLUMNS) * lanes + i);
            values[c] = load_lanes(w + c * lanes + i);
        }
        for (int t = 0; t < ROWS; ++t) {
            const __m512i v = load_lanes(x + t * lanes + i);
            for (int c = 0; c < COLUMNS; ++c) total[t][c] = Form::add(total[t][c], v, values[c]);
        }
    }
    for (int t = 0; t < ROWS; ++t)
        for (int c = 0; c < COLUMNS; ++c)
            a.y[(row + t) * a.y_stride + column + c] =
                form.finish_one(total[t][c], column + c, row + t) + (a.bias != nullptr ? a.bias[column + c] : 0.0f);
}

template <class Form, int COLUMNS>
static void dot_columns(const Form& form, const int32_t* x, const int32_t* w, int64_t lanes, int64_t column) {
    const int64_t rows = form.args.product.rows;
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) dot_block<Form, 4, COLUMNS>(form, x, w, lanes, row, column);
    for (; row + 2 <= rows; row += 2) dot_block<Form, 2, COLUMNS>(form, x, w, lanes, row, column);
    for (; row < rows; ++row) dot_block<Form, 1, COLUMNS>(form, x, w, lanes, row, column);
}

template <class Form, int COLUMNS, int VECS>
static inline void broadcast_block(const Form& form, const int32_t* x, const int32_t* w, int64_t lanes, int64_t row,
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
static void broadcast_columns(const Form& form, const int32_t* x, const int32_t* w, int64_t lanes, int64_t row,
                              int64_t first, int64_t last, float* out) {
    int64_t c = first;
    for (; c + UNROLL <= last; c += UNROLL)
        broadcast_block<Form, UNROLL, VECS>(form, x, w, lanes, row, c, out + (c - first) * VECS * LANES);
    for (; c < last; ++c) broadcast_block<Form, 1, VECS>(form, x, w, lanes, row, c, out + (c - first) * VECS * LANES);
}

// Lanes `start` to start + LANES of all rows, in panels of two vectors of rows, as product.h has them of floats.
static void transpose_lanes(const int32_t* x, int64_t rows, int64_t lanes, int64_t start, int32_t* turned) {
    for (int64_t row = 0; row < rows; row += PANEL) {
        const int64_t width = row + LANES < rows ? PANEL : LANES, count = std::min(width, rows - row);
        int32_t* panel = turned + row * lanes;
        for (int64_t i = start; i < start + LANES; ++i)
            for (int64_t t = 0; t < width; ++t) panel[i * width + t] = t < count ? x[(row + t) * lanes + i] : 0;
    }
}

template <class Form>
static void multiply(const Form& form, bool dots, int32_t* x, int32_t* turned) {
    const Product& a = form.args.product;
    const int32_t* w = reinterpret_cast<const int32_t*>(form.args.codes);
    const int64_t lanes = a.k / Form::VALUES, items = (a.columns + BLOCK - 1) / BLOCK;
    const int threads = threads_for(a.columns * a.k, 1 << 16);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < a.rows; ++t) form.round(t, x + t * lanes);
        if (!dots) {
#pragma omp for schedule(static)
            for (int64_t start = 0; start < lanes; start += LANES) transpose_lanes(x, a.rows, lanes, start, turned);
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; ++item) {
            const int64_t first = item * BLOCK, last = std::min(a.columns, first + BLOCK);
            if (dots) {
                int64_t column = first;
                for (; column + 4 <= last; column += 4) dot_columns<Form, 4>(form, x, w, lanes, column);
                for (; column < last; ++column) dot_columns<Form, 1>(form, x, w, lanes, column);
                continue;
            }
            float out[BLOCK * PANEL];
            for (int64_t row = 0; row < a.rows; row += PANEL) {
                const bool is_wide = row + LANES < a.rows;
                const int32_t* panel = turned + row * lanes;
                if (is_wide) broadcast_columns<Form, 2>(form, panel, w, lanes, row, first, last, out);
                else broadcast_columns<Form, 1>(form, panel, w, lanes, row, first, last, out);
                write_panel(a, out, is_wide ? PANEL : LANES, row, first, last);
            }
        }
    }
}

// Room of this thread for rows of `lanes` lanes, rounded up to whole vectors of rows.
static int32_t* room(std::vector<int32_t>& kept, int64_t rows, int64_t lanes) {
    kept.resize((rows + LANES - 1) / LANES * LANES * lanes);
    return kept.data();
}

static thread_local std::vector<int32_t> rounded_rows, turned_rows;
#endif

// k is a multiple of 32. dots: few rows, of which vectors run over k.
#if defined(__AVX512BF16__)
extern "C" void multiflora_bfloat16_dots(const NarrowArgs* args, int64_t dots) {
    const Product& a = args->product;
    const int64_t lanes = a.k / Pairs::VALUES;
    multiply(Pairs{*args}, dots, room(rounded_rows, a.rows, lanes), dots ? nullptr : room(turned_rows, a.rows, lanes));
}
#endif

// k is a multiple of 64 and at most 65536. limit: of x's codes, at most 127
#if defined(__AVX512VNNI__)
extern "C" void multiflora_byte_dots(const NarrowArgs* args, int64_t dots, int64_t limit, const int32_t* column_sums) {
    const Product& a = args->product;
    static thread_local std::vector<float> row_scales;
    row_scales.resize((a.rows + LANES - 1) / LANES * LANES);
    const int64_t lanes = a.k / Quads::VALUES;
    multiply(Quads{*args, column_sums, row_scales.data(), limit}, dots, room(rounded_rows, a.rows, lanes),
             dots ? nullptr : room(turned_rows, a.rows, lanes));
}
#endif
