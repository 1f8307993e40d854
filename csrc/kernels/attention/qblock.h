/* The kernel for many query rows. The steps of a piece and their order: attention.h.
 *
 * Called by ops/attention.c as tfast_attention_kernels.qblock. */
#ifndef TFAST_KERNELS_ATTENTION_QBLOCK_H
#define TFAST_KERNELS_ATTENTION_QBLOCK_H

#include "output.h"
#include "weights.h"

/* Marks the lanes with NaN or infinity in their output, or in the operands of a matrix engine; returns whether there
 * are any. */
static int find_nonfinite_lanes(const work_t* w, const panel_t* t, const float* o, uint8_t nonfinite[PANEL]) {
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
        for (int64_t i = 0; i < V_LANES; i++)
            any |= nonfinite[v * V_LANES + i] = lanes[i] > 0 || t->nonfinite[v * V_LANES + i];
    }
    return any;
}

/* Computes the marked lanes again under a mask: NaN or infinity at a key that only some lanes see has reached the
 * others through 0 * NaN. Lanes that are not marked keep their bits. A matrix engine leaves all rows with NaN or
 * infinity to this function. */
static void redo_panel(work_t* w, int64_t index, const uint8_t* nonfinite) {
    panel_t* t = w->panels + index;
    struct matrix_engine* engine = w->engine;
    w->engine = NULL;
    t->has_sums = 0;
    t->masked_fma = 1;
    t->split_sum = 0;
    for (int64_t i = 0; i < PANEL; i++) {
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
    }
    for_each_superblock(w, index, index + 1, panel_superblock);
    finish_panel(w, index, nonfinite);
    w->engine = engine;
}

/* Whether K and V are copied, superblock by superblock: as float32, for several panels, or to put pages in a row. */
static int stages_keys(const work_t* w) {
    const tfast_pages* pages = &w->c->pages;
    if (w->c->kv_dtype != TFAST_F32) return 1;
    if (pages->table) return w->engine || pages->size < MIN_PAGE_IN_PLACE;
    return w->p->copy_kv && !w->engine;
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
    w.seen = (uint8_t*)(base + w.l.seen);
    w.engine = engine_begin(&w, base + w.l.bytes);
    w.staged = stages_keys(&w);
    return w;
}

static void KERNEL(attention_qblock)(const tfast_attention* c, const tfast_attention_piece* p, void* scratch) {
    const int64_t key_lines = has_lists(c) ? AHEAD_LIST_LINES : AHEAD_LINES;
    ahead_list ahead = {.lines_per_tile = key_lines + (bias_rows_are_strided(&c->bias[0]) ? AHEAD_BIAS_LINES : 0)};
    work_t w = begin_work(c, p, scratch, &ahead);
    for (int64_t i = 0; i < w.l.panels; i++) {
        const int64_t row = panel_begin(p->n_rows, i);
        panel_set_rows(c, p, &w.s, w.panels + i, p->row + row, panel_begin(p->n_rows, i + 1) - row);
        panel_pack_q(c, &w.s, w.panels + i, query_factor(c), w.q + i * c->D * PANEL);
        if (w.engine) engine_take_query(&w, i);
    }
    for_each_superblock(&w, 0, w.l.panels, panel_superblock);
    for (int64_t i = 0; i < w.l.panels; i++) {
        uint8_t nonfinite[PANEL];
        finish_panel(&w, i, NULL);
        if ((w.engine || w.panels[i].ragged) && find_nonfinite_lanes(&w, w.panels + i, output_of(&w, i), nonfinite))
            redo_panel(&w, i, nonfinite);
    }
    if (c->weights && !p->partial) write_weights(&w);
    if (w.engine) engine_end(&w);
}

#endif
