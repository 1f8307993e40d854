/* Attention for few query rows (one token of a decoder, times the query heads that share its K and V): bound by reading
 * K and V.
 *
 * Called by ops/attention.c through attention_f32_decode and attention_f32_merge; included by attention.h, whose panel,
 * segments and softmax it shares. Every byte of K and V is read once for all rows; nothing is packed. Lanes of a vector
 * are elements of a head here, not queries: with one row, the register tile of gemm.h would leave 15 of 16 lanes idle.
 *
 *   scores:  V_LANES accumulators (rows x keys) over D, one v_sums of them gives V_LANES scores     -> S[key][row]
 *   softmax: softmax_step on one vector of lanes
 *   values:  O[row][Dv] += S[key][row] * V[key]        accumulators: rows x vectors of Dv, V in order */
#ifndef TFAST_KERNELS_ATTENTION_DECODE_H
#define TFAST_KERNELS_ATTENTION_DECODE_H

/* Keys in advance for prefetches of V; those of K run one group of keys ahead. Measured with 8 rows, 4 kv heads, 8192
 * keys of D = 128: 24 takes 0.87-0.97 of the time of 8; 48 is as slow as 8. */
enum { PREFETCH_KEYS = 24 };
/* Registers for sums of values: half of what the machine has, the rest holds a row of V and its weights. */
enum { DECODE_ACCUMULATORS = V_LANES == 16 ? 16 : 8 };

typedef struct {
    const tfast_attention* c;
    sequence_t s;
    panel_t* t;
    float *q, *o, *scores;
    int64_t d_padded, dv_padded;
} decode_t;

/* Scores of `keys` (a constant: V_LANES / rows) keys from k0 on, of which n exist; the others repeat the last. */
V_INLINE void dot_group(const decode_t* w, int64_t k0, int64_t n, const int rows, float* S) {
    const int keys = V_LANES / rows;
    const int64_t stride = w->c->k_stride[2] * w->s.element, D = w->c->D;
    const char* row[V_LANES];
    vf acc[V_LANES];
#pragma GCC unroll 16
    for (int j = 0; j < keys; j++) row[j] = w->s.k + (k0 + TFAST_MIN(j, n - 1)) * stride;
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) acc[i] = v_zero();
    for (int64_t d = 0; d < D; d += V_LANES) {
        const int64_t width = D - d;
        vf q[V_LANES];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) q[r] = v_load(w->q + r * w->d_padded + d);
#pragma GCC unroll 16
        for (int j = 0; j < keys; j++) {
            const vf k = load_row(row[j], d, width, w->c->dtype);
            __builtin_prefetch(row[j] + d * w->s.element + keys * stride);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) acc[j * rows + r] = v_fma(q[r], k, acc[j * rows + r]);
        }
    }
    float sums[V_LANES];
    v_store(sums, v_sums(acc));
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < rows; r++) S[j * PANEL + r] = sums[j * rows + r];
}

V_INLINE void dot_block(const decode_t* w, int64_t k0, int64_t n, const int rows) {
    const int64_t keys = V_LANES / rows;
    for (int64_t j = 0; j < n; j += keys) dot_group(w, k0 + j, TFAST_MIN(keys, n - j), rows, w->scores + j * PANEL);
}

/* Columns [d, d + vectors * V_LANES) of O for all rows; `last` is the width of the last vector. */
V_INLINE void value_columns(const decode_t* w, int64_t k0, int64_t n, int64_t d, int64_t last, const float* alpha,
                            const int rows, const int vectors) {
    const int64_t stride = w->c->v_stride[2] * w->s.element;
    const char* v = w->s.v + k0 * stride;
    const float* S = w->scores;
    vf acc[8][4];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            acc[r][i] = v_mul(v_load(w->o + r * w->dv_padded + d + i * V_LANES), v_set1(alpha[r]));
    for (int64_t j = 0; j < n; j++, v += stride, S += PANEL) {
        vf x[4];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) {
            x[i] = load_row(v, d + i * V_LANES, i == vectors - 1 ? last : V_LANES, w->c->dtype);
            __builtin_prefetch(v + (d + i * V_LANES) * w->s.element + PREFETCH_KEYS * stride);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vf weight = v_set1(S[r]);
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) acc[r][i] = v_fma(weight, x[i], acc[r][i]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) v_store(w->o + r * w->dv_padded + d + i * V_LANES, acc[r][i]);
}

