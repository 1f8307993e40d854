/* The formulas of reference.h. */
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double reference_activation(double x, tfast_activation kind) {
    switch (kind) {
    case TFAST_RELU:
        return x > 0 ? x : 0;
    case TFAST_GELU:
        return 0.5 * x * (1 + erf(x * 0.70710678118654752));
    case TFAST_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    case TFAST_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case TFAST_SILU:
        return x / (1 + exp(-x));
    case TFAST_TANH:
        return tanh(x);
    case TFAST_IDENTITY:
        break;
    }
    return x;
}

static double dot(int64_t n, const double* a, const double* b) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void reference_linear(int64_t M, int64_t N, int64_t K, const double* x, const double* w, reference_epilogue after,
                      double* y) {
    for (int64_t i = 0; i < M; i++)
        for (int64_t n = 0; n < N; n++) {
            double sum = dot(K, x + i * K, w + n * K) + (after.bias ? after.bias[n] : 0);
            sum = reference_activation(sum, after.activation);
            if (after.multiply) sum *= after.multiply[i * N + n];
            y[i * N + n] = sum + (after.residual ? after.residual[i * N + n] : 0);
        }
}

void reference_norm(int64_t M, int64_t N, const double* x, const double* weight, const double* bias, double eps,
                    int centred, double* y) {
    for (int64_t i = 0; i < M; i++, x += N, y += N) {
        double mean = 0, squares = 0;
        for (int64_t n = 0; n < N && centred; n++) mean += x[n] / (double)N;
        for (int64_t n = 0; n < N; n++) squares += (x[n] - mean) * (x[n] - mean);
        const double factor = 1 / sqrt(squares / (double)N + eps);
        for (int64_t n = 0; n < N; n++) y[n] = (x[n] - mean) * factor * (weight ? weight[n] : 1) + (bias ? bias[n] : 0);
    }
}

void reference_softmax(int64_t M, int64_t N, const double* x, double* y) {
    for (int64_t i = 0; i < M; i++, x += N, y += N) {
        double most = -INFINITY, total = 0;
        for (int64_t n = 0; n < N; n++) most = fmax(most, x[n]);
        for (int64_t n = 0; n < N; n++) total += y[n] = exp(x[n] - most);
        for (int64_t n = 0; n < N; n++) y[n] /= total;
    }
}

typedef struct {
    int64_t b, h, i, j; /* batch entry, head, query, key */
} score_t;

static int in_ranges(const tfast_key_ranges* r, score_t s) {
    if (!r->list_of_row) return 1;
    const int32_t list = r->list_of_row[s.b * r->stride[0] + s.h * r->stride[1] + s.i * r->stride[2]];
    for (int64_t n = r->begin[list]; n < r->begin[list + 1]; n++)
        if (r->bounds[2 * n] <= s.j && s.j < r->bounds[2 * n + 1]) return 1;
    return 0;
}

static int64_t position(const tfast_attention* c, score_t s) {
    return s.i + (c->offset ? c->offset[s.b] : 0);
}

static int is_visible(const tfast_attention* c, score_t s) {
    const int64_t distance = s.j - position(c, s);
    if (c->kv_length && s.j >= c->kv_length[s.b]) return 0;
    if (c->left != TFAST_UNLIMITED && distance < -c->left) return 0;
    if (c->right != TFAST_UNLIMITED && distance > c->right) return 0;
    return in_ranges(&c->ranges, s);
}

static double bias_of(const tfast_bias* bias, score_t s) {
    const int64_t at = s.b * bias->stride[0] + s.h * bias->stride[1] + s.i * bias->stride[2] + s.j * bias->stride[3];
    if (bias->kind == TFAST_BIAS_FLOAT) return ((const float*)bias->data)[at];
    return bias->kind == TFAST_BIAS_BOOL && !((const uint8_t*)bias->data)[at] ? -INFINITY : 0;
}

static double score_of(const tfast_attention* c, score_t s, const double* q, const double* k) {
    if (!is_visible(c, s)) return -INFINITY;
    double score = dot(c->D, q, k) * c->scale;
    if (c->softcap > 0) score = c->softcap * tanh(score / c->softcap);
    if (c->alibi_slopes) score += c->alibi_slopes[s.h] * (double)(s.j - position(c, s));
    return score + bias_of(&c->bias[0], s) + bias_of(&c->bias[1], s);
}

/* One query row: scores (Lk) are room for its scores. */
static double attend(const tfast_attention* c, score_t s, const double* q, const double* k, const double* v,
                     double* scores, double* out) {
    double most = c->sinks ? c->sinks[s.h] : -INFINITY;
    for (s.j = 0; s.j < c->Lk; s.j++) most = fmax(most, scores[s.j] = score_of(c, s, q, k + s.j * c->D));
    memset(out, 0, (size_t)c->Dv * sizeof *out);
    if (most == -INFINITY) return -INFINITY;
    double total = c->sinks ? exp(c->sinks[s.h] - most) : 0;
    for (int64_t j = 0; j < c->Lk; j++) {
        const double weight = exp(scores[j] - most);
        total += weight;
        for (int64_t d = 0; d < c->Dv && weight > 0; d++) out[d] += weight * v[j * c->Dv + d];
    }
    for (int64_t d = 0; d < c->Dv; d++) out[d] /= total;
    return most + log(total);
}

void reference_attention(const tfast_attention* c, const double* q, const double* k, const double* v, double* out,
                         double* lse) {
    double* scores = malloc((size_t)(c->Lk + 1) * sizeof *scores);
    if (!scores) abort();
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t h = 0; h < c->H; h++) {
            const int64_t of_kv = b * c->Hkv + h / (c->H / c->Hkv);
            const double *keys = k + of_kv * c->Lk * c->D, *values = v + of_kv * c->Lk * c->Dv;
            for (int64_t i = 0; i < c->Lq; i++) {
                const int64_t row = (b * c->H + h) * c->Lq + i;
                const double log_sum =
                    attend(c, (score_t){b, h, i, 0}, q + row * c->D, keys, values, scores, out + row * c->Dv);
                if (lse) lse[row] = log_sum;
            }
        }
    free(scores);
}
