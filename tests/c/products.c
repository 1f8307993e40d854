/* Products of plain matrices, and the scores of late interaction. */
#include <math.h>

#include "base/convert.h"
#include "check.h"
#include "data.h"
#include "groups.h"
#include "reference.h"

static tfast_status run_matmul(const void* arguments, float* y, int n_threads) {
    tfast_matmul call = *(const tfast_matmul*)arguments;
    call.y = y;
    return tfast_matmul_run(&call, n_threads);
}

/* `entries` pairs; the same A for all where `shared`, and B by its columns. */
static void check_matmul(int64_t entries, int64_t M, int64_t N, int64_t K, int shared, int b_columns) {
    int64_t *a_offsets = data_room((size_t)entries * sizeof *a_offsets),
            *b_offsets = data_room((size_t)entries * sizeof *b_offsets);
    const int64_t b_stride = (b_columns ? K : N) + 5;
    const int64_t b_size = (b_columns ? N : K) * b_stride;
    const tfast_matmul call = {.entries = entries,
                               .M = M,
                               .N = N,
                               .K = K,
                               .a = data_normal((shared ? 1 : entries) * M * K, 1),
                               .b = data_normal(entries * b_size, 1 / sqrt((double)K)),
                               .a_offsets = a_offsets,
                               .b_offsets = b_offsets,
                               .a_stride = K,
                               .b_stride = b_stride,
                               .b_columns = b_columns};
    double *expected = data_room((size_t)(entries * M * N) * sizeof *expected),
           *w = data_room((size_t)(N * K) * sizeof *w);
    const double* a = data_widened((shared ? 1 : entries) * M * K, call.a);
    for (int64_t e = 0; e < entries; e++) {
        a_offsets[e] = shared ? 0 : e * M * K;
        b_offsets[e] = e * b_size;
        for (int64_t i = 0; i < N * K; i++) {
            const int64_t n = i / K, k = i % K;
            w[i] = call.b[b_offsets[e] + (b_columns ? n * b_stride + k : k * b_stride + n)];
        }
        reference_linear(M, N, K, a + a_offsets[e], w, (reference_epilogue){.bias = NULL}, expected + e * M * N);
    }
    check_call(&(check_t){"product of matrices", run_matmul, &call, entries * M * N, expected, TOLERANCE, NULL, 0});
}

static tfast_status run_max_sim(const void* arguments, float* scores, int n_threads) {
    tfast_max_sim call = *(const tfast_max_sim*)arguments;
    call.scores = scores;
    return tfast_max_sim_run(&call, n_threads);
}

enum { QUERIES = 4, DOCUMENTS = 25, D = 40, DOCUMENT_ROWS = 13 };

static double max_sim(const tfast_max_sim* c, const double* documents, int64_t query, int64_t document) {
    double sum = 0;
    for (int64_t i = c->cu_queries[query]; i < c->cu_queries[query + 1]; i++) {
        double most = -INFINITY;
        for (int64_t j = c->cu_documents[document]; j < c->cu_documents[document + 1]; j++) {
            double score = 0;
            for (int64_t d = 0; d < D; d++) score += c->queries[i * D + d] * documents[j * D + d];
            most = fmax(most, score);
        }
        sum += most;
    }
    return sum;
}

/* Queries of 0 to 3 rows, documents of 0 to 12. */
static void check_max_sim(tfast_dtype dtype, int pairwise) {
    int64_t cu_queries[QUERIES + 1] = {0, 2, 2, 5, 6}, cu_documents[DOCUMENTS + 1] = {0};
    const int64_t N = pairwise ? QUERIES : DOCUMENTS;
    for (int64_t i = 0; i < N; i++) cu_documents[i + 1] = cu_documents[i] + (i * 5 + 3) % DOCUMENT_ROWS;
    const int64_t rows = cu_documents[N];
    float* documents = data_normal(rows * D, 1);
    uint16_t* narrow = data_room((size_t)(rows * D) * sizeof *narrow);
    for (int64_t i = 0; i < rows * D && dtype == TFAST_BF16; i++)
        documents[i] = tfast_f32_from_bf16(narrow[i] = tfast_bf16_from_f32(documents[i]));
    const tfast_max_sim call = {.B = QUERIES,
                                .N = N,
                                .D = D,
                                .queries = data_normal(cu_queries[QUERIES] * D, 1 / sqrt((double)D)),
                                .query_stride = D,
                                .dtype = dtype,
                                .documents = dtype == TFAST_F32 ? (void*)documents : (void*)narrow,
                                .document_stride = D,
                                .cu_queries = cu_queries,
                                .cu_documents = cu_documents,
                                .pairwise = pairwise};
    const double* values = data_widened(rows * D, documents);
    double expected[QUERIES * DOCUMENTS];
    const int64_t n = pairwise ? N : QUERIES * N;
    for (int64_t i = 0; i < n; i++)
        expected[i] = pairwise ? max_sim(&call, values, i, i) : max_sim(&call, values, i / N, i % N);
    /* sums of three rows at most */
    check_call(&(check_t){"late interaction", run_max_sim, &call, n, expected, 3 * TOLERANCE, NULL, 0});
}

void check_products(void) {
    check_matmul(1, 33, 70, 200, 0, 0);
    check_matmul(1, 130, 97, 257, 0, 1);
    check_matmul(12, 17, 31, 64, 0, 1);
    check_matmul(12, 17, 31, 64, 1, 0);
    check_matmul(3, 1, 9, 33, 0, 0);
    for (int pairwise = 0; pairwise < 2; pairwise++) {
        check_max_sim(TFAST_F32, pairwise);
        check_max_sim(TFAST_BF16, pairwise);
    }
}
