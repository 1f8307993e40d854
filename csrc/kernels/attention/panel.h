/* A panel of query rows: which rows its lanes are, which keys each of them sees, and its packed Q.
 *
 * Used by blocks.h and products.h, where one lane of a vector is one query row all the way through: scores are held
 * transposed (a row of the score block is one key, its lanes are queries), so that the softmax needs no horizontal
 * operation, structure is a comparison of lanes, and K and V are read in place; and by decode.h, for which a lane is
 * just a row's number. A new kind of structure: visible_range (the range of a lane; panel_set_lanes says when it is the
 * same for all) or, where it is no range, a term in scores.h. */
#ifndef TFAST_KERNELS_ATTENTION_PANEL_H
#define TFAST_KERNELS_ATTENTION_PANEL_H

#include "sequence.h"

#define KEY_BLOCK 128

/* Rows that are too few for a last panel, which takes as many from the one before: one vector alone would leave the
 * tile with too few accumulators. */
#define MIN_TAIL_ROWS (TILE_VECTORS == 3 ? V_LANES : 0)
_Static_assert(KEY_BLOCK % V_LANES == 0, "a block of keys must be whole vectors");
_Static_assert(2 * MIN_TAIL_ROWS < PANEL, "the panel before a short last one must keep more rows than it gives");

typedef struct {
    int64_t n, nv;          /* lanes in use, vectors */
    int64_t first, end;     /* keys that any lane sees */
    int64_t lo_max, hi_min; /* keys that every lane sees: [lo_max, hi_min) */
    int64_t query[PANEL], head[PANEL], lo[PANEL], hi[PANEL];
    int64_t v_first[TILE_VECTORS], v_end[TILE_VECTORS], v_lo_max[TILE_VECTORS],
        v_hi_min[TILE_VECTORS];     /* the same for one vector */
    const char* bias_row[2][PANEL]; /* term of (lane, key 0) */
    int bias_uniform[2];            /* all lanes have the same row */
    float slope[PANEL];             /* ALiBi, times log2(e) */
    float max[PANEL], sum[PANEL];   /* running, base 2 */
    int has_sums, ragged, masked_fma, split_sum;
    uint8_t nonfinite[PANEL]; /* lanes that a matrix engine cannot compute */
} panel_t;

/* The keys that query i sees, cut to the piece; (0, 0) where there are none. */
static void visible_range(const tfast_attention* c, const sequence_t* s, const tfast_attention_piece* p, int64_t i,
                          int64_t* lo, int64_t* hi) {
    const int64_t at = i + s->offset;
    int64_t a = p->key_begin, b = TFAST_MIN(s->lk, p->key_end);
    if (c->left != TFAST_UNLIMITED) a = TFAST_MAX(a, at - c->left);
    if (c->right != TFAST_UNLIMITED) b = TFAST_MIN(b, at + c->right + 1);
    *lo = a < b ? a : 0;
    *hi = a < b ? b : 0;
}

/* Ranges of each vector and of the whole panel. A lane that sees nothing makes "every lane sees" empty. */
static void panel_set_bounds(panel_t* t) {
    t->first = t->lo_max = 0;
    t->end = 0;
    t->hi_min = INT64_MAX;
    int64_t first = INT64_MAX;
    for (int64_t v = 0; v < t->nv; v++) {
        int64_t vf_ = INT64_MAX, ve = 0, lm = 0, hm = INT64_MAX;
        for (int64_t i = v * V_LANES; i < (v + 1) * V_LANES; i++) {
            lm = TFAST_MAX(lm, t->lo[i]);
            hm = TFAST_MIN(hm, t->hi[i]);
            if (t->lo[i] == t->hi[i]) continue;
            vf_ = TFAST_MIN(vf_, t->lo[i]);
            ve = TFAST_MAX(ve, t->hi[i]);
        }
        if (ve == 0) vf_ = 0;
        t->v_first[v] = vf_;
        t->v_end[v] = ve;
        t->v_lo_max[v] = lm;
        t->v_hi_min[v] = hm;
        t->lo_max = TFAST_MAX(t->lo_max, lm);
        t->hi_min = TFAST_MIN(t->hi_min, hm);
        if (ve) first = TFAST_MIN(first, vf_);
        t->end = TFAST_MAX(t->end, ve);
    }
    t->first = t->end ? first : 0;
}

