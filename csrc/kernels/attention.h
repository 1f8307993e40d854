/* Fused attention: out = softmax(Q K^T * scale + ...) V for one piece of a call, without an Lq x Lk matrix.
 *
 * Called by ops/attention.c through the slots attention_f32_*. Lanes and their ranges: attention_panel.h; what happens
 * to scores: attention_scores.h; few query rows: attention_decode.h.
 *
 *   for each superblock of keys (its K and V stay in L2)              K, V: in place, or staged there as fp32
 *     for each panel of PANEL query rows                              Q^T packed once: [D][PANEL]
 *       for each block of ATTENTION_BLOCK keys
 *         S[key][lane]  = K (keys x D)      * Q^T          register tile of gemm.h: A = rows of K
 *         S            -> weights, max, sum, alpha         lanes are queries: no horizontal operation
 *         O^T[dv][lane] = alpha * O^T + V^T (Dv x keys) * S     the same tile: A = columns of V
 *   O^T -> rows of out, times 1 / sum
 *
 * S of a block is 128 x 48 floats: 24 KB of a 48 KB L1 (AVX-512), 12 KB on AVX2. docs/kernels.md has the block sizes
 * that lost. */
#ifndef TFAST_KERNELS_ATTENTION_H
#define TFAST_KERNELS_ATTENTION_H

#include "attention_panel.h"
#include "attention_scores.h"

/* K and V of a superblock together take about this much, half of a 1 MB L2. */
#define STAGE_FLOATS (96 * 1024)
/* Cache lines fetched ahead for each tile: a tile of 8 x 48 x 64 runs for about 800 cycles, and the operands of a head
 * at L = 128, its output among them, are 28 lines for each of its tiles. Measured on Zen 5, GFLOP/s with 16, 24 and 32:
 * 8 x 12 heads of L = 128 213, 218, 223; the same in a fused projection 206, 213, 206; L = 512 with an additive mask
 * 214, 219, 212. */
#define AHEAD_LINES 24
/* A block of an additive bias is 48 rows of 8 lines, wanted within the 16 tiles of its product. */
#define AHEAD_BIAS_LINES 24

#define PIECE_PANELS 8

typedef struct {
    int64_t panels, superblock;
    size_t states, q, o, scores, k, v, bytes; /* offsets, and how much it is */
} layout_t;

/* Buffers in one scratch area. Padding to 64 bytes keeps every part on a cache line. */
static layout_t layout_of(const tfast_attention* c, int64_t max_rows) {
    layout_t l = {.panels = TFAST_MAX(1, tfast_ceil_div(max_rows, PANEL))};
    const int64_t wide = c->D + c->Dv, fit = STAGE_FLOATS / wide / ATTENTION_BLOCK * ATTENTION_BLOCK;
    l.superblock = tfast_clamp(fit, ATTENTION_BLOCK, 8 * ATTENTION_BLOCK);
    const int64_t dv = tfast_round_up(c->Dv, V_LANES);
    size_t at = 0;
    const size_t part[] = {(size_t)l.panels * sizeof(panel_t),  (size_t)(l.panels * c->D * PANEL) * 4,
                           (size_t)(l.panels * dv * PANEL) * 4, (size_t)(ATTENTION_BLOCK * PANEL) * 4,
                           (size_t)(l.superblock * c->D) * 4,   (size_t)(l.superblock * dv) * 4};
    size_t* offset[] = {&l.states, &l.q, &l.o, &l.scores, &l.k, &l.v};
    for (int i = 0; i < 6; i++) {
        *offset[i] = at;
        at += (part[i] + 63) / 64 * 64;
    }
    l.bytes = at;
    return l;
}

/* The row of a piece of n_rows with which panel `index` begins. Pieces are cut so that the panels of a sequence come
 * out the same (block_begin in ops/attention.c): along a diagonal they decide where sums are cut, and so the rounding.
 */
