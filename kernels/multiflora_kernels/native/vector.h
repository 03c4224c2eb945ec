// What every kernel here shares: a float vector of the machine's width, its reductions, and exp.
//
// Vectors are written out (GCC/clang vector extensions) instead of left to -ffast-math: sums keep one fixed order,
// and infinities and NaN keep their meaning.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t VecInt __attribute__((vector_size(LANES * 4)));
typedef float LooseVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
static inline Vec splat(float s) { return s - Vec{}; }
static inline Vec select(VecInt mask, Vec a, Vec b) {
    return reinterpret_cast<Vec>((mask & reinterpret_cast<VecInt>(a)) | (~mask & reinterpret_cast<VecInt>(b)));
}
static inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

static inline float sum(Vec v) {
    typedef float Quad __attribute__((vector_size(16)));
    Quad parts[LANES / 4];
    std::memcpy(parts, &v, sizeof v);
    for (int width = LANES / 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
    const Quad q = parts[0];
    return (q[0] + q[2]) + (q[1] + q[3]);
}

// Lane i of the result is sum(v[i]), of as many vectors as there are lanes.
static inline Vec sums(const Vec* v) {
#if defined(__AVX512F__)
    __m512 pairs[8], quads[4], halves[2];
    for (int i = 0; i < 8; ++i) {
        const __m512 a = (__m512)v[2 * i], b = (__m512)v[2 * i + 1];
        pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (int i = 0; i < 4; ++i) {
        const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
        quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (int i = 0; i < 2; ++i)
        halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0x44),
                                  _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0xee));
    return (Vec)_mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                              _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
#elif defined(__AVX2__)
    __m256 quads[2];
    for (int i = 0; i < 2; ++i)
        quads[i] = _mm256_hadd_ps(_mm256_hadd_ps((__m256)v[4 * i], (__m256)v[4 * i + 1]),
                                  _mm256_hadd_ps((__m256)v[4 * i + 2], (__m256)v[4 * i + 3]));
    return (Vec)_mm256_add_ps(_mm256_permute2f128_ps(quads[0], quads[1], 0x20),
                              _mm256_permute2f128_ps(quads[0], quads[1], 0x31));
#else
    Vec all;
    for (int i = 0; i < LANES; ++i) all[i] = sum(v[i]);
    return all;
#endif
}

static inline float largest(Vec v) {
    float best = v[0];
    for (int i = 1; i < LANES; ++i) best = v[i] > best ? v[i] : best;
    return best;
}

static inline Vec to_float(VecInt v) { return __builtin_convertvector(v, Vec); }

// LANES integers of 8 or 16 bits at p, unaligned, as 32 bits. By name on x86: compilers take a detour over memory.
#if defined(__AVX512F__)
static inline VecInt widen_signed(const uint8_t* p) {
    return (VecInt)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
}
static inline VecInt widen_bytes(const uint8_t* p) {
    return (VecInt)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
}
static inline VecInt widen_halves(const uint8_t* p) {
    return (VecInt)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
}
#elif defined(__AVX2__)
static inline VecInt widen_signed(const uint8_t* p) {
    return (VecInt)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
static inline VecInt widen_bytes(const uint8_t* p) {
    return (VecInt)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
static inline VecInt widen_halves(const uint8_t* p) {
    return (VecInt)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
}
#else
template <class T>
static inline VecInt widen_each(const uint8_t* p) {
    T few[LANES];
    std::memcpy(few, p, sizeof few);
    VecInt wide;
    for (int i = 0; i < LANES; ++i) wide[i] = few[i];
    return wide;
}
static inline VecInt widen_signed(const uint8_t* p) { return widen_each<int8_t>(p); }
static inline VecInt widen_bytes(const uint8_t* p) { return widen_each<uint8_t>(p); }
static inline VecInt widen_halves(const uint8_t* p) { return widen_each<uint16_t>(p); }
#endif

// LANES values in bfloat16.
static inline Vec load(const uint16_t* p) {
    return reinterpret_cast<Vec>(widen_halves(reinterpret_cast<const uint8_t*>(p)) << 16);
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The bfloat16 at p, unaligned.
static inline float from_bfloat16(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return float_of(static_cast<uint32_t>(half) << 16);
}

// Floats of 8 bits. Shifted to where a float32 has its own, sign, exponent and mantissa are the same number but for a
// power of two, subnormal ones among them.
template <int MANTISSA>
constexpr float FLOAT8_POWER = MANTISSA == 3 ? 0x1p120f : 0x1p112f;

template <int MANTISSA>
static inline float from_float8(uint8_t code) {
    return float_of((code & 0x7fu) << (23 - MANTISSA) | (code & 0x80u) << 24) * FLOAT8_POWER<MANTISSA>;
}

// LANES of them at p, unaligned.
template <int MANTISSA>
static inline Vec widen_float8(const uint8_t* p) {
    // The sign is spread over all bits above; of them the highest stays.
    constexpr int32_t KEPT = INT32_MIN | 0x7f << (23 - MANTISSA);
    return reinterpret_cast<Vec>(widen_signed(p) << (23 - MANTISSA) & KEPT) * FLOAT8_POWER<MANTISSA>;
}

// exp(x) for x <= 0 (Cephes' polynomial, about 2 ulp); exactly 0 below -87.3 and for -inf; NaN stays NaN.
static inline Vec exp_nonpositive(Vec x) {
    const Vec floor = splat(-87.33654f);
    const VecInt vanishes = x < floor;
    const Vec bounded = select(vanishes, floor, x);
    const VecInt n = __builtin_convertvector(bounded * 1.44269504088896341f - 0.5f, VecInt);
    const Vec whole = __builtin_convertvector(n, Vec);
    const Vec r = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Vec power = reinterpret_cast<Vec>((n + 127) << 23);
    return select(vanishes, Vec{}, p * power);
}

static inline Vec magnitude(Vec x) { return reinterpret_cast<Vec>(reinterpret_cast<VecInt>(x) & 0x7fffffff); }

static inline Vec tanh_vector(Vec x) {
    const Vec e = exp_nonpositive(-2.0f * magnitude(x));
    const Vec t = (1.0f - e) / (1.0f + e);
    return select(x < Vec{}, -t, t);
}

// One fork of the thread pool costs microseconds: below `least` units of work a kernel stays on its caller's thread.
static inline int threads_for(int64_t work, int64_t least) {
#if defined(_OPENMP)
    return work >= least ? omp_get_max_threads() : 1;
#else
    (void)work;
    (void)least;
    return 1;
#endif
}
