/* A panel of query rows: which rows its lanes are, which keys each of them sees, and its packed Q.
 *
 * Used by blocks.h and products.h, where one lane of a vector is one query row all the way through: scores are held
 * transposed (a row of the score block is one key, its lanes are queries), so that the softmax needs no horizontal
 * operation, structure is a comparison of lanes, and K and V are read in place; and by decode.h, for which a lane is
 * just a row's number. A new kind of structure: visible_range (the range of a lane; panel_set_lanes says when it is the
 * same for all) or, where it is no range, a list of ranges, which panel_set_block cuts to the block at hand: in most
 * blocks a lane sees one range, as without lists, and where it sees several, `seen` says which keys. */
#ifndef TFAST_KERNELS_ATTENTION_PANEL_H
#define TFAST_KERNELS_ATTENTION_PANEL_H

#include "sequence.h"

/* Keys of one step of the online softmax. */
#define KEY_BLOCK 128
_Static_assert(KEY_BLOCK % V_LANES == 0, "blocks of scores and biases are transposed in squares of V_LANES");

/* A last panel of no more rows than this takes as many from the one before: with a single vector the tile would have
 * too few accumulators. */
#define MIN_TAIL_ROWS (TILE_VECTORS == 3 ? V_LANES : 0)
_Static_assert(2 * MIN_TAIL_ROWS < PANEL, "the panel before a short last one must keep more rows than it gives");

typedef struct {
    int64_t n, nv;          /* lanes in use, vectors */
    int64_t first, end;     /* keys that any lane sees */
    int64_t lo_max, hi_min; /* keys that every lane sees: [lo_max, hi_min) */
    int64_t query[PANEL], head[PANEL], lo[PANEL], hi[PANEL];
    /* Run r is the lanes [run[r], run[r + 1]) that see the same keys: what depends on these alone is computed once. */
    int64_t runs, run[PANEL + 1];
    int64_t v_first[TILE_VECTORS], v_end[TILE_VECTORS], v_lo_max[TILE_VECTORS],
        v_hi_min[TILE_VECTORS]; /* the same for one vector */
    /* With lists of ranges: all keys of a lane; lo, hi and what follows them are those of the block at hand. */
    int64_t span_lo[PANEL], span_hi[PANEL];
    int64_t list[PANEL], list_end[PANEL]; /* its ranges */
    int64_t at[PANEL]; /* the first that the pass over keys has not left; lanes after a run's first may lag behind it */
    const uint8_t* seen; /* [key of the block][PANEL], where a lane sees several ranges of the block; else NULL */
    const char* bias_row[2][PANEL]; /* term of (lane, key 0) */
    int bias_uniform[2];            /* all lanes have the same row */
    float slope[PANEL];             /* ALiBi, times log2(e) */
    float max[PANEL], sum[PANEL];   /* running, base 2 */
    int has_sums;                   /* O^T holds sums of earlier blocks */
    int ragged;                     /* some lane did not see every key of a segment */
    int masked_fma;                 /* ragged segments add V lane by lane, under a mask */
    int split_sum;                  /* the denominator is summed in four chains */
    uint8_t nonfinite[PANEL];       /* lanes that a matrix engine cannot compute */
} panel_t;

/* Keys [t0, t1) of a block for which the vectors [v0, v1) have work; `ragged`: not every one of their lanes sees all of
 * these keys. */
typedef struct {
    int64_t t0, t1, v0, v1;
    int ragged;
} segment_t;

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

static int has_lists(const tfast_attention* c) {
    return c->ranges.list_of_row != NULL;
}

/* The number of the list of a lane; r: lists of the call. */
static int32_t list_of_lane(const tfast_key_ranges* r, const sequence_t* s, const tfast_attention_piece* p,
                            const panel_t* t, int64_t lane) {
    const int64_t row = s->q_row0 + t->query[lane];
    return r->list_of_row[p->batch * r->stride[0] + t->head[lane] * r->stride[1] + row * r->stride[2]];
}

/* The list of a lane, and its first and last key within [*lo, *hi). A compiled mask may give each row a list of its
 * own: where a lane's has the ranges of the lane before, it takes that one. */
