// Paged causal attention over caches [blocks, kv heads, block_size, n] of fp32, or packed in 8 bits: those are unpacked
// chunk by chunk, for all query heads of their kv head.
//
// Two shapes of work. A decode row (one query token, all query heads of one kv head) streams K and V once and
// vectorises over the head dimension. A prefill tile takes ROWS (query token, head) rows of one kv head as vector
// lanes: scores S^T = K Q^T and the output O^T += V^T P^T then need no transposed copy of K or V, and softmax needs
// no reduction across lanes.
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
    const float *q, *k_cache, *v_cache;
    const int32_t *query_starts, *context_lens, *block_tables;
    const float* slopes;  // [q heads]: added to a score is slope * (key position - query position); null: nothing
    const float* sinks;  // [q heads]: a score whose value is 0, beside those of the keys; null: none
    int64_t sequences, q_heads, k_heads, n;
    int64_t block_size;  // given as the elements of a block's piece of one kv head
    int64_t q_token, q_head, table_stride, window;
    int64_t codec;  // what the caches hold; where it is not FLOAT32, k_cache and v_cache point to packed pieces
    float scale, softcap;
};

struct Item {
    int32_t sequence, head, row;  // row: first (query token * group + head in group) of the sequence
    int64_t work;
    bool tile;
};

static inline const float* cache_row(const float* cache, const AttentionArgs& a, const int32_t* table, int64_t head,
                                     int64_t position) {
    const int64_t block = table[position / a.block_size];
    return cache + ((block * a.k_heads + head) * a.block_size + position % a.block_size) * a.n;
}

static inline int64_t first_visible(const AttentionArgs& a, int64_t position) {
    return a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0;
}

// Keys and values of the positions from `start`, in fp32: [count][n] each.
static void unpack_chunk(const AttentionArgs& a, const Item& item, int64_t start, int count, float* keys,
                         float* values) {
    const int32_t* table = a.block_tables + item.sequence * a.table_stride;
    void* caches[2] = {const_cast<float*>(a.k_cache), const_cast<float*>(a.v_cache)};
    float* targets[2] = {keys, values};
    for (int t = 0; t < count;) {
        const int64_t block = table[(start + t) / a.block_size], offset = (start + t) % a.block_size;
        const int run = static_cast<int>(std::min<int64_t>(count - t, a.block_size - offset));
        for (int part = 0; part < 2; ++part) {
            const PackedPiece piece = packed_piece(caches[part], block * a.k_heads + item.head, a.block_size, a.n);
            for (int i = 0; i < run; ++i)
                unpack_row(a.codec, targets[part] + (t + i) * a.n, piece, offset + i, a.n);
        }
        t += run;
    }
}

constexpr int DECODE_CHUNK = 32;

// Blocks lie anywhere, so the processor cannot foresee the next one: ask for it while this chunk is being used.
template <int VECS>
static inline void prefetch(const float* row) {
    for (int line = 0; line < VECS * LANES; line += 16) __builtin_prefetch(row + line);
}

// HEADS query heads against `count` keys: scores[h][t] = q[h] . k[t]
template <int VECS, int HEADS>
static void decode_scores(const float* q, const float* const* keys, const float* const* ahead, int count,
                          float* scores) {
    constexpr int N = VECS * LANES;
    for (int t = 0; t < count; ++t) {
        prefetch<VECS>(ahead[t]);
        Vec total[HEADS] = {};
        for (int j = 0; j < VECS; ++j) {
            const Vec k = load(keys[t] + j * LANES);
            for (int h = 0; h < HEADS; ++h) total[h] += k * load(q + h * N + j * LANES);
        }
        for (int h = 0; h < HEADS; ++h) scores[h * DECODE_CHUNK + t] = sum(total[h]);
    }
}

