// Rows of x as integers with a scale, for products that are made in integers.
#pragma once

#include "narrow.h"

// codes[i] = x[i] / scale to the nearest integer, of which the largest is +-limit, and 0 from k up to `end`. Returns the
// scale: 0 for a row of zeros, NaN for one with a value that is not finite.
template <class Code>
static float round_row(const float* x, int64_t k, int64_t limit, Code* codes, int64_t end) {
    typedef Code Codes __attribute__((vector_size(LANES * sizeof(Code))));
    Vec most = {}, nothing = {};
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        const Vec v = load(x + i);
        most = maximum(magnitude(v), most);
        nothing += v * 0.0f;  // NaN where v is not finite
    }
    float peak = largest(most), bad = sum(nothing);
    for (int64_t j = i; j < k; ++j) {
        peak = std::max(peak, __builtin_fabsf(x[j]));
        bad += x[j] * 0.0f;
    }
    const bool is_empty = !(bad == 0.0f) || peak < 1e-30f;
    const float inverse = is_empty ? 0.0f : limit / peak;
    for (i = 0; i + LANES <= k && !is_empty; i += LANES) {
        const Vec v = load(x + i) * inverse;
        const VecInt code = __builtin_convertvector(v + select(v < Vec{}, splat(-0.5f), splat(0.5f)), VecInt);
        const Codes narrow = __builtin_convertvector(code, Codes);
        std::memcpy(codes + i, &narrow, sizeof narrow);
    }
    for (; i < end; ++i) {
        const float v = i < k && !is_empty ? x[i] * inverse : 0.0f;
        codes[i] = static_cast<Code>(v + (v < 0.0f ? -0.5f : 0.5f));
    }
    return bad == 0.0f ? (is_empty ? 0.0f : peak / limit) : bad;
}
