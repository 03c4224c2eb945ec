// Row-wise kernels: RMS norm (alone and fused with the residual sum), gated activations, rotary embedding + KV write.
#include "packed_cache.h"
#include "vector.h"

#include <cmath>

constexpr int64_t PARALLEL_ELEMENTS = 1 << 16;

static float square_sum(const float* x, int64_t n) {
    Vec total[2] = {};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int j = 0; j < 2; ++j) {
            const Vec v = load(x + i + j * LANES);
            total[j] += v * v;
        }
    float rest = 0.0f;
    for (; i < n; ++i) rest += x[i] * x[i];
    return sum(total[0] + total[1]) + rest;
}

static void scale_row(float* out, const float* x, const float* weight, float scale, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
    for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// x: rows x groups x n with strides; out: contiguous.
extern "C" void multiflora_rms_norm(float* out, const float* x, const float* weight, int64_t rows, int64_t groups,
                                    int64_t n, int64_t row_stride, int64_t group_stride, float eps) {
    const int threads = threads_for(rows * groups * n, PARALLEL_ELEMENTS);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t g = 0; g < groups; ++g) {
            const float* source = x + row * row_stride + g * group_stride;
            const float scale = 1.0f / std::sqrt(square_sum(source, n) / n + eps);
            scale_row(out + (row * groups + g) * n, source, weight, scale, n);
        }
}

extern "C" void multiflora_add_rms_norm(float* out, float* total, const float* x, const float* residual,
                                        const float* weight, int64_t rows, int64_t n, float eps) {
    const int threads = threads_for(rows * n, PARALLEL_ELEMENTS);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        const float *a = x + row * n, *b = residual + row * n;
        float* t = total + row * n;
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) store(t + i, load(a + i) + load(b + i));
        for (; i < n; ++i) t[i] = a[i] + b[i];
        scale_row(out + row * n, t, weight, 1.0f / std::sqrt(square_sum(t, n) / n + eps), n);
    }
}

static inline Vec silu(Vec x) {
    const Vec e = exp_nonpositive(-magnitude(x));
    return x * select(x < Vec{}, e, splat(1.0f)) / (1.0f + e);
}

static inline Vec gelu_tanh(Vec x) {
    return 0.5f * x * (1.0f + tanh_vector(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

template <Vec (*activation)(Vec)>
static void gate(float* out, const float* x, int64_t rows, int64_t n) {
    const int threads = threads_for(rows * n * 4, PARALLEL_ELEMENTS);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        const float *gates = x + row * 2 * n, *values = gates + n;
        float* target = out + row * n;
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) store(target + i, activation(load(gates + i)) * load(values + i));
        for (; i < n; ++i) target[i] = activation(splat(gates[i]))[0] * values[i];
    }
}

extern "C" void multiflora_silu_and_mul(float* out, const float* x, int64_t rows, int64_t n) {
    gate<silu>(out, x, rows, n);
}

extern "C" void multiflora_gelu_tanh_and_mul(float* out, const float* x, int64_t rows, int64_t n) {
    gate<gelu_tanh>(out, x, rows, n);
}

static void rotate_head(float* out, const float* x, const float* cosine, const float* sine, int64_t half, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const Vec a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
        store(out + i, a * c - b * s);
        store(out + half + i, b * c + a * s);
    }
    for (; i < half; ++i) {
        const float a = x[i], b = x[half + i];
        out[i] = a * cosine[i] - b * sine[i];
        out[half + i] = b * cosine[i] + a * sine[i];
    }
    if (out != x && 2 * half < n) std::memcpy(out + 2 * half, x + 2 * half, (n - 2 * half) * sizeof(float));
}

struct RopeArgs {
    float *q, *k;
    const float *v, *cosine, *sine;
    const int64_t *positions, *slots;
    void *k_cache, *v_cache;
    int64_t tokens, q_heads, k_heads, n, half, table_stride;
    int64_t block_size;  // given as the elements of a block's piece of one kv head
    int64_t codec;
    int64_t q_token, q_head, k_token, k_head, v_token, v_head;
};

static void cache_head(const RopeArgs& a, void* cache, int64_t piece, int64_t offset, const float* x) {
    if (a.codec == FLOAT32)
        std::memcpy(static_cast<float*>(cache) + (piece * a.block_size + offset) * a.n, x, a.n * sizeof(float));
    else
        pack_row(a.codec, packed_piece(a.codec, cache, piece, a.block_size, a.n), offset, x, a.n);
}

// Rotates q and k in place and writes k and v to their cache slots; of a row whose slot is negative nothing is written.
extern "C" void multiflora_rope_and_write_kv(const RopeArgs* args) {
    RopeArgs given = *args;
    given.block_size = block_size_of(given.codec, given.block_size, given.n);
    const RopeArgs& a = given;
    const int threads = threads_for(a.tokens * (a.q_heads + 2 * a.k_heads) * a.n, PARALLEL_ELEMENTS);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < a.tokens; ++t) {
        const float* cosine = a.cosine + a.positions[t] * a.table_stride;
        const float* sine = a.sine + a.positions[t] * a.table_stride;
        for (int64_t h = 0; h < a.q_heads; ++h) {
            float* q = a.q + t * a.q_token + h * a.q_head;
            rotate_head(q, q, cosine, sine, a.half, a.n);
        }
        if (a.slots[t] < 0) continue;
        const int64_t block = a.slots[t] / a.block_size, offset = a.slots[t] % a.block_size;
        for (int64_t h = 0; h < a.k_heads; ++h) {
            float* k = a.k + t * a.k_token + h * a.k_head;
            rotate_head(k, k, cosine, sine, a.half, a.n);
            cache_head(a, a.k_cache, block * a.k_heads + h, offset, k);
            cache_head(a, a.v_cache, block * a.k_heads + h, offset, a.v + t * a.v_token + h * a.v_head);
        }
    }
}
