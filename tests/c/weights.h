/* Weights for the groups that multiply: what is packed, and a product with it, as check_call runs it. Each level packs
 * for itself. */
#ifndef TFAST_TESTS_WEIGHTS_H
#define TFAST_TESTS_WEIGHTS_H

#include "tfast.h"

typedef struct {
    tfast_format format;
    tfast_dtype dtype; /* of data */
    int64_t N, K;
    const void* data;       /* dense rows; of BLOCKS as a file has them */
    const float* scale;     /* N, of I8, or NULL */
    const float* smoothing; /* K, of the format INT8, or NULL */
    int for_decode;
} weight_t;

/* The weight for the level in force; its memory is freed by weight_free. */
tfast_status weight_pack(const weight_t* weight, int n_threads, tfast_packed* packed);
void weight_free(tfast_packed* packed);

/* A product: the call without weight and y, whose rows are dense. */
typedef struct {
    const weight_t* weight;
    tfast_linear call;
} product_t;
tfast_status weight_multiply(const void* product, float* y, int n_threads);

/* The values that products use: (N, K) of a const weight_t. */
tfast_status weight_unpack(const void* weight, float* w, int n_threads);

/* weight_unpack on the first level, in double. */
double* weight_values(const weight_t* weight);

#endif
