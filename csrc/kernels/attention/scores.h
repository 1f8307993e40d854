/* From raw products to weights, for one block of scores: segments, soft cap, bias terms, terms of distance, ALiBi,
 * structure, softmax.
 *
 * Used by products.h and blocks.h; decode.h, whose scores are transposed, takes the values of a bias from here. The
 * block is S[key][lane], PANEL lanes a key, in base-2 logarithms. A new term of the scores is a sweep like the others
 * here, called in shape_scores, in the order that docs/kernels.md gives, and one in decode_shape. */
#ifndef TFAST_KERNELS_ATTENTION_SCORES_H
#define TFAST_KERNELS_ATTENTION_SCORES_H

#include "distance.h"

/* Pages of fewer keys are copied, superblock by superblock: their tiles would be too short. */
enum { MIN_PAGE_IN_PLACE = 64 };

/* A block is cut where a vector's first or last visible key lies: at most two cuts a vector; and where a page ends that
 * is read in place. */
enum { MAX_SEGMENTS = 2 * TILE_VECTORS + 1 + KEY_BLOCK / MIN_PAGE_IN_PLACE };

static int add_segment(const panel_t* p, int64_t k0, int64_t t0, int64_t t1, segment_t* s) {
    s->t0 = t0;
    s->t1 = t1;
    s->v0 = p->nv;
    s->v1 = 0;
    s->ragged = 0;
    for (int64_t v = 0; v < p->nv; v++)
        if (p->v_first[v] < k0 + t1 && k0 + t0 < p->v_end[v]) {
            s->v0 = TFAST_MIN(s->v0, v);
            s->v1 = v + 1;
        }
    for (int64_t v = s->v0; v < s->v1; v++) s->ragged |= k0 + t0 < p->v_lo_max[v] || k0 + t1 > p->v_hi_min[v];
    s->ragged |= p->seen != NULL;
    return s->v0 < s->v1;
}

/* The segments of keys [k0, k0 + n), in order; how many. Along a diagonal this skips what lies outside it vector by
 * vector. */
static int cut_segments(const panel_t* p, int64_t k0, int64_t n, segment_t* s) {
    if (k0 >= p->lo_max && k0 + n <= p->hi_min && !p->seen) {
        *s = (segment_t){0, n, 0, p->nv, 0};
        return 1;
    }
    int64_t cut[2 * TILE_VECTORS + 2];
    int cuts = 0, count = 0;
    cut[cuts++] = 0;
    for (int64_t v = 0; v < p->nv; v++) {
        cut[cuts++] = tfast_clamp(p->v_first[v] - k0, 0, n);
        cut[cuts++] = tfast_clamp(p->v_end[v] - k0, 0, n);
    }
    cut[cuts++] = n;
    for (int i = 1; i < cuts; i++) /* insertion sort of at most eight */
        for (int j = i; j > 0 && cut[j] < cut[j - 1]; j--) {
            const int64_t x = cut[j];
            cut[j] = cut[j - 1];
            cut[j - 1] = x;
        }
    for (int i = 0; i + 1 < cuts; i++)
        if (cut[i] < cut[i + 1]) count += add_segment(p, k0, cut[i], cut[i + 1], &s[count]);
    return count;
}

/* Cuts segments of keys from k0 on where a page ends; how many there are then. Pages have MIN_PAGE_IN_PLACE keys at
 * least. */
static int cut_at_pages(int64_t k0, int64_t page, segment_t* s, int count) {
    segment_t whole[MAX_SEGMENTS];
    int n = 0;
    memcpy(whole, s, (size_t)count * sizeof *s);
    for (int i = 0; i < count; i++)
        for (int64_t t0 = whole[i].t0; t0 < whole[i].t1; t0 = s[n++].t1) {
            s[n] = whole[i];
            s[n].t0 = t0;
            s[n].t1 = TFAST_MIN(whole[i].t1, t0 + page - (k0 + t0) % page);
        }
    return n;
}

static float bias_value(const tfast_bias* b, const char* row, int64_t key) {
    if (b->kind == TFAST_BIAS_FLOAT) return ((const float*)row)[key * b->stride[3]];
    return ((const uint8_t*)row)[key * b->stride[3]] ? 0.0f : -INFINITY;
}

