/* The operations in double, written to be read: the C twin of transformer_fast/reference, whose docstrings have the
 * formulas and their sources. Operands are dense. */
#ifndef TFAST_TESTS_REFERENCE_H
#define TFAST_TESTS_REFERENCE_H

#include "tfast.h"

double reference_activation(double x, tfast_activation kind);

/* y (M, N) = activation(x (M, K) times w (N, K) transposed + bias) * multiply + residual; NULL: without. */
typedef struct {
    const double *bias, *multiply, *residual;
    tfast_activation activation;
} reference_epilogue;
void reference_linear(int64_t M, int64_t N, int64_t K, const double* x, const double* w, reference_epilogue after,
                      double* y);

/* Layer norm, or with `centred` 0 RMS norm; weight and bias may be NULL, y may be x. */
void reference_norm(int64_t M, int64_t N, const double* x, const double* weight, const double* bias, double eps,
                    int centred, double* y);
void reference_softmax(int64_t M, int64_t N, const double* x, double* y);

/* Attention over q (B, H, Lq, D), k (B, Hkv, Lk, D) and v (B, Hkv, Lk, Dv), dense: sizes, structure and what is added
 * to scores are those of the call, whose operands are not read. -> out (B, H, Lq, Dv), and lse (B, H, Lq) unless it is
 * NULL. */
void reference_attention(const tfast_attention* call, const double* q, const double* k, const double* v, double* out,
                         double* lse);

#endif
