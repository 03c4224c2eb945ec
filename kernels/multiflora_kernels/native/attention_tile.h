// A tile: ROWS rows (query token, head) of one kv head, which are the lanes of vectors. The query tokens follow one
// another in one sequence, or are those of sequences that share leading keys.
#pragma once

#include "attention_args.h"

#if defined(__AVX512F__)
constexpr int TILE_VECS = 2, UNROLL = 8;
#else
constexpr int TILE_VECS = 2, UNROLL = 4;
#endif
constexpr int ROWS = TILE_VECS * LANES;
constexpr int TILE_CHUNK = 64;

// A tile's products in float32. Such a form says what it reads keys and values as, how many values of float32's size it
// needs besides for a chunk, and how queries lie.
struct FloatTile {
    using Element = float;

    static int64_t room(int64_t) { return 0; }

    // A row's query, scaled, of n values, to its lane of q [n][ROWS].
    static void turn(const float* query, int64_t n, float*, int64_t row, float* q) {
        for (int64_t d = 0; d < n; ++d) q[d * ROWS + row] = query[d];
    }

    // scores[t][row] = k[t] . q[row] for keys that follow one another
    static void scores(const float* keys, int64_t n, const float* q, int count, float*, float* scores) {
        int t = 0;
        for (; t + UNROLL <= count; t += UNROLL) some_scores<UNROLL>(keys + t * n, n, q, scores + t * ROWS);
        for (; t < count; ++t) some_scores<1>(keys + t * n, n, q, scores + t * ROWS);
    }

