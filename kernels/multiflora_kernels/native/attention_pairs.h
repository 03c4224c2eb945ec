// The products of a tile with queries, keys, weights and values rounded to bfloat16: one instruction multiplies two of
// a lane each and adds both to its sum in float32. A pair of keys' scores are two inputs of the head, a pair of an
// output's two keys. A cache in bfloat16 has pairs of inputs already.
#pragma once

#include "attention_tile.h"
#include "pairs.h"

#if defined(__AVX512BF16__)
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

// n is a multiple of 2 * LANES. Row: what a cache's elements are, or what they were unpacked to
template <class Row>
struct PairTile {
    using Element = Row;

    // Pairs of keys and of values, which are not needed at once, and of weights.
    static int64_t room(int64_t n) { return TILE_CHUNK / 2 * (n + ROWS); }

    static void turn(const float* query, int64_t n, float* room, int64_t row, float* q) {
        int32_t *pairs = reinterpret_cast<int32_t*>(room), *turned = reinterpret_cast<int32_t*>(q);
        pair_inputs(query, n, pairs);
        for (int64_t d = 0; d < n / 2; ++d) turned[d * ROWS + row] = pairs[d];
    }

    static void scores(const Row* keys, int64_t n, const float* q, int count, float* room, float* scores) {
        const int32_t* queries = reinterpret_cast<const int32_t*>(q);
        const int32_t* pairs = input_pairs(keys, count * n, reinterpret_cast<int32_t*>(room));
        int t = 0;
        for (; t + UNROLL <= count; t += UNROLL)
            pair_scores<UNROLL, TILE_VECS>(pairs + t * n / 2, n, queries, scores + t * ROWS);
        for (; t < count; ++t) pair_scores<1, TILE_VECS>(pairs + t * n / 2, n, queries, scores + t * ROWS);
    }

    static void values(float* out, const Vec* alpha, const Row* const* values, int64_t n, int count, float* room,
                       const float* weights) {
        int32_t *pairs = reinterpret_cast<int32_t*>(room), *turned = pairs + TILE_CHUNK / 2 * n;
        for (int t = 0; t < count; t += 2) {
            const bool is_last = t + 1 == count;
            pair_rows(values[t], is_last ? nullptr : values[t + 1], n, pairs + t / 2 * n);
            pair_rows(weights + t * ROWS, is_last ? nullptr : weights + (t + 1) * ROWS, ROWS, turned + t / 2 * ROWS);
        }
        for (int64_t d = 0; d < n; d += UNROLL)
            pair_values<UNROLL, TILE_VECS>(out + d * ROWS, alpha, pairs + d, n, turned, (count + 1) / 2);
    }

private:
    static const int32_t* input_pairs(const uint16_t* keys, int64_t, int32_t*) {
        return reinterpret_cast<const int32_t*>(keys);
    }
    static const int32_t* input_pairs(const float* keys, int64_t n, int32_t* room) {
        pair_inputs(keys, n, room);
        return room;
    }
};
#endif
