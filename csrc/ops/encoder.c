/* Whole encoder layers over packed sequences: fused QKV, attention, output projection, feed-forward, residuals and
 * norms.
 *
 * Called by transformer_fast/_core.pyx. Nothing is computed here: the steps are the ops of linear.c, attention.c and
 * norm.c, so that the result has the bits of calling them one by one. What is decided here is who runs them: with
 * enough sequences, each task takes some of them through all layers in scratch of its own, with no barrier between the
 * steps; else the steps run one after the other, each over all threads. */
#include "../tfast.h"

#include <math.h>
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"

/* Tokens that go through the layers together. Fewer read the weights too often (linear layers reach 0.85 of their speed
 * at 128 rows, 0.95 at 416), more leave L2 with the intermediate of the feed-forward (384 x 1536 floats are 2.4 MB). */
#define CHUNK_TOKENS      384
#define MIN_CHUNK_TOKENS  96
#define CHUNKS_PER_THREAD 2

typedef struct {
    const tfast_encoder* call;
    int64_t* first; /* first sequence of each chunk, and B at the end */
    int64_t n_chunks, max_tokens, max_sequences;
    tfast_status status;
} plan_t;

/* Rows of one chunk, or of the whole call. */
typedef struct {
    const tfast_encoder* call;
    int64_t rows, sequences;
    const int64_t* cu;
    float *state, *other, *wide; /* (rows, h), (rows, h), (rows, max(4h, inner)) */
    int n_threads;
} rows_t;

static int64_t wide_width(const tfast_encoder* c) {
    return TFAST_MAX(4 * c->hidden, c->inner);
}

static tfast_status product(const rows_t* r, const tfast_packed* weight, const float* bias, const float* x,
                            tfast_activation activation, const float* residual, float* y) {
    const tfast_linear call = {.M = r->rows,
                               .x = x,
                               .x_stride = weight->K,
                               .weight = weight,
                               .bias = bias,
                               .activation = activation,
                               .residual = residual,
                               .residual_stride = weight->N,
                               .y = y,
                               .y_stride = weight->N};
    return tfast_linear_run(&call, r->n_threads);
}

/* qkv (rows, 3h) -> context (rows, h), heads side by side. */
static tfast_status attend(const rows_t* r, const float* qkv, float* context) {
    const int64_t h = r->call->hidden, D = h / r->call->heads;
    const tfast_attention call = {.dtype = TFAST_F32,
                                  .B = r->sequences,
                                  .H = r->call->heads,
                                  .Hkv = r->call->heads,
                                  .D = D,
                                  .Dv = D,
                                  .q = qkv,
                                  .k = qkv + h,
                                  .v = qkv + 2 * h,
                                  .out = context,
                                  .q_stride = {0, D, 3 * h},
                                  .k_stride = {0, D, 3 * h},
                                  .v_stride = {0, D, 3 * h},
                                  .out_stride = {0, D, h},
                                  .cu_q = r->cu,
                                  .cu_k = r->cu,
                                  .left = TFAST_UNLIMITED,
                                  .right = TFAST_UNLIMITED,
                                  .scale = (float)(1 / sqrt((double)D))};
    return tfast_attention_run(&call, r->n_threads);
}

static tfast_status norm(const rows_t* r, const float* x, const float* weight, const float* bias, float eps, float* y) {
    const int64_t h = r->call->hidden;
    return tfast_layernorm(r->rows, h, x, h, NULL, 0, weight, bias, eps, y, h, r->n_threads);
}

/* The first error of a row of steps, or TFAST_OK. */
#define STEP(expression)                           \
    do {                                           \
        const tfast_status status_ = (expression); \
        if (status_ != TFAST_OK) return status_;   \
    } while (0)

static tfast_status post_norm_layer(const rows_t* r, const tfast_encoder_layer* l) {
    const tfast_encoder* c = r->call;
    float *qkv = r->wide, *context = r->wide + 3 * c->hidden * r->rows, *inner = r->wide;
    STEP(product(r, l->qkv, l->qkv_bias, r->state, TFAST_IDENTITY, NULL, qkv));
    STEP(attend(r, qkv, context));
    STEP(product(r, l->out, l->out_bias, context, TFAST_IDENTITY, r->state, r->other));
    STEP(norm(r, r->other, l->norm1_weight, l->norm1_bias, c->eps1, r->state));
    STEP(product(r, l->up, l->up_bias, r->state, c->activation, NULL, inner));
    STEP(product(r, l->down, l->down_bias, inner, TFAST_IDENTITY, r->state, r->other));
    return norm(r, r->other, l->norm2_weight, l->norm2_bias, c->eps2, r->state);
}

static tfast_status pre_norm_layer(const rows_t* r, const tfast_encoder_layer* l) {
    const tfast_encoder* c = r->call;
    float *qkv = r->wide, *context = r->wide + 3 * c->hidden * r->rows, *inner = r->wide;
    STEP(norm(r, r->state, l->norm1_weight, l->norm1_bias, c->eps1, r->other));
    STEP(product(r, l->qkv, l->qkv_bias, r->other, TFAST_IDENTITY, NULL, qkv));
    STEP(attend(r, qkv, context));
    STEP(product(r, l->out, l->out_bias, context, TFAST_IDENTITY, r->state, r->state));
    STEP(norm(r, r->state, l->norm2_weight, l->norm2_bias, c->eps2, r->other));
    STEP(product(r, l->up, l->up_bias, r->other, c->activation, NULL, inner));
    return product(r, l->down, l->down_bias, inner, TFAST_IDENTITY, r->state, r->state);
}

