// A decode row: one query token, all query heads of one kv head, after the keys that its group shares. Vectors run over
// the head dimension. Keys and values are read as what the cache holds, float32 or bfloat16, or unpacked to float32.
#pragma once

#include "attention_args.h"

constexpr int DECODE_CHUNK = 32;

// Blocks lie anywhere, so the processor cannot foresee the next one: ask for it while this chunk is being used.
template <int VECS, class Element>
static inline void prefetch(const Element* row) {
    constexpr int LINE = 64 / sizeof(Element);
    for (int i = 0; i < VECS * LANES; i += LINE) __builtin_prefetch(row + i);
}

// HEADS query heads against `count` keys: scores[h][t] = q[h] . k[t]. Keys of a vector's worth of sums at a time: those
// beyond `count` can be read, and what becomes of their scores does not matter.
template <int VECS, int HEADS, class Element>
static void decode_scores(const float* q, const Element* const* keys, const Element* const* ahead, int count,
                          float* scores) {
    constexpr int N = VECS * LANES, KEYS = LANES / HEADS;
    for (int first = 0; first < count; first += KEYS) {
        Vec total[HEADS * KEYS] = {};
        for (int t = 0; t < KEYS; ++t) {
            prefetch<VECS>(ahead[first + t]);
            for (int j = 0; j < VECS; ++j) {
                const Vec k = load(keys[first + t] + j * LANES);
                for (int h = 0; h < HEADS; ++h) total[h * KEYS + t] += k * load(q + h * N + j * LANES);
            }
        }
        const Vec all = sums(total);
        for (int h = 0; h < HEADS; ++h)
            std::memcpy(scores + h * DECODE_CHUNK + first, reinterpret_cast<const float*>(&all) + h * KEYS,
                        KEYS * sizeof(float));
    }
}

template <int VECS, int HEADS, class Element>
static void decode_values(float* out, const float* alphas, const Element* const* values, const Element* const* ahead,
                          int count, const float* weights) {
    constexpr int N = VECS * LANES;
    Vec total[HEADS][VECS];
    for (int h = 0; h < HEADS; ++h)
        for (int j = 0; j < VECS; ++j) total[h][j] = load(out + h * N + j * LANES) * alphas[h];
    for (int t = 0; t < count; ++t) {
        prefetch<VECS>(ahead[t]);
        for (int j = 0; j < VECS; ++j) {
            const Vec v = load(values[t] + j * LANES);
            for (int h = 0; h < HEADS; ++h) total[h][j] += v * weights[h * DECODE_CHUNK + t];
        }
    }
    for (int h = 0; h < HEADS; ++h)
        for (int j = 0; j < VECS; ++j) store(out + h * N + j * LANES, total[h][j]);
}

static inline Vec lane_numbers() {
    Vec numbers;
    for (int i = 0; i < LANES; ++i) numbers[i] = static_cast<float>(i);
    return numbers;
}

// Online softmax of one head over one chunk; scores become weights. Returns the factor of what was summed before.
// distance: of the chunk's first key from the query, negative before it.
static float decode_softmax(float* scores, int count, float softcap, float slope, float distance, float* maximum_score,
                            float* total) {
    for (int t = count; t % LANES; ++t) scores[t] = MINUS_INFINITY;
    Vec best = splat(*maximum_score);
    for (int t = 0; t < count; t += LANES) {
        Vec s = load(scores + t);
        if (softcap > 0) {
            s = select(s == MINUS_INFINITY, s, softcap * tanh_vector(s / softcap));
            store(scores + t, s);
        }
        if (slope != 0) {
            s += slope * (lane_numbers() + (distance + static_cast<float>(t)));
            store(scores + t, s);
        }
        best = maximum(s, best);
    }
    const float peak = largest(best);
    Vec added = {};
    for (int t = 0; t < count; t += LANES) {
        const Vec p = exp_nonpositive(load(scores + t) - peak);
        store(scores + t, p);
        added += p;
    }
    const float alpha = exp_nonpositive(splat(*maximum_score - peak))[0];
    *total = *total * alpha + sum(added);
    *maximum_score = peak;
    return alpha;
}

// Key and value rows of the chunk at `start`; past the end, the last row again.
template <class Element>
static void chunk_rows(const AttentionArgs& a, const AttentionItem& item, int64_t start, int64_t end,
                       const Element* (*rows)[DECODE_CHUNK]) {
    const Element *keys = static_cast<const Element*>(a.k_cache), *values = static_cast<const Element*>(a.v_cache);
    const int32_t* table = a.block_tables + item.sequence * a.table_stride;
    int64_t offset = start % a.block_size, index = start / a.block_size;
    const Element* row = cache_row<Element>(keys, a, table, item.head, std::min(start, end - 1));
    for (int t = 0; t < DECODE_CHUNK; ++t) {
        rows[0][t] = row;
        rows[1][t] = values + (row - keys);
        if (start + t + 1 >= end) continue;
        if (++offset == a.block_size) {
            offset = 0;
            row = keys + (table[++index] * a.k_heads + item.head) * a.block_size * a.n;
        } else {
            row += a.n;
        }
    }
}

