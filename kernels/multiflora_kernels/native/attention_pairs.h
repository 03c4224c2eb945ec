// The products of a prefill tile with queries, keys, weights and values rounded to bfloat16: one instruction multiplies
// two of a lane each and adds both to its sum in float32. A pair of keys' scores are two inputs of the head, a pair of
// an output's two keys.
#pragma once

#include "vector.h"

#if defined(__AVX512BF16__)
#include <algorithm>

static inline __m512i load_pairs(const int32_t* p) { return _mm512_loadu_si512(p); }
static inline void store_pairs(int32_t* p, __m512i v) { _mm512_storeu_si512(p, v); }

// Lane i: first[i] in its low half, second[i] in its high one.
static inline __m512i interleaved(Vec first, Vec second) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// out[i] = (x[2i], x[2i + 1]) for n inputs, a multiple of 2 * LANES
static inline void pair_inputs(const float* x, int64_t n, int32_t* out) {
    for (int64_t i = 0; i < n; i += 2 * LANES)
        store_pairs(out + i / 2, (__m512i)_mm512_cvtne2ps_pbh((__m512)load(x + i + LANES), (__m512)load(x + i)));
}

// out[i] = (first[i], second[i]); second may be null: zeros
static inline void pair_rows(const float* first, const float* second, int64_t n, int32_t* out) {
    for (int64_t i = 0; i < n; i += LANES)
        store_pairs(out + i, interleaved(load(first + i), second != nullptr ? load(second + i) : Vec{}));
}

// total[i][j] += sum over pairs of w[i * w_row + pair * w_pair] . x[pair][j]: WIDTH values against VECS vectors of rows
template <int WIDTH, int VECS>
static inline void add_pairs(Vec (*total)[VECS], const int32_t* w, int64_t w_row, int64_t w_pair, const int32_t* x,
                             int64_t pairs) {
    for (int64_t p = 0; p < pairs; ++p) {
        __m512i lanes[VECS];
        for (int j = 0; j < VECS; ++j) lanes[j] = load_pairs(x + (p * VECS + j) * LANES);
        for (int i = 0; i < WIDTH; ++i) {
            const __m512bh value = (__m512bh)_mm512_set1_epi32(w[i * w_row + p * w_pair]);
            for (int j = 0; j < VECS; ++j)
                total[i][j] = (Vec)_mm512_dpbf16_ps((__m512)total[i][j], (__m512bh)lanes[j], value);
        }
    }
}

// scores[t][row] = keys[t] . q[row] for WIDTH keys; keys: pairs [t][n / 2], q: pairs [n / 2][VECS * LANES]
template <int WIDTH, int VECS>
static inline void pair_scores(const int32_t* keys, int64_t n, const int32_t* q, float* scores) {
    Vec total[WIDTH][VECS] = {};
    add_pairs<WIDTH, VECS>(total, keys, n / 2, 1, q, n / 2);
    for (int t = 0; t < WIDTH; ++t)
        for (int j = 0; j < VECS; ++j) store(scores + (t * VECS + j) * LANES, total[t][j]);
}

// out[d][row] = out[d][row] * alpha[row] + sum over keys of values[key][d] * weights[key][row], for WIDTH values of d;
// values: pairs [keys / 2][n] from d on, weights: pairs [keys / 2][VECS * LANES]
template <int WIDTH, int VECS>
static inline void pair_values(float* out, const Vec* alpha, const int32_t* values, int64_t n, const int32_t* weights,
                               int64_t pairs) {
    Vec total[WIDTH][VECS];
    for (int i = 0; i < WIDTH; ++i)
        for (int j = 0; j < VECS; ++j) total[i][j] = load(out + (i * VECS + j) * LANES) * alpha[j];
    add_pairs<WIDTH, VECS>(total, values, 1, n, weights, pairs);
    for (int i = 0; i < WIDTH; ++i)
        for (int j = 0; j < VECS; ++j) store(out + (i * VECS + j) * LANES, total[i][j]);
}
#endif
