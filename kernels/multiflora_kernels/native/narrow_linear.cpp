// y = x W^T + bias for few rows of x and a W of 4, 8 or 16 bits, which becomes float32 in registers; sums are float32.
//
// One or two rows: W streams once, and its values go from memory into the sums. More rows: a few rows of W become
// float32 in the nearest cache, where all rows of x meet them. W lies in blocks of 32 inputs, whatever the processor:
// in 4 bits, byte i of a block holds input i in its low half and input 16 + i in its high one.
#include "narrow.h"

// How a form's codes lie: `pair` reads inputs at ... and HALF + at ... of a block, `one` a single input of a row.
template <bool ZEROS>
struct Int8 {
    static constexpr int BYTES = INPUTS;
    static constexpr bool HAS_ZEROS = ZEROS;
    static constexpr float DEFAULT_ZERO = 0.0f;
    static inline void pair(const uint8_t* block, int at, Vec& low, Vec& high) {
        low = to_float(widen_signed(block + at));
        high = to_float(widen_signed(block + HALF + at));
    }
    static inline float one(const uint8_t* row, int64_t i) { return static_cast<int8_t>(row[i]); }
};

struct Int4 {
    static constexpr int BYTES = INPUTS / 2;
    static constexpr bool HAS_ZEROS = true;
    static constexpr float DEFAULT_ZERO = 8.0f;
    static inline void pair(const uint8_t* block, int at, Vec& low, Vec& high) {
        const VecInt both = widen_bytes(block + at);
        low = to_float(both & 15);
        high = to_float(both >> 4);
    }
    static inline float one(const uint8_t*, int64_t) { return 0.0f; }  // k is a multiple of INPUTS
};

struct BFloat16 {
    static constexpr int BYTES = INPUTS * 2;
    static constexpr bool HAS_ZEROS = false;
    static constexpr float DEFAULT_ZERO = 0.0f;
    static inline void pair(const uint8_t* block, int at, Vec& low, Vec& high) {
        low = reinterpret_cast<Vec>(widen_halves(block + 2 * at) << 16);
        high = reinterpret_cast<Vec>(widen_halves(block + 2 * (HALF + at)) << 16);
    }
    static inline float one(const uint8_t* row, int64_t i) { return from_bfloat16(row + 2 * i); }
};

template <int MANTISSA>
struct Float8 {
    static constexpr int BYTES = INPUTS;
    static constexpr bool HAS_ZEROS = false;
    static constexpr float DEFAULT_ZERO = 0.0f;
    static inline void pair(const uint8_t* block, int at, Vec& low, Vec& high) {
        low = widen_float8<MANTISSA>(block + at);
        high = widen_float8<MANTISSA>(block + HALF + at);
    }
    static inline float one(const uint8_t* row, int64_t i) { return from_float8<MANTISSA>(row[i]); }
};

// 4 bits that are places in a table of 16 values.
struct Table4 {
    static constexpr int BYTES = INPUTS / 2;
    static constexpr bool HAS_ZEROS = false;
    static constexpr float DEFAULT_ZERO = 0.0f;
    alignas(64) float table[16];

    explicit Table4(const float* values) { std::memcpy(table, values, sizeof table); }
    inline Vec look_up(VecInt code) const {
#if defined(__AVX512F__)
        return (Vec)_mm512_permutexvar_ps((__m512i)code, _mm512_load_ps(table));
#elif defined(__AVX2__)
        const __m256 first = _mm256_permutevar8x32_ps(_mm256_load_ps(table), (__m256i)code);
        const __m256 second = _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), (__m256i)code);
        return (Vec)_mm256_blendv_ps(first, second, (__m256)(code << 28));  // by the code's highest bit
#else
        Vec values;
        for (int lane = 0; lane < LANES; ++lane) values[lane] = table[code[lane]];
        return values;
#endif
    }
    inline void pair(const uint8_t* block, int at, Vec& low, Vec& high) const {
        const VecInt both = widen_bytes(block + at);
        low = look_up(both & 15);
        high = look_up(both >> 4);
    }
    static inline float one(const uint8_t*, int64_t) { return 0.0f; }  // k is a multiple of INPUTS
};

template <class Form>
struct Matrix {
    const NarrowArgs& a;
    Form form;
    int64_t row_bytes, groups, whole;  // whole: inputs that fill blocks