/* To base 2. Only -infinity masks: the lowest finite number, which some masks use, must not become it. */
V_INLINE vf bias_log2(vf x) {
    const vf y = v_max(v_set1(-FLT_MAX), v_mul(x, v_set1(V_LOG2E)));
    return v_select(v_le(x, v_set1(-INFINITY)), x, y);
}

/* A float is added; "not allowed" (-infinity) replaces the score, whatever that is: NaN + -infinity would be NaN. */
V_INLINE vf biased(const int is_float, vf score, vf bias) {
    return is_float ? v_add(score, bias_log2(bias)) : v_select(v_lt(v_set1(-INFINITY), bias), score, bias);
}

static void add_uniform_bias(const tfast_bias* b, const char* row, int64_t k0, const segment_t* g, float* S) {
    for (int64_t t = g->t0; t < g->t1; t++) {
        const float value = bias_value(b, row, k0 + t);
        if (value == 0) continue;
        const vf x = v_set1(value);
        for (int64_t v = g->v0; v < g->v1; v++) {
            float* s = S + t * PANEL + v * V_LANES;
            v_store(s, biased(b->kind == TFAST_BIAS_FLOAT, v_load(s), x));
        }
    }
}

/* V_LANES keys of V_LANES rows of a dense bias: the loops have no condition in them, so that the block stays in
 * registers. */
V_INLINE void add_full_bias_block(const int is_float, const char* const* rows, int64_t key, float* s) {
    vf x[V_LANES];
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++)
        x[i] =
            is_float ? v_load((const float*)rows[i] + key) : v_from_mask_bytes((const uint8_t*)rows[i] + key, V_LANES);
    v_transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) v_store(s + i * PANEL, biased(is_float, v_load(s + i * PANEL), x[i]));
}

/* Fewer keys, or keys that are not dense: value by value. */
static void add_edge_bias_block(const tfast_bias* b, const char* const* rows, int64_t key, int64_t n, float* s) {
    for (int64_t j = 0; j < n; j++, s += PANEL) {
        float one[V_LANES];
        for (int64_t i = 0; i < V_LANES; i++) one[i] = bias_value(b, rows[i], key + j);
        v_store(s, biased(b->kind == TFAST_BIAS_FLOAT, v_load(s), v_load(one)));
    }
}

/* Rows of the bias are lanes of the block: V_LANES x V_LANES transposes. */
static void add_lane_bias(const tfast_bias* b, const char* const* rows, int64_t k0, const segment_t* g, int64_t v,
                          float* S) {
    const char* const* lanes = rows + v * V_LANES;
    for (int64_t t = g->t0; t < g->t1; t += V_LANES) {
        const int64_t width = TFAST_MIN(V_LANES, g->t1 - t);
        float* s = S + t * PANEL + v * V_LANES;
        if (width < V_LANES || b->stride[3] != 1)
            add_edge_bias_block(b, lanes, k0 + t, width, s);
        else if (b->kind == TFAST_BIAS_FLOAT)
            add_full_bias_block(1, lanes, k0 + t, s);
        else
            add_full_bias_block(0, lanes, k0 + t, s);
    }
}

static void add_bias(const tfast_attention* c, const panel_t* p, int term, int64_t k0, const segment_t* g, float* S) {
    const tfast_bias* b = &c->bias[term];
    const char* const* rows = p->bias_row[term];
    if (b->kind == TFAST_BIAS_NONE) return;
    if (p->bias_uniform[term]) {
        add_uniform_bias(b, rows[0], k0, g, S);
        return;
    }
    for (int64_t v = g->v0; v < g->v1; v++) add_lane_bias(b, rows, k0, g, v, S);
}

static void cap_scores(float softcap, const segment_t* g, float* S) {
    const vf gain = v_set1(softcap * V_LOG2E);
    for (int64_t t = g->t0; t < g->t1; t++)
        for (int64_t v = g->v0; v < g->v1; v++) {
            float* s = S + t * PANEL + v * V_LANES;
            v_store(s, v_mul(v_tanh(v_load(s)), gain));
        }
}

/* slope * (j - (i + offset)): positions are taken relative to the block, where fp32 holds them exactly up to 2^24. */
static void add_alibi(const panel_t* p, int64_t offset, int64_t k0, const segment_t* g, float* S) {
    for (int64_t v = g->v0; v < g->v1; v++) {
        float at[V_LANES];
        for (int64_t i = 0; i < V_LANES; i++) at[i] = (float)(p->query[v * V_LANES + i] + offset - k0);
        const vf slope = v_load(p->slope + v * V_LANES), origin = v_load(at);
        for (int64_t t = g->t0; t < g->t1; t++) {
            float* s = S + t * PANEL + v * V_LANES;
            v_store(s, v_fma(slope, v_sub(v_set1((float)t), origin), v_load(s)));
        }
    }
}

