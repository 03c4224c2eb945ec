// Pairs of bfloat16, each in a lane of 32 bits: what one instruction multiplies and adds up in float32.
#pragma once

#include "vector.h"

#if defined(__AVX512BF16__)
static inline __m512i load_pairs(const void* p) { return _mm512_loadu_si512(p); }
static inline void store_pairs(void* p, __m512i v) { _mm512_storeu_si512(p, v); }

// Lane i: first[i] in its low half, second[i] in its high one.
static inline __m512i interleaved(Vec first, Vec second) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// out[i] = (x[2i], x[2i + 1]) for n inputs, a multiple of 2 * LANES. Lane: of 32 bits
template <class Lane>
static inline void pair_inputs(const float* x, int64_t n, Lane* out) {
    for (int64_t i = 0; i < n; i += 2 * LANES)
        store_pairs(out + i / 2, (__m512i)_mm512_cvtne2ps_pbh((__m512)load(x + i + LANES), (__m512)load(x + i)));
}

// out[i] = (first[i], second[i]); second may be null: zeros
static inline void pair_rows(const float* first, const float* second, int64_t n, int32_t* out) {
    for (int64_t i = 0; i < n; i += LANES)
        store_pairs(out + i, interleaved(load(first + i), second != nullptr ? load(second + i) : Vec{}));
}
#endif
