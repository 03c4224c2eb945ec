// Paged causal attention over caches [blocks, kv heads, block_size, n] of fp32, or packed in bfloat16 or 8 bits:
// those are unpacked chunk by chunk, for all query heads of their kv head.
//
// Two shapes of work. A decode row (one query token, all query heads of one kv head) streams K and V once and
// vectorises over the head dimension. A prefill tile takes ROWS (query token, head) rows of one kv head as vector
// lanes: scores S^T = K Q^T and the output O^T += V^T P^T then need no transposed copy of K or V, and softmax needs
// no reduction across lanes.
#include "attention_decode.h"
#include "attention_tile.h"

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
    const int64_t of_tile = 2 * a.n * ROWS + TILE_CHUNK * ROWS + pairs_of_chunk(a);
    int64_t scratch_size = std::max(of_tile, (a.q_heads / a.k_heads) * (2 * a.n + 2));
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
