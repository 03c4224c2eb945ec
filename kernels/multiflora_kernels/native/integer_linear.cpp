// y = x W^T + bias in integers, for a W of 8 bits with a scale for each column of y: rows of x become integers of up
// to 16 bits, sums of products are exact in 32, and both scales are multiplied in at the end. Both ends also by
// themselves, for products of bytes that a library makes.
//
// W is widened to 16 bits and turned, TILE rows and CHUNK inputs at a time, so that one vector holds two inputs of eight
// columns: the processor multiplies and adds both at once, and no sum is left to be made across a vector's lanes.
#include "rounding.h"

constexpr int TILE = 16;        // columns of y of one work item: two vectors
constexpr int64_t CHUNK = 512;  // inputs of a turned tile, which stays in the nearest cache
constexpr int64_t ROWS = 240;   // of x, rounded at a time
constexpr int STEP = 16;        // inputs; rounded rows are padded to a multiple with zeros

static inline int64_t padded(int64_t k) { return (k + STEP - 1) / STEP * STEP; }

static inline int16_t code_at(const NarrowArgs& w, int64_t column, int64_t i) {
    const Product& a = w.product;
    return column < a.columns && i < a.k ? static_cast<int8_t>(w.codes[column * a.k + i]) : 0;
}

#if defined(__AVX2__)
typedef __m256i Sums;  // of eight columns

static inline Sums add_products(Sums sums, const int16_t* tile, __m256i x) {
    const __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i*>(tile));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(w, x));
}

static inline __m256i both_inputs(const int16_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return _mm256_set1_epi32(pair);
}

// tile[i / 2][column][i % 2] of eight columns and STEP inputs; rows of the tile are TILE columns wide
static inline void turn_block(const uint8_t* codes, int64_t stride, int16_t* tile) {
    __m256i row[8], pairs[8], quads[8];
    for (int c = 0; c < 8; ++c)
        row[c] = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + c * stride)));
    for (int c = 0; c < 8; c += 2) {
        pairs[c] = _mm256_unpacklo_epi32(row[c], row[c + 1]);
        pairs[c + 1] = _mm256_unpackhi_epi32(row[c], row[c + 1]);
    }
    for (int c = 0; c < 8; c += 4)
        for (int j = 0; j < 2; ++j) {
            quads[c + 2 * j] = _mm256_unpacklo_epi64(pairs[c + j], pairs[c + 2 + j]);
            quads[c + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[c + j], pairs[c + 2 + j]);
        }
    for (int i = 0; i < 4; ++i) {
        __m256i* first = reinterpret_cast<__m256i*>(tile + i * 2 * TILE);
        __m256i* second = reinterpret_cast<__m256i*>(tile + (i + 4) * 2 * TILE);
        _mm256_store_si256(first, _mm256_permute2x128_si256(quads[i], quads[i + 4], 0x20));
        _mm256_store_si256(second, _mm256_permute2x128_si256(quads[i], quads[i + 4], 0x31));
    }
}
#else
typedef int32_t Sums __attribute__((vector_size(32), aligned(4)));

static inline Sums add_products(Sums sums, const int16_t* tile, const int16_t* x) {
    for (int c = 0; c < 8; ++c) sums[c] += tile[2 * c] * x[0] + tile[2 * c + 1] * x[1];
    return sums;
}

static inline const int16_t* both_inputs(const int16_t* x) { return x; }

static inline void turn_block(const uint8_t* codes, int64_t stride, int16_t* tile) {
    for (int c = 0; c < 8; ++c)
        for (int i = 0; i < STEP; ++i)
            tile[i / 2 * 2 * TILE + 2 * c + i % 2] = static_cast<int8_t>(codes[c * stride + i]);
}
#endif

// Columns from `first` on and `count` inputs from `begin` on, a multiple of STEP; zeros beyond W.
static void turn_tile(const NarrowArgs& w, int64_t first, int64_t begin, int64_t count, int16_t* tile) {
    const Product& a = w.product;
    for (int half = 0; half < TILE; half += 8)
        for (int64_t i = 0; i < count; i += STEP) {
            int16_t* block = tile + i * TILE + 2 * half;
            const int64_t column = first + half, input = begin + i;
            if (column + 8 <= a.columns && input + STEP <= a.k) {
                turn_block(w.codes + column * a.k + input, a.k, block);
                continue;
            }
            for (int c = 0; c < 8; ++c)
                for (int j = 0; j < STEP; ++j)
                    block[j / 2 * 2 * TILE + 2 * c + j % 2] = code_at(w, column + c, input + j);
        }
}

// sums[t][c] += tile . x[t] for COUNT rows of x, stride apart
template <int COUNT>
static inline void add_rows(const int16_t* tile, int64_t inputs, const int16_t* x, int64_t stride, Sums* sums) {
    Sums low[COUNT], high[COUNT];
    for (int t = 0; t < COUNT; ++t) low[t] = sums[2 * t], high[t] = sums[2 * t + 1];
    for (int64_t i = 0; i < inputs; i += 2, tile += 2 * TILE)
        for (int t = 0; t < COUNT; ++t) {
            const auto both = both_inputs(x + t * stride + i);
            low[t] = add_products(low[t], tile, both);
            high[t] = add_products(high[t], tile + TILE, both);
        }
    for (int t = 0; t < COUNT; ++t) sums[2 * t] = low[t], sums[2 * t + 1] = high[t];
}

