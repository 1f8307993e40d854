/* One batch entry of a call in memory: its lengths, its base addresses, its pages, and rows of its element types.
 *
 * Used by every file of this folder. Another element type: element_bytes, load_row, store_row. */
#ifndef TFAST_KERNELS_ATTENTION_SEQUENCE_H
#define TFAST_KERNELS_ATTENTION_SEQUENCE_H

/* The batch of a piece: lengths and base addresses, packed or not. */
typedef struct {
    int64_t lq, lk, offset;
    int64_t q_row0, k_row0;         /* first row in packed storage, else 0 */
    const char *q, *k, *v;          /* of this batch and kv head (q: of this batch); with pages of page 0 */
    const float *k_scale, *v_scale; /* as k and v, of I8; else not read */
    const int32_t* table;           /* the sequence's pages, or NULL */
    const float *distance_of_query, *distance_of_key; /* terms of row 0 of head 0, or NULL */
    char* out;
    int64_t q_bytes, kv_bytes; /* of an element of q and out, of k and v */
} sequence_t;

static int64_t element_bytes(tfast_dtype dtype) {
    return dtype == TFAST_F32 ? 4 : dtype == TFAST_I8 ? 1 : 2;
}

/* The scales of a kv head; batch: 0 with pages; row0: its first position in packed storage. */
static const float* scales_of(const tfast_attention_piece* p, const float* scale, const int64_t stride[3],
                              int64_t batch, int64_t row0) {
    return scale ? scale + batch * stride[0] + p->kv_head * stride[1] + row0 * stride[2] : NULL;
}

/* Row 0 of a sequence in terms of distance, which are float32. */
static const float* distance_rows(const float* data, const int64_t stride[3], const int64_t* cu, int64_t b) {
    return data ? data + (cu ? cu[b] * stride[2] : b * stride[0]) : NULL;
}

static void set_sequence(const tfast_attention* c, const tfast_attention_piece* p, sequence_t* s) {
    const int64_t b = p->batch, kv_batch = c->pages.table ? 0 : b;
    int64_t q0 = b * c->q_stride[0], k0 = kv_batch * c->k_stride[0], v0 = kv_batch * c->v_stride[0],
            o0 = b * c->out_stride[0];
    s->table = c->pages.table ? c->pages.table + b * c->pages.stride : NULL;
    s->q_bytes = element_bytes(c->q_dtype);
    s->kv_bytes = element_bytes(c->kv_dtype);
    s->offset = c->offset ? c->offset[b] : 0;
    s->lq = c->Lq;
    s->lk = c->Lk;
    s->q_row0 = s->k_row0 = 0;
    if (c->cu_q) {
        s->q_row0 = c->cu_q[b];
        s->lq = c->cu_q[b + 1] - s->q_row0;
        q0 = s->q_row0 * c->q_stride[2];
        o0 = s->q_row0 * c->out_stride[2];
    }
    if (c->cu_k) {
        s->k_row0 = c->cu_k[b];
        s->lk = c->cu_k[b + 1] - s->k_row0;
        k0 = s->k_row0 * c->k_stride[2];
        v0 = s->k_row0 * c->v_stride[2];
    }
    if (c->kv_length) s->lk = TFAST_MIN(s->lk, c->kv_length[b]);
    s->q = (const char*)c->q + q0 * s->q_bytes;
    s->k = (const char*)c->k + (k0 + p->kv_head * c->k_stride[1]) * s->kv_bytes;
    s->v = (const char*)c->v + (v0 + p->kv_head * c->v_stride[1]) * s->kv_bytes;
    s->k_scale = scales_of(p, c->k_scale, c->k_scale_stride, kv_batch, s->k_row0);
    s->v_scale = scales_of(p, c->v_scale, c->v_scale_stride, kv_batch, s->k_row0);
    s->out = (char*)c->out + o0 * s->q_bytes;
    const tfast_distance_scores* d = &c->distance_scores;
    s->distance_of_query = distance_rows(d->of_query, d->query_stride, c->cu_q, b);
    s->distance_of_key = distance_rows(d->of_key, d->key_stride, c->cu_k, b);
}

/* Elements from the base of k, v or their scales, whose strides (page or batch, head, position) are given, to key j. */
V_INLINE int64_t key_at(const tfast_attention* c, const sequence_t* s, const int64_t stride[3], int64_t j) {
    if (!s->table) return j * stride[2];
    return s->table[j / c->pages.size] * stride[0] + j % c->pages.size * stride[2];
}

/* How many of the keys [j, end) follow each other in memory, stride[2] apart. */
V_INLINE int64_t keys_in_a_row(const tfast_attention* c, const sequence_t* s, int64_t j, int64_t end) {
    return s->table ? TFAST_MIN(end - j, c->pages.size - j % c->pages.size) : end - j;
}

V_INLINE vf load_bytes(const int8_t* p, int64_t n) {
    int8_t last[V_LANES] = {0};
    if (n >= V_LANES) return v_load_i8(p);
    for (int64_t i = 0; i < n; i++) last[i] = p[i];
    return v_load_i8(last);
}

/* V_LANES elements (or the first n, the others 0) of a row of any type; integers without their scale. */
V_INLINE vf load_row(const char* row, int64_t d, int64_t n, tfast_dtype dtype) {
    if (dtype == TFAST_F32) {
        const float* p = (const float*)row + d;
        return n >= V_LANES ? v_load(p) : v_load_n(p, n);
    }
    if (dtype == TFAST_I8) return load_bytes((const int8_t*)row + d, n);
    const uint16_t* p = (const uint16_t*)row + d;
    uint16_t last[V_LANES] = {0};
    if (n < V_LANES) {
        for (int64_t i = 0; i < n; i++) last[i] = p[i];
        p = last;
    }
    return dtype == TFAST_F16 ? v_load_f16(p) : v_load_bf16(p);
}

/* n floats to a row of the output's type, rounded to nearest even. */
static void store_row(char* row, const float* x, int64_t n, tfast_dtype dtype) {
    if (dtype == TFAST_F32) {
        memcpy(row, x, (size_t)n * 4);
        return;
    }
    uint16_t* out = (uint16_t*)row;
    for (int64_t i = 0; i < n; i++) out[i] = dtype == TFAST_F16 ? tfast_f16_from_f32(x[i]) : tfast_bf16_from_f32(x[i]);
}

#endif
