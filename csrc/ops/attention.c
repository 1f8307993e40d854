/* Cuts an attention call into pieces, runs them on the threads, and merges partial results over keys.
 *
 * Called by transformer_fast/_core_attention.pxi, ops/encoder.c and ops/decoder.c. Kernels see one piece at a time
 * (kernels/api.h); order, threads and memory are decided here. The cut of rows into pieces may depend on the number of
 * threads, since a row's result does not depend on that cut. The cut of keys changes the rounding: it depends on the
 * row's own sequence and on the numbers of heads alone. Another kind of piece: its field in tfast_attention_piece, its
 * choice in cut_batch or add_rows, its line in kind_of, so that explain_attention tells of it. */
#include "../tfast.h"

#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "../tuning/tuning.h"
#include "shared_keys.h"

/* A sequence with fewer panels of query rows than this, over all heads, has its keys split: 16 gives 8 threads two
 * pieces each. */
#define MIN_PANELS_WITHOUT_SPLIT 16
/* A split of fewer keys does not pay for its merge. */
#define MIN_SPLIT_KEYS 256
/* Queries and outputs of a piece stay below this, a quarter of a 2 MB L2: 8 panels of D = 64, 5 of 256. */
#define PIECE_FLOATS (128 * 1024)
/* Pieces for each thread: enough that the last one does not leave others idle for long. */
#define PIECES_PER_THREAD 4
/* Of a piece where several threads work: the last one does not keep the others waiting for longer. */
#define MAX_SHARED_PANELS 16

/* One batch entry. */
typedef struct {
    int64_t lq, lk, first; /* keys [first, lk) exist, or are not done elsewhere */
} lengths_t;

static lengths_t lengths_of(const tfast_attention* c, int64_t b) {
    lengths_t l = {c->Lq, c->Lk, c->first_key ? c->first_key[b] : 0};
    if (c->cu_q) l.lq = c->cu_q[b + 1] - c->cu_q[b];
    if (c->entries != TFAST_ALL_ENTRIES && (l.first > 0) != (c->entries == TFAST_WITH_FIRST_KEY)) l.lq = 0;
    if (c->cu_k) l.lk = c->cu_k[b + 1] - c->cu_k[b];
    if (c->kv_length) l.lk = TFAST_MIN(l.lk, TFAST_MAX(c->kv_length[b], 0));
    return l;
}

typedef struct {
    const tfast_attention_kernels* kernels[2]; /* of the level in force; of its fallback, for few rows or keys */
    int64_t max_piece_rows[2];                 /* of a piece of each */
    const tfast_attention* call;
    int64_t group;    /* query heads of a kv head */
    int64_t max_rows; /* of any piece that was cut */
    int64_t n_pieces, n_row_blocks, partial_floats;
    int64_t fallback_pieces;
    int threads;
    tfast_attention_piece* pieces; /* NULL while they are only counted */
    int64_t* row_block_begin;      /* the first piece of each row block: as many follow as its keys are split into */
    float* partials;
    tfast_attention_plan* explained; /* or NULL: counts the kinds of pieces */
} plan_t;

/* How its kernel runs a piece, for explain_attention, which knows no pages. */
static tfast_attention_kind kind_of(const plan_t* p, const tfast_attention_piece* piece, int is_partial) {
    const tfast_attention_kernels* kernels = p->kernels[piece->fallback];
    if (piece->decode) {
        int64_t rows = 1; /* it fills them up to a power of two */
        while (rows < piece->n_rows) rows *= 2;
        return (tfast_attention_kind){.kernel = TFAST_KERNEL_DECODE,
                                      .fallback = piece->fallback,
                                      .query_panel = rows,
                                      .key_block = kernels->decode_key_block};
    }
    const int one_block = !is_partial && piece->key_end <= kernels->key_block;
    const int copies = p->call->kv_dtype != TFAST_F32 || (piece->copy_kv && !kernels->matrix_engine);
    return (tfast_attention_kind){.kernel = one_block ? TFAST_KERNEL_FULL_ROW : TFAST_KERNEL_ONLINE,
                                  .fallback = piece->fallback,
                                  .matrix_engine = kernels->matrix_engine,
                                  .copies_kv = copies,
                                  .query_panel = kernels->panel,
                                  .key_block = kernels->key_block};
}

