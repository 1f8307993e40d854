/* Whole decoder layers over the new tokens of several rows, with the caches of their past: norms, projections, rotary
 * positions, attention, feed-forward, and at the end the last norm and the head.
 *
 * Called by transformer_fast/_core_decoder.pxi. Nothing is computed here but sums and copies: the steps are the ops of
 * linear.c, attention.c, norm.c, rope.c and activation.c, so that the result has the bits of calling them one by one,
 * as models/common/decoder_blocks.py does. Every step runs over all threads: a decoder's step reads its weights once,
 * and they are read fastest by all threads together. Another kind of layer: its fields in tfast_decoder_layer, its step
 * here, its field of functional.DecoderLayer. */
#include "../tfast.h"

#include <string.h>

#include "../kernels/api.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "cache.h"

/* The rows that go through the next step, and their buffers. */
typedef struct {
    const tfast_decoder* call;
    int64_t rows; /* T, in the last layer after its attention n_rows */
    float *x, *normed, *projected, *context, *gated, *up, *result;
    int64_t *counts, *places, *shared; /* B, or T where that is more */
    int n_threads;
} run_t;

typedef struct {
    const run_t* run;
    const tfast_decoder_layer* layer;
} heads_t;

/* The first error of a row of steps, or TFAST_OK. */
#define STEP(expression)                           \
    do {                                           \
        const tfast_status status_ = (expression); \
        if (status_ != TFAST_OK) return status_;   \
    } while (0)

static int64_t qkv_width(const tfast_decoder* c) {
    return (c->heads + 2 * c->kv_heads) * c->head_dim;
}

/* Where queries (0), keys (1) and values (2) begin in a row of `projected`, and from one head to the next. */
static int64_t part_begin(const tfast_decoder* c, int part) {
    if (c->by_head) return part * c->head_dim;
    return (part == 0 ? 0 : c->heads + (part - 1) * c->kv_heads) * c->head_dim;
}
static int64_t head_stride(const tfast_decoder* c) {
    return c->by_head ? 3 * c->head_dim : c->head_dim;
}

/* y = activation(x W^T + bias) * multiply + residual; x dense, y and the others y_stride apart. */
static tfast_status product(const run_t* r, const tfast_packed* weight, const float* bias, const float* x,
                            tfast_activation activation, const float* multiply, const float* residual, float* y,
                            int64_t y_stride) {
    const tfast_linear call = {.M = r->rows,
                               .x = x,
                               .x_stride = weight->K,
                               .weight = weight,
                               .bias = bias,
                               .activation = activation,
                               .multiply = multiply,
                               .multiply_stride = y_stride,
                               .residual = residual,
                               .residual_stride = y_stride,
                               .y = y,
                               .y_stride = y_stride};
    return tfast_linear_run(&call, r->n_threads);
}

static tfast_status norm_rows(const tfast_decoder* c, int64_t m, int64_t n, const float* x, int64_t stride,
                              const tfast_norm* norm, float* y, int n_threads) {
    return c->layer_norm
               ? tfast_layernorm(m, n, x, stride, NULL, 0, norm->weight, norm->bias, c->eps, y, stride, n_threads)
               : tfast_rmsnorm(m, n, x, stride, NULL, 0, norm->weight, c->eps, y, stride, n_threads);
}

/* x through the norm into `normed`, or x itself where there is none. */
static tfast_status read_normed(const run_t* r, const tfast_norm* norm, const float** normed) {
    const int64_t h = r->call->hidden;
    *normed = norm->weight ? r->normed : r->x;
    return norm->weight ? norm_rows(r->call, r->rows, h, r->x, h, norm, r->normed, r->n_threads) : TFAST_OK;
}