static int64_t panel_begin(int64_t n_rows, int64_t index) {
    const int64_t last = TFAST_MAX(1, tfast_ceil_div(n_rows, PANEL)) - 1, rest = n_rows - last * PANEL;
    if (index > last) return n_rows;
    return index * PANEL - (index == last && index > 0 && rest <= ATTENTION_ALONE ? ATTENTION_ALONE : 0);
}

/* Everything the steps of one piece share. */
typedef struct {
    const tfast_attention* c;
    const tfast_attention_piece* p;
    sequence_t s;
    layout_t l;
    panel_t* panels;
    float *q, *o, *scores, *k_stage, *v_stage;
    int stage_k, stage_v; /* K, V are read from the copies below */
    int64_t begin, s0;    /* first key that is seen, first of the superblock */
    ahead_list* ahead;
    struct unit* unit; /* what computes the products in place of the register tile, or NULL */
} work_t;

/* Rows [s0, s0 + n) of K, widened. */
static void stage_k(const work_t* w, int64_t n) {
    for (int64_t j = 0; j < n; j++) {
        const char* row = w->s.k + (w->s0 + j) * w->c->k_stride[2] * w->s.element;
        float* to = w->k_stage + j * w->c->D;
        int64_t d = 0;
        for (; d + V_LANES <= w->c->D; d += V_LANES) v_store(to + d, load_row(row, d, V_LANES, w->c->dtype));
        if (d < w->c->D) v_store_n(to + d, load_row(row, d, w->c->D - d, w->c->dtype), w->c->D - d);
    }
}

/* V as operand A of the second product: [Dv / V_LANES][key][V_LANES], so that a tile reads it in order. */
static void stage_v(const work_t* w, int64_t n) {
    const int64_t step = w->l.superblock * V_LANES, row_bytes = w->c->v_stride[2] * w->s.element;
    const char* rows = w->s.v + w->s0 * row_bytes;
    for (int64_t d = 0; d < w->c->Dv; d += V_LANES) {
        const int64_t width = w->c->Dv - d;
        float* to = w->v_stage + d / V_LANES * step;
        if (width >= V_LANES && w->c->dtype == TFAST_F32)
            for (int64_t j = 0; j < n; j++) v_store(to + j * V_LANES, v_load((const float*)(rows + j * row_bytes) + d));
        else
            for (int64_t j = 0; j < n; j++)
                v_store(to + j * V_LANES, load_row(rows + j * row_bytes, d, width, w->c->dtype));
    }
}

/* V from key k0 on, as columns: element (d, key) is at[d / V_LANES * group_step + d % V_LANES + key * key_stride]. */
typedef struct {
    const float* at;
    int64_t key_stride, group_step;
} values_t;

static values_t values_from(const work_t* w, int64_t k0) {
    if (w->stage_v) return (values_t){w->v_stage + (k0 - w->s0) * V_LANES, V_LANES, w->l.superblock * V_LANES};
    return (values_t){(const float*)w->s.v + k0 * w->c->v_stride[2], w->c->v_stride[2], V_LANES};
}

/* K from key k0 on. */
static const float* keys_from(const work_t* w, int64_t k0, int64_t* stride) {
    *stride = w->stage_k ? w->c->D : w->c->k_stride[2];
    return w->stage_k ? w->k_stage + (k0 - w->s0) * w->c->D : (const float*)w->s.k + k0 * *stride;
}

#ifdef ATTENTION_UNIT
#include ATTENTION_UNIT
#else
/* A level with a matrix unit replaces these (isa/amx/attention.h has them in full, and their contracts). */
#define unit_bytes(c, l)                               0
#define unit_begin(w, at)                              NULL
#define unit_end(w)                                    (void)(w)
#define unit_take_query(w, index)                      (void)(w)
#define unit_take_keys(w, n)                           (void)(w)
#define unit_scores(w, t, k0, t0, t1)                  (void)(w)
#define unit_values(w, t, k0, g, n_segments, alpha, o) (void)(w)
#endif