static int same_kind(const tfast_attention_kind* a, const tfast_attention_kind* b) {
    return a->kernel == b->kernel && a->fallback == b->fallback && a->copies_kv == b->copies_kv;
}

static void count_kind(plan_t* p, const tfast_attention_piece* piece, int is_partial) {
    tfast_attention_kind kind = kind_of(p, piece, is_partial);
    int i = 0;
    while (i < p->explained->n_kinds && !same_kind(&p->explained->kinds[i], &kind)) i++;
    if (i == p->explained->n_kinds) p->explained->kinds[p->explained->n_kinds++] = kind;
    p->explained->kinds[i].pieces++;
}

static void add_piece(plan_t* p, const tfast_attention_piece* piece, int is_partial) {
    if (p->pieces) {
        p->pieces[p->n_pieces] = *piece;
        if (is_partial) p->pieces[p->n_pieces].partial = p->partials + p->partial_floats;
    }
    if (p->explained) count_kind(p, piece, is_partial);
    if (is_partial) p->partial_floats += tfast_round_up(piece->n_rows * (p->call->Dv + 2), 16);
    p->fallback_pieces += piece->fallback;
    p->max_rows = TFAST_MAX(p->max_rows, piece->n_rows);
    p->n_pieces++;
}

/* How the rows of one head (or group of heads) of a sequence and its keys are cut: the same for all of its heads. */
typedef struct {
    int64_t rows, row_step, splits, key_step;
    int64_t panel, min_tail_rows; /* of the kernel that runs it */
} row_cut;

/* Whether the fallback level runs a sequence. Its own lengths decide, so that a row has the same bits in every batch.
 */
static int needs_fallback(const plan_t* p, const lengths_t* l) {
    const tfast_attention* c = p->call;
    const tfast_attention_kernels* k = p->kernels[0];
    const int64_t rows = l->lq < k->panel ? l->lq * p->group : l->lq;
    const int64_t width = c->D + c->Dv, padded = tfast_round_up(c->D, k->k_unit) + tfast_round_up(c->Dv, k->k_unit);
    const int64_t wide = TFAST_MAX(padded, 2 * k->min_width);
    return c->additive || c->weights || c->ranges.list_of_row || c->any_rows ||
           rows * rows * width < k->min_rows * tfast_round_up(rows, k->panel) * wide ||
           l->lk - l->first < k->min_keys || width < k->min_width;
}

static row_cut cut_of(const plan_t* p, const lengths_t* l, int fallback, int64_t rows, int64_t heads_per_kv_head) {
    const tfast_attention_kernels* kernels = p->kernels[fallback];
    const int64_t panel = kernels->panel, n_pieces = tfast_ceil_div(rows, p->max_piece_rows[fallback]);
    const int64_t panels =
        p->call->any_rows ? p->call->Hkv : p->call->Hkv * heads_per_kv_head * tfast_ceil_div(rows, panel);
    const int64_t keys = l->lk - l->first;
    row_cut cut = {
        .rows = rows, .splits = 1, .key_step = keys, .panel = panel, .min_tail_rows = kernels->min_tail_rows};
    cut.row_step = rows <= panel ? panel : tfast_round_up(tfast_ceil_div(rows, n_pieces), panel);
    if (p->call->weights || panels >= MIN_PANELS_WITHOUT_SPLIT || keys < 2 * MIN_SPLIT_KEYS) return cut;
    cut.splits = TFAST_MIN(tfast_ceil_div(MIN_PANELS_WITHOUT_SPLIT, panels), keys / MIN_SPLIT_KEYS);
    if (cut.splits > 1) cut.key_step = tfast_round_up(tfast_ceil_div(keys, cut.splits), p->kernels[0]->key_block);
    return cut;
}

/* Where the row block begins whose first row would be `row`: the same panels come out however rows are cut. */
static int64_t block_begin(const row_cut* cut, int64_t row) {
    if (row >= cut->rows) return cut->rows;
    return row > 0 && cut->rows - row <= cut->min_tail_rows ? row - cut->min_tail_rows : row;
}