    Matrix(const NarrowArgs& args, const Form& form)
        : a(args), form(form), row_bytes(args.product.k * Form::BYTES / INPUTS),
          groups((args.product.k + args.group - 1) / args.group), whole(args.product.k / INPUTS * INPUTS) {}
    const uint8_t* row(int64_t n) const { return a.codes + n * row_bytes; }
    float scale(int64_t n, int64_t g) const { return a.scales != nullptr ? a.scales[n * groups + g] : 1.0f; }
    float zero(int64_t n, int64_t g) const { return a.zeros != nullptr ? a.zeros[n * groups + g] : Form::DEFAULT_ZERO; }
    float value(int64_t n, int64_t i) const {
        return (Form::one(row(n), i) - zero(n, i / a.group)) * scale(n, i / a.group);
    }
};

// y[t][c] = x[t] . W[c] + bias[c] for ROWS rows of x and COLUMNS rows of W
template <class Form, int ROWS, int COLUMNS>
static void dot_block(const Matrix<Form>& w, int64_t row, int64_t column) {
    const Product& a = w.a.product;
    const float* x = a.x + row * a.x_stride;
    constexpr int CHAINS = ROWS == 1 ? 2 : 1;  // of sums, so that none waits for the one before it
    Vec total[ROWS][COLUMNS] = {};
    int64_t i = 0;
    for (int64_t g = 0; i < w.whole; ++g) {
        const int64_t end = std::min(w.whole, i + w.a.group);
        Vec part[CHAINS][ROWS][COLUMNS] = {}, zero[COLUMNS];
        const uint8_t* codes[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            zero[c] = splat(w.zero(column + c, g));
            codes[c] = w.row(column + c) + i / INPUTS * Form::BYTES;
        }
        for (; i < end; i += INPUTS)
            for (int c = 0; c < COLUMNS; ++c) {
                __builtin_prefetch(codes[c] + COLUMNS * w.row_bytes);
                for (int at = 0; at < HALF; at += LANES) {
                    Vec low, high;
                    w.form.pair(codes[c], at, low, high);
                    if (Form::HAS_ZEROS) low -= zero[c], high -= zero[c];
                    for (int t = 0; t < ROWS; ++t) {
                        part[0][t][c] += load(x + t * a.x_stride + i + at) * low;
                        part[CHAINS - 1][t][c] += load(x + t * a.x_stride + i + HALF + at) * high;
                    }
                }
                codes[c] += Form::BYTES;
            }
        for (int t = 0; t < ROWS; ++t)
            for (int c = 0; c < COLUMNS; ++c) {
                const Vec both = CHAINS == 1 ? part[0][t][c] : part[0][t][c] + part[1][t][c];
                total[t][c] += both * w.scale(column + c, g);
            }
    }
    for (int t = 0; t < ROWS; ++t)
        for (int c = 0; c < COLUMNS; ++c) {
            float rest = a.bias != nullptr ? a.bias[column + c] : 0.0f;
            for (int64_t j = w.whole; j < a.k; ++j) rest += x[t * a.x_stride + j] * w.value(column + c, j);
            a.y[(row + t) * a.y_stride + column + c] = sum(total[t][c]) + rest;
        }
}

template <class Form, int ROWS, int COLUMNS>
static void dot_columns(const Matrix<Form>& w, int64_t row, int64_t first, int64_t last) {
    int64_t column = first;
    for (; column + COLUMNS <= last; column += COLUMNS) dot_block<Form, ROWS, COLUMNS>(w, row, column);
    for (; column < last; ++column) dot_block<Form, ROWS, 1>(w, row, column);
}

template <class Form>
static void dot_item(const Matrix<Form>& w, int64_t first, int64_t last) {
    const int64_t rows = w.a.product.rows;
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) dot_columns<Form, 4, 2>(w, row, first, last);
    if (rows - row == 3) dot_columns<Form, 3, 2>(w, row, first, last);
    if (rows - row == 2) dot_columns<Form, 2, 4>(w, row, first, last);
    if (rows - row == 1) dot_columns<Form, 1, 4>(w, row, first, last);
}