static void keys_ahead(const work_t* w, const sequence_t* s, int64_t from, int64_t end) {
    const tfast_attention* c = w->c;
    const int64_t n = TFAST_MIN(w->l.superblock, end - from), ks = c->k_stride[2] * s->element,
                  vs = c->v_stride[2] * s->element;
    add_ahead(w->ahead, s->v + from * vs, n, c->Dv * s->element, vs);
    add_ahead(w->ahead, s->k + from * ks, n, c->D * s->element, ks);
}

static void next_operands_ahead(const work_t* w, const tfast_attention_piece* p) {
    const tfast_attention* c = w->c;
    sequence_t s;
    set_sequence(c, p, &s);
    if (p->row + p->n_rows <= s.lq) {
        const int64_t qs = c->q_stride[2] * s.element;
        add_ahead(w->ahead, s.q + p->head * c->q_stride[1] * s.element + p->row * qs, p->n_rows, c->D * s.element, qs);
    }
    if (p->batch != w->p->batch || p->kv_head != w->p->kv_head)
        keys_ahead(w, &s, p->key_begin, TFAST_MIN(s.lk, p->key_end));
}

/* The output of this piece, then Q, K and V of the one that this thread will probably run next. */
static void next_piece_ahead(const work_t* w) {
    const tfast_attention* c = w->c;
    const tfast_attention_piece* p = w->p->next;
    if (p) next_operands_ahead(w, p);
    if (w->p->partial || w->p->row + w->p->n_rows > w->s.lq) return;
    const int64_t os = c->out_stride[2] * w->s.element;
    add_ahead(w->ahead, w->s.out + w->p->head * c->out_stride[1] * w->s.element + w->p->row * os, w->p->n_rows,
              c->Dv * w->s.element, os);
}
static void begin_superblock(work_t* w, int64_t s0, int64_t end) {
    w->s0 = s0;
    const int64_t n = TFAST_MIN(w->l.superblock, end - s0);
    if (w->stage_k) stage_k(w, n);
    if (w->stage_v) stage_v(w, n);
    if (w->unit) unit_take_keys(w, n);
    w->ahead->parts = 0;
    if (s0 + n < end)
        keys_ahead(w, &w->s, s0 + n, end);
    else
        next_piece_ahead(w);
}

/* The raw products of one segment; k is the first row of the block. */
static void multiply_scores(const work_t* w, const float* q, const float* k, int64_t k_stride, const segment_t* g) {
    const int64_t lane = g->v0 * V_LANES, nv = g->v1 - g->v0;
    tile_args a = {.k = w->c->D,
                   .a = k + g->t0 * k_stride,
                   .row_stride = k_stride,
                   .col_stride = 1,
                   .a_step = TILE_ROWS * k_stride,
                   .b = q + lane,
                   .c = w->scores + g->t0 * PANEL + lane,
                   .c_stride = PANEL,
                   .end = END_STORE,
                   .n = nv * V_LANES,
                   .ahead = w->ahead};
    tile_rows(&a, g->t1 - g->t0, nv);
}

/* A float bias whose rows lie apart. Bytes are few, and the rows of a table over offsets share their lines. */
static int bias_comes_from_afar(const tfast_bias* b) {
    return b->kind == TFAST_BIAS_FLOAT && b->stride[3] == 1 && b->stride[2] >= V_LANES;
}

/* The rows of such a bias for the keys of this block: they arrive while its products are made. Lanes of one head only,
 * whose rows are evenly spaced. */
static void bias_ahead(const work_t* w, const panel_t* t, int64_t k0, int64_t n) {
    for (int term = 0; term < 2; term++) {
        const tfast_bias* b = &w->c->bias[term];
        if (bias_comes_from_afar(b) && !t->bias_uniform[term] && t->head[0] == t->head[t->n - 1])
            add_ahead(w->ahead, t->bias_row[term][0] + k0 * 4, t->n, n * 4, b->stride[2] * 4);
    }
}