/* With lists a panel may read little of what would be copied. */
static int copy_pays(const tfast_attention* c, const row_cut* cut, int64_t n_rows) {
    if (c->ranges.list_of_row) return 0;
    const int dense = c->k_stride[2] == c->D && c->v_stride[2] == c->Dv;
    const tfast_tuning* tuning = tfast_tuning_now();
    const int64_t least = dense ? tuning->copy_kv_min_panels_dense : tuning->copy_kv_min_panels_strided;
    return least && tfast_ceil_div(n_rows, cut->panel) >= least;
}

/* Row blocks, the last first, since causal rows grow heavier. */
static void add_rows(plan_t* p, tfast_attention_piece base, const lengths_t* l, const row_cut* cut) {
    for (int64_t row = (cut->rows - 1) / cut->row_step * cut->row_step; row >= 0; row -= cut->row_step) {
        base.row = block_begin(cut, row);
        base.n_rows = block_begin(cut, row + cut->row_step) - base.row;
        base.copy_kv = copy_pays(p->call, cut, base.n_rows);
        if (p->row_block_begin) p->row_block_begin[p->n_row_blocks] = p->n_pieces;
        p->n_row_blocks++;
        if (cut->splits <= 1) {
            base.key_begin = l->first;
            base.key_end = l->lk;
            add_piece(p, &base, 0);
            continue;
        }
        for (int64_t k = l->first; k < l->lk; k += cut->key_step) {
            base.key_begin = k;
            base.key_end = TFAST_MIN(k + cut->key_step, l->lk);
            add_piece(p, &base, 1);
        }
    }
}

/* Counts what add_rows would add for each of so many heads, which are cut alike. Looking at every one of them took 2.5
 * of 27.7 us for 96 heads with one row each (Zen 3). */
static void count_rows(plan_t* p, tfast_attention_piece base, const lengths_t* l, const row_cut* cut, int64_t heads) {
    const plan_t before = *p;
    add_rows(p, base, l, cut);
    p->n_pieces = before.n_pieces + (p->n_pieces - before.n_pieces) * heads;
    p->n_row_blocks = before.n_row_blocks + (p->n_row_blocks - before.n_row_blocks) * heads;
    p->partial_floats = before.partial_floats + (p->partial_floats - before.partial_floats) * heads;
    p->fallback_pieces = before.fallback_pieces + (p->fallback_pieces - before.fallback_pieces) * heads;
}

static void cut_batch(plan_t* p, int64_t b) {
    const tfast_attention* c = p->call;
    const lengths_t l = lengths_of(c, b);
    if (l.lq == 0 || c->H == 0) return;
    const int fallback = needs_fallback(p, &l);
    const tfast_attention_kernels* kernels = p->kernels[fallback];
    const int grouped = l.lq < kernels->panel; /* the heads of a group go through the tiles together */
    const row_cut cut = grouped ? cut_of(p, &l, fallback, l.lq * p->group, 1) : cut_of(p, &l, fallback, l.lq, p->group);
    const int64_t heads = grouped ? 1 : p->group; /* of a kv head that are cut one by one */
    tfast_attention_piece base = {.batch = b, .fallback = fallback};
    base.prefetch_into_l2 = tfast_tuning_now()->decode_prefetches_into_l2;
    base.decode = grouped && !c->weights && !c->additive && !c->distance_scores.bucket && !c->any_rows &&
                  cut.rows <= kernels->decode_rows;
    if (!p->pieces && !p->explained) {
        count_rows(p, base, &l, &cut, c->Hkv * heads);
        return;
    }
    for (base.kv_head = 0; base.kv_head < c->Hkv; base.kv_head++)
        for (int64_t h = 0; h < heads; h++) {
            base.head = base.kv_head * p->group + h;
            add_rows(p, base, &l, &cut);
        }
}

/* Counts the pieces, or, with p->pieces set, writes them. */
static void cut(plan_t* p) {
    p->n_pieces = p->n_row_blocks = p->partial_floats = p->fallback_pieces = 0;
    for (int64_t b = 0; b < p->call->B; b++) cut_batch(p, b);
    if (p->row_block_begin) p->row_block_begin[p->n_row_blocks] = p->n_pieces;
    for (int64_t i = 0; p->pieces && i + p->threads < p->n_pieces; i++) p->pieces[i].next = &p->pieces[i + p->threads];
}

