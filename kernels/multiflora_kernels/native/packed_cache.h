// Cache rows in bfloat16 or 8 bits, and back. What lies where is said in attention/quantised_cache.py: of 8 bits, of each
// block and kv head first the codes of all tokens, then their scales in bfloat16.
#pragma once

#include "vector.h"

#include <algorithm>
#include <cmath>

enum Codec : int64_t { FLOAT32 = 0, INT8 = 1, E4M3 = 2, E5M2 = 3, BFLOAT16 = 4 };

constexpr int64_t SCALE_BYTES = 2;

// One block's keys or values of one kv head.
struct PackedPiece {
    uint8_t* codes;
    uint8_t* scales;
};

// Of a piece's elements: values, or codes with their scales.
static inline int64_t block_size_of(int64_t codec, int64_t piece, int64_t n) {
    return piece / (codec == FLOAT32 || codec == BFLOAT16 ? n : n + SCALE_BYTES);
}

static inline int64_t code_bytes(int64_t codec) { return codec == BFLOAT16 ? 2 : 1; }

static inline PackedPiece packed_piece(int64_t codec, void* cache, int64_t piece, int64_t block_size, int64_t n) {
    const int64_t row = codec == BFLOAT16 ? 2 * n : n + SCALE_BYTES;
    uint8_t* start = static_cast<uint8_t*>(cache) + piece * block_size * row;
    return {start, start + block_size * n};  // of bfloat16 there are no scales
}

template <int CODEC>
static inline Vec decode_codes(const uint8_t* p) {
    return CODEC == INT8 ? to_float(widen_signed(p)) : widen_float8<CODEC == E4M3 ? 3 : 2>(p);
}

template <int CODEC>
static void unpack_row_as(float* out, const uint8_t* codes, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store(out + i, decode_codes<CODEC>(codes + i) * scale);
}

// n: a multiple of LANES.
static inline void unpack_row(int64_t codec, float* out, const PackedPiece& piece, int64_t offset, int64_t n) {
    if (codec == BFLOAT16) {
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(piece.codes) + offset * n;
        for (int64_t i = 0; i < n; i += LANES) store(out + i, load(halves + i));
        return;
    }
    const uint8_t* codes = piece.codes + offset * n;
    const float scale = from_bfloat16(piece.scales + offset * SCALE_BYTES);
    if (codec == INT8) unpack_row_as<INT8>(out, codes, scale, n);
    else if (codec == E4M3) unpack_row_as<E4M3>(out, codes, scale, n);
    else unpack_row_as<E5M2>(out, codes, scale, n);
}

// The magnitude's nearest code, halves to even. Below the smallest normal code, where steps no longer shrink, adding a
// float whose last bit is such a step rounds; above, what is cut off is rounded into the rest.
template <int MANTISSA, int BIAS>
static inline uint8_t encode_float8(float x) {
    constexpr int CUT = 23 - MANTISSA;
    const uint32_t sign = bits_of(x) >> 24 & 0x80, bits = bits_of(x) & 0x7fffffff;
    constexpr float STEPS = 1 << (24 - MANTISSA - BIAS);
    const uint32_t least_normal = static_cast<uint32_t>(128 - BIAS) << 23;
    if (bits < least_normal) return sign | static_cast<uint8_t>(bits_of(std::fabs(x) + STEPS) - bits_of(STEPS));
    const uint32_t rounded = bits + ((1u << (CUT - 1)) - 1) + (bits >> CUT & 1);
    return sign | static_cast<uint8_t>((rounded >> CUT) - (static_cast<uint32_t>(127 - BIAS) << MANTISSA));
}

// To the nearest bfloat16, halves to even; NaN stays NaN.
static inline uint16_t encode_bfloat16(float x) {
    const uint32_t bits = bits_of(x);
    return x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// One head of one token. Of 8 bits a value that is not finite makes the scale NaN, so that what is read is not finite
// either.
static inline void pack_row(int64_t codec, const PackedPiece& piece, int64_t offset, const float* x, int64_t n) {
    if (codec == BFLOAT16) {
        uint16_t* halves = reinterpret_cast<uint16_t*>(piece.codes) + offset * n;
        for (int64_t i = 0; i < n; ++i) halves[i] = encode_bfloat16(x[i]);
        return;
    }
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, bits_of(x[i]) & 0x7fffffff);
    const float limit = codec == INT8 ? 127.0f : codec == E4M3 ? 448.0f : 57344.0f;
    const float ratio = std::max(float_of(largest), 1e-30f) / limit;
    const uint16_t half = largest >= 0x7f800000 ? 0x7fc0 : encode_bfloat16(ratio);
    std::memcpy(piece.scales + offset * SCALE_BYTES, &half, sizeof half);
    const float scale = from_bfloat16(piece.scales + offset * SCALE_BYTES);
    uint8_t* codes = piece.codes + offset * n;
    if (codec == INT8)
        for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(x[i] / scale)));
    else if (codec == E4M3)
        for (int64_t i = 0; i < n; ++i) codes[i] = encode_float8<3, 7>(x[i] / scale);
    else
        for (int64_t i = 0; i < n; ++i) codes[i] = encode_float8<2, 15>(x[i] / scale);
}