/* x += residual_scale * norm(inner W^T + bias). */
static tfast_status add_product(const run_t* r, const tfast_packed* weight, const float* bias, const float* inner,
                                const tfast_norm* norm) {
    const tfast_decoder* c = r->call;
    const int64_t h = c->hidden;
    if (!norm->weight && c->residual_scale == 1)
        return product(r, weight, bias, inner, TFAST_IDENTITY, NULL, r->x, r->x, h);
    STEP(product(r, weight, bias, inner, TFAST_IDENTITY, NULL, NULL, r->result, h));
    if (norm->weight) STEP(norm_rows(c, r->rows, h, r->result, h, norm, r->result, r->n_threads));
    for (int64_t i = 0; i < r->rows * h; i++) {
        const float scaled = c->residual_scale == 1 ? r->result[i] : r->result[i] * c->residual_scale;
        r->x[i] += scaled;
    }
    return TFAST_OK;
}

/* The norms of the heads of one row of `projected`. */
static void norm_heads_of_row(void* ctx, int64_t t, void* scratch) {
    (void)scratch;
    const heads_t* n = ctx;
    const tfast_decoder* c = n->run->call;
    const tfast_row_kernels* kernels = tfast_kernels_now()->rows;
    const int64_t D = c->head_dim, counts[] = {c->heads, c->kv_heads};
    const tfast_norm* norms[] = {&n->layer->q_norm, &n->layer->k_norm};
    for (int i = 0; i < 2; i++) {
        float* x = n->run->projected + t * qkv_width(c) + part_begin(c, i);
        const int64_t rows = n->layer->whole_qk_norm ? 1 : counts[i], width = counts[i] * D / rows;
        const int64_t stride = head_stride(c);
        const float *weight = norms[i]->weight, *bias = norms[i]->bias;
        if (!weight) continue;
        if (c->layer_norm)
            kernels->layernorm(rows, width, x, stride, NULL, 0, weight, bias, c->eps, x, stride);
        else
            kernels->rmsnorm(rows, width, x, stride, NULL, 0, weight, c->eps, x, stride);
    }
}

static tfast_status norm_heads(const run_t* r, const tfast_decoder_layer* l) {
    const tfast_decoder* c = r->call;
    if (!l->q_norm.weight && !l->k_norm.weight) return TFAST_OK;
    heads_t n = {r, l};
    /* As rows of norm.c: 0.3 ns a number. */
    const tfast_parallel loop = {.n_tasks = r->rows,
                                 .task_ns = 0.3 * (double)((c->heads + c->kv_heads) * c->head_dim),
                                 .n_threads = r->n_threads};
    return tfast_parallel_for(&loop, norm_heads_of_row, &n);
}

/* Queries, keys and values of every row, side by side in `projected`: normalised and turned. */
static tfast_status project(const run_t* r, const tfast_decoder_layer* l, const float* normed) {
    const tfast_decoder* c = r->call;
    const int64_t D = c->head_dim, width = qkv_width(c);
    int64_t column = 0;
    for (int i = 0; i < 3 && l->qkv[i]; column += l->qkv[i++]->N)
        STEP(product(r, l->qkv[i], l->qkv_bias ? l->qkv_bias + column : NULL, normed, TFAST_IDENTITY, NULL, NULL,
                     r->projected + column, width));
    STEP(norm_heads(r, l));
    if (l->rotation < 0) return TFAST_OK;
    const tfast_rotation* rotation = &c->rotations[l->rotation];
    /* Keys follow queries, or the key of a head follows its query: B is then 2. */
    const int64_t kinds = c->by_head ? 2 : 1, first = c->by_head ? D : 0;
    const tfast_rope rope = {.B = kinds,
                             .H = c->by_head ? c->heads : c->heads + c->kv_heads,
                             .L = r->rows,
                             .D = D,
                             .half = rotation->half,
                             .interleaved = c->interleaved,
                             .x = r->projected,
                             .cos = rotation->cos,
                             .sin = rotation->sin,
                             .x_stride = {first, head_stride(c), width},
                             .angle_stride = {0, rotation->half},
                             .y_stride = {first, head_stride(c), width},
                             .y = r->projected};
    return tfast_rope_run(&rope, r->n_threads);
}

/* --- the caches and attention ------------------------------------------------------------------------------------- */