// Continues where the shared keys ended: `out` and `softmax` [tokens][q heads] then hold what is summed of those.
template <int VECS, class Element>
static void decode_row(const AttentionArgs& a, const AttentionItem& item, const Softmax* softmax, float* scratch) {
    constexpr int N = VECS * LANES;
    constexpr int HEADS = VECS <= 4 ? 2 : 1;
    const int64_t group = a.q_heads / a.k_heads;
    const int64_t query = a.query_starts[item.sequence] + item.row / group;
    const int64_t position = a.context_lens[item.sequence] - (a.query_starts[item.sequence + 1] - query);
    const int64_t shared = shared_keys(a, item.sequence), first_head = query * a.q_heads + item.head * group;
    float *q = scratch, *out = q + group * N, *peaks = out + group * N, *totals = peaks + group;
    for (int64_t h = 0; h < group; ++h) {
        const float* source = a.q + query * a.q_token + (item.head * group + h) * a.q_head;
        for (int i = 0; i < N; ++i) q[h * N + i] = source[i] * a.scale;
        if (shared) {
            std::memcpy(out + h * N, a.out + (first_head + h) * N, N * sizeof(float));
            peaks[h] = softmax[first_head + h].peak;
            totals[h] = softmax[first_head + h].total;
            continue;
        }
        std::memset(out + h * N, 0, N * sizeof(float));
        peaks[h] = a.sinks ? a.sinks[item.head * group + h] : LOWEST;
        totals[h] = a.sinks ? 1.0f : 0.0f;
    }
    const Element *rows[2][2][DECODE_CHUNK];  // [this chunk or the next][keys or values][token]
    float scores[HEADS * DECODE_CHUNK], alphas[HEADS];
    const bool in_place = a.codec == FLOAT32 || a.codec == BFLOAT16;
    float* unpacked = totals + group;
    const int64_t begin = std::max(shared, first_visible(a, position)), end = position + 1;
    if (in_place) {
        chunk_rows(a, item, begin, end, rows[0]);
    } else {
        for (int t = 0; t < 2 * DECODE_CHUNK; ++t)
            rows[0][t / DECODE_CHUNK][t % DECODE_CHUNK] = reinterpret_cast<const Element*>(unpacked + t * N);
        std::memcpy(rows[1], rows[0], sizeof rows[0]);
    }
    for (int64_t start = begin, turn = 0; start < end; start += DECODE_CHUNK, turn ^= 1) {
        const int count = static_cast<int>(std::min<int64_t>(DECODE_CHUNK, end - start));
        if (in_place) chunk_rows(a, item, start + DECODE_CHUNK, end, rows[turn ^ 1]);
        else unpack_chunk(a, item, start, count, end, unpacked, unpacked + DECODE_CHUNK * N);
        const auto &now = rows[turn], &ahead = rows[turn ^ 1];
        const float* slopes = a.slopes ? a.slopes + item.head * group : nullptr;
        const float distance = static_cast<float>(start - position);
        const auto weigh = [&](float* own, int64_t h) {
            return decode_softmax(own, count, a.softcap, slopes ? slopes[h] : 0.0f, distance, peaks + h, totals + h);
        };
        int64_t h = 0;
        for (; h + HEADS <= group; h += HEADS) {
            decode_scores<VECS, HEADS>(q + h * N, now[0], ahead[0], count, scores);
            for (int g = 0; g < HEADS; ++g) alphas[g] = weigh(scores + g * DECODE_CHUNK, h + g);
            decode_values<VECS, HEADS>(out + h * N, alphas, now[1], ahead[1], count, scores);
        }
        for (; h < group; ++h) {
            decode_scores<VECS, 1>(q + h * N, now[0], ahead[0], count, scores);
            alphas[0] = weigh(scores, h);
            decode_values<VECS, 1>(out + h * N, alphas, now[1], ahead[1], count, scores);
        }
    }
    for (int64_t h = 0; h < group; ++h) {
        float* target = a.out + (first_head + h) * N;
        const float inverse = 1.0f / totals[h];
        for (int i = 0; i < N; ++i) target[i] = out[h * N + i] * inverse;
    }
}