static tfast_status run_layers(const rows_t* r) {
    for (int64_t i = 0; i < r->call->n_layers; i++) {
        const tfast_encoder_layer* l = &r->call->layers[i];
        STEP(r->call->norm_first ? pre_norm_layer(r, l) : post_norm_layer(r, l));
    }
    return TFAST_OK;
}

/* The two buffers of `tokens` rows in one area: their size, and, with r set, their places. */
static size_t place_buffers(const tfast_encoder* c, int64_t tokens, char* area, rows_t* r) {
    const size_t row = tfast_align64((size_t)(tokens * c->hidden) * sizeof(float));
    if (r) {
        r->other = (float*)area;
        r->wide = (float*)(area + row);
    }
    return row + tfast_align64((size_t)(tokens * wide_width(c)) * sizeof(float));
}

static void run_chunk(void* ctx, int64_t task, void* scratch) {
    plan_t* p = ctx;
    const tfast_encoder* c = p->call;
    const int64_t first = p->first[task], last = p->first[task + 1], row = c->cu[first];
    int64_t* cu = scratch;
    rows_t r = {.call = c, .rows = c->cu[last] - row, .sequences = last - first, .cu = cu, .n_threads = 1};
    for (int64_t i = 0; i <= r.sequences; i++) cu[i] = c->cu[first + i] - row;
    place_buffers(c, p->max_tokens, (char*)scratch + tfast_align64((size_t)(p->max_sequences + 1) * sizeof(int64_t)),
                  &r);
    r.state = c->y + row * c->hidden;
    if (c->x != c->y) memcpy(r.state, c->x + row * c->hidden, (size_t)(r.rows * c->hidden) * sizeof(float));
    const tfast_status status = run_layers(&r);
    if (status != TFAST_OK) __atomic_store_n(&p->status, status, __ATOMIC_RELAXED);
}

/* Whole sequences, one after the other, until a chunk holds `tokens`. With p->first NULL they are only counted. */
static void cut_chunks(plan_t* p, int64_t tokens) {
    const tfast_encoder* c = p->call;
    int64_t begin = 0;
    p->n_chunks = p->max_tokens = p->max_sequences = 0;
    for (int64_t b = 1; b <= c->B; b++) {
        if (c->cu[b] - c->cu[begin] < tokens && b < c->B) continue;
        if (p->first) p->first[p->n_chunks] = begin;
        p->n_chunks++;
        p->max_tokens = TFAST_MAX(p->max_tokens, c->cu[b] - c->cu[begin]);
        p->max_sequences = TFAST_MAX(p->max_sequences, b - begin);
        begin = b;
    }
    if (p->first) p->first[p->n_chunks] = c->B;
}

static tfast_status run_whole(const tfast_encoder* c, int n_threads) {
    rows_t r = {.call = c, .rows = c->T, .sequences = c->B, .cu = c->cu, .state = c->y, .n_threads = n_threads};
    void* area = tfast_workspace_take(place_buffers(c, c->T, NULL, NULL));
    if (!area) return TFAST_NO_MEMORY;
    place_buffers(c, c->T, area, &r);
    if (c->x != c->y) memcpy(c->y, c->x, (size_t)(c->T * c->hidden) * sizeof(float));
    const tfast_status status = run_layers(&r);
    tfast_workspace_give(area);
    return status;
}

/* Before anything is written. */
static tfast_status check_layouts(const tfast_encoder* c) {
    const unsigned layout = tfast_kernels_now()->layout;
    for (int64_t i = 0; i < c->n_layers; i++) {
        const tfast_encoder_layer* l = &c->layers[i];
        const tfast_packed* weights[] = {l->qkv, l->out, l->up, l->down};
        for (int k = 0; k < 4; k++)
            if (weights[k]->kernels->layout != layout) return TFAST_WRONG_LAYOUT;
    }
    return TFAST_OK;
}

tfast_status tfast_encoder_run(const tfast_encoder* c, int n_threads) {
    STEP(check_layouts(c));
    if (c->T == 0) return TFAST_OK;
    /* 50 GFLOP/s, as in linear.c */
    const double flops =
        2.0 * (double)(c->T * c->hidden) * (double)(4 * c->hidden + 2 * c->inner) * (double)c->n_layers;
    const int threads = tfast_threads_for(flops / 50, n_threads);
    const int64_t share = c->T / (threads * CHUNKS_PER_THREAD);
    const int64_t tokens = threads == 1 ? CHUNK_TOKENS : TFAST_MAX(MIN_CHUNK_TOKENS, TFAST_MIN(CHUNK_TOKENS, share));
    plan_t p = {.call = c, .status = TFAST_OK};
    cut_chunks(&p, tokens);
    if (p.n_chunks < threads || p.n_chunks == 1) return run_whole(c, n_threads);
    p.first = tfast_workspace_take((size_t)(p.n_chunks + 1) * sizeof(int64_t));
    if (!p.first) return TFAST_NO_MEMORY;
    cut_chunks(&p, tokens);
    const tfast_parallel loop = {.n_tasks = p.n_chunks,
                                 .task_ns = flops / 50 / (double)p.n_chunks,
                                 .n_threads = n_threads,
                                 .scratch_bytes = tfast_align64((size_t)(p.max_sequences + 1) * sizeof(int64_t)) +
                                                  place_buffers(c, p.max_tokens, NULL, NULL)};
    const tfast_status status = tfast_parallel_for(&loop, run_chunk, &p);
    tfast_workspace_give(p.first);
    return status != TFAST_OK ? status : p.status;
}
