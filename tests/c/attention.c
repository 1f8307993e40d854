/* Attention over float32: shapes that straddle tiles and blocks, structure (causal, windows, lengths, ranges), what is
 * added to scores (masks, tables, ALiBi, soft cap, sinks), heads that share keys, and few queries against many keys. */
#include <string.h>

#include "attention_call.h"
#include "check.h"
#include "data.h"
#include "groups.h"

enum {
    OFFSETS = 1 << 0, /* one for each batch entry */
    LENGTHS = 1 << 1, /* from Lk down to 0 */
    BOOL_MASK = 1 << 2,
    FLOAT_BIAS = 1 << 3, /* shared by batch entries */
    DISTANCE_TABLE = 1 << 4,
    RANGES = 1 << 5,
    SOFTCAP = 1 << 6,
    ALIBI = 1 << 7,
    SINKS = 1 << 8
};

typedef struct {
    const char* name;
    attention_shape shape; /* B, H, Hkv, Lq, Lk, D, Dv */
    int64_t left, right;   /* -1: unlimited */
    unsigned options;
} case_t;

static const case_t cases[] = {
    {"one key", {1, 1, 1, 1, 1, 1, 1}, -1, -1, 0},
    {"tails of every tile", {2, 3, 3, 17, 33, 15, 7}, -1, -1, 0},
    {"many keys", {1, 2, 2, 70, 700, 64, 64}, -1, -1, 0},
    {"few queries", {1, 4, 4, 3, 900, 64, 64}, -1, -1, 0},
    {"decode", {2, 8, 2, 1, 600, 64, 64}, -1, -1, LENGTHS},
    {"causal", {2, 2, 2, 65, 65, 64, 64}, -1, 0, 0},
    {"causal with offsets", {3, 2, 1, 20, 50, 32, 32}, -1, 0, OFFSETS},
    {"window", {1, 2, 2, 129, 129, 40, 24}, 20, 7, 0},
    {"causal window of a decoder", {2, 6, 2, 1, 300, 48, 48}, 100, 0, OFFSETS},
    {"heads that share keys", {2, 8, 2, 33, 65, 32, 32}, -1, 0, 0},
    {"lengths", {4, 2, 2, 16, 47, 24, 24}, -1, -1, LENGTHS},
    {"mask of bool", {2, 2, 2, 25, 49, 16, 16}, -1, -1, BOOL_MASK},
    {"mask of float", {2, 2, 2, 25, 49, 16, 16}, -1, -1, FLOAT_BIAS},
    {"table over distances", {1, 3, 3, 31, 40, 64, 64}, -1, -1, DISTANCE_TABLE},
    {"ranges of keys", {2, 2, 2, 40, 200, 32, 32}, -1, -1, RANGES},
    {"ranges of a decoder", {2, 2, 2, 1, 200, 32, 32}, -1, -1, RANGES},
    {"soft cap", {1, 2, 2, 20, 35, 64, 64}, -1, 0, SOFTCAP},
    {"ALiBi", {1, 4, 4, 20, 35, 64, 64}, -1, 0, ALIBI},
    {"sinks", {2, 4, 2, 20, 35, 64, 64}, 5, 0, SINKS},
    {"all of them", {2, 4, 2, 33, 70, 64, 64}, 30, 9, OFFSETS | LENGTHS | BOOL_MASK | DISTANCE_TABLE | SOFTCAP | ALIBI},
};

static int64_t* spread(int64_t B, int64_t first, int64_t last) {
    int64_t* x = data_room((size_t)B * sizeof *x);
    for (int64_t b = 0; b < B; b++) x[b] = first + (last - first) * b / TFAST_MAX(B - 1, 1);
    return x;
}

/* Four keys of five are shown; the first query of each head sees none. */
static void add_mask(tfast_attention* c) {
    const int64_t n = c->B * c->H * c->Lq * c->Lk;
    uint8_t* mask = data_room((size_t)n);
    for (int64_t i = 0; i < n; i++) mask[i] = data_integer(0, 5) != 0 && i / c->Lk % c->Lq != 0;
    c->bias[0] = (tfast_bias){TFAST_BIAS_BOOL, mask, {c->H * c->Lq * c->Lk, c->Lq * c->Lk, c->Lk, 1}};
}

static void add_biases(tfast_attention* c, unsigned options) {
    if (options & BOOL_MASK) add_mask(c);
    if (options & FLOAT_BIAS)
        c->bias[0] = (tfast_bias){TFAST_BIAS_FLOAT, data_normal(c->H * c->Lq * c->Lk, 1), {0, c->Lq * c->Lk, c->Lk, 1}};
    const int64_t distances = c->Lq + c->Lk - 1;
    if (options & DISTANCE_TABLE)
        c->bias[1] =
            (tfast_bias){TFAST_BIAS_FLOAT, data_normal(c->H * distances, 1) + c->Lq - 1, {0, distances, -1, 1}};
    if (options & ALIBI) c->alibi_slopes = data_normal(c->H, 0.1);
    if (options & SINKS) c->sinks = data_normal(c->H, 1);
    if (options & SOFTCAP) c->softcap = 1.5f;
}

/* Three lists, which rows take by turns; the second one is empty. */
static void add_ranges(tfast_attention* c) {
    static const int64_t begin[] = {0, 2, 2, 5};
    static const int32_t bounds[] = {0, 3, 17, 90, 5, 6, 64, 128, 190, 200};
    const int64_t rows = c->H * c->Lq;
    int32_t* lists = data_room((size_t)rows * sizeof *lists);
    for (int64_t i = 0; i < rows; i++) lists[i] = (int32_t)(i % 3);
    c->ranges = (tfast_key_ranges){lists, {0, c->Lq, 1}, begin, bounds, (double)(c->B * rows) * 50};
}

void check_attention(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const case_t* one = &cases[i];
        tfast_attention c = attention_call(one->shape);
        if (one->left >= 0) c.left = one->left;
        if (one->right >= 0) c.right = one->right;
        if (one->options & OFFSETS) c.offset = spread(c.B, c.Lk - c.Lq, -1);
        if (one->options & LENGTHS) c.kv_length = spread(c.B, c.Lk, 0);
        if (one->options & RANGES) add_ranges(&c);
        add_biases(&c, one->options);
        attention_check(one->name, &c, NULL, NULL);
        tfast_attention_plan plan;
        tfast_attention_explain(&c, 2, &plan);
        check_that(plan.n_kinds > 0 && plan.pieces > 0, "%s: there is a plan", one->name);
    }
}
