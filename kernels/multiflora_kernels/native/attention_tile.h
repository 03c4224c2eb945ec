// A prefill tile: ROWS rows (query token, head) of one kv head, which are the lanes of vectors.
#pragma once

#include "attention_args.h"
#include "attention_pairs.h"

#if defined(__AVX512F__)
constexpr int TILE_VECS = 2, UNROLL = 8;
#else
constexpr int TILE_VECS = 2, UNROLL = 4;
#endif
constexpr int ROWS = TILE_VECS * LANES;
constexpr int TILE_CHUNK = 64;

// KEYS keys against all rows of a tile: scores[t][row] = k[t] . q[row], q transposed to [n][ROWS]
template <int KEYS>
static void tile_scores(const float* keys, int64_t n, const float* q, float* scores) {
    Vec total[KEYS][TILE_VECS] = {};
    for (int64_t d = 0; d < n; ++d) {
        Vec lanes[TILE_VECS];
        for (int j = 0; j < TILE_VECS; ++j) lanes[j] = load(q + d * ROWS + j * LANES);
        for (int t = 0; t < KEYS; ++t)
            for (int j = 0; j < TILE_VECS; ++j) total[t][j] += keys[t * n + d] * lanes[j];
    }
    for (int t = 0; t < KEYS; ++t)
        for (int j = 0; j < TILE_VECS; ++j) store(scores + t * ROWS + j * LANES, total[t][j]);
}

// out[d][row] = out[d][row] * alpha[row] + sum over t of v[t][d] * p[t][row], for UNROLL values of d
static void tile_values(float* out, const Vec* alpha, const float* const* values, int64_t d, int count,
                        const float* weights) {
    Vec total[UNROLL][TILE_VECS];
    for (int i = 0; i < UNROLL; ++i)
        for (int j = 0; j < TILE_VECS; ++j) total[i][j] = load(out + i * ROWS + j * LANES) * alpha[j];
    for (int t = 0; t < count; ++t) {
        Vec lanes[TILE_VECS];
        for (int j = 0; j < TILE_VECS; ++j) lanes[j] = load(weights + t * ROWS + j * LANES);
        const float* v = values[t] + d;
        for (int i = 0; i < UNROLL; ++i)
            for (int j = 0; j < TILE_VECS; ++j) total[i][j] += v[i] * lanes[j];
    }
    for (int i = 0; i < UNROLL; ++i)
        for (int j = 0; j < TILE_VECS; ++j) store(out + i * ROWS + j * LANES, total[i][j]);
}

struct TileState {
    Vec peak[TILE_VECS], total[TILE_VECS];
    VecInt position[TILE_VECS];
    Vec place[TILE_VECS], slope[TILE_VECS];  // the same positions as floats, and each row's slope; only with slopes
    int64_t lowest, highest;  // first and last query position of the tile
};

static void tile_mask(const AttentionArgs& a, const TileState& state, float* scores, int64_t start, int count) {
    const bool above = start + count - 1 > state.lowest, below = start < first_visible(a, state.highest);
    if (!above && !below) return;
    for (int t = 0; t < count; ++t)
        for (int j = 0; j < TILE_VECS; ++j) {
            const int32_t key = static_cast<int32_t>(start + t);
            VecInt visible = state.position[j] >= key;
            if (a.window > 0) visible &= state.position[j] - static_cast<int32_t>(a.window) < key;
            float* s = scores + t * ROWS + j * LANES;
            store(s, select(visible, load(s), splat(MINUS_INFINITY)));
        }
}

static void tile_slopes(const TileState& state, float* scores, int64_t start, int count) {
    for (int t = 0; t < count; ++t)
        for (int j = 0; j < TILE_VECS; ++j) {
            float* s = scores + t * ROWS + j * LANES;
            store(s, load(s) + state.slope[j] * (splat(static_cast<float>(start + t)) - state.place[j]));
        }
}