/* S of the block's segments: products, then logits. */
static void score_block(const work_t* w, const panel_t* t, const float* q, int64_t k0, const segment_t* g,
                        int n_segments) {
    const tfast_attention* c = w->c;
    int64_t k_stride;
    const float* k = keys_from(w, k0, &k_stride);
    if (n_segments == 0) return;
    bias_ahead(w, t, k0 + g[0].t0, g[n_segments - 1].t1 - g[0].t0);
    if (w->unit) unit_scores(w, t, k0, g[0].t0, g[n_segments - 1].t1);
    for (int i = 0; i < n_segments; i++) {
        if (c->additive)
            additive_scores(c, q, k + g[i].t0 * k_stride, k_stride, &g[i], w->scores);
        else if (!w->unit)
            multiply_scores(w, q, k, k_stride, &g[i]);
        shape_scores(c, t, w->s.offset, k0, &g[i], w->scores);
    }
}

/* O^T = alpha * O^T for all lanes, or 0: where no segment covers all vectors. */
static void scale_output(const work_t* w, const panel_t* t, const float* alpha, float* o) {
    for (int64_t d = 0; d < w->c->Dv; d++)
        for (int64_t v = 0; v < t->nv; v++) {
            float* x = o + d * PANEL + v * V_LANES;
            v_store(x, t->started ? v_mul(v_load(x), v_load(alpha + v * V_LANES)) : v_zero());
        }
}

/* add_values_by_tile for a ragged segment where V holds NaN or infinity: 0 * NaN would reach lanes that do not see that
 * key. The sums of other lanes have the same order, hence the same bits. */
static void add_values_by_lane(const work_t* w, const panel_t* t, int64_t k0, const segment_t* g, tile_end end,
                               const float* alpha, float* o) {
    const values_t values = values_from(w, k0);
    for (int64_t v = g->v0; v < g->v1; v++) {
        vf lo, hi;
        lane_ranges(t, v, k0, &lo, &hi);
        for (int64_t d = 0; d < w->c->Dv; d++) {
            const float* a = values.at + d / V_LANES * values.group_step + d % V_LANES;
            float* x = o + d * PANEL + v * V_LANES;
            vf acc = v_zero();
            for (int64_t j = g->t0; j < g->t1; j++) {
                const vf next =
                    v_fma(v_set1(a[j * values.key_stride]), v_load(w->scores + j * PANEL + v * V_LANES), acc);
                acc = v_select(lane_sees(lo, hi, j), next, acc);
            }
            if (end == END_ADD_C) acc = v_add(acc, v_load(x));
            if (end == END_SCALE_C) acc = v_fma(v_load(x), v_load(alpha + v * V_LANES), acc);
            v_store(x, acc);
        }
    }
}

/* One segment's weighted sum into O^T. */
static void add_values_by_tile(const work_t* w, int64_t k0, const segment_t* g, tile_end end, const float* alpha,
                               float* o) {
    const values_t values = values_from(w, k0);
    const int64_t lane = g->v0 * V_LANES, nv = g->v1 - g->v0;
    tile_args a = {.k = g->t1 - g->t0,
                   .row_stride = 1,
                   .col_stride = values.key_stride,
                   .a_step = TILE_ROWS,
                   .b = w->scores + g->t0 * PANEL + lane,
                   .from = o + lane,
                   .from_stride = PANEL,
                   .c = o + lane,
                   .c_stride = PANEL,
                   .row = alpha + lane,
                   .end = end,
                   .n = nv * V_LANES,
                   .ahead = w->ahead};
    const int64_t together = values.group_step == V_LANES ? w->c->Dv : V_LANES; /* in place: all columns in a row */
    for (int64_t d = 0; d < w->c->Dv; d += together) {
        a.a = values.at + d / V_LANES * values.group_step + g->t0 * values.key_stride;
        tile_rows(&a, TFAST_MIN(together, w->c->Dv - d), nv);
    }
}