/* The lanes' ranges of keys, relative to the block: key t is visible in a lane iff lo <= t < hi. */
static void lane_ranges(const panel_t* p, int64_t v, int64_t k0, vf* lo, vf* hi) {
    float a[V_LANES], b[V_LANES];
    for (int64_t i = 0; i < V_LANES; i++) {
        a[i] = (float)tfast_clamp(p->lo[v * V_LANES + i] - k0, -1, KEY_BLOCK + 1);
        b[i] = (float)tfast_clamp(p->hi[v * V_LANES + i] - k0, -1, KEY_BLOCK + 1);
    }
    *lo = v_load(a);
    *hi = v_load(b);
}

V_INLINE vm lane_sees(vf lo, vf hi, int64_t t) {
    const vf at = v_set1((float)t);
    return v_and(v_le(lo, at), v_lt(at, hi));
}

/* 0 where lanes of vector v see key t of the block, -infinity where they do not. */
V_INLINE vf seen_by(const panel_t* p, int64_t v, int64_t t) {
    return v_from_mask_bytes(p->seen + t * PANEL + v * V_LANES, V_LANES);
}

static void mask_unseen(const panel_t* p, const segment_t* g, float* S) {
    for (int64_t t = g->t0; t < g->t1; t++)
        for (int64_t v = g->v0; v < g->v1; v++) {
            float* s = S + t * PANEL + v * V_LANES;
            v_store(s, biased(0, v_load(s), seen_by(p, v, t)));
        }
}

static void mask_ragged(const panel_t* p, int64_t k0, const segment_t* g, float* S) {
    const vf nothing = v_set1(-INFINITY);
    if (p->seen) {
        mask_unseen(p, g, S);
        return;
    }
    for (int64_t v = g->v0; v < g->v1; v++) {
        vf lo, hi;
        lane_ranges(p, v, k0, &lo, &hi);
        for (int64_t t = g->t0; t < g->t1; t++) {
            float* s = S + t * PANEL + v * V_LANES;
            v_store(s, v_select(lane_sees(lo, hi, t), v_load(s), nothing));
        }
    }
}

/* Raw products to final logits (base 2) of one segment. */
static void shape_scores(const tfast_attention* c, const sequence_t* s, const panel_t* p, int64_t k0,
                         const segment_t* g, float* S) {
    if (c->softcap > 0) cap_scores(c->softcap, g, S);
    add_bias(c, p, 0, k0, g, S);
    add_bias(c, p, 1, k0, g, S);
    if (c->distance_scores.bucket) add_distance_scores(c, s, p, k0, g, S);
    if (c->alibi_slopes) add_alibi(p, s->offset, k0, g, S);
    if (g->ragged) mask_ragged(p, k0, g, S);
}

/* With a soft cap the tile yields the argument of tanh, else base-2 logits; additive scores take q as it is. */
static float query_factor(const tfast_attention* c) {
    if (c->additive) return 1;
    return c->softcap > 0 ? c->scale / c->softcap : c->scale * V_LOG2E;
}

/* S[key][lane] = additive . tanh(q + k) of one segment; k is the first key's row of the segment. */
static void additive_scores(const tfast_attention* c, const float* q, const float* k, int64_t k_stride,
                            const segment_t* g, float* S) {
    for (int64_t t = g->t0; t < g->t1; t++, k += k_stride)
        for (int64_t v = g->v0; v < g->v1; v++) {
            vf sum = v_zero();
            for (int64_t d = 0; d < c->D; d++)
                sum = v_fma(v_set1(c->additive[d]), v_tanh(v_add(v_load(q + d * PANEL + v * V_LANES), v_set1(k[d]))),
                            sum);
            v_store(S + t * PANEL + v * V_LANES, v_mul(sum, v_set1(V_LOG2E)));
        }
}

/* The three below do `n` vectors of lanes together, from v on: independent chains, and one load of each constant. n is
 * a constant after inlining. */