static void tile_softmax(TileState& state, float* scores, int count, Vec* alpha) {
    for (int j = 0; j < TILE_VECS; ++j) {
        Vec peak = state.peak[j], added = {};
        for (int t = 0; t < count; ++t) peak = maximum(load(scores + t * ROWS + j * LANES), peak);
        for (int t = 0; t < count; ++t) {
            float* s = scores + t * ROWS + j * LANES;
            const Vec p = exp_nonpositive(load(s) - peak);
            store(s, p);
            added += p;
        }
        alpha[j] = exp_nonpositive(state.peak[j] - peak);
        state.total[j] = state.total[j] * alpha[j] + added;
        state.peak[j] = peak;
    }
}

#if defined(__AVX512BF16__)
// Whether the tile's queries are pairs of bfloat16, as its products then are.
static inline bool has_pairs(const AttentionArgs& a) { return a.rounds && a.n % (2 * LANES) == 0; }

// Of a chunk's keys, or of its values and the tile's weights of them.
static int64_t pairs_of_chunk(const AttentionArgs& a) { return has_pairs(a) ? TILE_CHUNK / 2 * (a.n + ROWS) : 0; }

// q: as tile_chunk takes it, [n / 2][ROWS], of one row; room: for n floats and n / 2 pairs
static void turn_query(const AttentionArgs& a, const float* source, float* room, int64_t row, int32_t* q) {
    int32_t* pairs = reinterpret_cast<int32_t*>(room + a.n);
    for (int64_t d = 0; d < a.n; ++d) room[d] = source[d] * a.scale;
    pair_inputs(room, a.n, pairs);
    for (int64_t d = 0; d < a.n / 2; ++d) q[d * ROWS + row] = pairs[d];
}

static void chunk_scores_of_pairs(const float* const* keys, int64_t n, const int32_t* q, int count, int32_t* pairs,
                                  float* scores) {
    for (int t = 0; t < count; ++t) pair_inputs(keys[t], n, pairs + t * n / 2);
    int t = 0;
    for (; t + UNROLL <= count; t += UNROLL)
        pair_scores<UNROLL, TILE_VECS>(pairs + t * n / 2, n, q, scores + t * ROWS);
    for (; t < count; ++t) pair_scores<1, TILE_VECS>(pairs + t * n / 2, n, q, scores + t * ROWS);
}

static void chunk_values_of_pairs(float* out, const Vec* alpha, const float* const* values, int64_t n, int count,
                                  int32_t* pairs, const float* scores) {
    int32_t* weights = pairs + TILE_CHUNK / 2 * n;
    for (int t = 0; t < count; t += 2) {
        const bool is_last = t + 1 == count;
        pair_rows(values[t], is_last ? nullptr : values[t + 1], n, pairs + t / 2 * n);
        pair_rows(scores + t * ROWS, is_last ? nullptr : scores + (t + 1) * ROWS, ROWS, weights + t / 2 * ROWS);
    }
    for (int64_t d = 0; d < n; d += UNROLL)
        pair_values<UNROLL, TILE_VECS>(out + d * ROWS, alpha, pairs + d, n, weights, (count + 1) / 2);
}
#else
static inline bool has_pairs(const AttentionArgs&) { return false; }
static int64_t pairs_of_chunk(const AttentionArgs&) { return 0; }
static void turn_query(const AttentionArgs&, const float*, float*, int64_t, int32_t*) {}
static void chunk_scores_of_pairs(const float* const*, int64_t, const int32_t*, int, int32_t*, float*) {}
static void chunk_values_of_pairs(float*, const Vec*, const float* const*, int64_t, int, int32_t*, const float*) {}
#endif