static void add_values(const work_t* w, panel_t* t, int64_t k0, const segment_t* g, int n_segments, const float* alpha,
                       float* o) {
    const int covers = n_segments > 0 && g[0].v0 == 0 && g[0].v1 == t->nv;
    if (!covers) scale_output(w, t, alpha, o);
    for (int i = 0; i < n_segments; i++) {
        const tile_end end = i > 0 || !covers ? END_ADD_C : t->started ? END_SCALE_C : END_STORE;
        if (t->careful && g[i].ragged)
            add_values_by_lane(w, t, k0, &g[i], end, alpha, o);
        else
            add_values_by_tile(w, k0, &g[i], end, alpha, o);
    }
}

static void panel_block(const work_t* w, panel_t* t, const float* q, float* o, int64_t k0, int64_t n) {
    segment_t g[MAX_SEGMENTS];
    float alpha[PANEL] __attribute__((aligned(64)));
    const int n_segments = cut_segments(t, k0, n, g);
    if (n_segments == 0) return;
    for (int i = 0; i < n_segments; i++) t->ragged |= g[i].ragged;
    score_block(w, t, q, k0, g, n_segments);
    softmax_step(t, g, n_segments, w->scores, alpha);
    if (w->unit)
        unit_values(w, t, k0, g, n_segments, alpha, o);
    else
        add_values(w, t, k0, g, n_segments, alpha, o);
    t->started = 1;
}

/* Blocks begin at multiples of ATTENTION_BLOCK of the sequence, so that a row's sums do not depend on the cut into
 * superblocks. */
static void panel_superblock(const work_t* w, int64_t index) {
    panel_t* t = w->panels + index;
    const int64_t end = TFAST_MIN(t->end, w->s0 + w->l.superblock);
    int64_t k0 = TFAST_MAX(w->s0, t->first / ATTENTION_BLOCK * ATTENTION_BLOCK);
    for (; k0 < end; k0 += ATTENTION_BLOCK) {
        const int64_t from = TFAST_MAX(k0, w->p->key_begin), n = TFAST_MIN(ATTENTION_BLOCK - (from - k0), end - from);
        panel_block(w, t, w->q + index * w->c->D * PANEL, w->o + index * tfast_round_up(w->c->Dv, V_LANES) * PANEL,
                    from, n);
    }
}

typedef void (*superblock_fn)(const work_t* w, int64_t index);

/* Runs fn for the panels [first, last) on every superblock that they see. */
static void over_superblocks(work_t* w, int64_t first, int64_t last, superblock_fn fn) {
    int64_t begin = INT64_MAX, end = 0;
    for (int64_t i = first; i < last; i++) {
        if (w->panels[i].end) begin = TFAST_MIN(begin, w->panels[i].first);
        end = TFAST_MAX(end, w->panels[i].end);
    }
    if (!end) return;
    w->begin = begin;
    for (int64_t s0 = begin / ATTENTION_BLOCK * ATTENTION_BLOCK; s0 < end; s0 += w->l.superblock) {
        begin_superblock(w, s0, end);
        for (int64_t i = first; i < last; i++) fn(w, i);
    }
}

static float* output_of(const work_t* w, int64_t index) {
    return w->o + index * tfast_round_up(w->c->Dv, V_LANES) * PANEL;
}

