/* Terms of distance in a block of scores (tfast_distance_scores): S[key][lane] += of_query[lane][b] + of_key[key][b]
 * for the bucket b of the distance from the lane's query to the key, as disentangled attention has them.
 *
 * Included by scores.h, whose shape_scores calls add_distance_scores while the block is in L1. Both sides take V_LANES
 * numbers of one row at once: their buckets lie within one vector of it, which a permutation brings into order.
 *
 *   of_query: V_LANES keys of each of V_LANES lanes, then a transpose, as an additive bias has it (scores.h)
 *   of_key:   one key, V_LANES lanes whose queries follow each other; else value by value (the last vector of a panel)
 *
 * Neither gathers: a vpgatherdps of 16 numbers takes several times the 3 instructions of load, subtract and permute. */
#ifndef TFAST_KERNELS_ATTENTION_DISTANCE_H
#define TFAST_KERNELS_ATTENTION_DISTANCE_H

#include "panel.h"

/* row[bucket[i]] for V_LANES distances; row has n numbers. Buckets may rise and fall: since neighbours differ by 1 at
 * most, bucket[i] is within i of the first and V_LANES - 1 - i of the last, so within (V_LANES - 1) / 2 of their mean.
 */
V_INLINE vf bucket_values(const float* row, int64_t n, const int32_t* bucket) {
    const int64_t twice_low =
        (int64_t)bucket[0] + bucket[V_LANES - 1] - (V_LANES - 1); /* what is negative begins at 0 */
    const int64_t low = TFAST_MAX(0, twice_low + 1) / 2, first = TFAST_MAX(0, TFAST_MIN(low, n - V_LANES));
    const vf window = n >= V_LANES ? v_load(row + first) : v_load_n(row, n);
    return v_permute(window, vi_sub(vi_load(bucket), vi_set1((int32_t)first)));
}

/* S of V_LANES keys and lanes += x[lane], whose lanes are keys, to base 2. */
V_INLINE void add_transposed(vf x[V_LANES], int64_t keys, float* s) {
    const vf to_log2 = v_set1(V_LOG2E);
    v_transpose(x);
    if (keys == V_LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < V_LANES; i++) v_store(s + i * PANEL, v_fma(x[i], to_log2, v_load(s + i * PANEL)));
        return;
    }
    for (int64_t i = 0; i < keys; i++) v_store(s + i * PANEL, v_fma(x[i], to_log2, v_load(s + i * PANEL)));
}

static void add_query_distances(const tfast_attention* c, const sequence_t* s, const panel_t* p, int64_t k0,
                                const segment_t* g, int64_t v, float* S) {
    const tfast_distance_scores* d = &c->distance_scores;
    const float* row[V_LANES];
    const int32_t* bucket[V_LANES];
    for (int64_t i = 0; i < V_LANES; i++) {
        const int64_t lane = v * V_LANES + i;
        row[i] = s->distance_of_query + p->head[lane] * d->query_stride[1] + p->query[lane] * d->query_stride[2];
        bucket[i] = d->bucket + k0 - p->query[lane];
    }
    for (int64_t t = g->t0; t < g->t1; t += V_LANES) {
        const int64_t keys = TFAST_MIN(V_LANES, g->t1 - t);
        vf x[V_LANES];
        if (keys == V_LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < V_LANES; i++) x[i] = bucket_values(row[i], d->n_buckets, bucket[i] + t);
        } else {
            for (int64_t i = 0; i < V_LANES; i++) {
                float one[V_LANES] = {0};
                for (int64_t j = 0; j < keys; j++) one[j] = row[i][bucket[i][t + j]];
                x[i] = v_load(one);
            }
        }
        add_transposed(x, keys, S + t * PANEL + v * V_LANES);
    }
}

/* Whether the lanes of vector v are queries of one head that follow each other. */
static int lanes_follow(const panel_t* p, int64_t v) {
    const int64_t first = v * V_LANES;
    int follow = 1;
    for (int64_t i = 1; i < V_LANES; i++)
        follow &= p->query[first + i] == p->query[first] + i && p->head[first + i] == p->head[first];
    return follow;
}

static void add_key_distances(const tfast_attention* c, const sequence_t* s, const panel_t* p, int64_t k0,
                              const segment_t* g, int64_t v, float* S) {
    const tfast_distance_scores* d = &c->distance_scores;
    const vf to_log2 = v_set1(V_LOG2E);
    const int64_t first = v * V_LANES, step = d->key_stride[2];
    const int follow = lanes_follow(p, v);
    const float* row = s->distance_of_key + p->head[first] * d->key_stride[1] + (k0 + g->t0) * step;
    const int32_t* bucket = d->bucket_of_minus + p->query[first] - k0;
    for (int64_t t = g->t0; t < g->t1; t++, row += step) {
        float* at = S + t * PANEL + first;
        vf x;
        if (follow) {
            x = bucket_values(row, d->n_buckets, bucket - t);
        } else {
            float one[V_LANES];
            for (int64_t i = 0; i < V_LANES; i++)
                one[i] = row[(p->head[first + i] - p->head[first]) * d->key_stride[1] +
                             d->bucket[k0 + t - p->query[first + i]]];
            x = v_load(one);
        }
        v_store(at, v_fma(x, to_log2, v_load(at)));
    }
}

static void add_distance_scores(const tfast_attention* c, const sequence_t* s, const panel_t* p, int64_t k0,
                                const segment_t* g, float* S) {
    for (int64_t v = g->v0; v < g->v1; v++) {
        if (s->distance_of_query) add_query_distances(c, s, p, k0, g, v, S);
        if (s->distance_of_key) add_key_distances(c, s, p, k0, g, v, S);
    }
}

#endif
