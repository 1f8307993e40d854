/* Norms, softmax and activations, with strides between rows and rows that are no multiple of a vector. */
#include "check.h"
#include "data.h"
#include "groups.h"
#include "reference.h"

enum { GAP = 3 }; /* numbers between the rows of x */

typedef struct {
    int64_t M, N;
    float* x;
    const float *residual, *weight, *bias;
} rows_t;

static tfast_status run_layernorm(const void* arguments, float* y, int n_threads) {
    const rows_t* r = arguments;
    return tfast_layernorm(r->M, r->N, r->x, r->N + GAP, r->residual, r->N, r->weight, r->bias, 1e-5f, y, r->N,
                           n_threads);
}

static tfast_status run_rmsnorm(const void* arguments, float* y, int n_threads) {
    const rows_t* r = arguments;
    return tfast_rmsnorm(r->M, r->N, r->x, r->N + GAP, r->residual, r->N, r->weight, 1e-6f, y, r->N, n_threads);
}

static tfast_status run_softmax(const void* arguments, float* y, int n_threads) {
    const rows_t* r = arguments;
    return tfast_softmax(r->M, r->N, r->x, r->N + GAP, y, r->N, n_threads);
}

static void check_shape(int64_t M, int64_t N) {
    rows_t r = {M, N, data_normal(M * (N + GAP), 1), NULL, data_normal(N, 1), data_normal(N, 1)};
    double *x = data_room((size_t)(M * N) * sizeof *x), *sum = data_room((size_t)(M * N) * sizeof *sum);
    double* expected = data_room((size_t)(M * N) * sizeof *expected);
    const float* residual = data_normal(M * N, 1);
    for (int64_t i = 0; i < M * N; i++) {
        x[i] = r.x[i / N * (N + GAP) + i % N];
        sum[i] = x[i] + residual[i];
    }
    check_t check = {"softmax", run_softmax, &r, M * N, expected, TOLERANCE, NULL, 0};
    reference_softmax(M, N, x, expected);
    check_call(&check);
    const double *weight = data_widened(N, r.weight), *bias = data_widened(N, r.bias);
    check.name = "layernorm", check.run = run_layernorm;
    reference_norm(M, N, x, weight, bias, 1e-5f, 1, expected);
    check_call(&check);
    r.residual = residual;
    reference_norm(M, N, sum, weight, bias, 1e-5f, 1, expected);
    check_call(&check);
    check.name = "rmsnorm", check.run = run_rmsnorm;
    reference_norm(M, N, sum, weight, NULL, 1e-6f, 0, expected);
    check_call(&check);
}

typedef struct {
    int64_t n;
    const float* x;
    tfast_activation kind;
} span_t;

static tfast_status run_activation(const void* arguments, float* y, int n_threads) {
    const span_t* s = arguments;
    return tfast_activate(s->n, s->x, y, s->kind, n_threads);
}

static void check_activations(int64_t n) {
    const float* x = data_normal(n, 2);
    double* expected = data_room((size_t)n * sizeof *expected);
    for (int kind = TFAST_IDENTITY; kind <= TFAST_TANH; kind++) {
        const span_t s = {n, x, (tfast_activation)kind};
        for (int64_t i = 0; i < n; i++) expected[i] = reference_activation(x[i], s.kind);
        check_call(&(check_t){"activation", run_activation, &s, n, expected, TOLERANCE, NULL, 0});
    }
}

void check_rows(void) {
    const int64_t shapes[][2] = {{1, 1}, {3, 15}, {5, 64}, {65, 131}, {2, 1025}, {300, 384}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(shapes[i][0], shapes[i][1]);
    check_activations(1);
    check_activations(33);
    check_activations(100003);
}