/* Which lanes have NaN or infinity in their output, or in what a matrix unit was given; whether any has. */
static int find_rogue_lanes(const work_t* w, const panel_t* t, const float* o, uint8_t rogue[PANEL]) {
    const vf inf = v_set1(INFINITY);
    int any = 0;
    for (int64_t v = 0; v < t->nv; v++) {
        vf worst = v_zero();
        for (int64_t d = 0; d < w->c->Dv; d++) {
            const vf x = v_abs(v_load(o + d * PANEL + v * V_LANES));
            worst = v_select(v_lt(x, inf), worst, inf);
        }
        float lanes[V_LANES];
        v_store(lanes, worst);
        for (int64_t i = 0; i < V_LANES; i++) any |= rogue[v * V_LANES + i] = lanes[i] > 0 || t->rogue[v * V_LANES + i];
    }
    return any;
}

static char* output_row(const work_t* w, const panel_t* t, int64_t lane) {
    return w->s.out + (t->head[lane] * w->c->out_stride[1] + t->query[lane] * w->c->out_stride[2]) * w->s.element;
}

/* A full block of O^T as rows, each times its lane's factor, kept in registers as in pack_full_block. */
V_INLINE void store_full_block(const float* o, vf factor, char* const row[V_LANES], int64_t d) {
    vf x[V_LANES];
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) x[i] = v_mul(v_load(o + i * PANEL), factor);
    v_transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) v_store((float*)row[i] + d, x[i]);
}

static void store_edge_block(const float* o, vf factor, char* const row[V_LANES], int64_t lanes, int64_t d,
                             int64_t width, tfast_dtype type) {
    vf x[V_LANES];
    for (int64_t i = 0; i < V_LANES; i++) x[i] = i < width ? v_mul(v_load(o + i * PANEL), factor) : v_zero();
    v_transpose(x);
    for (int64_t i = 0; i < lanes; i++) {
        if (!row[i]) continue;
        float one[V_LANES];
        v_store(one, x[i]);
        store_row(row[i] + d * element_bytes(type), one, width, type);
    }
}

/* O^T to rows of the output, or of a partial result; with `only`, those lanes and no other. */
static void store_panel(const work_t* w, const panel_t* t, const float* o, const float* factor, float* partial_rows,
                        const uint8_t* only) {
    const int64_t dv = w->c->Dv;
    const tfast_dtype type = partial_rows ? TFAST_F32 : w->c->dtype;
    for (int64_t v = 0; v < t->nv; v++) {
        const int64_t lanes = TFAST_MIN(V_LANES, t->n - v * V_LANES);
        const vf f = v_load(factor + v * V_LANES);
        char* row[V_LANES];
        for (int64_t i = 0; i < lanes; i++) {
            const int64_t lane = v * V_LANES + i;
            row[i] = only && !only[lane] ? NULL
                     : partial_rows      ? (char*)(partial_rows + lane * dv)
                                         : output_row(w, t, lane);
        }
        for (int64_t d = 0; d < dv; d += V_LANES) {
            const int64_t width = TFAST_MIN(V_LANES, dv - d);
            const float* from = o + d * PANEL + v * V_LANES;
            if (lanes == V_LANES && width == V_LANES && type == TFAST_F32 && !only)
                store_full_block(from, f, row, d);
            else
                store_edge_block(from, f, row, lanes, d, width, type);
        }
    }
}

static void finish_panel(const work_t* w, int64_t index, const uint8_t* only) {
    float factor[PANEL] __attribute__((aligned(64)));
    const tfast_attention_piece* p = w->p;
    panel_t* t = w->panels + index;
    float* o = output_of(w, index);
    if (!t->started) memset(o, 0, (size_t)(w->c->Dv * PANEL) * 4);
    if (p->partial) {
        const int64_t row = panel_begin(p->n_rows, index);
        for (int64_t i = 0; i < t->n; i++) {
            if (only && !only[i]) continue;
            p->partial[p->n_rows * w->c->Dv + row + i] = t->max[i];
            p->partial[p->n_rows * (w->c->Dv + 1) + row + i] = t->sum[i];
        }
        for (int64_t i = 0; i < t->nv * V_LANES; i++) factor[i] = 1;
        store_panel(w, t, o, factor, p->partial + row * w->c->Dv, only);
        return;
    }
    if (w->c->sinks || w->c->lse)
        for (int64_t i = 0; i < t->nv * V_LANES; i++)
            factor[i] = i < t->n && (!only || only[i])
                            ? finish_row(w->c, p, &w->s, t->head[i], t->query[i], t->max[i], t->sum[i])
                            : 0;
    else
        for (int64_t v = 0; v < t->nv; v++) { /* what finish_row, through row_factor, gives then */
            const vf sum = v_load(t->sum + v * V_LANES);
            v_store(factor + v * V_LANES, v_select(v_le(sum, v_zero()), v_zero(), v_div(v_set1(1), sum)));
        }
    store_panel(w, t, o, factor, NULL, only);
}

