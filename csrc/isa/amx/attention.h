/* Attention's two products on AMX: what attention.h calls a matrix engine.
 *
 * Included by isa/amx/amx.c alone, after isa/amx/gemm.h, whose parts, tiles and order of products it uses, and before
 * kernels/attention/attention.h. Panels are 32 query rows, a pair of tiles; the lanes of panel.h are columns of B:
 *
 *   S[key][lane]  = K * Q^T       A: K, split once a superblock      [16 keys][step of 32 d][part]
 *                                 B: Q^T, split once a piece         [panel][step of 32 d][part][half of the lanes]
 *   O^T[dv][lane] = V^T * S       A: V^T, split once a superblock    [16 dv][step of 32 keys][part]
 *                                 B: S, split for every block        [step of 32 keys][part][half of the lanes]
 *
 * Pairs of a step are (i, i + 16) throughout. Tiles of S are stored whole, where scores.h looks for them: what lies
 * outside of the segments is not read there, and is 0 for the second product. S is split while the
 * first products with it run. The order of sums depends on D and on a key's place in its block alone; adding the 0 of
 * a hidden key changes nothing.
 *
 * NaN and infinities: a key that has one (or a number that rounds to infinity as bfloat16) in K or V counts as 0 here,
 * and the rows that see it are marked, as are those of such a q; redo_panel computes them with the register tile, and
 * any whose output is not finite. So a row's bits depend on itself and on the keys that it sees. Keys that no row of
 * the piece sees are not read.
 *
 * Few rows, few keys, narrow heads, additive scores and calls that want the weights stay with the level below
 * (min_rows in kernels/api.h): the row's own sequence decides. */
#ifndef TFAST_ISA_AMX_ATTENTION_H
#define TFAST_ISA_AMX_ATTENTION_H

#include "../../kernels/attention/work.h"

/* Splitting K and V takes its time for each 128 rows or fewer. Measured, time of avx512 by that of this: 96 rows and
 * keys of D = 64 1.0, of 32 0.9; 48 rows 0.7. */
enum { ENGINE_MIN_ROWS = 128, ENGINE_MIN_KEYS = 64, ENGINE_MIN_WIDTH = 64 };
/* Lines fetched after each product of two by two tiles, which runs for 64 cycles. */
enum { ENGINE_AHEAD_LINES = 8 };

/* Panels that share the parts of K and V. Measured, L = 2048, D = 64, of the time of 8: 16 takes 0.95, 32 0.86. */
enum { ENGINE_PIECE_PANELS = 32 };

/* Rows of K fetched into L1 before they are split. */
enum { K_ROWS_AHEAD = 6 };

_Static_assert(KEY_BLOCK % T_K == 0, "a block of keys must be whole steps of the matrix engine");
_Static_assert(T_K == 2 * V_LANES, "columns_of_v() and split_nearest() take two vectors a step");
_Static_assert(PANEL == 2 * V_LANES, "the lanes of a panel must be the columns of two tiles");

struct matrix_engine {
    char *q, *k, *v, *weights; /* parts */
    uint8_t* nonfinite;        /* keys of the superblock */
    int64_t d_steps, key_steps;
};

/* Where the arrays of an engine stand behind it, in their order, and the end. */
enum { ENGINE_ARRAYS = 5 };
static void engine_offsets(const tfast_attention* c, const layout_t* l, size_t at[ENGINE_ARRAYS + 1]) {
    const int64_t d_steps = tfast_ceil_div(c->D, T_K);
    const int64_t bytes[ENGINE_ARRAYS] = {l->panels * d_steps * B_STEP_BYTES,
                                          l->superblock / T_ROWS * d_steps * A_STEP_BYTES,
                                          tfast_ceil_div(c->Dv, T_ROWS) * (l->superblock / T_K) * A_STEP_BYTES,
                                          KEY_BLOCK / T_K * B_STEP_BYTES, l->superblock};
    at[0] = tfast_align64(sizeof(struct matrix_engine));
    for (int i = 0; i < ENGINE_ARRAYS; i++) at[i + 1] = at[i] + tfast_align64((size_t)bytes[i]);
}