V_INLINE void value_block_rows(const decode_t* w, int64_t k0, int64_t n, const float* alpha, const int rows) {
    const int wide = rows >= DECODE_ACCUMULATORS / 4 ? DECODE_ACCUMULATORS / rows : 4;
    int64_t d = 0;
    for (; d + wide * V_LANES <= w->c->Dv; d += wide * V_LANES) value_columns(w, k0, n, d, V_LANES, alpha, rows, wide);
    for (; d < w->c->Dv; d += V_LANES) value_columns(w, k0, n, d, w->c->Dv - d, alpha, rows, 1);
}

static void decode_scores(const decode_t* w, int64_t k0, int64_t n, int rows) {
    switch (rows) {
    case 1:
        dot_block(w, k0, n, 1);
        break;
    case 2:
        dot_block(w, k0, n, 2);
        break;
    case 4:
        dot_block(w, k0, n, 4);
        break;
#if DECODE_ROWS == 8
    case 8:
        dot_block(w, k0, n, 8);
        break;
#endif
    }
}

static void decode_values(const decode_t* w, int64_t k0, int64_t n, const float* alpha, int rows) {
    switch (rows) {
    case 1:
        value_block_rows(w, k0, n, alpha, 1);
        break;
    case 2:
        value_block_rows(w, k0, n, alpha, 2);
        break;
    case 4:
        value_block_rows(w, k0, n, alpha, 4);
        break;
#if DECODE_ROWS == 8
    case 8:
        value_block_rows(w, k0, n, alpha, 8);
        break;
#endif
    }
}

/* As decode_values, for a block in which a row does not see every key: a key adds to the rows that see it and to no
 * other. */
static void decode_values_by_row(const decode_t* w, int64_t k0, int64_t n, const float* alpha) {
    for (int64_t r = 0; r < w->t->n; r++) {
        float* o = w->o + r * w->dv_padded;
        for (int64_t d = 0; d < w->c->Dv; d += V_LANES) {
            vf acc = v_mul(v_load(o + d), v_set1(alpha[r]));
            for (int64_t j = 0; j < n; j++) {
                if (k0 + j < w->t->lo[r] || k0 + j >= w->t->hi[r]) continue;
                const vf x =
                    load_row(w->s.v + (k0 + j) * w->c->v_stride[2] * w->s.element, d, w->c->Dv - d, w->c->dtype);
                acc = v_fma(v_set1(w->scores[j * PANEL + r]), x, acc);
            }
            v_store(o + d, acc);
        }
    }
}

static void decode_block(const decode_t* w, int64_t k0, int64_t n, int rows) {
    segment_t g[MAX_SEGMENTS];
    float alpha[PANEL] __attribute__((aligned(64)));
    const int n_segments = cut_segments(w->t, k0, n, g);
    if (n_segments == 0) return;
    int ragged = 0;
    decode_scores(w, k0, n, rows);
    for (int i = 0; i < n_segments; i++) {
        shape_scores(w->c, w->t, w->s.offset, k0, &g[i], w->scores);
        ragged |= g[i].ragged;
    }
    softmax_step(w->t, g, n_segments, w->scores, alpha);
    if (ragged)
        decode_values_by_row(w, k0, n, alpha);
    else
        decode_values(w, k0, n, alpha, rows);
}

static void decode_store(const decode_t* w, const tfast_attention_piece* p) {
    const tfast_attention* c = w->c;
    const panel_t* t = w->t;
    for (int64_t r = 0; r < t->n; r++) {
        float* o = w->o + r * w->dv_padded;
        if (p->partial) {
            memcpy(p->partial + r * c->Dv, o, (size_t)c->Dv * 4);
            p->partial[p->n_rows * c->Dv + r] = t->max[r];
            p->partial[p->n_rows * (c->Dv + 1) + r] = t->sum[r];
            continue;
        }
        const vf factor = v_set1(finish_row(c, p, &w->s, t->head[r], t->query[r], t->max[r], t->sum[r]));
        for (int64_t d = 0; d < c->Dv; d += V_LANES) v_store(o + d, v_mul(v_load(o + d), factor));
        store_row(w->s.out + (t->head[r] * c->out_stride[1] + t->query[r] * c->out_stride[2]) * w->s.element, o, c->Dv,
                  c->dtype);
    }
}