/* NaN or infinity at a key that only some lanes see has reached others through 0 * NaN: once more, lane by lane, for
 * those whose output shows it. The other lanes keep their bits. A matrix unit leaves all rows with NaN or infinity to
 * this. */
static void redo_panel(work_t* w, int64_t index, const uint8_t* rogue) {
    panel_t* t = w->panels + index;
    struct unit* unit = w->unit;
    w->unit = NULL;
    t->started = 0;
    t->careful = 1;
    t->apart = 0;
    for (int64_t i = 0; i < PANEL; i++) {
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
    }
    over_superblocks(w, index, index + 1, panel_superblock);
    finish_panel(w, index, rogue);
    w->unit = unit;
}

/* Where the weight of a lane and key stands. */
static float* weight_of(const work_t* w, const panel_t* t, int64_t lane, int64_t key) {
    const tfast_attention* c = w->c;
    return c->weights + w->p->batch * c->weights_stride[0] + t->head[lane] * c->weights_stride[1] +
           t->query[lane] * c->weights_stride[2] + key * c->weights_stride[3];
}

/* Row n of a transposed block: the weights of one lane for `keys` keys in a row, stored or added to the mean. */
V_INLINE void put_weights(float* to, int64_t stride, vf x, int64_t keys, int mean) {
    if (stride == 1) {
        if (mean) x = v_add(x, v_load_n(to, keys));
        v_store_n(to, x, keys);
        return;
    }
    float one[V_LANES];
    v_store(one, x);
    for (int64_t j = 0; j < keys; j++) to[j * stride] = mean ? to[j * stride] + one[j] : one[j];
}

/* Weights of the lanes of vector v for the keys [j, j + keys) of the block that begins at k0: scores lie key by key,
 * the caller's array lane by lane. */
static void weights_tile(const work_t* w, const panel_t* t, int64_t v, int64_t k0, int64_t j, int64_t keys, vf max,
                         vf factor) {
    const int64_t lanes = TFAST_MIN(V_LANES, t->n - v * V_LANES);
    vf x[V_LANES];
    for (int64_t i = 0; i < V_LANES; i++) {
        const float* scores = w->scores + (j + TFAST_MIN(i, keys - 1)) * PANEL + v * V_LANES;
        x[i] = v_mul(v_exp2(v_sub(v_load(scores), max)), factor);
    }
    v_transpose(x);
    for (int64_t n = 0; n < lanes; n++)
        put_weights(weight_of(w, t, v * V_LANES + n, k0 + j), w->c->weights_stride[3], x[n], keys, w->c->weights_mean);
}

/* The weights of one superblock, from the final maxima (t->max) and factors (t->sum holds 1 / sum): a second pass over
 * Q K^T. */