/* The new keys and values of one row that its cache keeps. */
static void store_row_of_cache(void* ctx, int64_t b, void* scratch) {
    (void)scratch;
    const heads_t* s = ctx;
    const tfast_decoder* c = s->run->call;
    const tfast_cache* cache = &c->caches[s->layer->cache];
    const int64_t Hkv = c->kv_heads, D = c->head_dim, layer = s->layer->cache_layer;
    const int64_t bytes = cache_element_bytes(cache->dtype), kept = cache->kept[b], first = c->cu[b + 1] - kept;
    char *const k = cache->k[layer], *const v = cache->v[layer];
    float* const k_scale = cache->k_scale ? cache->k_scale[layer] : NULL;
    float* const v_scale = cache->v_scale ? cache->v_scale[layer] : NULL;
    for (int64_t i = 0; i < kept; i++) {
        const float* row = s->run->projected + (first + i) * qkv_width(c);
        const float *key = row + part_begin(c, 1), *value = row + part_begin(c, 2);
        for (int64_t g = 0; g < Hkv; g++) {
            const int64_t at = cache_row(cache, Hkv, b, g, cache->lengths[b] + i);
            store_values(key + g * head_stride(c), D, cache->dtype, k + at * D * bytes, k_scale ? k_scale + at : NULL);
            store_values(value + g * head_stride(c), D, cache->dtype, v + at * D * bytes,
                         v_scale ? v_scale + at : NULL);
        }
    }
}

static tfast_status store(const run_t* r, const tfast_decoder_layer* l) {
    const tfast_decoder* c = r->call;
    heads_t s = {r, l};
    /* 1 ns a number: conversions one by one. */
    const double ns = 2.0 * (double)(c->T * c->kv_heads * c->head_dim);
    const tfast_parallel loop = {.n_tasks = c->B, .task_ns = ns / (double)c->B, .n_threads = r->n_threads};
    return tfast_parallel_for(&loop, store_row_of_cache, &s);
}

/* What every call of attention in this layer has in common; outputs are heads side by side. */
static tfast_attention attention_of(const run_t* r, const tfast_decoder_layer* l) {
    const tfast_decoder* c = r->call;
    const int64_t D = c->head_dim, width = qkv_width(c);
    return (tfast_attention){.q_dtype = TFAST_F32,
                             .H = c->heads,
                             .Hkv = c->kv_heads,
                             .D = D,
                             .Dv = D,
                             .q = r->projected,
                             .out = r->context,
                             .q_stride = {width, head_stride(c), width},
                             .out_stride = {c->heads * D, D, c->heads * D},
                             .left = l->window == TFAST_UNLIMITED ? TFAST_UNLIMITED : l->window - 1,
                             .right = l->ahead,
                             .scale = l->scale,
                             .softcap = l->softcap,
                             .sinks = l->sinks};
}

/* Rows without a past: each sees its own tokens, in the type that they were computed in. */
static tfast_status attend_fresh(const run_t* r, const tfast_decoder_layer* l) {
    const tfast_decoder* c = r->call;
    tfast_attention call = attention_of(r, l);
    call.B = c->B;
    call.kv_dtype = TFAST_F32;
    call.k = r->projected + part_begin(c, 1);
    call.v = r->projected + part_begin(c, 2);
    call.k_stride[1] = call.v_stride[1] = head_stride(c);
    call.k_stride[2] = call.v_stride[2] = qkv_width(c);
    call.cu_q = call.cu_k = c->cu;
    return tfast_attention_run(&call, r->n_threads);
}

/* Whether every row has one new token. */
static int is_step(const tfast_decoder* c) {
    if (c->T != c->B) return 0;
    for (int64_t b = 0; b < c->B; b++)
        if (c->cu[b + 1] - c->cu[b] != 1) return 0;
    return 1;
}