/* Of all scores, seen or not. */
static double call_flops(const tfast_attention* c) {
    double scores = 0;
    for (int64_t b = 0; b < c->B; b++) {
        const lengths_t l = lengths_of(c, b);
        scores += (double)l.lq * (double)(l.lk - l.first);
    }
    return 2.0 * scores * (double)c->H * (double)(c->D + c->Dv);
}

/* What decides about threads: lists may leave very little. */
static double seen_flops(const tfast_attention* c) {
    return c->ranges.list_of_row ? 2.0 * c->ranges.visible * (double)(c->D + c->Dv) : call_flops(c);
}

/* Keys of [lo, hi) that a row's list holds; row: of the batch entry. */
static int64_t keys_of_list(const tfast_attention* c, int64_t b, int64_t head, int64_t row, int64_t lo, int64_t hi) {
    const tfast_key_ranges* r = &c->ranges;
    const int64_t at = b * r->stride[0] + head * r->stride[1] + (row + (c->cu_q ? c->cu_q[b] : 0)) * r->stride[2];
    int64_t n = 0;
    for (int64_t i = r->begin[r->list_of_row[at]]; i < r->begin[r->list_of_row[at] + 1]; i++)
        n += TFAST_MAX(0, TFAST_MIN(hi, r->bounds[2 * i + 1]) - TFAST_MAX(lo, r->bounds[2 * i]));
    return n;
}

/* Scores that structure leaves, counted row by row where there is structure. */
static double visible_scores(const tfast_attention* c) {
    double n = 0;
    const int64_t heads = c->ranges.list_of_row && c->ranges.stride[1] ? c->H : 1; /* that differ */
    for (int64_t b = 0; b < c->B; b++) {
        const lengths_t l = lengths_of(c, b);
        const int64_t offset = c->offset ? c->offset[b] : 0;
        for (int64_t i = 0; i < l.lq; i++) {
            int64_t lo = l.first, hi = l.lk;
            if (c->left != TFAST_UNLIMITED) lo = TFAST_MAX(lo, i + offset - c->left);
            if (c->right != TFAST_UNLIMITED) hi = TFAST_MIN(hi, i + offset + c->right + 1);
            if (lo >= hi) continue;
            if (!c->ranges.list_of_row) n += (double)(hi - lo);
            for (int64_t h = 0; c->ranges.list_of_row && h < heads; h++) n += (double)keys_of_list(c, b, h, i, lo, hi);
        }
    }
    return n * (double)(c->H / TFAST_MAX(heads, 1));
}

static int64_t rows_of_piece(const tfast_attention* call, const tfast_attention_kernels* kernels, int threads) {
    const int64_t panel = kernels->panel;
    int64_t panels = TFAST_MAX(1, TFAST_MIN(kernels->piece_panels, PIECE_FLOATS / ((call->D + call->Dv) * panel)));
    if (threads > 1) {
        int64_t total = 0;
        for (int64_t b = 0; b < call->B; b++) total += tfast_ceil_div(lengths_of(call, b).lq, panel) * call->H;
        panels = TFAST_MIN(panels, MAX_SHARED_PANELS);
        panels = TFAST_MAX(1, TFAST_MIN(panels, total / (PIECES_PER_THREAD * threads)));
    }
    return panels * panel;
}

static void begin_plan(plan_t* p, const tfast_attention* call, int threads, tfast_attention_plan* explained) {
    const tfast_kernels* now = tfast_kernels_now();
    *p = (plan_t){.kernels = {now->attention, now->attention_fallback},
                  .call = call,
                  .threads = threads,
                  .group = call->Hkv ? call->H / call->Hkv : 1,
                  .explained = explained};
    for (int i = 0; i < 2; i++) p->max_piece_rows[i] = rows_of_piece(call, p->kernels[i], threads);
    cut(p);
}

static void run_piece(void* ctx, int64_t task, void* scratch) {
    const plan_t* p = ctx;
    const tfast_attention_piece* piece = &p->pieces[task];
    const tfast_attention_kernels* kernels = p->kernels[piece->fallback];
    if (piece->decode)
        kernels->decode(p->call, piece, scratch);
    else
        kernels->qblock(p->call, piece, scratch);
}

/* Heads add into one matrix of weights: one task a batch entry, so that the order of the sum is fixed. */
static void run_batch(void* ctx, int64_t task, void* scratch) {
    const plan_t* p = ctx;
    for (int64_t i = p->n_pieces - 1; i >= 0; i--) /* rows in rising order, however they were cut */
        if (p->pieces[i].batch == task) run_piece(ctx, i, scratch);
}