static void weights_superblock(const work_t* w, int64_t index) {
    const tfast_attention* c = w->c;
    panel_t* t = w->panels + index;
    const int64_t end = TFAST_MIN(t->end, w->s0 + w->l.superblock);
    const vf share = v_set1(c->weights_mean ? 1.0f / (float)c->H : 1.0f);
    for (int64_t k0 = TFAST_MAX(w->s0, t->first / ATTENTION_BLOCK * ATTENTION_BLOCK); k0 < end; k0 += ATTENTION_BLOCK) {
        segment_t g[MAX_SEGMENTS];
        const int n_segments = cut_segments(t, k0, TFAST_MIN(ATTENTION_BLOCK, end - k0), g);
        score_block(w, t, w->q + index * c->D * PANEL, k0, g, n_segments);
        for (int i = 0; i < n_segments; i++)
            for (int64_t v = g[i].v0; v < g[i].v1; v++) {
                const vf max = finite_max(v_load(t->max + v * V_LANES)),
                         factor = v_mul(v_load(t->sum + v * V_LANES), share);
                for (int64_t j = g[i].t0; j < g[i].t1; j += V_LANES)
                    weights_tile(w, t, v, k0, j, TFAST_MIN(V_LANES, g[i].t1 - j), max, factor);
            }
    }
}

static void write_weights(work_t* w) {
    for (int64_t i = 0; i < w->l.panels; i++) {
        panel_t* t = w->panels + i;
        for (int64_t n = 0; n < t->n; n++) t->sum[n] = row_factor(w->c, t->head[n], t->max[n], t->sum[n]);
        for (int64_t n = t->n; n < t->nv * V_LANES; n++) t->sum[n] = t->sum[t->n - 1];
    }
    over_superblocks(w, 0, w->l.panels, weights_superblock);
}

static work_t begin_work(const tfast_attention* c, const tfast_attention_piece* p, void* scratch, ahead_list* ahead) {
    work_t w = {.c = c, .p = p, .ahead = ahead, .l = layout_of(c, p->n_rows)};
    set_sequence(c, p, &w.s);
    char* base = scratch;
    w.panels = (panel_t*)(base + w.l.states);
    w.q = (float*)(base + w.l.q);
    w.o = (float*)(base + w.l.o);
    w.scores = (float*)(base + w.l.scores);
    w.k_stage = (float*)(base + w.l.k);
    w.v_stage = (float*)(base + w.l.v);
    w.unit = unit_begin(&w, base + w.l.bytes);
    const int copied = p->copy_keys && !w.unit;
    w.stage_k = copied || c->dtype != TFAST_F32;
    w.stage_v = copied || c->dtype != TFAST_F32;
    return w;
}

static void KERNEL(attention_f32_qblock)(const tfast_attention* c, const tfast_attention_piece* p, void* scratch) {
    ahead_list ahead = {.lines_per_tile = AHEAD_LINES + (bias_comes_from_afar(&c->bias[0]) ? AHEAD_BIAS_LINES : 0)};
    work_t w = begin_work(c, p, scratch, &ahead);
    for (int64_t i = 0; i < w.l.panels; i++) {
        const int64_t row = panel_begin(p->n_rows, i);
        panel_set_rows(c, p, &w.s, w.panels + i, p->row + row, panel_begin(p->n_rows, i + 1) - row);
        panel_pack_q(c, &w.s, w.panels + i, query_factor(c), w.q + i * c->D * PANEL);
        if (w.unit) unit_take_query(&w, i);
    }
    over_superblocks(&w, 0, w.l.panels, panel_superblock);
    for (int64_t i = 0; i < w.l.panels; i++) {
        uint8_t rogue[PANEL];
        finish_panel(&w, i, NULL);
        if ((w.unit || w.panels[i].ragged) && find_rogue_lanes(&w, w.panels + i, output_of(&w, i), rogue))
            redo_panel(&w, i, rogue);
    }
    if (c->weights && !p->partial) write_weights(&w);
    if (w.unit) unit_end(&w);
}

#include "attention_decode.h"

static size_t KERNEL(attention_f32_scratch_bytes)(const tfast_attention* c, int64_t max_rows) {
    const layout_t l = layout_of(c, max_rows);
    return TFAST_MAX(l.bytes + unit_bytes(c, &l), decode_bytes(c));
}

#endif