/* Where the keys and values of a layer's cache lie. */
static void read_cache(const run_t* r, const tfast_decoder_layer* l, tfast_attention* call) {
    const tfast_decoder* c = r->call;
    const tfast_cache* cache = &c->caches[l->cache];
    const int64_t D = c->head_dim, positions = cache->pages.table ? cache->pages.size : cache->capacity,
                  row = c->stepwise && !cache->pages.table ? 0 : c->kv_heads * positions;
    call->kv_dtype = cache->dtype;
    call->k = cache->k[l->cache_layer];
    call->v = cache->v[l->cache_layer];
    call->k_stride[0] = call->v_stride[0] = row * D;
    call->k_stride[1] = call->v_stride[1] = positions * D;
    call->k_stride[2] = call->v_stride[2] = D;
    if (cache->dtype == TFAST_I8) {
        call->k_scale = cache->k_scale[l->cache_layer];
        call->v_scale = cache->v_scale[l->cache_layer];
        call->k_scale_stride[0] = call->v_scale_stride[0] = row;
        call->k_scale_stride[1] = call->v_scale_stride[1] = positions;
        call->k_scale_stride[2] = call->v_scale_stride[2] = 1;
    }
    call->pages = cache->pages;
    if (c->stepwise) call->pages.stride = 0;
}

/* All rows over their caches, which hold the new tokens already. With stepwise they are tokens of the one row, each
 * with the keys up to its own. */
static tfast_status attend_past(const run_t* r, const tfast_decoder_layer* l) {
    const tfast_decoder* c = r->call;
    const tfast_cache* cache = &c->caches[l->cache];
    tfast_attention call = attention_of(r, l);
    read_cache(r, l, &call);
    call.B = c->stepwise ? c->T : c->B;
    call.Lq = 1;
    if (!c->stepwise && !is_step(c)) call.cu_q = c->cu;
    for (int64_t i = 0; i < call.B; i++) {
        const int64_t b = c->stepwise ? 0 : i, new = call.cu_q ? c->cu[i + 1] - c->cu[i] : 1;
        r->places[i] = c->stepwise ? cache->lengths[0] + i : cache->lengths[i];
        r->counts[i] = r->places[i] + new;
        if (cache->shared) r->shared[i] = TFAST_MIN(cache->shared[b], r->counts[i]);
        call.Lk = TFAST_MAX(call.Lk, r->counts[i]);
    }
    call.kv_length = r->counts;
    call.offset = r->places;
    if (cache->shared && call.left == TFAST_UNLIMITED) call.shared = r->shared;
    return tfast_attention_run(&call, r->n_threads);
}

static tfast_status attend(const run_t* r, const tfast_decoder_layer* l) {
    const tfast_decoder* c = r->call;
    if (!c->caches) return attend_fresh(r, l);
    STEP(store(r, l));
    if (c->fresh) return attend_fresh(r, l);
    return attend_past(r, l);
}

/* --- layers --------------------------------------------------------------------------------------------------------
 */

static tfast_status feed_forward(const run_t* r, const tfast_decoder_layer* l, const float* normed) {
    const tfast_decoder* c = r->call;
    const tfast_packed* first = l->gate ? l->gate : l->up;
    const float* bias = l->gate ? l->gate_bias : l->up_bias;
    if (l->gate) STEP(product(r, l->up, l->up_bias, normed, TFAST_IDENTITY, NULL, NULL, r->up, c->inner));
    STEP(product(r, first, bias, normed, c->activation, l->gate ? r->up : NULL, NULL, r->gated, c->inner));
    return add_product(r, l->down, l->down_bias, r->gated, &l->feed_forward_out_norm);
}

/* Moves the wanted rows of a (T, n) buffer to its front. */
static void keep_rows(const tfast_decoder* c, float* x, int64_t n) {
    for (int64_t i = 0; i < c->n_rows; i++)
        if (c->rows[i] != i) memmove(x + i * n, x + c->rows[i] * n, (size_t)n * sizeof *x);
}