/* Bytes behind the layout that an engine takes. */
static size_t engine_bytes(const tfast_attention* c, const layout_t* l) {
    size_t at[ENGINE_ARRAYS + 1];
    engine_offsets(c, l, at);
    return at[ENGINE_ARRAYS];
}

/* The engine for a piece, or NULL where it cannot be used. */
static struct matrix_engine* engine_begin(const work_t* w, char* base) {
    const tfast_attention* c = w->c;
    size_t at[ENGINE_ARRAYS + 1];
    if (c->additive || c->weights || c->D == 0 || c->Dv == 0) return NULL;
    engine_offsets(c, &w->l, at);
    struct matrix_engine* u = (struct matrix_engine*)base;
    *u = (struct matrix_engine){.q = base + at[0],
                                .k = base + at[1],
                                .v = base + at[2],
                                .weights = base + at[3],
                                .nonfinite = (uint8_t*)base + at[4],
                                .d_steps = tfast_ceil_div(c->D, T_K),
                                .key_steps = w->l.superblock / T_K};
    w->ahead->lines_per_tile = ENGINE_AHEAD_LINES;
    configure_tiles(T_ROWS);
    return u;
}

static void engine_end(const work_t* w) {
    (void)w;
    tile_release();
}

/* Q^T of a panel that has been packed. */
static void engine_take_query(const work_t* w, int64_t index) {
    const float* q = w->q + index * w->c->D * PANEL;
    panel_t* t = w->panels + index;
    t->split_sum = 1;
    split_t split = begin_split(q, w->c->D, NULL, w->engine->q + index * w->engine->d_steps * B_STEP_BYTES);
    if (end_split(load_f32_row, sizeof(float), &split)) return;
    for (int64_t d = 0; d < w->c->D; d++)
        for (int64_t i = 0; i < t->nv * V_LANES; i++) t->nonfinite[i] |= !(fabsf(q[d * PANEL + i]) < INFINITY);
}

/* Keys [from, end) of the superblock, the others (of n, rounded up) 0. */
static void take_k(const work_t* w, int64_t from, int64_t end) {
    const struct matrix_engine* u = w->engine;
    int64_t stride;
    const float* k = keys_from(w, w->s0, &stride);
    for (int64_t j = 0; j < tfast_round_up(end, T_ROWS); j++) {
        char* row = u->k + j / T_ROWS * u->d_steps * A_STEP_BYTES + j % T_ROWS * 64;
        for (int64_t d = 0; d < w->c->D; d += V_LANES) __builtin_prefetch(k + (j + K_ROWS_AHEAD) * stride + d);
        u->nonfinite[j] = j >= from && j < end && !split_row(k + j * stride, w->c->D, row);
        if (j < from || j >= end || u->nonfinite[j]) clear_row(u->d_steps, row);
    }
}

/* 16 keys of V, of which [from, end) exist, as 16 rows of V^T; width: how many columns of V there are. */
V_INLINE void columns_of_v(const float* v, int64_t stride, int64_t from, int64_t end, int64_t width, vf x[16]) {
    if (from <= 0 && end >= 16 && width >= 16) {
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) {
            x[j] = v_load(v + j * stride);
            __builtin_prefetch(v + (j + T_K) * stride);
        }
    } else {
        for (int64_t j = 0; j < 16; j++)
            x[j] = j >= from && j < end ? v_load_n(v + j * stride, TFAST_MIN(width, 16)) : v_zero();
    }
    v_transpose(x);
}

/* Key j of the superblock counts as 0. */
static void clear_key_of_v(const work_t* w, int64_t j) {
    const struct matrix_engine* u = w->engine;
    uint16_t* to = (uint16_t*)(u->v + j / T_K * A_STEP_BYTES) + j % 16 * 2 + j % T_K / 16;
    for (int64_t tile = 0; tile < tfast_ceil_div(w->c->Dv, T_ROWS); tile++, to += u->key_steps * A_STEP_BYTES / 2)
        for (int64_t row = 0; row < PARTS * T_ROWS; row++) to[row * 32] = 0;
}

