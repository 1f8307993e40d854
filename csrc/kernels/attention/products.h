/* The two products of a block: scores from Q and K, and the weighted sum of V.
 *
 * Used by blocks.h and weights.h. Both go through the register tile (gemm/tile.h), or through the hooks of a matrix
 * engine. */
#ifndef TFAST_KERNELS_ATTENTION_PRODUCTS_H
#define TFAST_KERNELS_ATTENTION_PRODUCTS_H

#include "prefetch.h"

/* The raw products of one segment; k is its first row. */
static void multiply_scores(const work_t* w, const float* q, const float* k, int64_t k_stride, const segment_t* g) {
    const int64_t lane = g->v0 * V_LANES, nv = g->v1 - g->v0;
    tile_args a = {.k = w->c->D,
                   .a = k,
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

/* S of the block's segments: products, then logits. */
static void score_block(const work_t* w, const panel_t* t, const float* q, int64_t k0, const segment_t* g,
                        int n_segments) {
    const tfast_attention* c = w->c;
    if (n_segments == 0) return;
    bias_ahead(w, t, k0 + g[0].t0, g[n_segments - 1].t1 - g[0].t0);
    if (w->engine) engine_scores(w, t, k0, g[0].t0, g[n_segments - 1].t1);
    for (int i = 0; i < n_segments; i++) {
        int64_t k_stride;
        const float* k = keys_from(w, k0 + g[i].t0, &k_stride);
        if (c->additive)
            additive_scores(c, q, k, k_stride, &g[i], w->scores);
        else if (!w->engine)
            multiply_scores(w, q, k, k_stride, &g[i]);
        shape_scores(c, &w->s, t, k0, &g[i], w->scores);
    }
}

/* O^T = alpha * O^T for all lanes, or 0: where no segment covers all vectors. */
static void scale_output(const work_t* w, const panel_t* t, const float* alpha, float* o) {
    for (int64_t d = 0; d < w->c->Dv; d++)
        for (int64_t v = 0; v < t->nv; v++) {
            float* x = o + d * PANEL + v * V_LANES;
            v_store(x, t->has_sums ? v_mul(v_load(x), v_load(alpha + v * V_LANES)) : v_zero());
        }
}

/* add_values_by_tile for a ragged segment where V holds NaN or infinity: 0 * NaN would reach lanes that do not see that
 * key. The sums of other lanes have the same order, hence the same bits. */
static void add_values_by_lane(const work_t* w, const panel_t* t, int64_t k0, const segment_t* g, tile_end end,
                               const float* alpha, float* o) {
    const values_t values = values_from(w, k0 + g->t0);
    for (int64_t v = g->v0; v < g->v1; v++) {
        vf lo, hi;
        lane_ranges(t, v, k0, &lo, &hi);
        for (int64_t d = 0; d < w->c->Dv; d++) {
            const float* a = values.at + d / VALUE_GROUP * values.group_step + d % VALUE_GROUP;
            float* x = o + d * PANEL + v * V_LANES;
            vf acc = v_zero();
            for (int64_t j = g->t0; j < g->t1; j++) {
                const vf next =
                    v_fma(v_set1(a[(j - g->t0) * values.key_stride]), v_load(w->scores + j * PANEL + v * V_LANES), acc);
                const vm sees = t->seen ? v_lt(v_set1(-INFINITY), seen_by(t, v, j)) : lane_sees(lo, hi, j);
                acc = v_select(sees, next, acc);
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
    const values_t values = values_from(w, k0 + g->t0);
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
    const int64_t together =
        values.group_step == VALUE_GROUP ? w->c->Dv : VALUE_GROUP; /* in place: all columns in a row */
    for (int64_t d = 0; d < w->c->Dv; d += together) {
        a.a = values.at + d / VALUE_GROUP * values.group_step;
        tile_rows(&a, TFAST_MIN(together, w->c->Dv - d), nv);
    }
}

static void add_values(const work_t* w, panel_t* t, int64_t k0, const segment_t* g, int n_segments, const float* alpha,
                       float* o) {
    const int covers = n_segments > 0 && g[0].v0 == 0 && g[0].v1 == t->nv;
    if (!covers) scale_output(w, t, alpha, o);
    for (int i = 0; i < n_segments; i++) {
        const tile_end end = i > 0 || !covers ? END_ADD_C : t->has_sums ? END_SCALE_C : END_STORE;
        if (t->masked_fma && g[i].ragged)
            add_values_by_lane(w, t, k0, &g[i], end, alpha, o);
        else
            add_values_by_tile(w, k0, &g[i], end, alpha, o);
    }
}

#endif