    // out[d][row] = out[d][row] * alpha[row] + sum over t of values[t][d] * weights[t][row]
    static void values(float* out, const Vec* alpha, const float* const* values, int64_t n, int count, float*,
                       const float* weights) {
        for (int64_t d = 0; d < n; d += UNROLL) some_values(out + d * ROWS, alpha, values, d, count, weights);
    }

private:
    template <int KEYS>
    static void some_scores(const float* keys, int64_t n, const float* q, float* scores) {
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

    static void some_values(float* out, const Vec* alpha, const float* const* values, int64_t d, int count,
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
};

struct TileState {
    Vec peak[TILE_VECS], total[TILE_VECS];
    VecInt position[TILE_VECS];
    Vec place[TILE_VECS], slope[TILE_VECS];  // the same positions as floats, and each row's slope; only with slopes
    int64_t lowest, highest;  // first and last key that is the last one of some row
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

// q: of the tile's rows, as the form has them. room: for a chunk's scores, what the form needs, and its keys and values
template <class Form>
static void tile_chunk(const AttentionArgs& a, const AttentionItem& item, TileState& state, const float* q, float* out,
                       float* room, int64_t start, int count) {
    using Element = typename Form::Element;
    const int32_t* table = a.block_tables + item.sequence * a.table_stride;
    const Element *values[TILE_CHUNK], *caches[2];
    float *scores = room, *of_form = scores + TILE_CHUNK * ROWS, *unpacked = of_form + Form::room(a.n);
    const bool in_place = a.codec == FLOAT32 || !std::is_same_v<Element, float>;
    if (!in_place) unpack_chunk(a, item, start, count, state.highest + 1, unpacked, unpacked + TILE_CHUNK * a.n);
    for (int t = 0; t < count;) {
        const int64_t piece = a.block_size - (start + t) % a.block_size;
        const int run = in_place ? static_cast<int>(std::min<int64_t>(count - t, piece)) : count;
        if (in_place) {
            caches[0] = cache_row<Element>(a.k_cache, a, table, item.head, start + t);
            caches[1] = cache_row<Element>(a.v_cache, a, table, item.head, start + t);
        } else {
            caches[0] = reinterpret_cast<const Element*>(unpacked);
            caches[1] = caches[0] + TILE_CHUNK * a.n;
        }
        Form::scores(caches[0], a.n, q, run, of_form, scores + t * ROWS);
        for (int i = 0; i < run; ++i) values[t + i] = caches[1] + i * a.n;
        t += run;
    }
    if (a.softcap > 0)
        for (int i = 0; i < count * ROWS; i += LANES)
            store(scores + i, a.softcap * tanh_vector(load(scores + i) / a.softcap));
    if (a.slopes) tile_slopes(state, scores, start, count);
    tile_mask(a, state, scores, start, count);
    Vec alpha[TILE_VECS];
    tile_softmax(state, scores, count, alpha);
    Form::values(out, alpha, values, a.n, count, of_form, scores);
}

template <class Form>
static int64_t tile_room(const AttentionArgs& a) {
    return (2 * a.n + TILE_CHUNK) * ROWS + Form::room(a.n) + 2 * TILE_CHUNK * a.n;
}

// Of keys that a group shares, `a.out` and `softmax` [tokens][q heads] get what is summed, for `decode_row` to go on.
template <class Form>
static void attend_tile(const AttentionArgs& a, const AttentionItem& item, Softmax* softmax, float* scratch) {
    const bool is_shared = item.shape == Shape::SHARED_TILE;
    const int64_t group = a.q_heads / a.k_heads, first = a.query_starts[item.sequence];
    const int64_t queries = is_shared ? a.groups[a.sequences + item.sequence]
                                      : a.query_starts[item.sequence + 1] - first;
    const int64_t rows = std::min<int64_t>(ROWS, queries * group - item.row);
    float *q = scratch, *out = q + a.n * ROWS, *room = out + a.n * ROWS;
    std::memset(q, 0, 2 * a.n * ROWS * sizeof(float));
    TileState state;
    for (int j = 0; j < TILE_VECS; ++j) {
        state.peak[j] = splat(LOWEST);
        state.total[j] = splat(a.sinks ? 1.0f : 0.0f);
    }
    const auto position_of = [&](int64_t query) {
        if (is_shared) return static_cast<int64_t>(a.context_lens[item.sequence + query]) - 1;
        return a.context_lens[item.sequence] - queries + query;
    };
    for (int64_t i = 0; i < ROWS; ++i) {
        const int64_t row = item.row + std::min(i, rows - 1), head = item.head * group + row % group;
        state.position[i / LANES][i % LANES] = static_cast<int32_t>(position_of(row / group));
        state.place[i / LANES][i % LANES] = static_cast<float>(position_of(row / group));
        state.slope[i / LANES][i % LANES] = a.slopes ? a.slopes[head] : 0.0f;
        if (a.sinks) state.peak[i / LANES][i % LANES] = a.sinks[head];
        if (i >= rows) continue;
        const float* source = a.q + (first + row / group) * a.q_token + head * a.q_head;
        for (int64_t d = 0; d < a.n; ++d) room[d] = source[d] * a.scale;
        Form::turn(room, a.n, room + a.n, i, q);
    }
    state.lowest = is_shared ? shared_keys(a, item.sequence) - 1 : position_of(item.row / group);
    state.highest = is_shared ? state.lowest : position_of((item.row + rows - 1) / group);
    for (int64_t start = first_visible(a, state.lowest); start <= state.highest; start += TILE_CHUNK) {
        const int64_t count = std::min<int64_t>(TILE_CHUNK, state.highest + 1 - start);
        tile_chunk<Form>(a, item, state, q, out, room, start, static_cast<int>(count));
    }
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = item.row + i;
        const int64_t target = (first + row / group) * a.q_heads + item.head * group + row % group;
        const float total = state.total[i / LANES][i % LANES], factor = is_shared ? 1.0f : 1.0f / total;
        for (int64_t d = 0; d < a.n; ++d) a.out[target * a.n + d] = out[d * ROWS + i] * factor;
        if (is_shared) softmax[target] = {state.peak[i / LANES][i % LANES], total};
    }
}