static void take_v(const work_t* w, int64_t from, int64_t end) {
    const struct matrix_engine* u = w->engine;
    const values_t values = values_from(w, w->s0);
    for (int64_t j = 0; j < end; j += T_K) {
        vf worst[2] = {v_zero(), v_zero()}; /* NaN stays */
        for (int64_t d = 0; d < w->c->Dv; d += T_ROWS) {
            const float* v = values.at + d / VALUE_GROUP * values.group_step + j * values.key_stride;
            char* to = u->v + (d / T_ROWS * u->key_steps + j / T_K) * A_STEP_BYTES;
            vf x[16], y[16], left[2];
            columns_of_v(v, values.key_stride, from - j, end - j, w->c->Dv - d, x);
            columns_of_v(v + 16 * values.key_stride, values.key_stride, from - j - 16, end - j - 16, w->c->Dv - d, y);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                split_nearest(x[i], y[i], to + i * 64, left);
                worst[0] = v_add(worst[0], left[0]);
                worst[1] = v_add(worst[1], left[1]);
            }
        }
        const unsigned nonfinite[2] = {v_nan_lanes(worst[0]), v_nan_lanes(worst[1])};
        for (int64_t i = 0; (nonfinite[0] || nonfinite[1]) && i < T_K; i++)
            if (nonfinite[i / 16] >> i % 16 & 1) {
                u->nonfinite[j + i] = 1;
                clear_key_of_v(w, j + i);
            }
    }
}

static void mark_rows_that_see(const work_t* w, int64_t key) {
    for (int64_t i = 0; i < w->l.panels; i++)
        for (int64_t lane = 0; lane < w->panels[i].nv * V_LANES; lane++)
            w->panels[i].nonfinite[lane] |= w->panels[i].lo[lane] <= key && key < w->panels[i].hi[lane];
}

/* The n keys of a superblock. */
static void engine_take_keys(const work_t* w, int64_t n) {
    const int64_t from = TFAST_MAX(0, w->begin - w->s0);
    take_k(w, from, n);
    take_v(w, from, n);
    for (int64_t j = from; j < n; j++)
        if (w->engine->nonfinite[j]) mark_rows_that_see(w, w->s0 + j);
}

/* For the columns of B that hold lanes. */
V_INLINE void multiply_lanes(int64_t nv, const char* a, int64_t a_tile, const char* b, int64_t steps, tiles_to to,
                             const meanwhile_t meanwhile, const int tiles) {
    if (nv > 1)
        multiply_tiles(a, a_tile, b, steps, to, meanwhile, tiles, 2);
    else
        multiply_tiles(a, a_tile, b, steps, to, meanwhile, tiles, 1);
}

/* Raw products of keys [t0, t1) of the block from k0 on, and of some around them. */
static void engine_scores(const work_t* w, const panel_t* t, int64_t k0, int64_t t0, int64_t t1) {
    const struct matrix_engine* u = w->engine;
    const int64_t a_tile = u->d_steps * A_STEP_BYTES, first = t0 / T_ROWS * T_ROWS;
    const char* a = u->k + (k0 - w->s0 + first) / T_ROWS * a_tile;
    const char* b = u->q + (t - w->panels) * u->d_steps * B_STEP_BYTES;
    const meanwhile_t meanwhile = {NULL, 0, load_f32_row, sizeof(float), w->ahead};
    for (int64_t j = first; j < t1; j += 2 * T_ROWS, a += 2 * a_tile) {
        const tiles_to to = {w->scores + j * PANEL, PANEL, V_LANES, T_ROWS * PANEL};
        if (t1 - j > T_ROWS)
            multiply_lanes(t->nv, a, a_tile, b, u->d_steps, to, meanwhile, 2);
        else
            multiply_lanes(t->nv, a, a_tile, b, u->d_steps, to, meanwhile, 1);
    }
}