// y of `rows` rows and TILE columns from `first` on; x: their codes
static void multiply_tile(const NarrowArgs& w, const int16_t* x, const float* scales, int64_t row, int64_t rows,
                          int64_t first) {
    const Product& a = w.product;
    const int64_t stride = padded(a.k), columns = std::min<int64_t>(TILE, a.columns - first);
    alignas(32) int16_t tile[CHUNK * TILE];
    alignas(32) Sums sums[ROWS * 2];
    std::memset(sums, 0, rows * 2 * sizeof(Sums));
    for (int64_t begin = 0; begin < stride; begin += CHUNK) {
        const int64_t count = std::min(CHUNK, stride - begin);
        turn_tile(w, first, begin, count, tile);
        int64_t t = 0;
        for (; t + 6 <= rows; t += 6) add_rows<6>(tile, count, x + t * stride + begin, stride, sums + 2 * t);
        for (; t + 2 <= rows; t += 2) add_rows<2>(tile, count, x + t * stride + begin, stride, sums + 2 * t);
        for (; t < rows; ++t) add_rows<1>(tile, count, x + t * stride + begin, stride, sums + 2 * t);
    }
    for (int64_t t = 0; t < rows; ++t) {
        int32_t whole[TILE];
        std::memcpy(whole, sums + 2 * t, sizeof whole);
        float* y = a.y + (row + t) * a.y_stride + first;
        for (int64_t c = 0; c < columns; ++c)
            y[c] = whole[c] * (scales[t] * w.scales[first + c]) + (a.bias != nullptr ? a.bias[first + c] : 0.0f);
    }
}

// limit: of a row's codes, at most 32767 and so small that a sum of k products fits 32 bits
extern "C" void multiflora_integer_linear(const NarrowArgs* args, int64_t limit) {
    const Product& a = args->product;
    const int64_t stride = padded(a.k), items = (a.columns + TILE - 1) / TILE;
    const int threads = threads_for(a.columns * a.k, 1 << 16);
    static thread_local std::vector<int16_t> rounded;
    static thread_local std::vector<float> row_scales;
    rounded.resize(std::min(a.rows, ROWS) * stride);
    row_scales.resize(std::min(a.rows, ROWS));
    int16_t* x = rounded.data();
    float* scales = row_scales.data();
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < a.rows; row += ROWS) {
        const int64_t rows = std::min(ROWS, a.rows - row);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < rows; ++t)
            scales[t] = round_row(a.x + (row + t) * a.x_stride, a.k, limit, x + t * stride, stride);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; ++item) multiply_tile(*args, x, scales, row, rows, item * TILE);
    }
}

// y[t] = x[t], rounded as the product rounds it; bias and W are not read
extern "C" void multiflora_round_rows(const Product* args, int64_t limit) {
    const Product& a = *args;
    std::vector<int16_t> codes(a.k);
    for (int64_t t = 0; t < a.rows; ++t) {
        const float scale = round_row(a.x + t * a.x_stride, a.k, limit, codes.data(), a.k);
        for (int64_t i = 0; i < a.k; ++i) a.y[t * a.y_stride + i] = codes[i] * scale;
    }
}

// codes [rows][k] and scales [rows] of x; y, bias and W are not read. limit: of the codes, at most 127
extern "C" void multiflora_round_to_bytes(const Product* args, int64_t limit, int8_t* codes, float* scales) {
    const Product& a = *args;
    const int threads = threads_for(a.rows * a.k, 1 << 16);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t t = 0; t < a.rows; ++t)
        scales[t] = round_row(a.x + t * a.x_stride, a.k, limit, codes + t * a.k, a.k);
}

// y[t][c] = y[t][c] * row_scales[t] * column_scales[c] + bias[c], where y lies as 32-bit integers before; x is not read
extern "C" void multiflora_scale_sums(const Product* args, const float* row_scales, const float* column_scales) {
    const Product& a = *args;
    const int threads = threads_for(a.rows * a.columns, 1 << 16);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t t = 0; t < a.rows; ++t) {
        float* y = a.y + t * a.y_stride;
        const float scale = row_scales[t];
        int64_t c = 0;
        for (; c + LANES <= a.columns; c += LANES) {
            VecInt sums;
            std::memcpy(&sums, y + c, sizeof sums);
            const Vec scaled = to_float(sums) * (scale * load(column_scales + c));
            store(y + c, a.bias != nullptr ? scaled + load(a.bias + c) : scaled);
        }
        for (; c < a.columns; ++c) {
            int32_t sum;
            std::memcpy(&sum, y + c, sizeof sum);
            y[c] = sum * (scale * column_scales[c]) + (a.bias != nullptr ? a.bias[c] : 0.0f);
        }
    }
}