/* At most DECODE_ROWS rows. The scratch of attention_f32_qblock is larger than what is placed here: its Q and O have
 * PANEL floats where these have DECODE_ROWS, and room for K and V besides. */
static decode_t begin_decode(const tfast_attention* c, const tfast_attention_piece* p, char* scratch, int rows) {
    decode_t w = {.c = c,
                  .s = sequence_of(c, p),
                  .t = (panel_t*)scratch,
                  .d_padded = tfast_round_up(c->D, V_LANES),
                  .dv_padded = tfast_round_up(c->Dv, V_LANES)};
    w.scores = (float*)(scratch + (sizeof(panel_t) + 63) / 64 * 64);
    w.q = w.scores + ATTENTION_BLOCK * PANEL;
    w.o = w.q + rows * w.d_padded;
    memset(w.q, 0, (size_t)(rows * (w.d_padded + w.dv_padded)) * 4);
    panel_set_rows(c, p, &w.s, w.t, p->row, p->n_rows);
    /* Lanes without a row go through the softmax with the others. */
    for (int64_t j = TFAST_MIN(ATTENTION_BLOCK, w.t->end - w.t->first); j > 0; j--)
        v_store(w.scores + (j - 1) * PANEL, v_zero());
    return w;
}

static void load_queries(const decode_t* w, int64_t n_rows) {
    const tfast_attention* c = w->c;
    const vf factor = v_set1(query_factor(c));
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t at = w->t->head[r] * c->q_stride[1] + w->t->query[r] * c->q_stride[2];
        const char* row = w->s.q + at * w->s.element;
        for (int64_t d = 0; d < c->D; d += V_LANES)
            v_store(w->q + r * w->d_padded + d, v_mul(load_row(row, d, c->D - d, c->dtype), factor));
    }
}

static void KERNEL(attention_f32_decode)(const tfast_attention* c, const tfast_attention_piece* p, void* scratch) {
    int rows = 1;
    while (rows < p->n_rows) rows *= 2;
    const decode_t w = begin_decode(c, p, scratch, rows);
    load_queries(&w, p->n_rows);
    for (int64_t k0 = w.t->first; k0 < w.t->end;) {
        const int64_t next = TFAST_MIN((k0 / ATTENTION_BLOCK + 1) * ATTENTION_BLOCK, w.t->end);
        decode_block(&w, k0, next - k0, rows);
        k0 = next;
    }
    decode_store(&w, p);
}

static void KERNEL(attention_f32_merge)(const tfast_attention* c, const tfast_attention_piece* p, const float* parts,
                                        int64_t part_stride, int64_t n_parts) {
    const sequence_t s = sequence_of(c, p);
    const int64_t rows = p->n_rows, dv = c->Dv;
    for (int64_t r = 0; r < rows; r++) {
        const float *max = parts + rows * dv + r, *sum = parts + rows * (dv + 1) + r;
        float top = -INFINITY, total = 0;
        for (int64_t i = 0; i < n_parts; i++) top = TFAST_MAX(top, max[i * part_stride]);
        const float base = top == -INFINITY ? 0 : top;
        for (int64_t i = 0; i < n_parts; i++) total += sum[i * part_stride] * exp2f(max[i * part_stride] - base);
        const int64_t head = p->head + (p->row + r) / s.lq, query = (p->row + r) % s.lq;
        const float factor = finish_row(c, p, &s, head, query, top, total);
        char* out = s.out + (head * c->out_stride[1] + query * c->out_stride[2]) * s.element;
        for (int64_t d = 0; d < dv; d += V_LANES) {
            const int64_t width = TFAST_MIN(V_LANES, dv - d);
            vf acc = v_zero();
            for (int64_t i = 0; i < n_parts; i++) {
                const vf weight = v_set1(exp2f(max[i * part_stride] - base) * factor);
                acc = v_fma(v_load_n(parts + i * part_stride + r * dv + d, width), weight, acc);
            }
            float one[V_LANES];
            v_store(one, acc);
            store_row(out + d * s.element, one, width, c->dtype);
        }
    }
}

#endif
