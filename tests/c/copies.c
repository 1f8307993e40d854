/* Rows of tables, rotary positions, and the copies between (B, L, H * D) and (B, H, L, D). */
#include <string.h>

#include "base/convert.h"
#include "check.h"
#include "data.h"
#include "groups.h"
#include "reference.h"

enum { B = 2, H = 5, L = 70, D = 33 };

typedef struct {
    const float* x;
    int split;
} heads_t;

static tfast_status run_heads(const void* arguments, float* y, int n_threads) {
    const heads_t* h = arguments;
    const int64_t row = D * sizeof(float);
    const int64_t joined[3] = {L * H * row, row, H * row}, apart[3] = {H * L * row, L * row, row};
    return tfast_copy_heads(B, H, L, row, (const char*)h->x, h->split ? joined : apart, (char*)y,
                            h->split ? apart : joined, n_threads);
}

static void check_heads(void) {
    const int64_t n = (int64_t)B * H * L * D;
    heads_t h = {data_normal(n, 1), 1};
    double* expected = data_room((size_t)n * sizeof *expected);
    float* apart = data_room((size_t)n * sizeof *apart);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < H; i++)
            for (int64_t l = 0; l < L; l++)
                for (int64_t d = 0; d < D; d++) {
                    const int64_t at = ((b * H + i) * L + l) * D + d;
                    expected[at] = apart[at] = h.x[((b * L + l) * H + i) * D + d];
                }
    check_call(&(check_t){"split heads", run_heads, &h, n, expected, 0, NULL, 1});
    const double* joined = data_widened(n, h.x);
    h = (heads_t){apart, 0};
    check_call(&(check_t){"concat heads", run_heads, &h, n, joined, 0, NULL, 1});
}

typedef struct {
    int64_t half;
    int interleaved;
    const float *x, *cos, *sin;
} rope_t;

static tfast_status run_rope(const void* arguments, float* y, int n_threads) {
    const rope_t* r = arguments;
    const tfast_rope call = {.B = B,
                             .H = H,
                             .L = L,
                             .D = D,
                             .half = r->half,
                             .interleaved = r->interleaved,
                             .x = r->x,
                             .cos = r->cos,
                             .sin = r->sin,
                             .x_stride = {H * L * D, L * D, D},
                             .angle_stride = {L * r->half, r->half},
                             .y_stride = {H * L * D, L * D, D},
                             .y = y};
    return tfast_rope_run(&call, n_threads);
}

static void check_rope(int64_t half, int interleaved) {
    const int64_t n = (int64_t)B * H * L * D;
    const rope_t r = {half, interleaved, data_normal(n, 1), data_normal(B * L * half, 1), data_normal(B * L * half, 1)};
    double* expected = data_widened(n, r.x);
    for (int64_t row = 0; row < n / D; row++) {
        const int64_t angles = (row / (H * L) * L + row % L) * half;
        for (int64_t i = 0; i < half; i++) {
            const int64_t one = row * D + (interleaved ? 2 * i : i), other = interleaved ? one + 1 : one + half;
            const double c = r.cos[angles + i], s = r.sin[angles + i];
            expected[one] = r.x[one] * c - r.x[other] * s;
            expected[other] = r.x[other] * c + r.x[one] * s;
        }
    }
    check_call(&(check_t){interleaved ? "rope of neighbours" : "rope", run_rope, &r, n, expected, TOLERANCE, NULL, 0});
}

enum { IDS = 300, WIDTH = 70, WORDS = 50, TABLES = 3 };

static tfast_status run_embedding(const void* arguments, float* y, int n_threads) {
    const tfast_embedding_sum* c = arguments;
    return tfast_embedding(IDS, c->ids[0], WIDTH, &c->tables[0], y, WIDTH, n_threads);
}

static tfast_status run_embedding_sum(const void* arguments, float* y, int n_threads) {
    tfast_embedding_sum c = *(const tfast_embedding_sum*)arguments;
    c.y = y;
    return tfast_embedding_sum_run(&c, n_threads);
}

/* A table of the type, and the same numbers in double. */
static tfast_table table_of(tfast_dtype dtype, double* values) {
    const int64_t n = WORDS * WIDTH;
    float* x = data_normal(n, 1);
    uint16_t* narrow = data_room((size_t)n * sizeof *narrow);
    for (int64_t i = 0; i < n; i++) {
        narrow[i] = dtype == TFAST_F16 ? tfast_f16_from_f32(x[i]) : tfast_bf16_from_f32(x[i]);
        if (dtype != TFAST_F32)
            x[i] = dtype == TFAST_F16 ? tfast_f32_from_f16(narrow[i]) : tfast_f32_from_bf16(narrow[i]);
        values[i] = x[i];
    }
    return (tfast_table){dtype, dtype == TFAST_F32 ? (void*)x : (void*)narrow, WIDTH};
}

static void check_embeddings(void) {
    const tfast_dtype dtypes[TABLES] = {TFAST_F32, TFAST_F16, TFAST_BF16};
    tfast_embedding_sum c = {.n = IDS, .width = WIDTH, .n_tables = TABLES, .eps = 1e-12f};
    double *sum = data_room(IDS * WIDTH * sizeof *sum), *expected = data_room(IDS * WIDTH * sizeof *expected);
    for (int t = 0; t < TABLES; t++) {
        int64_t* ids = data_room(IDS * sizeof *ids);
        double* values = data_room(WORDS * WIDTH * sizeof *values);
        c.tables[t] = table_of(dtypes[t], values);
        for (int64_t i = 0; i < IDS; i++) ids[i] = data_integer(0, WORDS);
        for (int64_t i = 0; i < IDS * WIDTH; i++) sum[i] += expected[i] = values[ids[i / WIDTH] * WIDTH + i % WIDTH];
        c.ids[t] = ids;
        const tfast_embedding_sum one = {.ids = {ids}, .tables = {c.tables[t]}};
        check_call(&(check_t){"embedding", run_embedding, &one, IDS * WIDTH, expected, 0, NULL, 1});
        check_that(tfast_first_outside(IDS, ids, WORDS) == -1, "all ids are inside");
        ids[IDS / 2] = -1;
        check_that(tfast_first_outside(IDS, ids, WORDS) == IDS / 2, "the id outside is found");
        ids[IDS / 2] = 0;
        for (int64_t i = IDS / 2 * WIDTH; i < (IDS / 2 + 1) * WIDTH; i++) sum[i] += values[i % WIDTH] - expected[i];
    }
    c.weight = data_normal(WIDTH, 1), c.bias = data_normal(WIDTH, 1);
    reference_norm(IDS, WIDTH, sum, data_widened(WIDTH, c.weight), data_widened(WIDTH, c.bias), c.eps, 1, expected);
    check_call(&(check_t){"sum of embeddings", run_embedding_sum, &c, IDS * WIDTH, expected, TOLERANCE, NULL, 0});
}

void check_copies(void) {
    check_heads();
    check_rope(16, 0);
    check_rope(16, 1);
    check_rope(7, 0);
    check_embeddings();
}
