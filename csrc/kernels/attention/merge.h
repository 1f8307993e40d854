/* Partial results over parts of the keys to the output and lse of their rows.
 *
 * Called by ops/attention.c as tfast_attention_kernels.merge. */
#ifndef TFAST_KERNELS_ATTENTION_MERGE_H
#define TFAST_KERNELS_ATTENTION_MERGE_H

#include "finish.h"

static void KERNEL(attention_merge)(const tfast_attention* c, const tfast_attention_piece* p, const float* parts,
                                        int64_t part_stride, int64_t n_parts) {
    sequence_t s;
    set_sequence(c, p, &s);
    const int64_t rows = p->n_rows, dv = c->Dv;
    for (int64_t r = 0; r < rows; r++) {
        const float *max = parts + rows * dv + r, *sum = parts + rows * (dv + 1) + r;
        float top = -INFINITY, total = 0;
        for (int64_t i = 0; i < n_parts; i++) top = TFAST_MAX(top, max[i * part_stride]);
        const float base = top == -INFINITY ? 0 : top;
        for (int64_t i = 0; i < n_parts; i++) total += sum[i * part_stride] * exp2f(max[i * part_stride] - base);
        const int64_t head = p->head + (p->row + r) / s.lq, query = (p->row + r) % s.lq;
        const float factor = finish_row(c, p, &s, head, query, top, total);
        char* out = s.out + (head * c->out_stride[1] + query * c->out_stride[2]) * s.q_bytes;
        for (int64_t d = 0; d < dv; d += V_LANES) {
            const int64_t width = TFAST_MIN(V_LANES, dv - d);
            vf acc = v_zero();
            for (int64_t i = 0; i < n_parts; i++) {
                const vf weight = v_set1(exp2f(max[i * part_stride] - base) * factor);
                acc = v_fma(v_load_n(parts + i * part_stride + r * dv + d, width), weight, acc);
            }
            float one[V_LANES];
            v_store(one, acc);
            store_row(out + d * s.q_bytes, one, width, c->q_dtype);
        }
    }
}

#endif