static void merge_row_block(void* ctx, int64_t block, void* scratch) {
    (void)scratch;
    const plan_t* p = ctx;
    const int64_t first = p->row_block_begin[block], n = p->row_block_begin[block + 1] - first;
    tfast_attention_piece piece = p->pieces[first];
    if (!piece.partial) return;
    const float* parts = piece.partial;
    const int64_t stride = tfast_round_up(piece.n_rows * (p->call->Dv + 2), 16);
    piece.partial = NULL;
    p->kernels[piece.fallback]->merge(p->call, &piece, parts, stride, n);
}

/* Of one thread. */
static size_t scratch_bytes(const plan_t* p) {
    size_t bytes = 0;
    if (p->fallback_pieces < p->n_pieces) bytes = p->kernels[0]->scratch_bytes(p->call, p->max_rows);
    if (p->fallback_pieces > 0) bytes = TFAST_MAX(bytes, p->kernels[1]->scratch_bytes(p->call, p->max_rows));
    return bytes;
}

tfast_status tfast_attention_run(const tfast_attention* call, int n_threads) {
    if (call->shared) return tfast_attention_run_shared(call, n_threads);
    const double ns = tfast_flops_ns(seen_flops(call));
    plan_t p;
    begin_plan(&p, call, tfast_threads_for(ns, n_threads), NULL);
    if (p.n_pieces == 0) return TFAST_OK;
    const size_t piece_bytes = tfast_align64((size_t)p.n_pieces * sizeof *p.pieces),
                 row_block_bytes = tfast_align64((size_t)(p.n_row_blocks + 1) * sizeof(int64_t));
    char* slab = tfast_workspace_take(piece_bytes + row_block_bytes + (size_t)p.partial_floats * 4);
    if (!slab) return TFAST_NO_MEMORY;
    p.pieces = (tfast_attention_piece*)slab;
    p.row_block_begin = (int64_t*)(slab + piece_bytes);
    p.partials = (float*)(slab + piece_bytes + row_block_bytes);
    const int64_t partial_floats = p.partial_floats;
    cut(&p);
    const int by_batch = call->weights && call->weights_mean;
    tfast_parallel loop = {
        .n_tasks = by_batch ? call->B : p.n_pieces, .n_threads = n_threads, .scratch_bytes = scratch_bytes(&p)};
    loop.task_ns = ns / (double)loop.n_tasks;
    tfast_status status = tfast_parallel_for(&loop, by_batch ? run_batch : run_piece, &p);
    if (status == TFAST_OK && partial_floats > 0) {
        const tfast_parallel merges = {.n_tasks = p.n_row_blocks,
                                       .n_threads = n_threads,
                                       .task_ns = (double)partial_floats / (double)p.n_row_blocks};
        status = tfast_parallel_for(&merges, merge_row_block, &p);
    }
    tfast_workspace_give(slab);
    return status;
}

void tfast_attention_explain(const tfast_attention* call, int n_threads, tfast_attention_plan* plan) {
    const double flops = call_flops(call), visible = visible_scores(call);
    const int threads = tfast_threads_for(tfast_flops_ns(seen_flops(call)), n_threads);
    const tfast_kernels* now = tfast_kernels_now();
    plan_t p;
    *plan = (tfast_attention_plan){.n_kinds = 0};
    begin_plan(&p, call, threads, plan);
    for (int i = 0; i < plan->n_kinds; i++)
        plan->kinds[i].level = plan->kinds[i].fallback ? now->attention_fallback_level : now->attention_level;
    plan->pieces = p.n_pieces;
    plan->rows_per_piece = p.max_rows;
    plan->threads = TFAST_MAX(1, TFAST_MIN(threads, p.n_pieces));
    plan->key_splits = p.n_row_blocks ? tfast_ceil_div(p.n_pieces, p.n_row_blocks) : 1;
    plan->score_flops = visible * 2.0 * (double)(call->D + call->Dv);
    plan->visible_fraction = flops > 0 ? plan->score_flops / flops : 0;
    plan->scratch_bytes = plan->threads * (int64_t)scratch_bytes(&p) + p.partial_floats * 4;
}
