/* The weights of a call that asks for them, from a second pass over Q K^T: into an array of all pairs, or of those that
 * are visible.
 *
 * Used by qblock.h. */
#ifndef TFAST_KERNELS_ATTENTION_WEIGHTS_H
#define TFAST_KERNELS_ATTENTION_WEIGHTS_H

#include "blocks.h"
#include "finish.h"

/* The address of the weight of a lane and key. */
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

/* The first range of a list [at, end) that ends after `key`; `end`: none does. */
static int64_t first_range_after(const int32_t* bounds, int64_t at, int64_t end, int64_t key) {
    while (at < end) {
        const int64_t middle = at + (end - at) / 2;
        if (bounds[2 * middle + 1] <= key)
            at = middle + 1;
        else
            end = middle;
    }
    return at;
}

/* The weights of a lane for the keys [key, key + keys): those that have a place, each run of them where it lies. */
static void put_sparse_weights(const work_t* w, const panel_t* t, int64_t lane, int64_t key, vf x, int64_t keys) {
    const tfast_sparse_weights* s = &w->c->sparse_weights;
    const int32_t* bounds = s->ranges.bounds;
    const int32_t list = list_of_lane(&s->ranges, &w->s, w->p, t, lane);
    const int64_t from = TFAST_MAX(key, t->lo[lane]), to = TFAST_MIN(key + keys, t->hi[lane]);
    const int64_t end = s->ranges.begin[list + 1];
    float* row = w->c->weights + s->row_begin[w->p->batch * s->row_stride[0] + t->head[lane] * s->row_stride[1] +
                                              t->query[lane] * s->row_stride[2]];
    float one[V_LANES];
    v_store(one, x);
    for (int64_t r = first_range_after(bounds, s->ranges.begin[list], end, from); r < end && bounds[2 * r] < to; r++) {
        const int64_t low = bounds[2 * r], a = TFAST_MAX(from, low), b = TFAST_MIN(to, bounds[2 * r + 1]);
        if (a < b)
            put_weights(row + s->before[r] + a - low, 1, v_load_n(one + a - key, b - a), b - a, w->c->weights_mean);
    }
}

/* Weights of the lanes of vector v for the keys [j, j + keys) of the block that begins at k0: scores lie key by key,
 * the caller's array lane by lane. */
static void weights_tile(const work_t* w, const panel_t* t, int64_t v, int64_t k0, int64_t j, int64_t keys, vf max,
                         vf factor) {
    const int64_t lanes = TFAST_MIN(V_LANES, t->n - v * V_LANES);
    const int sparse = w->c->sparse_weights.ranges.list_of_row != NULL;
    vf x[V_LANES];
    for (int64_t i = 0; i < V_LANES; i++) {
        const float* scores = w->scores + (j + TFAST_MIN(i, keys - 1)) * PANEL + v * V_LANES;
        x[i] = v_mul(v_exp2(v_sub(v_load(scores), max)), factor);
    }
    v_transpose(x);
    for (int64_t n = 0; n < lanes && sparse; n++) put_sparse_weights(w, t, v * V_LANES + n, k0 + j, x[n], keys);
    for (int64_t n = 0; n < lanes && !sparse; n++)
        put_weights(weight_of(w, t, v * V_LANES + n, k0 + j), w->c->weights_stride[3], x[n], keys, w->c->weights_mean);
}

/* The weights of one superblock, from the final maxima (t->max) and factors (t->sum holds 1 / sum): a second pass over
 * Q K^T. */
static void weights_superblock(work_t* w, int64_t index) {
    const tfast_attention* c = w->c;
    panel_t* t = w->panels + index;
    const int64_t end = TFAST_MIN(t->end, w->s0 + w->l.superblock);
    const vf share = v_set1(c->weights_mean ? 1.0f / (float)c->H : 1.0f);
    for (int64_t k0 = next_block(w, t, w->s0); k0 < end; k0 = next_block(w, t, k0 + KEY_BLOCK)) {
        segment_t g[MAX_SEGMENTS];
        const int64_t n = TFAST_MIN(KEY_BLOCK, end - k0);
        if (has_lists(c)) enter_block(w, t, k0, n);
        const int n_segments = block_segments(w, t, k0, n, g);
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
    for_each_superblock(w, 0, w->l.panels, weights_superblock);
}

#endif
