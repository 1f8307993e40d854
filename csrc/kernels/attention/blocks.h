/* The loop over keys: superblocks whose K and V stay in L2, and in each of them the blocks of the online softmax.
 *
 * Used by qblock.h and weights.h. */
#ifndef TFAST_KERNELS_ATTENTION_BLOCKS_H
#define TFAST_KERNELS_ATTENTION_BLOCKS_H

#include "products.h"

static void begin_superblock(work_t* w, int64_t s0, int64_t end) {
    w->s0 = s0;
    const int64_t n = TFAST_MIN(w->l.superblock, end - s0);
    if (w->stage_k) stage_k(w, n);
    if (w->stage_v) stage_v(w, n);
    if (w->engine) engine_take_keys(w, n);
    w->ahead->parts = 0;
    if (s0 + n < end)
        keys_ahead(w, &w->s, s0 + n, end);
    else
        next_piece_ahead(w);
}

static void panel_block(const work_t* w, panel_t* t, const float* q, float* o, int64_t k0, int64_t n) {
    segment_t g[MAX_SEGMENTS];
    float alpha[PANEL] __attribute__((aligned(64)));
    const int n_segments = cut_segments(t, k0, n, g);
    if (n_segments == 0) return;
    for (int i = 0; i < n_segments; i++) t->ragged |= g[i].ragged;
    score_block(w, t, q, k0, g, n_segments);
    softmax_step(t, g, n_segments, w->scores, alpha);
    if (w->engine)
        engine_values(w, t, k0, g, n_segments, alpha, o);
    else
        add_values(w, t, k0, g, n_segments, alpha, o);
    t->has_sums = 1;
}

/* Blocks begin at multiples of KEY_BLOCK of the sequence, so that a row's sums do not depend on the cut into
 * superblocks. */
static void panel_superblock(const work_t* w, int64_t index) {
    panel_t* t = w->panels + index;
    const int64_t end = TFAST_MIN(t->end, w->s0 + w->l.superblock);
    int64_t k0 = TFAST_MAX(w->s0, t->first / KEY_BLOCK * KEY_BLOCK);
    for (; k0 < end; k0 += KEY_BLOCK) {
        const int64_t from = TFAST_MAX(k0, w->p->key_begin), n = TFAST_MIN(KEY_BLOCK - (from - k0), end - from);
        panel_block(w, t, w->q + index * w->c->D * PANEL, w->o + index * tfast_round_up(w->c->Dv, V_LANES) * PANEL,
                    from, n);
    }
}

typedef void (*superblock_fn)(const work_t* w, int64_t index);

/* Runs fn for the panels [first, last) on every superblock that they see. */
static void for_each_superblock(work_t* w, int64_t first, int64_t last, superblock_fn fn) {
    int64_t begin = INT64_MAX, end = 0;
    for (int64_t i = first; i < last; i++) {
        if (w->panels[i].end) begin = TFAST_MIN(begin, w->panels[i].first);
        end = TFAST_MAX(end, w->panels[i].end);
    }
    if (!end) return;
    w->begin = begin;
    for (int64_t s0 = begin / KEY_BLOCK * KEY_BLOCK; s0 < end; s0 += w->l.superblock) {
        begin_superblock(w, s0, end);
        for (int64_t i = first; i < last; i++) fn(w, i);
    }
}

#endif
