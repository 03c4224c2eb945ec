// What attention is asked for, and how its rows lie in the caches.
#pragma once

#include "packed_cache.h"
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <limits>

constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();
// A finite start for the running maximum: exp(-inf - LOWEST) is 0 where exp(-inf - -inf) would be NaN.
constexpr float LOWEST = -1e30f;

struct AttentionArgs {
    float* out;
    const float* q;
    const void *k_cache, *v_cache;
    const int32_t *query_starts, *context_lens, *block_tables;
    const int32_t* groups;  // [3][sequences], see shared_groups in attention/cascade.py; null: each for itself
    const float* slopes;  // [q heads]: added to a score is slope * (key position - query position); null: nothing
    const float* sinks;  // [q heads]: a score whose value is 0, beside those of the keys; null: none
    int64_t sequences, q_heads, k_heads, n;
    int64_t block_size;  // given as the elements of a block's piece of one kv head
    int64_t q_token, q_head, table_stride, window;
    int64_t codec;  // what the caches hold; of 8 bits, they are packed pieces
    int64_t rounds;  // 1: products of tiles may be of values rounded to bfloat16, where the processor multiplies those
    float scale, softcap;
};

enum class Shape { ROW, TILE, SHARED_TILE };

struct AttentionItem {
    int32_t sequence, head, row;  // row: first (query token * group + head in group) of the sequence, or of its group
    int64_t work;
    Shape shape;
};

// A row of a softmax over the first of its keys: the largest score and the sum of all powers beneath it.
struct Softmax {
    float peak, total;
};

template <class Element>
static inline const Element* cache_row(const void* cache, const AttentionArgs& a, const int32_t* table, int64_t head,
                                       int64_t position) {
    const int64_t block = table[position / a.block_size];
    return static_cast<const Element*>(cache) +
           ((block * a.k_heads + head) * a.block_size + position % a.block_size) * a.n;
}

// Keys that the sequence's group shares.
static inline int64_t shared_keys(const AttentionArgs& a, int64_t sequence) {
    return a.groups ? a.groups[2 * a.sequences + sequence] : 0;
}

static inline int64_t first_visible(const AttentionArgs& a, int64_t position) {
    return a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0;
}

constexpr int AHEAD = 32;  // positions

// Keys and values of the positions from `start`, in fp32: [count][n] each. Blocks lie anywhere, so the processor cannot
// foresee the next one: what is AHEAD is asked for meanwhile, up to `end`.
static void unpack_chunk(const AttentionArgs& a, const AttentionItem& item, int64_t start, int count, int64_t end,
                         float* keys, float* values) {
    const int32_t* table = a.block_tables + item.sequence * a.table_stride;
    void* caches[2] = {const_cast<void*>(a.k_cache), const_cast<void*>(a.v_cache)};
    float* targets[2] = {keys, values};
    for (int t = 0; t < count;) {
        const int64_t block = table[(start + t) / a.block_size], offset = (start + t) % a.block_size;
        const int run = static_cast<int>(std::min<int64_t>(count - t, a.block_size - offset));
        for (int part = 0; part < 2; ++part) {
            const PackedPiece piece =
                packed_piece(a.codec, caches[part], block * a.k_heads + item.head, a.block_size, a.n);
            for (int i = 0; i < run; ++i)
                unpack_row(a.codec, targets[part] + (t + i) * a.n, piece, offset + i, a.n);
            if (start + t + AHEAD >= end) continue;
            const int64_t next = table[(start + t + AHEAD) / a.block_size];
            const uint8_t* codes =
                packed_piece(a.codec, caches[part], next * a.k_heads + item.head, a.block_size, a.n).codes;
            const int64_t row = code_bytes(a.codec) * a.n;
            for (int64_t i = offset * row; i < (offset + run) * row; i += 64) __builtin_prefetch(codes + i);
        }
        t += run;
    }
}