static void panel_set_bias(const tfast_attention* c, const tfast_attention_piece* p, panel_t* t, int64_t lanes) {
    for (int term = 0; term < 2; term++) {
        const tfast_bias* b = &c->bias[term];
        if (b->kind == TFAST_BIAS_NONE) continue;
        const int64_t size = b->kind == TFAST_BIAS_FLOAT ? 4 : 1;
        int uniform = 1;
        for (int64_t i = 0; i < lanes; i++) {
            const int64_t at = p->batch * b->stride[0] + t->head[i] * b->stride[1] + t->query[i] * b->stride[2];
            t->bias_row[term][i] = (const char*)b->data + at * size;
            uniform &= t->bias_row[term][i] == t->bias_row[term][0];
        }
        t->bias_uniform[term] = uniform;
    }
}

/* The first `lanes` lanes for n rows. Those behind the last row repeat it: they cost nothing, see the same keys, and
 * are never stored. */
static void panel_set_lanes(const tfast_attention* c, const tfast_attention_piece* p, const sequence_t* s, panel_t* t,
                            int64_t row, int64_t n, int64_t lanes) {
    const int alike = c->left == TFAST_UNLIMITED && c->right == TFAST_UNLIMITED; /* every row sees the same keys */
    int64_t head = p->head, query = row, lo, hi;
    t->n = n;
    t->nv = tfast_ceil_div(n, V_LANES);
    t->has_sums = t->ragged = t->masked_fma = t->split_sum = 0;
    memset(t->nonfinite, 0, sizeof t->nonfinite);
    for (; query >= s->lq; query -= s->lq) head++; /* few heads: cheaper than a division */
    visible_range(c, s, p, query, &lo, &hi);
    for (int64_t i = 0; i < lanes; i++) {
        t->head[i] = head;
        t->query[i] = query;
        if (!alike) visible_range(c, s, p, query, &lo, &hi);
        t->lo[i] = lo;
        t->hi[i] = hi;
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
        if (c->alibi_slopes) t->slope[i] = c->alibi_slopes[head] * V_LOG2E;
        if (i + 1 < n && ++query == s->lq) {
            query = 0;
            head++;
        }
    }
    panel_set_bias(c, p, t, lanes);
}

/* All lanes of the vectors that n rows take. */
static void panel_set_rows(const tfast_attention* c, const tfast_attention_piece* p, const sequence_t* s, panel_t* t,
                           int64_t row, int64_t n) {
    panel_set_lanes(c, p, s, t, row, n, tfast_round_up(n, V_LANES));
    panel_set_bounds(t);
}

/* A full V_LANES x V_LANES block of fp32: the loop has no condition in it, so that the block stays in registers. */
V_INLINE void pack_full_block(const char* const row[V_LANES], int64_t d, vf factor, float* to) {
    vf x[V_LANES];
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) x[i] = v_mul(v_load((const float*)row[i] + d), factor);
    v_transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) v_store(to + i * PANEL, x[i]);
}

static void pack_edge_block(const char* const row[V_LANES], int64_t lanes, int64_t d, int64_t width, tfast_dtype dtype,
                            vf factor, float* to) {
    vf x[V_LANES];
    for (int64_t i = 0; i < V_LANES; i++)
        x[i] = i < lanes ? v_mul(load_row(row[i], d, width, dtype), factor) : v_zero();
    v_transpose(x);
    for (int64_t i = 0; i < width; i++) v_store(to + i * PANEL, x[i]);
}

/* Q of the panel as the B operand of the tile: [D][PANEL], times `factor`. */
static void panel_pack_q(const tfast_attention* c, const sequence_t* s, const panel_t* t, float factor, float* packed) {
    const vf f = v_set1(factor);
    for (int64_t v = 0; v < t->nv; v++) {
        const char* row[V_LANES];
        const int64_t lanes = TFAST_MIN(V_LANES, t->n - v * V_LANES);
        for (int64_t i = 0; i < lanes; i++) {
            const int64_t lane = v * V_LANES + i;
            row[i] = s->q + (t->head[lane] * c->q_stride[1] + t->query[lane] * c->q_stride[2]) * s->q_bytes;
        }
        for (int64_t d = 0; d < c->D; d += V_LANES) {
            const int64_t width = TFAST_MIN(V_LANES, c->D - d);
            float* to = packed + d * PANEL + v * V_LANES;
            if (lanes == V_LANES && width == V_LANES && c->q_dtype == TFAST_F32)
                pack_full_block(row, d, f, to);
            else
                pack_edge_block(row, lanes, d, width, c->q_dtype, f, to);
        }
    }
}

#endif
