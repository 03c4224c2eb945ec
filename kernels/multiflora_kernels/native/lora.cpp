// Segment-wise LoRA: for each adapter's tokens, y[t, columns] += (x[t] A^T) B, for all sites of a stacked projection.
//
// An item is one adapter's run of at most CHUNK tokens at one site: it shrinks to its rank and expands again on one
// thread, so nothing is shared between threads and every sum has one order. Work follows the tokens and ranks present.
#include "vector.h"

#include <algorithm>

struct LoraSite {
    const float *a, *b;
    const int32_t *offsets, *ranks;
    const float* magnitude;  // [slots, columns] or null
    int64_t first, columns, magnitude_stride;
};

struct LoraArgs {
    float* y;
    const float *x, *bias;
    const int32_t *starts, *slots;
    int64_t segments, y_stride, x_stride, k, sites;
    LoraSite site[4];  // the first `sites` are there
};

struct LoraItem {
    int32_t site, slot, first, count;
};

constexpr int CHUNK = 16;

// h[t][r] = x[t] . a[r] for TOKENS x RANKS
template <int TOKENS, int RANKS>
static void shrink_block(float* h, int64_t h_stride, const float* x, int64_t x_stride, const float* a, int64_t k) {
    Vec total[TOKENS][RANKS] = {};
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        Vec lanes[RANKS];
        for (int r = 0; r < RANKS; ++r) lanes[r] = load(a + r * k + i);
        for (int t = 0; t < TOKENS; ++t) {
            const Vec v = load(x + t * x_stride + i);
            for (int r = 0; r < RANKS; ++r) total[t][r] += v * lanes[r];
        }
    }
    for (int t = 0; t < TOKENS; ++t)
        for (int r = 0; r < RANKS; ++r) {
            float rest = 0.0f;
            for (int64_t j = i; j < k; ++j) rest += x[t * x_stride + j] * a[r * k + j];
            h[t * h_stride + r] = sum(total[t][r]) + rest;
        }
}

template <int TOKENS>
static void shrink_tokens(float* h, int64_t rank, const float* x, int64_t x_stride, const float* a, int64_t k) {
    int64_t r = 0;
    for (; r + 4 <= rank; r += 4) shrink_block<TOKENS, 4>(h + r, rank, x, x_stride, a + r * k, k);
    for (; r < rank; ++r) shrink_block<TOKENS, 1>(h + r, rank, x, x_stride, a + r * k, k);
}

// y[t][c] += sum over r of h[t][r] b[r][c] for TOKENS x VECS vectors of columns, the sum kept in registers
template <int TOKENS, int VECS>
static void expand_block(float* y, int64_t y_stride, const float* h, int64_t rank, const float* b, int64_t columns) {
    Vec total[TOKENS][VECS];
    for (int t = 0; t < TOKENS; ++t)
        for (int j = 0; j < VECS; ++j) total[t][j] = load(y + t * y_stride + j * LANES);
    for (int64_t r = 0; r < rank; ++r) {
        Vec lanes[VECS];
        for (int j = 0; j < VECS; ++j) lanes[j] = load(b + r * columns + j * LANES);
        for (int t = 0; t < TOKENS; ++t)
            for (int j = 0; j < VECS; ++j) total[t][j] += h[t * rank + r] * lanes[j];
    }
    for (int t = 0; t < TOKENS; ++t)
        for (int j = 0; j < VECS; ++j) store(y + t * y_stride + j * LANES, total[t][j]);
}

// One panel of columns of b serves all tokens of the chunk while it is in the nearest cache.
template <int VECS>
static void expand_panel(float* y, int64_t y_stride, const float* h, int64_t rank, const float* b, int64_t columns,
                         int count) {
    int t = 0;
    for (; t + 4 <= count; t += 4) expand_block<4, VECS>(y + t * y_stride, y_stride, h + t * rank, rank, b, columns);
    for (; t < count; ++t) expand_block<1, VECS>(y + t * y_stride, y_stride, h + t * rank, rank, b, columns);
}

static void expand(float* y, int64_t y_stride, const float* h, int64_t rank, const float* b, int64_t columns,
                   int count) {
    int64_t c = 0;
    for (; c + 4 * LANES <= columns; c += 4 * LANES) expand_panel<4>(y + c, y_stride, h, rank, b + c, columns, count);
    for (; c + LANES <= columns; c += LANES) expand_panel<1>(y + c, y_stride, h, rank, b + c, columns, count);
    for (; c < columns; ++c)
        for (int t = 0; t < count; ++t)
            for (int64_t r = 0; r < rank; ++r) y[t * y_stride + c] += h[t * rank + r] * b[r * columns + c];
}

// DoRA (arXiv:2402.09353): y = bias + m * (y - bias), y holding base + LoRA.
static void rescale(float* y, const float* bias, const float* magnitude, int64_t columns) {
    for (int64_t c = 0; c < columns; ++c) {
        const float base = bias != nullptr ? bias[c] : 0.0f;
        y[c] = base + magnitude[c] * (y[c] - base);
    }
}

static void run(const LoraArgs& args, const LoraItem& item, float* h) {
    const LoraSite& site = args.site[item.site];
    const int64_t rank = site.ranks[item.slot], offset = site.offsets[item.slot];
    const float *a = site.a + offset * args.k, *b = site.b + offset * site.columns;
    const float* x = args.x + item.first * args.x_stride;
    float* y = args.y + item.first * args.y_stride + site.first;
    int t = 0;
    for (; t + 4 <= item.count; t += 4)
        shrink_tokens<4>(h + t * rank, rank, x + t * args.x_stride, args.x_stride, a, args.k);
    for (; t < item.count; ++t) shrink_tokens<1>(h + t * rank, rank, x + t * args.x_stride, args.x_stride, a, args.k);
    expand(y, args.y_stride, h, rank, b, site.columns, item.count);
    if (site.magnitude == nullptr) return;
    const float* bias = args.bias != nullptr ? args.bias + site.first : nullptr;
    const float* magnitude = site.magnitude + item.slot * site.magnitude_stride;
    for (t = 0; t < item.count; ++t) rescale(y + t * args.y_stride, bias, magnitude, site.columns);
}

extern "C" void multiflora_lora_linear(const LoraArgs* pointer) {
    const LoraArgs& args = *pointer;
    static thread_local std::vector<LoraItem> planned;
    planned.clear();
    int64_t work = 0, most = 0;
    for (int64_t g = 0; g < args.segments; ++g)
        for (int64_t s = 0; s < args.sites; ++s) {
            const int64_t rank = args.site[s].ranks[args.slots[g]];
            if (rank == 0) continue;
            most = std::max(most, rank);
            work += rank * (args.k + args.site[s].columns) * (args.starts[g + 1] - args.starts[g]);
            for (int32_t t = args.starts[g]; t < args.starts[g + 1]; t += CHUNK)
                planned.push_back({static_cast<int32_t>(s), args.slots[g], t,
                                   std::min<int32_t>(CHUNK, args.starts[g + 1] - t)});
        }
    const LoraItem* items = planned.data();
    const int64_t count = static_cast<int64_t>(planned.size());
    const int threads = threads_for(count > 1 ? work : 0, 1 << 16);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        static thread_local std::vector<float> scratch;
        scratch.resize(CHUNK * most);
        float* own = scratch.data();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < count; ++i) run(args, items[i], own);
    }
}
