/* The best of many rows. Numbers are small integers: scores are exact, so that ties have to be broken by the index, and
 * the order is the reference's own; the results have the same bits on every level. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "data.h"
#include "groups.h"
#include "weights.h"

typedef struct {
    tfast_search call;
    const weight_t* queries;
} search_t;

/* y: the scores (Q, k), then the indices as floats. */
static tfast_status run_search(const void* arguments, float* y, int n_threads) {
    const search_t* s = arguments;
    tfast_search call = s->call;
    const int64_t n = call.Q * call.k;
    tfast_packed packed = {.data = NULL};
    int nan = 0;
    int64_t* indices = malloc((size_t)n * sizeof *indices);
    tfast_status status = indices ? TFAST_OK : TFAST_NO_MEMORY;
    if (status == TFAST_OK && s->queries) status = weight_pack(s->queries, n_threads, &packed);
    call.queries = s->queries ? &packed : NULL;
    call.scores = y;
    call.indices = indices;
    call.nan = &nan;
    if (status == TFAST_OK) status = tfast_search_run(&call, n_threads);
    for (int64_t i = 0; i < n && status == TFAST_OK; i++) y[n + i] = nan ? NAN : (float)indices[i];
    weight_free(&packed);
    free(indices);
    return status;
}

/* Picks the k best of N scores one by one: a search that nobody can get wrong. */
static void best(int64_t N, int64_t k, double* scores, double* found, double* indices) {
    for (int64_t i = 0; i < k; i++) {
        int64_t most = 0;
        for (int64_t n = 1; n < N; n++)
            if (scores[n] > scores[most]) most = n;
        found[i] = scores[most];
        indices[i] = (double)most;
        scores[most] = -INFINITY;
    }
}

static void check_found(const char* name, const search_t* s, const double* all, double bound) {
    const int64_t Q = s->call.Q, N = s->call.N, k = s->call.k;
    double *expected = data_room((size_t)(2 * Q * k) * sizeof *expected),
           *scores = data_room((size_t)N * sizeof *scores);
    for (int64_t q = 0; q < Q; q++) {
        memcpy(scores, all + q * N, (size_t)N * sizeof *scores);
        best(N, k, scores, expected + q * k, expected + (Q + q) * k);
    }
    check_call(&(check_t){name, run_search, s, 2 * Q * k, expected, bound, NULL, bound == 0});
}

static void check_products_of(tfast_dtype dtype, int64_t Q, int64_t N, int64_t K, int64_t k) {
    float *queries = data_room((size_t)(Q * K) * sizeof *queries), *rows = data_room((size_t)(N * K) * sizeof *rows);
    int8_t* bytes = data_room((size_t)(N * K));
    double* scores = data_room((size_t)(Q * N) * sizeof *scores);
    for (int64_t i = 0; i < Q * K; i++) queries[i] = (float)data_integer(-3, 4);
    for (int64_t i = 0; i < N * K; i++) rows[i] = bytes[i] = (int8_t)data_integer(-3, 4);
    for (int64_t q = 0; q < Q; q++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t d = 0; d < K; d++) scores[q * N + n] += queries[q * K + d] * rows[n * K + d];
    const weight_t packed = {TFAST_FORMAT_F32, TFAST_F32, Q, K, queries, NULL, NULL, 0};
    const void* corpus = dtype == TFAST_F32 ? (void*)rows : (void*)bytes;
    const search_t s = {{.Q = Q, .N = N, .K = K, .k = k, .dtype = dtype, .corpus = corpus, .stride = K}, &packed};
    check_found("search by products", &s, scores, 0);
}

static void check_cosines(void) {
    enum { Q = 3, N = 500, K = 40 };
    const float *queries = data_normal(Q * K, 0.2), *rows = data_normal(N * K, 1);
    double* scores = data_room(Q * N * sizeof *scores);
    for (int64_t i = 0; i < Q * N; i++) {
        double product = 0, squares = 0;
        for (int64_t d = 0; d < K; d++) {
            product += queries[i / N * K + d] * (double)rows[i % N * K + d];
            squares += rows[i % N * K + d] * (double)rows[i % N * K + d];
        }
        scores[i] = product / sqrt(squares);
    }
    const weight_t packed = {TFAST_FORMAT_F32, TFAST_F32, Q, K, queries, NULL, NULL, 0};
    const search_t s = {{.Q = Q, .N = N, .K = K, .k = 5, .dtype = TFAST_F32, .corpus = rows, .stride = K, .cosine = 1},
                        &packed};
    check_found("search by cosines", &s, scores, TOLERANCE);
}

static void check_bits(void) {
    enum { Q = 3, N = 4000, K = 24 };
    uint8_t *queries = data_room(Q * K), *rows = data_room(N * K);
    double* scores = data_room(Q * N * sizeof *scores);
    for (int i = 0; i < Q * K; i++) queries[i] = (uint8_t)data_bits();
    for (int i = 0; i < N * K; i++) rows[i] = (uint8_t)data_bits();
    for (int64_t i = 0; i < Q * N; i++)
        for (int64_t d = 0; d < K; d++) scores[i] -= __builtin_popcount(queries[i / N * K + d] ^ rows[i % N * K + d]);
    const search_t s = {
        {.Q = Q, .N = N, .K = K, .k = 7, .dtype = TFAST_U8, .corpus = rows, .stride = K, .query_bits = queries}, NULL};
    check_found("search by bits", &s, scores, 0);
}

void check_search(void) {
    check_products_of(TFAST_F32, 1, 300, 17, 300);
    check_products_of(TFAST_F32, 5, 3000, 33, 10);
    check_products_of(TFAST_I8, 5, 3000, 33, 10);
    check_cosines();
    check_bits();
}