// out[i - begin] = W[n][i] for i from begin to end, which are multiples of INPUTS or the row's ends
template <class Form>
static void widen_row(const Matrix<Form>& w, int64_t n, int64_t begin, int64_t end, float* out) {
    const uint8_t* codes = w.row(n) + begin / INPUTS * Form::BYTES;
    // Copies: a store through a vector might change any member, as far as the compiler knows.
    const int64_t whole = std::min(end, w.whole), group = w.a.group, next = UNROLL * w.row_bytes;
    int64_t i = begin, g = begin / group, stop = (g + 1) * group;
    const float* scales = w.a.scales != nullptr ? w.a.scales + n * w.groups : nullptr;
    const int8_t* zeros = w.a.zeros != nullptr ? w.a.zeros + n * w.groups : nullptr;
    out -= begin;
    for (; i < whole; ++g, stop += group) {
        const Vec scale = splat(scales != nullptr ? scales[g] : 1.0f);
        const Vec zero = splat(zeros != nullptr ? zeros[g] : Form::DEFAULT_ZERO);
        for (const int64_t last = std::min(stop, whole); i < last; i += INPUTS, codes += Form::BYTES) {
            // What is widened next begins UNROLL rows from here, where the processor's own prefetcher does not look.
            __builtin_prefetch(codes + next);
            for (int at = 0; at < HALF; at += LANES) {
                Vec low, high;
                w.form.pair(codes, at, low, high);
                if (Form::HAS_ZEROS) low -= zero, high -= zero;
                store(out + i + at, low * scale);
                store(out + i + HALF + at, high * scale);
            }
        }
    }
    for (; i < end; ++i) out[i] = w.value(n, i);
}

constexpr int64_t CHUNK = 512;  // inputs of UNROLL rows of W that are widened at a time, to stay in the nearest cache
constexpr int64_t MOST_ROWS = 64;

template <int VECS>
static void broadcast_chunk(const float* w, int64_t k, const float* x, float* out, int64_t columns, bool more) {
    if (more) broadcast_columns<VECS, true>(w, CHUNK, k, x, out, columns);
    else broadcast_columns<VECS, false>(w, CHUNK, k, x, out, columns);
}

template <class Form>
static void widened_item(const Matrix<Form>& w, const float* x, int64_t first, int64_t last) {
    const Product& a = w.a.product;
    alignas(64) float widened[UNROLL * CHUNK], out[MOST_ROWS * UNROLL];
    for (int64_t column = first; column < last; column += UNROLL) {
        const int64_t columns = std::min<int64_t>(UNROLL, last - column);
        for (int64_t begin = 0; begin < a.k; begin += CHUNK) {
            const int64_t count = std::min(CHUNK, a.k - begin);
            for (int64_t c = 0; c < columns; ++c)
                widen_row(w, column + c, begin, begin + count, widened + c * CHUNK);
            for (int64_t row = 0; row < a.rows; row += PANEL) {
                const float* panel = x + row * a.k;
                float* sums = out + row * UNROLL;
                if (row + LANES < a.rows)
                    broadcast_chunk<2>(widened, count, panel + begin * PANEL, sums, columns, begin > 0);
                else broadcast_chunk<1>(widened, count, panel + begin * LANES, sums, columns, begin > 0);
            }
        }
        for (int64_t row = 0; row < a.rows; row += PANEL)
            write_panel(a, out + row * UNROLL, row + LANES < a.rows ? PANEL : LANES, row, column, column + columns);
    }
}

template <class Form>
static void multiply(const NarrowArgs& args, const Form& form, bool dots) {
    const Matrix<Form> w(args, form);
    multiply_items(
        args.product, dots, AsTheyLie{}, [&](int64_t first, int64_t last) { dot_item(w, first, last); },
        [&](const float* x, int64_t first, int64_t last) { widened_item(w, x, first, last); });
}

template <class Form>
static void widen_rows(const NarrowArgs& args, const Form& form) {
    const Matrix<Form> w(args, form);
    const Product& a = args.product;
    const int threads = threads_for(a.columns * a.k, 1 << 16);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < a.columns; ++n) widen_row(w, n, 0, a.k, a.y + n * a.y_stride);
}

// Calls f with a value of the type that `args` are in.
template <class F>
static void with_form(const NarrowArgs& args, F f) {
    if (args.table != nullptr) f(Table4(args.table));
    else if (args.mantissa == 3) f(Float8<3>{});
    else if (args.mantissa == 2) f(Float8<2>{});
    else if (args.bits == 4) f(Int4{});
    else if (args.bits == 16) f(BFloat16{});
    else if (args.zeros != nullptr) f(Int8<true>{});
    else f(Int8<false>{});
}

extern "C" void multiflora_narrow_linear(const NarrowArgs* args, int64_t dots) {
    with_form(*args, [&](auto form) { multiply(*args, form, dots); });
}

// y[n] = W[n], float32; x and bias are not read
extern "C" void multiflora_widen_rows(const NarrowArgs* args) {
    with_form(*args, [&](auto form) { widen_rows(*args, form); });
}