static void set_list(const tfast_attention* c, const sequence_t* s, const tfast_attention_piece* p, panel_t* t,
                     int64_t lane, int64_t* lo, int64_t* hi) {
    const tfast_key_ranges* r = &c->ranges;
    const int32_t list = list_of_lane(r, s, p, t, lane);
    const int64_t n = r->begin[list + 1] - r->begin[list];
    int64_t first = r->begin[list];
    if (lane > 0 && n == t->list_end[lane - 1] - t->list[lane - 1] &&
        memcmp(r->bounds + 2 * first, r->bounds + 2 * t->list[lane - 1], (size_t)n * 2 * sizeof *r->bounds) == 0)
        first = t->list[lane - 1];
    t->list[lane] = t->at[lane] = first;
    t->list_end[lane] = first + n;
    if (t->list[lane] < t->list_end[lane]) {
        *lo = TFAST_MAX(*lo, r->bounds[2 * t->list[lane]]);
        *hi = TFAST_MIN(*hi, r->bounds[2 * t->list_end[lane] - 1]);
    }
    if (*lo >= *hi || t->list[lane] == t->list_end[lane]) *lo = *hi = 0;
    t->span_lo[lane] = *lo;
    t->span_hi[lane] = *hi;
}

/* Before a pass over the keys from the first one on. */
static void panel_rewind(panel_t* t, int64_t lanes) {
    for (int64_t i = 0; i < lanes; i++) t->at[i] = t->list[i];
}

/* The first key from `from` on that any of the lanes sees, and where its range ends; INT64_MAX: none. Within a pass
 * `from` never goes back. */
static int64_t panel_next_range(const tfast_attention* c, panel_t* t, int64_t lanes, int64_t from, int64_t* end) {
    int64_t next = INT64_MAX;
    for (int64_t r = 0; r < t->runs && t->run[r] < lanes; r++) {
        const int64_t i = t->run[r], low = TFAST_MAX(from, t->span_lo[i]);
        while (t->at[i] < t->list_end[i] && c->ranges.bounds[2 * t->at[i] + 1] <= low) t->at[i]++;
        if (t->at[i] == t->list_end[i]) continue;
        const int64_t key = TFAST_MAX(low, c->ranges.bounds[2 * t->at[i]]);
        if (key >= t->span_hi[i] || key >= next) continue;
        next = key;
        *end = TFAST_MIN(t->span_hi[i], c->ranges.bounds[2 * t->at[i] + 1]);
    }
    return next;
}

static int64_t panel_next_key(const tfast_attention* c, panel_t* t, int64_t lanes, int64_t from) {
    int64_t end;
    return panel_next_range(c, t, lanes, from, &end);
}

/* The keys [*lo, *hi) that hold what a lane sees of [k0, k0 + n), and whether that is several ranges. */
static int lane_in_block(const tfast_attention* c, panel_t* t, int64_t lane, int64_t k0, int64_t n, int64_t* lo,
                         int64_t* hi) {
    const int32_t* bounds = c->ranges.bounds;
    const int64_t a = TFAST_MAX(k0, t->span_lo[lane]), b = TFAST_MIN(k0 + n, t->span_hi[lane]);
    int64_t i = t->at[lane], last;
    *lo = *hi = 0;
    if (a >= b) return 0;
    while (i < t->list_end[lane] && bounds[2 * i + 1] <= a) i++;
    t->at[lane] = i;
    if (i == t->list_end[lane] || bounds[2 * i] >= b) return 0;
    for (last = i; last + 1 < t->list_end[lane] && bounds[2 * (last + 1)] < b;) last++;
    *lo = TFAST_MAX(a, bounds[2 * i]);
    *hi = TFAST_MIN(b, bounds[2 * last + 1]);
    return last > i;
}

