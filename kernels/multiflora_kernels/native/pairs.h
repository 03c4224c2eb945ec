// Pairs of bfloat16, each in a lane of 32 bits: what one instruction multiplies and adds up in float32.
#pragma once

#include "vector.h"

#if defined(__AVX512BF16__)
static inline __m512i load_pairs(const void* p) { return _mm512_loadu_si512(p); }
static inline void store_pairs(void* p, __m512i v) { _mm512_storeu_si512(p, v); }

// LANES values in bfloat16, each in the low half of its lane.
static inline __m512i halves(const float* p) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(p)));
}
static inline __m512i halves(const uint16_t* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); }

// out[i] = (x[2i], x[2i + 1]) for n inputs, a multiple of 2 * LANES. Lane: of 32 bits
template <class Lane>
static inline void pair_inputs(const float* x, int64_t n, Lane* out) {
    for (int64_t i = 0; i < n; i += 2 * LANES)
        store_pairs(out + i / 2, (__m512i)_mm512_cvtne2ps_pbh((__m512)load(x + i + LANES), (__m512)load(x + i)));
}

// out[i] = (first[i], second[i]), values in float32 or bfloat16; second may be null: zeros
template <class Element>
static inline void pair_rows(const Element* first, const Element* second, int64_t n, int32_t* out) {
    for (int64_t i = 0; i < n; i += LANES) {
        const __m512i high = second != nullptr ? _mm512_slli_epi32(halves(second + i), 16) : _mm512_setzero_si512();
        store_pairs(out + i, _mm512_or_si512(halves(first + i), high));
    }
}
#endif
