/* O^T of a panel to rows of the output, or to a partial result.
 *
 * Used by qblock.h. */
#ifndef TFAST_KERNELS_ATTENTION_OUTPUT_H
#define TFAST_KERNELS_ATTENTION_OUTPUT_H

#include "blocks.h"
#include "finish.h"

static float* output_of(const work_t* w, int64_t index) {
    return w->o + index * tfast_round_up(w->c->Dv, V_LANES) * PANEL;
}

static char* output_row(const work_t* w, const panel_t* t, int64_t lane) {
    return w->s.out + (t->head[lane] * w->c->out_stride[1] + t->query[lane] * w->c->out_stride[2]) * w->s.q_bytes;
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
    const tfast_dtype type = partial_rows ? TFAST_F32 : w->c->q_dtype;
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

/* Stores a panel whose keys are all done; with `only`, those lanes and no other. */
static void finish_panel(const work_t* w, int64_t index, const uint8_t* only) {
    float factor[PANEL] __attribute__((aligned(64)));
    const tfast_attention_piece* p = w->p;
    panel_t* t = w->panels + index;
    float* o = output_of(w, index);
    if (!t->has_sums) memset(o, 0, (size_t)(w->c->Dv * PANEL) * 4);
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
    if (w->c->sinks || w->c->lse || w->c->max_sum)
        for (int64_t i = 0; i < t->nv * V_LANES; i++)
            factor[i] = i < t->n && (!only || only[i])
                            ? finish_row(w->c, p, &w->s, t->head[i], t->query[i], t->max[i], t->sum[i])
                            : 0;
    else
        for (int64_t v = 0; v < t->nv; v++) { /* row_factor without a sink, a vector at a time */
            const vf sum = v_load(t->sum + v * V_LANES);
            v_store(factor + v * V_LANES, v_select(v_le(sum, v_zero()), v_zero(), v_div(v_set1(1), sum)));
        }
    store_panel(w, t, o, factor, NULL, only);
}

#endif
