// Paged causal attention over caches [blocks, kv heads, block_size, n] of float32 or bfloat16, or packed in 8 bits:
// those are unpacked chunk by chunk, for all query heads of their kv head.
//
// Two shapes of work. A decode row (one query token, all query heads of one kv head) streams K and V once and
// vectorises over the head dimension. A tile takes ROWS (query token, head) rows of one kv head as vector lanes: scores
// S^T = K Q^T and the output O^T += V^T P^T then need no transposed copy of K or V, and softmax needs no reduction
// across lanes. Prompts are tiles, and so are the queries of decoding sequences against keys that they share; a row of
// each then goes on with the sequence's own keys, so that nothing has to be merged.
#include "attention_decode.h"
#include "attention_pairs.h"
#include "attention_tile.h"

typedef void (*DecodeRow)(const AttentionArgs&, const AttentionItem&, const Softmax*, float*);

template <class Element>
static DecodeRow decode_row_of(int64_t n) {
    switch (n) {
        case 32: return decode_row<32 / LANES, Element>;
        case 64: return decode_row<64 / LANES, Element>;
        case 80: return decode_row<80 / LANES, Element>;
        case 96: return decode_row<96 / LANES, Element>;
        case 128: return decode_row<128 / LANES, Element>;
        case 256: return decode_row<256 / LANES, Element>;
        default: return nullptr;
    }
}

struct TileForm {
    void (*attend)(const AttentionArgs&, const AttentionItem&, Softmax*, float*);
    int64_t room;
};

template <class Form>
static TileForm tile_of(const AttentionArgs& a) {
    return {attend_tile<Form>, tile_room<Form>(a)};
}

static TileForm tile_for(const AttentionArgs& a) {
#if defined(__AVX512BF16__)
    if (a.rounds && a.n % (2 * LANES) == 0)
        return a.codec == BFLOAT16 ? tile_of<PairTile<uint16_t>>(a) : tile_of<PairTile<float>>(a);
#endif
    return tile_of<FloatTile>(a);
}

// Neighbouring items share a kv head: sequences with a common prefix then find its blocks in the core's cache.
static void plan(const AttentionArgs& a, std::vector<AttentionItem>& items) {
    const int64_t group = a.q_heads / a.k_heads;
    for (int64_t head = 0; head < a.k_heads; ++head)
        for (int64_t s = 0; s < a.sequences; ++s) {
            const int64_t queries = a.query_starts[s + 1] - a.query_starts[s], rows = queries * group;
            const bool tiles = queries > 1 && rows >= LANES / 2;
            const int64_t step = tiles ? ROWS : group;
            for (int64_t row = 0; row < rows; row += step) {
                const int64_t last = a.context_lens[s] - queries + (std::min(rows, row + step) - 1) / group;
                items.push_back({static_cast<int32_t>(s), static_cast<int32_t>(head), static_cast<int32_t>(row),
                                 last + 1 - shared_keys(a, s), tiles ? Shape::TILE : Shape::ROW});
            }
        }
}

// Tiles of the members of groups, which go before their rows.
static void plan_shared(const AttentionArgs& a, std::vector<AttentionItem>& items) {
    const int64_t group = a.q_heads / a.k_heads;
    for (int64_t head = 0; head < a.k_heads; ++head)
        for (int64_t leader = 0; leader < a.sequences; ++leader)
            for (int64_t row = 0; row < a.groups[a.sequences + leader] * group; row += ROWS)
                items.push_back({static_cast<int32_t>(leader), static_cast<int32_t>(head), static_cast<int32_t>(row),
                                 shared_keys(a, leader), Shape::SHARED_TILE});
}

// n must be one that decode_row_of knows.
extern "C" void multiflora_paged_attention(const AttentionArgs* args) {
    AttentionArgs given = *args;
    given.block_size = block_size_of(given.codec, given.block_size, given.n);
    const AttentionArgs& a = given;
    const DecodeRow decode = a.codec == BFLOAT16 ? decode_row_of<uint16_t>(a.n) : decode_row_of<float>(a.n);
    const TileForm tile = tile_for(a);
    static thread_local std::vector<AttentionItem> shared, items;
    static thread_local std::vector<Softmax> softmax_of_rows;
    shared.clear();
    items.clear();
    if (a.groups) {
        plan_shared(a, shared);
        softmax_of_rows.resize(a.query_starts[a.sequences] * a.q_heads);
    }
    plan(a, items);
    int64_t work = 0;
    bool tiles = false;
    for (const std::vector<AttentionItem>* part : {&shared, &items})
        for (const AttentionItem& item : *part) {
            work += item.work * a.n * (item.shape == Shape::ROW ? 1 : ROWS);
            tiles |= item.shape == Shape::TILE;
        }
    // The longest tiles first, so that no thread starts one when the others are done.
    if (tiles)
        std::stable_sort(items.begin(), items.end(), [](const auto& x, const auto& y) { return x.work > y.work; });
    const AttentionItem *first_items = shared.data(), *next_items = items.data();
    const int64_t first_count = static_cast<int64_t>(shared.size()), next_count = static_cast<int64_t>(items.size());
    Softmax* softmax = softmax_of_rows.data();
    const int threads = threads_for(work, 1 << 14);
    const int64_t of_row = (a.q_heads / a.k_heads) * (2 * a.n + 2) + 2 * DECODE_CHUNK * a.n;
    const int64_t scratch_size = std::max(tile.room, of_row);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        static thread_local std::vector<float> scratch;
        scratch.resize(scratch_size);
        float* own = scratch.data();
        if (first_count) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < first_count; ++i) tile.attend(a, first_items[i], softmax, own);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < next_count; ++i) {
            if (next_items[i].shape == Shape::ROW) decode(a, next_items[i], softmax, own);
            else tile.attend(a, next_items[i], softmax, own);
        }
    }
}
