/* From a row's maximum and sum to what its weighted values are multiplied by, and to its lse.
 *
 * Used by output.h, weights.h, decode.h and merge.h. */
#ifndef TFAST_KERNELS_ATTENTION_FINISH_H
#define TFAST_KERNELS_ATTENTION_FINISH_H

#include "../../base/log_sum.h"
#include "sequence.h"

/* The denominator of a row with its sink's share, relative to *top (base 2): with a sink the common maximum of scores
 * and sink keeps 2^(sink - max) finite. NaN in `sum` goes through. */
static float denominator(const tfast_attention* c, int64_t head, float max, float sum, float* top) {
    *top = max;
    if (!c->sinks) return sum;
    const float sink = c->sinks[head] * V_LOG2E;
    *top = TFAST_MAX(max, sink);
    if (*top == -INFINITY) return sum;
    return (sum == 0 ? 0 : sum * exp2f(max - *top)) + exp2f(sink - *top);
}

/* What a row's sums are multiplied by: 0 for a row that saw nothing. */
static float row_factor(const tfast_attention* c, int64_t head, float max, float sum) {
    if (sum == 0) return 0;
    if (!c->sinks) return 1 / sum;
    float top;
    const float total = denominator(c, head, max, sum, &top);
    return exp2f(max - top) / total;
}

/* row_factor, and the row's lse, and maximum and sum, where they are wanted. */
static float finish_row(const tfast_attention* c, const tfast_attention_piece* p, const sequence_t* s, int64_t head,
                        int64_t query, float max, float sum) {
    const int64_t at = p->batch * c->lse_stride[0] + head * c->lse_stride[1] + s->q_row0 + query;
    if (c->lse) {
        float top;
        const float total = denominator(c, head, max, sum, &top);
        c->lse[at] = total == 0 ? -INFINITY : tfast_log_sum(top, total);
    }
    if (c->max_sum) {
        c->max_sum[2 * at] = max;
        c->max_sum[2 * at + 1] = sum;
    }
    return row_factor(c, head, max, sum);
}

#endif
