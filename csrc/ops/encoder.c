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

#include "../base/cpu.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "../tuning/tuning.h"

/* Tokens that go through the layers together: at most what the tuning record says if the weights of a layer stay in the
 * last cache from one chunk to the next (BERT-base in float32, 28 MB, does not on Zen 3: 8 x 128 tokens 0.92 times as
 * fast in chunks of 128), else MAX_CHUNK_TOKENS.
 *
 * Measured with MiniLM on two threads (Granite Rapids), time of a chunk a thread by that of the steps over all threads:
 * 1.01 for chunks of 56 tokens, 0.90 for 84, 0.80 to 0.87 for 96 to 384. Two chunks a thread, of which a thread that
 * gets less of its processor may take one: 1.16 for 42 tokens, 0.91 for 98, 0.83 for 192, as one. */
#define MIN_CHUNK_TOKENS    80
#define MIN_TOKENS_OF_TWO   192
#define MAX_CHUNK_TOKENS    384
#define WEIGHTS_SHARE_OF_L3 0.25
#define CHUNKS_PER_THREAD   2
/* Chunks whose longest thread has more than this times its share: 3 x 128 tokens on two threads (1.33) take 1.07 of the
 * time of the steps over all threads, 5 x 256 (1.2) 0.99 to 1.05, even ones 0.85. */
#define CHUNKS_MAY_WAIT 1.15

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
    const int64_t *cu, *pooled;  /* of these sequences */
    int64_t* count;              /* with pooled: room for 0, 1, ... sequences */
    float *state, *other, *wide; /* (rows, h), (rows, h), (rows, max(4h, inner)) */
    int n_threads;
} rows_t;

static int64_t wide_width(const tfast_encoder* c) {
    return TFAST_MAX(4 * c->hidden, c->inner);
}

/* y = activation(x W^T + bias) * multiply + residual, all arrays dense; multiply and residual may be y. */
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

/* Queries (q_stride apart, sequence b from row cu_q[b] on) over the keys and values of qkv (rows, 3h) -> context, heads
 * side by side. places: of each sequence's first query among its keys; NULL for 0. */
