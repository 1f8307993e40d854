/* What a piece fetches while its tiles run: the superblock after this one, the piece after this one, rows of a bias.
 *
 * Used by blocks.h and products.h. */
#ifndef TFAST_KERNELS_ATTENTION_PREFETCH_H
#define TFAST_KERNELS_ATTENTION_PREFETCH_H

#include "work.h"

/* The keys [from, end), or as many as a superblock has; of pages the first one. */
static void keys_ahead(const work_t* w, const sequence_t* s, int64_t from, int64_t end) {
    const tfast_attention* c = w->c;
    if (from >= end) return;
    const int64_t n = TFAST_MIN(w->l.superblock, keys_in_a_row(c, s, from, end)), bytes = s->kv_bytes;
    add_ahead(w->ahead, s->v + key_at(c, s, c->v_stride, from) * bytes, n, c->Dv * bytes, c->v_stride[2] * bytes);
    add_ahead(w->ahead, s->k + key_at(c, s, c->k_stride, from) * bytes, n, c->D * bytes, c->k_stride[2] * bytes);
}

static void next_operands_ahead(const work_t* w, const tfast_attention_piece* p) {
    const tfast_attention* c = w->c;
    sequence_t s;
    set_sequence(c, p, &s);
    if (p->row + p->n_rows <= s.lq) {
        const int64_t qs = c->q_stride[2] * s.q_bytes;
        add_ahead(w->ahead, s.q + p->head * c->q_stride[1] * s.q_bytes + p->row * qs, p->n_rows, c->D * s.q_bytes, qs);
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
    const int64_t os = c->out_stride[2] * w->s.q_bytes;
    add_ahead(w->ahead, w->s.out + w->p->head * c->out_stride[1] * w->s.q_bytes + w->p->row * os, w->p->n_rows,
              c->Dv * w->s.q_bytes, os);
}

/* Whether a bias is worth prefetching: float rows that are far from each other. Masks of bytes are small, and the rows
 * of a table over offsets share their cache lines. */
static int bias_rows_are_strided(const tfast_bias* b) {
    return b->kind == TFAST_BIAS_FLOAT && b->stride[3] == 1 && b->stride[2] >= V_LANES;
}

/* The rows of such a bias for the keys of this block: they arrive while its products are made. Lanes of one head only,
 * whose rows are evenly spaced. */
static void bias_ahead(const work_t* w, const panel_t* t, int64_t k0, int64_t n) {
    for (int term = 0; term < 2; term++) {
        const tfast_bias* b = &w->c->bias[term];
        if (bias_rows_are_strided(b) && !t->bias_uniform[term] && t->head[0] == t->head[t->n - 1])
            add_ahead(w->ahead, t->bias_row[term][0] + k0 * 4, t->n, n * 4, b->stride[2] * 4);
    }
}

#endif
