/* Calls of attention with dense operands, for attention.c and key_values.c. */
#ifndef TFAST_TESTS_ATTENTION_CALL_H
#define TFAST_TESTS_ATTENTION_CALL_H

#include "tfast.h"

typedef struct {
    int64_t B, H, Hkv, Lq, Lk, D, Dv;
} attention_shape;

/* A call on new N(0,1) operands without any option: every query sees every key. Its scale is 1 / sqrt(D). */
tfast_attention attention_call(attention_shape shape);

/* For check_call: `arguments` is a tfast_attention, y has room for attention_results(call) numbers, out and then lse.
 */
tfast_status attention_run(const void* arguments, float* y, int n_threads);
int64_t attention_results(const tfast_attention* call);

/* Compares the call with the reference on these operands; NULL: on those of the call, which are of float32 and dense.
 */
void attention_check(const char* name, const tfast_attention* call, const double* k, const double* v);

#endif