// q: of the tile's rows, transposed; pairs where has_pairs
static void tile_chunk(const AttentionArgs& a, const Item& item, TileState& state, const float* q, float* out,
                       float* scores, int64_t start, int count) {
    const int32_t* table = a.block_tables + item.sequence * a.table_stride;
    const float* values[TILE_CHUNK];
    const float* keys[TILE_CHUNK];
    const bool is_packed = a.codec != FLOAT32;
    int32_t* pairs = reinterpret_cast<int32_t*>(scores + TILE_CHUNK * ROWS);
    float* unpacked = scores + TILE_CHUNK * ROWS + pairs_of_chunk(a);
    if (is_packed) unpack_chunk(a, item, start, count, state.highest + 1, unpacked, unpacked + TILE_CHUNK * a.n);
    for (int t = 0; t < count;) {
        const float* key = is_packed ? unpacked : cache_row(a.k_cache, a, table, item.head, start + t);
        const float* value = is_packed ? unpacked + TILE_CHUNK * a.n : a.v_cache + (key - a.k_cache);
        const int64_t piece = a.block_size - (start + t) % a.block_size;
        const int run = is_packed ? count : static_cast<int>(std::min<int64_t>(count - t, piece));
        for (int i = 0; i < run; ++i) keys[t + i] = key + i * a.n, values[t + i] = value + i * a.n;
        int i = has_pairs(a) ? run : 0;
        for (; i + UNROLL <= run; i += UNROLL)
            tile_scores<UNROLL>(key + i * a.n, a.n, q, scores + (t + i) * ROWS);
        for (; i < run; ++i) tile_scores<1>(key + i * a.n, a.n, q, scores + (t + i) * ROWS);
        t += run;
    }
    if (has_pairs(a))
        chunk_scores_of_pairs(keys, a.n, reinterpret_cast<const int32_t*>(q), count, pairs, scores);
    if (a.softcap > 0)
        for (int i = 0; i < count * ROWS; i += LANES)
            store(scores + i, a.softcap * tanh_vector(load(scores + i) / a.softcap));
    if (a.slopes) tile_slopes(state, scores, start, count);
    tile_mask(a, state, scores, start, count);
    Vec alpha[TILE_VECS];
    tile_softmax(state, scores, count, alpha);
    if (has_pairs(a)) {
        chunk_values_of_pairs(out, alpha, values, a.n, count, pairs, scores);
        return;
    }
    for (int64_t d = 0; d < a.n; d += UNROLL) tile_values(out + d * ROWS, alpha, values, d, count, scores);
}

static void prefill_tile(const AttentionArgs& a, const Item& item, float* scratch) {
    const int64_t group = a.q_heads / a.k_heads, first = a.query_starts[item.sequence];
    const int64_t queries = a.query_starts[item.sequence + 1] - first;
    const int64_t before = a.context_lens[item.sequence] - queries;
    const int64_t rows = std::min<int64_t>(ROWS, queries * group - item.row);
    float *q = scratch, *out = q + a.n * ROWS, *scores = out + a.n * ROWS;
    std::memset(q, 0, 2 * a.n * ROWS * sizeof(float));
    TileState state;
    for (int j = 0; j < TILE_VECS; ++j) {
        state.peak[j] = splat(LOWEST);
        state.total[j] = splat(a.sinks ? 1.0f : 0.0f);
    }
    for (int64_t i = 0; i < ROWS; ++i) {
        const int64_t row = item.row + std::min(i, rows - 1);
        state.position[i / LANES][i % LANES] = static_cast<int32_t>(before + row / group);
        state.place[i / LANES][i % LANES] = static_cast<float>(before + row / group);
        state.slope[i / LANES][i % LANES] = a.slopes ? a.slopes[item.head * group + row % group] : 0.0f;
        if (a.sinks) state.peak[i / LANES][i % LANES] = a.sinks[item.head * group + row % group];
        if (i >= rows) continue;
        const float* source = a.q + (first + row / group) * a.q_token + (item.head * group + row % group) * a.q_head;
        if (has_pairs(a)) turn_query(a, source, scores, i, reinterpret_cast<int32_t*>(q));
        else for (int64_t d = 0; d < a.n; ++d) q[d * ROWS + i] = source[d] * a.scale;
    }
    state.lowest = before + item.row / group;
    state.highest = before + (item.row + rows - 1) / group;
    for (int64_t start = first_visible(a, state.lowest); start <= state.highest; start += TILE_CHUNK) {
        const int64_t count = std::min<int64_t>(TILE_CHUNK, state.highest + 1 - start);
        tile_chunk(a, item, state, q, out, scores, start, static_cast<int>(count));
    }
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = item.row + i;
        float* target = a.out + ((first + row / group) * a.q_heads + item.head * group + row % group) * a.n;
        const float inverse = 1.0f / state.total[i / LANES][i % LANES];
        for (int64_t d = 0; d < a.n; ++d) target[d] = out[d * ROWS + i] * inverse;
    }
}