static tfast_status attend(const rows_t* r, const float* q, int64_t q_stride, const int64_t* cu_q,
                           const int64_t* places, const float* qkv, float* context) {
    const int64_t h = r->call->hidden, D = h / r->call->heads;
    const tfast_attention call = {.q_dtype = TFAST_F32,
                                  .kv_dtype = TFAST_F32,
                                  .B = r->sequences,
                                  .H = r->call->heads,
                                  .Hkv = r->call->heads,
                                  .D = D,
                                  .Dv = D,
                                  .q = q,
                                  .k = qkv + h,
                                  .v = qkv + 2 * h,
                                  .out = context,
                                  .q_stride = {0, D, q_stride},
                                  .k_stride = {0, D, 3 * h},
                                  .v_stride = {0, D, 3 * h},
                                  .out_stride = {0, D, h},
                                  .cu_q = cu_q,
                                  .cu_k = r->cu,
                                  .offset = r->call->causal ? places : NULL,
                                  .left = TFAST_UNLIMITED,
                                  .right = r->call->causal ? 0 : TFAST_UNLIMITED,
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

/* y = down(activation(up x)) + residual. */
static tfast_status feed_forward(const rows_t* r, const tfast_encoder_layer* l, const float* x, const float* residual,
                                 float* y) {
    const tfast_activation activation = r->call->activation;
    float* inner = r->wide;
    STEP(product(r, l->up, l->up_bias, x, activation, NULL, inner));
    return product(r, l->down, l->down_bias, inner, TFAST_IDENTITY, residual, y);
}

static tfast_status after_attention(const rows_t* r, const tfast_encoder_layer* l, const float* context) {
    const tfast_encoder* c = r->call;
    float *state = r->state, *other = r->other;
    if (c->norm_first) {
        STEP(product(r, l->out, l->out_bias, context, TFAST_IDENTITY, state, state));
        STEP(norm(r, state, l->norm2_weight, l->norm2_bias, c->eps2, other));
        return feed_forward(r, l, other, state, state);
    }
    STEP(product(r, l->out, l->out_bias, context, TFAST_IDENTITY, state, other));
    STEP(norm(r, other, l->norm1_weight, l->norm1_bias, c->eps1, state));
    STEP(feed_forward(r, l, state, state, other));
    return norm(r, other, l->norm2_weight, l->norm2_bias, c->eps2, state);
}

/* What the attention needs of every row: qkv, of `state`. */
static tfast_status project(const rows_t* r, const tfast_encoder_layer* l, float* qkv) {
    const float* x = r->state;
    if (r->call->norm_first) {
        STEP(norm(r, x, l->norm1_weight, l->norm1_bias, r->call->eps1, r->other));
        x = r->other;
    }
    return product(r, l->qkv, l->qkv_bias, x, TFAST_IDENTITY, NULL, qkv);
}

static tfast_status layer(const rows_t* r, const tfast_encoder_layer* l) {
    const int64_t h = r->call->hidden;
    float *qkv = r->wide, *context = qkv + 3 * h * r->rows;
    STEP(project(r, l, qkv));
    STEP(attend(r, qkv, 3 * h, r->cu, NULL, qkv, context));
    return after_attention(r, l, context);
}

/* All rows are attended, one of each sequence alone goes on: it is moved to the front of `state`. */
static tfast_status layer_of_pooled_rows(const rows_t* r, const tfast_encoder_layer* l) {
    const int64_t h = r->call->hidden;
    const size_t row_bytes = (size_t)h * sizeof(float);
    float *qkv = r->wide, *context = qkv + 3 * h * r->rows;
    STEP(project(r, l, qkv));
    for (int64_t b = 0; b < r->sequences; b++) {
        const int64_t row = r->cu[b] + r->pooled[b];
        memcpy(r->other + b * h, qkv + row * 3 * h, row_bytes);
        memmove(r->state + b * h, r->state + row * h, row_bytes);
    }
    for (int64_t b = 0; b <= r->sequences; b++) r->count[b] = b;
    STEP(attend(r, r->other, h, r->count, r->pooled, qkv, context));
    rows_t pooled = *r;
    pooled.rows = r->sequences;
    return after_attention(&pooled, l, context);
}

/* The layers over r->state, which y receives. */
static tfast_status run_layers(const rows_t* r, float* y) {
    const tfast_encoder* c = r->call;
    for (int64_t i = 0; i < c->n_layers; i++) {
        const int shortened = c->pooled && i == c->n_layers - 1;
        STEP(shortened ? layer_of_pooled_rows(r, &c->layers[i]) : layer(r, &c->layers[i]));
    }
    if (y != r->state) memcpy(y, r->state, (size_t)(r->sequences * c->hidden) * sizeof(float));
    return TFAST_OK;
}

/* The buffers of `tokens` rows and `sequences` in one area: their size, and, with r set, their places. Where all rows
 * are wanted, y itself holds the state. */
static size_t place_buffers(const tfast_encoder* c, int64_t tokens, int64_t sequences, char* area, rows_t* r) {
    const size_t row = tfast_align64((size_t)(tokens * c->hidden) * sizeof(float));
    const size_t counts = tfast_align64((size_t)(sequences + 1) * sizeof(int64_t));
    if (r) {
        r->other = (float*)area;
        if (c->pooled) {
            r->state = (float*)(area + row);
            r->count = (int64_t*)(area + 2 * row);
            area += row + counts;
        }
        r->wide = (float*)(area + row);
    }
    return row + (c->pooled ? row + counts : 0) + tfast_align64((size_t)(tokens * wide_width(c)) * sizeof(float));
}

static tfast_status run_rows(rows_t* r, int64_t first_sequence, int64_t first_row) {
    const tfast_encoder* c = r->call;
    const int64_t h = c->hidden;
    const float* x = c->x + first_row * h;
    float* y = c->y + (c->pooled ? first_sequence : first_row) * h;
    if (c->pooled)
        r->pooled = c->pooled + first_sequence;
    else
        r->state = y;
    if (x != r->state) memcpy(r->state, x, (size_t)(r->rows * h) * sizeof(float));
    return run_layers(r, y);
}

static int64_t chunk_tokens(const plan_t* p, int64_t i) {
    return p->call->cu[p->first[i + 1]] - p->call->cu[p->first[i]];
}

static void run_chunk(void* ctx, int64_t task, void* scratch) {
    plan_t* p = ctx;
    const tfast_encoder* c = p->call;
    const int64_t first = p->first[task], last = p->first[task + 1], row = c->cu[first];
    int64_t* cu = scratch;
    rows_t r = {.call = c, .rows = c->cu[last] - row, .sequences = last - first, .cu = cu, .n_threads = 1};
    for (int64_t i = 0; i <= r.sequences; i++) cu[i] = c->cu[first + i] - row;
    place_buffers(c, p->max_tokens, p->max_sequences,
                  (char*)scratch + tfast_align64((size_t)(p->max_sequences + 1) * sizeof(int64_t)), &r);
    const tfast_status status = run_rows(&r, first, row);
    if (status != TFAST_OK) __atomic_store_n(&p->status, status, __ATOMIC_RELAXED);
}

/* At most p->n_chunks chunks of nearly the same number of tokens: a sequence is in the chunk that holds its middle. */
static void cut_chunks(plan_t* p) {
    const tfast_encoder* c = p->call;
    const int64_t wanted = p->n_chunks, twice = 2 * c->T;
    int64_t last = -1, n = 0;
    for (int64_t b = 0; b < c->B; b++) {
        const int64_t chunk = TFAST_MIN((c->cu[b] + c->cu[b + 1]) * wanted / twice, wanted - 1);
        if (chunk != last) p->first[n++] = b;
        last = chunk;
    }
    p->first[n] = c->B;
    p->n_chunks = n;
    p->max_tokens = p->max_sequences = 0;
    for (int64_t i = 0; i < n; i++) {
        p->max_tokens = TFAST_MAX(p->max_tokens, chunk_tokens(p, i));
        p->max_sequences = TFAST_MAX(p->max_sequences, p->first[i + 1] - p->first[i]);
    }
}

/* Tokens of the thread that has the most, where each takes the next chunk when it is done. */
static int64_t longest_thread(const plan_t* p, int threads, int64_t* load) {
    int64_t longest = 0;
    memset(load, 0, (size_t)threads * sizeof *load);
    for (int64_t i = 0; i < p->n_chunks; i++) {
        int next = 0;
        for (int t = 1; t < threads; t++)
            if (load[t] < load[next]) next = t;
        load[next] += chunk_tokens(p, i);
        longest = TFAST_MAX(longest, load[next]);
    }
    return longest;
}

static tfast_status run_whole(const tfast_encoder* c, int n_threads) {
    rows_t r = {.call = c, .rows = c->T, .sequences = c->B, .cu = c->cu, .n_threads = n_threads};
    void* area = tfast_workspace_take(place_buffers(c, c->T, c->B, NULL, NULL));
    if (!area) return TFAST_NO_MEMORY;
    place_buffers(c, c->T, c->B, area, &r);
    const tfast_status status = run_rows(&r, 0, 0);
    tfast_workspace_give(area);
    return status;
}

/* Before anything is written. */
static tfast_status check_weights(const tfast_encoder* c) {
    for (int64_t i = 0; i < c->n_layers; i++) {
        const tfast_encoder_layer* l = &c->layers[i];
        const tfast_packed* weights[] = {l->qkv, l->out, l->up, l->down};
        for (int k = 0; k < 4; k++)
            if (!tfast_packed_fits(weights[k])) return TFAST_WRONG_LAYOUT;
    }
    return TFAST_OK;
}

static int64_t most_chunk_tokens(const tfast_encoder* c) {
    if (!c->n_layers) return MAX_CHUNK_TOKENS;
    const tfast_encoder_layer* l = &c->layers[0];
    const tfast_packed* weights[] = {l->qkv, l->out, l->up, l->down};
    int64_t bytes = 0;
    for (int k = 0; k < 4; k++) bytes += (int64_t)tfast_packed_bytes(weights[k]);
    const int stays = (double)bytes <= WEIGHTS_SHARE_OF_L3 * (double)tfast_cpu_info()->l3_bytes;
    return stays ? tfast_tuning_now()->chunk_tokens : MAX_CHUNK_TOKENS;
}

/* How many chunks all rows are cut into: a multiple of `threads`, or 1 where a thread has too few tokens for one. */
static int64_t count_chunks(const tfast_encoder* c, int threads) {
    const int64_t most = most_chunk_tokens(c), share = c->T / threads;
    const int64_t a_thread = (share + most / 2) / most; /* to the nearest */
    if (share < MIN_CHUNK_TOKENS || (threads == 1 && a_thread <= 1)) return 1;
    const int64_t several = threads == 1 ? 1 : TFAST_MIN(share / MIN_TOKENS_OF_TWO, CHUNKS_PER_THREAD);
    return threads * TFAST_MAX(TFAST_MAX(a_thread, several), 1);
}

tfast_status tfast_encoder_run(const tfast_encoder* c, int n_threads) {
    STEP(check_weights(c));
    if (c->T == 0) return TFAST_OK;
    const double flops =
        2.0 * (double)(c->T * c->hidden) * (double)(4 * c->hidden + 2 * c->inner) * (double)c->n_layers;
    const int threads = tfast_threads_for(tfast_flops_ns(flops), n_threads);
    plan_t p = {.call = c, .n_chunks = count_chunks(c, threads), .status = TFAST_OK};
    if (p.n_chunks == 1) return run_whole(c, n_threads);
    const int64_t wanted = p.n_chunks;
    p.first = tfast_workspace_take((size_t)(wanted + 1 + threads) * sizeof(int64_t));
    if (!p.first) return TFAST_NO_MEMORY;
    cut_chunks(&p);
    const double longest = (double)longest_thread(&p, threads, p.first + wanted + 1);
    tfast_status status;
    if (longest * threads > CHUNKS_MAY_WAIT * (double)c->T) {
        status = run_whole(c, n_threads);
    } else {
        const tfast_parallel loop = {.n_tasks = p.n_chunks,
                                     .task_ns = tfast_flops_ns(flops) / (double)p.n_chunks,
                                     .n_threads = n_threads,
                                     .scratch_bytes = tfast_align64((size_t)(p.max_sequences + 1) * sizeof(int64_t)) +
                                                      place_buffers(c, p.max_tokens, p.max_sequences, NULL, NULL)};
        status = tfast_parallel_for(&loop, run_chunk, &p);
        if (status == TFAST_OK) status = p.status;
    }
    tfast_workspace_give(p.first);
    return status;
}