/* Ranges of each vector and of the whole panel. A lane that sees nothing makes "every lane sees" empty. */
static void panel_set_bounds(panel_t* t) {
    t->first = t->lo_max = 0;
    t->end = 0;
    t->hi_min = INT64_MAX;
    int64_t first = INT64_MAX, r = 0;
    for (int64_t v = 0; v < t->nv; v++) {
        int64_t vf_ = INT64_MAX, ve = 0, lm = 0, hm = INT64_MAX;
        for (;; r++) { /* the runs that have lanes in v; the last one may have some in the next, too */
            const int64_t lo = t->lo[t->run[r]], hi = t->hi[t->run[r]];
            lm = TFAST_MAX(lm, lo);
            hm = TFAST_MIN(hm, hi);
            if (lo < hi) {
                vf_ = TFAST_MIN(vf_, lo);
                ve = TFAST_MAX(ve, hi);
            }
            if (t->run[r + 1] >= (v + 1) * V_LANES) break;
        }
        if (t->run[r + 1] == (v + 1) * V_LANES) r++;
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

/* seen[key][lane] of the block's lanes, whose ranges begin at t->at: each end of a range turns what follows. */
static void fill_seen(const tfast_attention* c, const panel_t* t, int64_t k0, int64_t n, uint8_t* seen) {
    memset(seen, 0, (size_t)(n * PANEL));
    for (int64_t i = 0; i < t->nv * V_LANES; i++)
        for (int64_t r = t->at[i]; t->lo[i] < t->hi[i] && r < t->list_end[i]; r++) {
            const int64_t a = TFAST_MAX(t->lo[i], c->ranges.bounds[2 * r]) - k0;
            const int64_t b = TFAST_MIN(t->hi[i], c->ranges.bounds[2 * r + 1]) - k0;
            if (a >= b) break;
            seen[a * PANEL + i] ^= 1;
            if (b < n) seen[b * PANEL + i] ^= 1;
        }
    for (int64_t j = 1; j < n; j++)
        for (int64_t i = 0; i < PANEL; i++) seen[j * PANEL + i] ^= seen[(j - 1) * PANEL + i];
}

/* With lists: lo, hi and the bounds of the vectors for the keys [k0, k0 + n); `seen` has room for them. first and end
 * stay those of all keys. */
static void panel_set_block(const tfast_attention* c, panel_t* t, int64_t k0, int64_t n, uint8_t* seen) {
    const int64_t first = t->first, end = t->end;
    int several = 0;
    for (int64_t r = 0; r < t->runs; r++) {
        int64_t lo, hi;
        several |= lane_in_block(c, t, t->run[r], k0, n, &lo, &hi);
        for (int64_t i = t->run[r]; i < t->run[r + 1]; i++) {
            t->lo[i] = lo;
            t->hi[i] = hi;
            t->at[i] = t->at[t->run[r]];
        }
    }
    panel_set_bounds(t);
    t->first = first;
    t->end = end;
    t->seen = several ? seen : NULL;
    if (several) fill_seen(c, t, k0, n, seen);
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

/* Whether a lane sees the keys of the one before it; lo and hi are still those of all keys. */
static int sees_the_same(const tfast_attention* c, const panel_t* t, int64_t lane) {
    return t->lo[lane] == t->lo[lane - 1] && t->hi[lane] == t->hi[lane - 1] &&
           (!has_lists(c) || t->list[lane] == t->list[lane - 1]);
}

/* The first `lanes` lanes for n rows. Lanes after the last row repeat it: they cost nothing, see the same keys, and are
 * never stored. */
static void panel_set_lanes(const tfast_attention* c, const tfast_attention_piece* p, const sequence_t* s, panel_t* t,
                            int64_t row, int64_t n, int64_t lanes) {
    /* every row sees the same keys */
    const int alike = c->left == TFAST_UNLIMITED && c->right == TFAST_UNLIMITED && !has_lists(c);
    int64_t head = p->head, query = row, lo, hi;
    t->n = n;
    t->nv = tfast_ceil_div(n, V_LANES);
    t->has_sums = t->ragged = t->masked_fma = t->split_sum = 0;
    t->seen = NULL;
    t->runs = 0;
    memset(t->nonfinite, 0, sizeof t->nonfinite);
    for (; query >= s->lq; query -= s->lq) head++; /* few heads: cheaper than a division */
    visible_range(c, s, p, query, &lo, &hi);
    for (int64_t i = 0; i < lanes; i++) {
        t->head[i] = head;
        t->query[i] = query;
        if (!alike) visible_range(c, s, p, query, &lo, &hi);
        if (has_lists(c)) set_list(c, s, p, t, i, &lo, &hi);
        t->lo[i] = lo;
        t->hi[i] = hi;
        if (i == 0 || !sees_the_same(c, t, i)) t->run[t->runs++] = i;
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
        if (c->alibi_slopes) t->slope[i] = c->alibi_slopes[head] * V_LOG2E;
        if (i + 1 < n && ++query == s->lq) {
            query = 0;
            head++;
        }
    }
    t->run[t->runs] = lanes;
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