/* With `last`, what follows attention is done for the wanted rows alone. */
static tfast_status layer(run_t* r, const tfast_decoder_layer* l, int last) {
    const tfast_decoder* c = r->call;
    const float* normed;
    STEP(read_normed(r, &l->attention_norm, &normed));
    STEP(project(r, l, normed));
    STEP(attend(r, l));
    if (last && c->rows) {
        keep_rows(c, r->context, c->heads * c->head_dim);
        if (normed == r->normed) keep_rows(c, r->normed, c->hidden);
        keep_rows(c, r->x, c->hidden);
        r->rows = c->n_rows;
    }
    if (!c->parallel) {
        STEP(add_product(r, l->out, l->out_bias, r->context, &l->attention_out_norm));
        STEP(read_normed(r, &l->feed_forward_norm, &normed));
        return feed_forward(r, l, normed);
    }
    /* Both read x before either is added: the feed-forward's norm first, or what attention read. */
    if (l->feed_forward_norm.weight) STEP(read_normed(r, &l->feed_forward_norm, &normed));
    STEP(add_product(r, l->out, l->out_bias, r->context, &l->attention_out_norm));
    return feed_forward(r, l, normed);
}

static tfast_status finish(const run_t* r) {
    const tfast_decoder* c = r->call;
    const int64_t h = c->hidden;
    float* y = c->head ? r->normed : c->y;
    if (c->final_norm.weight)
        STEP(norm_rows(c, r->rows, h, r->x, h, &c->final_norm, y, r->n_threads));
    else
        memcpy(y, r->x, (size_t)(r->rows * h) * sizeof *y);
    return c->head ? product(r, c->head, c->head_bias, y, TFAST_IDENTITY, NULL, NULL, c->y, c->head->N) : TFAST_OK;
}

static tfast_status run_layers(run_t* r) {
    const tfast_decoder* c = r->call;
    for (int64_t i = 0; i < c->n_layers; i++) STEP(layer(r, &c->layers[i], i == c->n_layers - 1));
    if (c->rows && !c->n_layers) {
        keep_rows(c, r->x, c->hidden);
        r->rows = c->n_rows;
    }
    return finish(r);
}

/* --- checks and memory ---------------------------------------------------------------------------------------------
 */

/* Before anything is written. */
static tfast_status check_weights(const tfast_decoder* c) {
    for (int64_t i = 0; i < c->n_layers; i++) {
        const tfast_decoder_layer* l = &c->layers[i];
        const tfast_packed* weights[] = {l->qkv[0], l->qkv[1], l->qkv[2], l->out, l->gate, l->up, l->down};
        for (size_t k = 0; k < sizeof weights / sizeof *weights; k++)
            if (weights[k] && !tfast_packed_fits(weights[k])) return TFAST_WRONG_LAYOUT;
    }
    return c->head && !tfast_packed_fits(c->head) ? TFAST_WRONG_LAYOUT : TFAST_OK;
}

/* Gives `bytes` of the area, or with area NULL counts them. */
static void* place(char* area, size_t* used, size_t bytes) {
    void* at = area ? area + *used : NULL;
    *used += tfast_align64(bytes);
    return at;
}

/* The buffers of a call in one area -> their size; with area NULL only that. */
static size_t place_buffers(run_t* r, char* area) {
    const tfast_decoder* c = r->call;
    size_t used = 0;
    const size_t row = (size_t)c->T * sizeof(float), rows = (size_t)TFAST_MAX(c->B, c->T) * sizeof(int64_t);
    r->normed = place(area, &used, row * (size_t)c->hidden);
    r->projected = place(area, &used, row * (size_t)qkv_width(c));
    r->context = place(area, &used, row * (size_t)(c->heads * c->head_dim));
    r->gated = place(area, &used, row * (size_t)c->inner);
    r->up = place(area, &used, row * (size_t)c->inner);
    r->result = place(area, &used, row * (size_t)c->hidden);
    r->counts = place(area, &used, rows);
    r->places = place(area, &used, rows);
    r->shared = place(area, &used, rows);
    return used;
}

tfast_status tfast_decoder_run(const tfast_decoder* c, int n_threads) {
    STEP(check_weights(c));
    if (c->T == 0) return TFAST_OK;
    run_t r = {.call = c, .rows = c->T, .x = c->x, .n_threads = n_threads};
    char* area = tfast_workspace_take(place_buffers(&r, NULL));
    if (!area) return TFAST_NO_MEMORY;
    place_buffers(&r, area);
    const tfast_status status = run_layers(&r);
    tfast_workspace_give(area);
    return status;
}
