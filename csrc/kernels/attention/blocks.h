/* The loop over keys: superblocks whose K and V stay in L2, and in each of them the blocks of the online softmax.
 *
 * Used by qblock.h and weights.h. */
#ifndef TFAST_KERNELS_ATTENTION_BLOCKS_H
#define TFAST_KERNELS_ATTENTION_BLOCKS_H

#include "products.h"

static void begin_superblock(work_t* w, int64_t s0, int64_t end) {
    w->s0 = s0;
    w->has_blocks = 0;
    const int64_t n = TFAST_MIN(w->l.superblock, end - s0);
    if (w->staged && !has_lists(w->c)) stage_keys(w, 0, n);
    if (w->engine) engine_take_keys(w, n);
    w->ahead->parts = 0;
    if (has_lists(w->c)) return; /* which keys come next each panel says for itself */
    if (s0 + n < end)
        keys_ahead(w, &w->s, s0 + n, end);
    else
        next_piece_ahead(w);
}

/* With lists: the panel's keys [k0, k0 + n) of one block, and their copies, if K and V are copied. */
static void enter_block(work_t* w, panel_t* t, int64_t k0, int64_t n) {
    const int64_t block = (k0 - w->s0) / KEY_BLOCK;
    panel_set_block(w->c, t, k0, n, w->seen);
    if (!w->staged || w->has_blocks >> block & 1) return;
    const int64_t from = block * KEY_BLOCK, end = TFAST_MIN(from + KEY_BLOCK, w->s.lk - w->s0);
    stage_keys(w, from, end);
    w->has_blocks |= 1u << block;
}
_Static_assert(MAX_SUPERBLOCK_BLOCKS <= 32, "has_blocks has a bit for each block of a superblock");

/* The segments of the panel's keys [k0, k0 + n), each of keys that follow each other where they are read. */
static int block_segments(const work_t* w, const panel_t* t, int64_t k0, int64_t n, segment_t* g) {
    const int count = cut_segments(t, k0, n, g);
    return w->s.table && !w->staged ? cut_at_pages(k0, w->c->pages.size, g, count) : count;
}

static void panel_block(const work_t* w, panel_t* t, const float* q, float* o, int64_t k0, int64_t n) {
    segment_t g[MAX_SEGMENTS];
    float alpha[PANEL] __attribute__((aligned(64)));
    const int n_segments = block_segments(w, t, k0, n, g);
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

/* Where the panel's block begins that holds `key`, or its first key, if that is behind it; INT64_MAX: it sees no more.
 * Blocks begin at multiples of KEY_BLOCK of the sequence, so that a row's sums do not depend on the cut into
 * superblocks. */
static int64_t block_of(const panel_t* t, int64_t key) {
    return key == INT64_MAX ? key : TFAST_MAX(key, t->first) / KEY_BLOCK * KEY_BLOCK;
}

/* The panel's first block with keys from `key` on. */
static int64_t next_block(const work_t* w, panel_t* t, int64_t key) {
    return block_of(t, has_lists(w->c) ? panel_next_key(w->c, t, t->nv * V_LANES, key) : key);
}

/* With lists: next_block, and fetches its first range, be it in another superblock; after a panel's last block what the
 * next piece reads, if this is the last panel. */
static int64_t listed_block_ahead(work_t* w, panel_t* t, int64_t key, int is_last) {
    int64_t end;
    const int64_t from = panel_next_range(w->c, t, t->nv * V_LANES, key, &end), k0 = block_of(t, from);
    w->ahead->parts = 0;
    if (from != INT64_MAX)
        keys_ahead(w, &w->s, from, TFAST_MIN(end, k0 + KEY_BLOCK));
    else if (is_last)
        next_piece_ahead(w);
    return k0;
}

static void panel_superblock(work_t* w, int64_t index) {
    panel_t* t = w->panels + index;
    const int64_t end = TFAST_MIN(t->end, w->s0 + w->l.superblock);
    for (int64_t k0 = next_block(w, t, w->s0), next; k0 < end; k0 = next) {
        const int64_t from = TFAST_MAX(k0, w->p->key_begin), n = TFAST_MIN(KEY_BLOCK - (from - k0), end - from);
        if (has_lists(w->c)) {
            enter_block(w, t, from, n);
            next = listed_block_ahead(w, t, k0 + KEY_BLOCK, index == w->l.panels - 1);
        } else
            next = next_block(w, t, k0 + KEY_BLOCK);
        panel_block(w, t, w->q + index * w->c->D * PANEL, w->o + index * tfast_round_up(w->c->Dv, V_LANES) * PANEL,
                    from, n);
    }
}

typedef void (*superblock_fn)(work_t* w, int64_t index);

/* Where the next superblock begins, from `key` on, of which the panels [first, last) see something; INT64_MAX: there is
 * none. Without lists it is `key`. */
static int64_t next_superblock(work_t* w, int64_t first, int64_t last, int64_t key) {
    if (!has_lists(w->c)) return key;
    int64_t next = INT64_MAX;
    for (int64_t i = first; i < last; i++) next = TFAST_MIN(next, next_block(w, w->panels + i, key));
    return next;
}

/* Runs fn for the panels [first, last) on every superblock that they see. */
static void for_each_superblock(work_t* w, int64_t first, int64_t last, superblock_fn fn) {
    int64_t begin = INT64_MAX, end = 0;
    for (int64_t i = first; i < last; i++) {
        if (w->panels[i].end) begin = TFAST_MIN(begin, w->panels[i].first);
        end = TFAST_MAX(end, w->panels[i].end);
        if (has_lists(w->c)) panel_rewind(w->panels + i, w->panels[i].nv * V_LANES);
    }
    if (!end) return;
    w->begin = begin;
    int64_t s0 = begin / KEY_BLOCK * KEY_BLOCK;
    for (; s0 < end; s0 = next_superblock(w, first, last, s0 + w->l.superblock)) {
        begin_superblock(w, s0, end);
        for (int64_t i = first; i < last; i++) fn(w, i);
    }
}

#endif
