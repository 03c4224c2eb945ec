// W of 4, 8 or 16 bits, as every product with it is told of it.
#pragma once

#include "product.h"

constexpr int INPUTS = 32, HALF = 16;  // of a block of W

struct NarrowArgs {
    Product product;
    const uint8_t* codes;  // [columns][k * bits / 8]
    const float* scales;   // [columns][groups]; null: 1
    const int8_t* zeros;   // [columns][groups]; null: 0, of 4 bits 8
    const float* table;    // [16], what codes of 4 bits stand for; null: themselves
    int64_t bits, group;   // group: inputs that share a scale
    int64_t mantissa;      // bits of it where codes of 8 bits are floats, 3 (E4M3) or 2 (E5M2); 0: they are integers
};