template <int VECS, int HEADS>
static void decode_values(float* out, const float* alphas, const float* const* values, const float* const* ahead,
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
static void chunk_rows(const AttentionArgs& a, const Item& item, int64_t start, int64_t end,
                       const float* (*rows)[DECODE_CHUNK]) {
    const int32_t* table = a.block_tables + item.sequence * a.table_stride;
    int64_t offset = start % a.block_size, index = start / a.block_size;
    const float* row = cache_row(a.k_cache, a, table, item.head, std::min(start, end - 1));
    for (int t = 0; t < DECODE_CHUNK; ++t) {
        rows[0][t] = row;
        rows[1][t] = a.v_cache + (row - a.k_cache);
        if (start + t + 1 >= end) continue;
        if (++offset == a.block_size) {
            offset = 0;
            row = a.k_cache + (table[++index] * a.k_heads + item.head) * a.block_size * a.n;
        } else {
            row += a.n;
        }
    }
}

template <int VECS>
static void decode_row(const AttentionArgs& a, const Item& item, float* scratch) {
    constexpr int N = VECS * LANES;
    constexpr int HEADS = VECS <= 4 ? 2 : 1;
    const int64_t group = a.q_heads / a.k_heads;
    const int64_t query = a.query_starts[item.sequence] + item.row / group;
    const int64_t position = a.context_lens[item.sequence] - (a.query_starts[item.sequence + 1] - query);
    float *q = scratch, *out = q + group * N, *peaks = out + group * N, *totals = peaks + group;
    for (int64_t h = 0; h < group; ++h) {
        const float* source = a.q + query * a.q_token + (item.head * group + h) * a.q_head;
        for (int i = 0; i < N; ++i) q[h * N + i] = source[i] * a.scale;
        peaks[h] = a.sinks ? a.sinks[item.head * group + h] : LOWEST;
        totals[h] = a.sinks ? 1.0f : 0.0f;
    }
    std::memset(out, 0, group * N * sizeof(float));
    const float *rows[2][2][DECODE_CHUNK];  // [this chunk or the next][keys or values][token]
    float scores[HEADS * DECODE_CHUNK], alphas[HEADS];
    float* unpacked = totals + group;
    const int64_t begin = first_visible(a, position), end = position + 1;
    if (a.codec == FLOAT32) {
        chunk_rows(a, item, begin, end, rows[0]);
    } else {
        for (int t = 0; t < 2 * DECODE_CHUNK; ++t) rows[0][t / DECODE_CHUNK][t % DECODE_CHUNK] = unpacked + t * N;
        std::memcpy(rows[1], rows[0], sizeof rows[0]);
    }
    for (int64_t start = begin, turn = 0; start < end; start += DECODE_CHUNK, turn ^= 1) {
        const int count = static_cast<int>(std::min<int64_t>(DECODE_CHUNK, end - start));
        if (a.codec == FLOAT32) chunk_rows(a, item, start + DECODE_CHUNK, end, rows[turn ^ 1]);
        else unpack_chunk(a, item, start, count, unpacked, unpacked + DECODE_CHUNK * N);
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
        float* target = a.out + (query * a.q_heads + item.head * group + h) * N;
        const float inverse = 1.0f / totals[h];
        for (int i = 0; i < N; ++i) target[i] = out[h * N + i] * inverse;
    }
}

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

static void tile_chunk(const AttentionArgs& a, const Item& item, TileState& state, const float* q, float* out,
                       float* scores, int64_t start, int count) {
    const int32_t* table = a.block_tables + item.sequence * a.table_stride;
    const float* values[TILE_CHUNK];
    const bool is_packed = a.codec != FLOAT32;
    float* unpacked = scores + TILE_CHUNK * ROWS;
    if (is_packed) unpack_chunk(a, item, start, count, unpacked, unpacked + TILE_CHUNK * a.n);
    for (int t = 0; t < count;) {
        const float* keys = is_packed ? unpacked : cache_row(a.k_cache, a, table, item.head, start + t);
        const float* first = is_packed ? unpacked + TILE_CHUNK * a.n : a.v_cache + (keys - a.k_cache);
        const int64_t piece = a.block_size - (start + t) % a.block_size;
        const int run = is_packed ? count : static_cast<int>(std::min<int64_t>(count - t, piece));
        for (int i = 0; i < run; ++i) values[t + i] = first + i * a.n;
        int i = 0;
        for (; i + UNROLL <= run; i += UNROLL)
            tile_scores<UNROLL>(keys + i * a.n, a.n, q, scores + (t + i) * ROWS);
        for (; i < run; ++i) tile_scores<1>(keys + i * a.n, a.n, q, scores + (t + i) * ROWS);
        t += run;
    }
    if (a.softcap > 0)
        for (int i = 0; i < count * ROWS; i += LANES)
            store(scores + i, a.softcap * tanh_vector(load(scores + i) / a.softcap));
    if (a.slopes) tile_slopes(state, scores, start, count);
    tile_mask(a, state, scores, start, count);
    Vec alpha[TILE_VECS];
    tile_softmax(state, scores, count, alpha);
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
        for (int64_t d = 0; d < a.n; ++d) q[d * ROWS + i] = source[d] * a.scale;
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

typedef void (*DecodeRow)(const AttentionArgs&, const Item&, float*);

static DecodeRow decode_row_for(int64_t n) {
    switch (n) {
        case 32: return decode_row<32 / LANES>;
        case 64: return decode_row<64 / LANES>;
        case 80: return decode_row<80 / LANES>;
        case 96: return decode_row<96 / LANES>;
        case 128: return decode_row<128 / LANES>;
        case 256: return decode_row<256 / LANES>;
        default: return nullptr;
    }
}

// Neighbouring items share a kv head: sequences with a common prefix then find its blocks in the core's cache.
static void plan(const AttentionArgs& a, std::vector<Item>& items) {
    const int64_t group = a.q_heads / a.k_heads;
    for (int64_t head = 0; head < a.k_heads; ++head)
        for (int64_t s = 0; s < a.sequences; ++s) {
            const int64_t queries = a.query_starts[s + 1] - a.query_starts[s], rows = queries * group;
            const bool tiles = queries > 1 && rows >= LANES / 2;
            const int64_t step = tiles ? ROWS : group;
            for (int64_t row = 0; row < rows; row += step) {
                const int64_t last = a.context_lens[s] - queries + (std::min(rows, row + step) - 1) / group;
                items.push_back({static_cast<int32_t>(s), static_cast<int32_t>(head), static_cast<int32_t>(row),
                                 last + 1, tiles});
            }
        }
}

// n must be one that decode_row_for knows.
extern "C" void multiflora_paged_attention(const AttentionArgs* args) {
    AttentionArgs given = *args;
    given.block_size = block_size_of(given.codec, given.block_size, given.n);
    const AttentionArgs& a = given;
    const DecodeRow decode = decode_row_for(a.n);
    static thread_local std::vector<Item> items;
    items.clear();
    plan(a, items);
    int64_t work = 0;
    bool tiles = false;
    for (const Item& item : items) {
        work += item.work * a.n * (item.tile ? ROWS : 1);
        tiles |= item.tile;
    }
    // The longest tiles first, so that no thread starts one when the others are done.
    if (tiles)
        std::stable_sort(items.begin(), items.end(), [](const Item& x, const Item& y) { return x.work > y.work; });
    const Item* plan_items = items.data();
    const int64_t count = static_cast<int64_t>(items.size());
    const int threads = threads_for(work, 1 << 14);
    int64_t scratch_size = std::max(2 * a.n * ROWS + TILE_CHUNK * ROWS, (a.q_heads / a.k_heads) * (2 * a.n + 2));
    if (a.codec != FLOAT32) scratch_size += 2 * std::max(TILE_CHUNK, DECODE_CHUNK) * a.n;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        static thread_local std::vector<float> scratch;
        scratch.resize(scratch_size);
        float* own = scratch.data();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < count; ++i) {
            if (plan_items[i].tile) prefill_tile(a, plan_items[i], own);
            else decode(a, plan_items[i], own);
        }
    }
}
