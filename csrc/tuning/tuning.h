/* What is best on one microarchitecture and not on another: one record each. No field changes a bit of a result.
 *
 * Asked by ops/, which hands a kernel what it needs in its call. The records and how a processor finds its own stand in
 * tuning.c, the only file that knows makers. A new field: here, with its measurements in tuning.c. */
#ifndef TFAST_TUNING_TUNING_H
#define TFAST_TUNING_TUNING_H

#include "../base/cpu.h"

typedef struct {
    const char* name;
    int small_m_prefetches; /* small_m of floats fetches weights ahead of its loads; that of integers always does */
    int decode_prefetches_into_l2; /* attention's decode fetches K and V into L2 instead of L1 */
    /* Attention copies K and V before it reads them where at least so many panels of queries read them: rows side by
     * side, rows apart; 0: never. */
    int copy_kv_min_panels_dense, copy_kv_min_panels_strided;
    int chunk_tokens; /* that go through the layers of an encoder together */
    double gflops;    /* of one thread in products, roughly: what decides how many threads a call gets */
} tfast_tuning;

/* The record in force: this machine's, unless a test has set another. */
const tfast_tuning* tfast_tuning_now(void);

/* What so many flops of products cost on one thread, in ns. */
double tfast_flops_ns(double flops);

#endif