V_INLINE void segment_max(const segment_t* g, int64_t v, const int n, const float* S, vf max[TILE_VECTORS]) {
    vf other[TILE_VECTORS]; /* a second chain for each: vmaxps has a latency of two to four */
    const float* s = S + g->t0 * PANEL + v * V_LANES;
    int64_t t = g->t1 - g->t0;
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) other[i] = max[i];
    for (; t >= 2; t -= 2, s += 2 * PANEL) {
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            max[i] = v_max(v_load(s + i * V_LANES), max[i]); /* NaN is passed over here and comes back through exp */
            other[i] = v_max(v_load(s + PANEL + i * V_LANES), other[i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        if (t) max[i] = v_max(v_load(s + i * V_LANES), max[i]);
        max[i] = v_max(max[i], other[i]);
    }
}

V_INLINE void segment_exp_row(float* s, const int n, const vf max[TILE_VECTORS], vf sum[TILE_VECTORS]) {
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        const vf e = v_exp2(v_sub(v_load(s + i * V_LANES), max[i]));
        v_store(s + i * V_LANES, e);
        sum[i] = v_add(sum[i], e);
    }
}

V_INLINE void segment_exp(const segment_t* g, int64_t v, const int n, float* S, const vf max[TILE_VECTORS],
                          vf sum[TILE_VECTORS]) {
    float* s = S + g->t0 * PANEL + v * V_LANES;
    for (int64_t t = g->t1 - g->t0; t > 0; t--, s += PANEL) segment_exp_row(s, n, max, sum);
}

/* The same with the sum in four chains, which has a fourth of the error. The register tile adds up the values in the
 * order of one chain, so that the errors of both cancel; a matrix engine has hardly any error to cancel. */
V_INLINE void segment_exp_split(const segment_t* g, int64_t v, const int n, float* S, const vf max[TILE_VECTORS],
                                vf sum[TILE_VECTORS]) {
    vf part[4][TILE_VECTORS];
    float* s = S + g->t0 * PANEL + v * V_LANES;
    int64_t t = g->t1 - g->t0;
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++)
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) part[c][i] = v_zero();
    for (; t >= 4; t -= 4) {
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++, s += PANEL) segment_exp_row(s, n, max, part[c]);
    }
    for (; t > 0; t--, s += PANEL) segment_exp_row(s, n, max, part[0]);
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
        sum[i] = v_add(sum[i], v_add(v_add(part[0][i], part[1][i]), v_add(part[2][i], part[3][i])));
}

/* Lanes whose maximum is still -infinity subtract 0 instead: exp gives 0 for them, not NaN. */
V_INLINE vf finite_max(vf m) {
    return v_select(v_lt(v_set1(-INFINITY), m), m, v_select(v_le(m, v_set1(-INFINITY)), v_zero(), m));
}

V_INLINE void softmax_vectors(panel_t* p, const segment_t* g, int n_segments, int64_t v, const int n, float* S,
                              float* alpha) {
    vf max[TILE_VECTORS], used[TILE_VECTORS], sum[TILE_VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) max[i] = v_load(p->max + (v + i) * V_LANES);
    for (int k = 0; k < n_segments; k++)
        if (g[k].v0 <= v && v < g[k].v1) segment_max(&g[k], v, n, S, max);
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        const int64_t lane = (v + i) * V_LANES;
        used[i] = finite_max(max[i]);
        const vf factor = v_exp2(v_sub(v_load(p->max + lane), used[i]));
        sum[i] = v_mul(v_load(p->sum + lane), factor);
        v_store(alpha + lane, factor);
    }
    for (int k = 0; k < n_segments; k++) {
        if (v < g[k].v0 || g[k].v1 <= v) continue;
        if (p->split_sum)
            segment_exp_split(&g[k], v, n, S, used, sum);
        else
            segment_exp(&g[k], v, n, S, used, sum);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        v_store(p->max + (v + i) * V_LANES, max[i]);
        v_store(p->sum + (v + i) * V_LANES, sum[i]);
    }
}

/* One step of the online softmax: S becomes weights, max and sum move on, `alpha` (PANEL floats) is what earlier sums
 * are multiplied by. */
static void softmax_step(panel_t* p, const segment_t* g, int n_segments, float* S, float* alpha) {
    const int whole = n_segments == 1 && g->v0 == 0 && g->v1 == TILE_VECTORS;
    if (whole)
        softmax_vectors(p, g, 1, 0, TILE_VECTORS, S, alpha);
    else
        for (int64_t v = 0; v < p->nv; v++) softmax_vectors(p, g, n_segments, v, 1, S, alpha);
}

#endif