/* The weights of keys [t0, t1) that no segment has are 0. */
static void clear_outside(const panel_t* t, const segment_t* g, int n_segments, int64_t t0, int64_t t1, float* S) {
    for (int64_t v = 0; v < t->nv; v++) {
        int64_t j = t0;
        for (int i = 0; i <= n_segments; i++) {
            const int last = i == n_segments;
            if (!last && (v < g[i].v0 || v >= g[i].v1)) continue;
            for (const int64_t end = last ? t1 : g[i].t0; j < end; j++) v_store(S + j * PANEL + v * V_LANES, v_zero());
            if (!last) j = g[i].t1;
        }
    }
}

/* O^T = alpha * O^T + sums for n rows of it, sums as multiply_tiles leaves them; the first time alpha is NULL. */
static void finish_values(const float* sums, int64_t n, int64_t nv, const float* alpha, float* o) {
    for (int64_t v = 0; v < nv; v++, sums += 256, o += V_LANES) {
        const vf factor = alpha ? v_load(alpha + v * V_LANES) : v_zero();
        for (int64_t i = 0; i < n; i++) {
            const vf x = v_load(sums + i / T_ROWS * 512 + i % T_ROWS * 16);
            v_store(o + i * PANEL, alpha ? v_fma(v_load(o + i * PANEL), factor, x) : x);
        }
    }
}

/* The weighted sum of a block's segments into O^T. */
static void engine_values(const work_t* w, const panel_t* t, int64_t k0, const segment_t* g, int n_segments,
                          const float* alpha, float* o) {
    /* Two of them: one is finished while the tile unit works on the other. */
    float sums[2][4][256] __attribute__((aligned(64)));
    const struct matrix_engine* u = w->engine;
    const int64_t t0 = g[0].t0 / T_K * T_K, t1 = g[n_segments - 1].t1, steps = tfast_ceil_div(t1 - t0, T_K);
    const int64_t a_tile = u->key_steps * A_STEP_BYTES, dv = tfast_round_up(w->c->Dv, T_ROWS);
    const char* a = u->v + (k0 - w->s0 + t0) / T_K * A_STEP_BYTES;
    const float* scale = t->has_sums ? alpha : NULL;
    clear_outside(t, g, n_segments, t0, t1, w->scores);
    split_t split = begin_split(w->scores + t0 * PANEL, t1 - t0, NULL, u->weights);
    split_some(load_f32_row, sizeof(float), &split, T_K / 2);
    int now = 0;
    for (int64_t d = 0; d < dv; d += 2 * T_ROWS, a += 2 * a_tile, now = !now) {
        const tiles_to to = {sums[now][0], 16, 256, 512};
        const meanwhile_t first = {&split, tfast_ceil_div(T_K / 2, SMALL_PRODUCTS), load_f32_row, sizeof(float),
                                   w->ahead},
                          later = {NULL, 0, load_f32_row, sizeof(float), w->ahead};
        if (dv - d == T_ROWS && d == 0)
            multiply_lanes(t->nv, a, a_tile, u->weights, steps, to, first, 1);
        else if (dv - d == T_ROWS)
            multiply_lanes(t->nv, a, a_tile, u->weights, steps, to, later, 1);
        else if (d == 0)
            multiply_lanes(t->nv, a, a_tile, u->weights, steps, to, first, 2);
        else
            multiply_lanes(t->nv, a, a_tile, u->weights, steps, to, later, 2);
        if (d) finish_values(sums[!now][0], 2 * T_ROWS, t->nv, scale, o + (d - 2 * T_ROWS) * PANEL);
    }
    const int64_t last = (dv - 1) / (2 * T_ROWS) * (2 * T_ROWS);
    finish_values(sums[!now][0], dv - last, t->nv, scale, o + last * PANEL);
}

#endif
