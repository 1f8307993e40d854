/* Linear layers on AMX: float32 products out of bfloat16 tiles.
 *
 * Included by isa/amx/amx.c alone, after kernels/gemm/f32.h, whose packed panels (two vectors wide) and epilogue it
 * uses, and whose register tile is its fallback. The instructions themselves: tile.h.
 *
 * A number is split into three bfloat16 parts, x = x1 + x2 + x3 (8 + 8 + 8 bits of the significand), and
 *
 *     a b = a1 b1 + (a1 b2 + a2 b1 + a1 b3 + a2 b2 + a3 b1) + e,        |e| < 2^-23 |a b|
 *
 * Each product of parts is exact in fp32, and the unit adds in fp32 with rounding to nearest: six tile products for one
 * of fp32, at 16 times the rate of fp32 FMAs. The parts of A are rounded to nearest, so that what is left out has both
 * signs; those of B are cut off, which is cheaper, and B is split for every block of rows.
 *
 * Registers of 16 rows of 64 bytes:
 *
 *     C: 32 rows x 32 columns in 0 to 3 | A: two tiles of rows in 4, 5 | B: columns 0-15, 16-31 in 6, 7
 *
 * A step of 32 k takes 24 products and 16 loads, in an order that changes either A or B alone; a1 b1 of all steps comes
 * last, so that only its additions round at the size of the sum. A block of k is 96: the
 * parts of B (18 KB) stay in L1 beside those of 32 rows of A, which come from L2. Measured, 256 rows, GFLOP/s of fp32:
 * 339, with blocks of 192 285; FMAs alone reach 190 there. The order of the sums depends on k alone: a row has the same
 * bits alone and among others.
 *
 * Panels of 16-bit formats are widened while they are split (gemm_half.h).
 *
 * Infinities and NaN: inf * 0 would give NaN wherever the other factor has an empty part. Rows of A that hold one (or a
 * number that rounds to infinity as bfloat16) are computed by gemm/f32.h, and all rows where the block of B holds one.
 * So are rows whose products leave the range of fp32: those of the parts may be infinities of both signs. Denormals
 * count as zero, as the unit has it; they may be parts of a number, which is then off by up to 2^-126. */
#ifndef TFAST_ISA_AMX_GEMM_H
#define TFAST_ISA_AMX_GEMM_H

#include "tile.h"

enum { PARTS = 3 };
enum { MAX_STEPS = 3 }; /* of 32 k in a block */
enum { B_STEP_BYTES = PARTS * 2 * T_BYTES, A_STEP_BYTES = PARTS * T_BYTES };
_Static_assert(PANEL == 2 * T_ROWS, "a panel must be the columns of two tiles");
_Static_assert(PARTS == 3, "split_nearest(), split_pair() and multiply_tiles() are written for three parts");
_Static_assert(MAX_STEPS* B_STEP_BYTES + 2 * A_STEP_BYTES <= 32 * 1024,
               "a split block of B and a step of A must fit in L1");

/* V_LANES floats of a packed panel: of row k, from column half * V_LANES on. half is a constant. */
typedef vf (*load_row_fn)(const void* panel, int64_t k, const int half);

V_INLINE vf load_f32_row(const void* panel, int64_t k, const int half) {
    return v_load((const float*)panel + k * PANEL + half * V_LANES);
}

/* What a thread keeps from one block to the next: parts of the block at hand, and of the one after it. */
typedef struct {
    const void* of; /* the block they are made of, or NULL */
    int finite;
    char parts[MAX_STEPS * B_STEP_BYTES] __attribute__((aligned(64)));
} split_block;

typedef struct {
    split_block block[2];
} tile_work;

/* C (registers 0 to 3) and A (4, 5) with so many rows: a product takes a cycle for each of them; B (6, 7) with all. */
static void configure_tiles(int64_t m) {
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = (uint8_t)(i < 6 ? TFAST_MIN(m, T_ROWS) : T_ROWS);
    }
    TILES_READ_MEMORY(&config);
    tile_load_config(&config);
}

static void KERNEL(begin_tiles)(int64_t m, void* work) {
    configure_tiles(m);
    tile_work* w = work;
    w->block[0].of = w->block[1].of = NULL;
}

static void KERNEL(end_tiles)(void) {
    tile_release();
}

/* --- A: rows of x as parts, [tile of 16 rows][step of 32 k][part][16][32], and behind them one byte a row: it holds
 * infinity or NaN -------------------------------------------------------------------------------------------------- */

static size_t KERNEL(split_rows_bytes)(int64_t m, int64_t k) {
    const int64_t rows = tfast_round_up(m, T_ROWS);
    return (size_t)(rows * tfast_round_up(k, T_K) * 2 * PARTS + tfast_round_up(rows, 64));
}

enum { HIGH_HALF = -65536 }; /* 0xffff0000: the bits of a bfloat16 in a float */

/* The nearest number of eight bits (ties away from zero), by its bits: half a unit is added, the rest cut off. */
V_INLINE vi round_bits(vf x) {
    return vi_and(vi_add(v_bits(x), vi_set1(0x8000)), vi_set1(HIGH_HALF));
}

/* Two vectors into three rows of 16 pairs. What is left after two roundings has eight bits, and is NaN where the number
 * was not finite: it goes to left[0], left[1]. */
V_INLINE void split_nearest(vf lo, vf hi, char* to, vf left[2]) {
#pragma GCC unroll 2
    for (int part = 0; part < 2; part++) {
        const vi l = round_bits(lo), h = round_bits(hi);
        vi_store_aligned(to + part * T_BYTES, vi_halves(l, h));
        lo = v_sub(lo, v_from_bits(l));
        hi = v_sub(hi, v_from_bits(h));
    }
    vi_store_aligned(to + 2 * T_BYTES, vi_halves(v_bits(lo), v_bits(hi)));
    left[0] = lo; /* inf - inf, and what NaN leaves */
    left[1] = hi;
}

/* A row of k numbers into its rows of the tiles, 32 a step, pairs (i, i + 16); whether all are finite. */
V_INLINE int split_row(const float* x, int64_t k, char* to) {
    vf left[2], worst = v_zero();
    for (; k >= T_K; k -= T_K, x += T_K, to += A_STEP_BYTES) {
        split_nearest(v_load(x), v_load(x + 16), to, left);
        worst = v_add(worst, v_add(left[0], left[1])); /* NaN stays */
    }
    if (k > 0) {
        split_nearest(v_load_n(x, TFAST_MIN(k, 16)), k > 16 ? v_load_n(x + 16, k - 16) : v_zero(), to, left);
        worst = v_add(worst, v_add(left[0], left[1]));
    }
    return !v_nan_lanes(worst);
}

static void clear_row(int64_t steps, char* to) {
    for (; steps > 0; steps--, to += A_STEP_BYTES)
        for (int part = 0; part < PARTS; part++) vi_store_aligned(to + part * T_BYTES, vi_zero());
}

static void KERNEL(split_rows)(int64_t m, int64_t k, const float* x, int64_t x_stride, const float* factor,
                               int32_t x_limit, void* out) {
    (void)factor, (void)x_limit;
    const int64_t steps = tfast_ceil_div(k, T_K), rows = tfast_round_up(m, T_ROWS);
    char* to = out;
    uint8_t* nonfinite = (uint8_t*)out + rows * steps * T_K * 2 * PARTS;
    for (int64_t i = 0; i < rows; i++) {
        char* row = to + i / T_ROWS * steps * A_STEP_BYTES + i % T_ROWS * 64;
        nonfinite[i] = i < m && !split_row(x + i * x_stride, k, row);
        if (i >= m) clear_row(steps, row);
    }
}

/* --- B: a block of a panel as parts, [step][part][half of the columns][16 pairs of k: (i, i + 16)][16 columns][2] ---
 */

/* Two rows of 16 columns -> three rows of 16 pairs. What is left of the rows is added to `left`, where NaN stays. */
V_INLINE void split_pair(vf first, vf second, char* to, vf* left) {
#pragma GCC unroll 3
    for (int part = 0; part < PARTS; part++) {
        const vi f = v_bits(first), s = v_bits(second);
        vi_store_aligned(to + part * 2 * T_BYTES, vi_halves(f, s));
        if (part == PARTS - 1) break;
        first = v_sub(first, v_from_bits(vi_and(f, vi_set1(HIGH_HALF))));
        second = v_sub(second, v_from_bits(vi_and(s, vi_set1(HIGH_HALF))));
    }
    *left = v_add(*left, v_add(first, second));
}

/* A block on its way into parts: pairs of k [at, end), both halves of the columns each. */
typedef struct {
    const char *from, *ahead; /* ahead: what is wanted after it, fetched into L2 on the way, or NULL */
    int64_t k, at, end;
    char* to;
    vf left;
} split_t;

static split_t begin_split(const void* from, int64_t k, const void* ahead, char* to) {
    return (split_t){from, ahead, k, 0, tfast_ceil_div(k, T_K) * T_K / 2, to, v_zero()};
}

/* value_bytes: of a value in the panel. It is a constant, as load is. */
V_INLINE void split_some(const load_row_fn load, const int value_bytes, split_t* s, int64_t pairs) {
    for (const int64_t end = TFAST_MIN(s->at + pairs, s->end); s->at < end; s->at++) {
        const int64_t step = s->at / (T_K / 2), i = s->at % (T_K / 2), k = step * T_K + i;
        char* to = s->to + step * B_STEP_BYTES + i * 64;
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            if (s->ahead) {
                const char* x = s->ahead + (k * PANEL + half * V_LANES) * value_bytes;
                __builtin_prefetch(x, 0, 2);
                __builtin_prefetch(x + T_K / 2 * PANEL * value_bytes, 0, 2);
            }
            split_pair(k < s->k ? load(s->from, k, half) : v_zero(),
                       k + T_K / 2 < s->k ? load(s->from, k + T_K / 2, half) : v_zero(), to + half * T_BYTES, &s->left);
        }
    }
}

/* The rest of it; whether all of the block is finite. */
V_INLINE int end_split(const load_row_fn load, const int value_bytes, split_t* s) {
    split_some(load, value_bytes, s, s->end);
    return !v_nan_lanes(s->left);
}

/* --- products ------------------------------------------------------------------------------------------------------
 */

/* The next lines of a list, in a row: the loads of tiles do not wait for them as those of the register tile do. */
static void fetch_ahead(ahead_list* list) {
    for (int64_t lines = list->lines_per_tile; lines > 0 && list->parts;) {
        ahead_t* a = &list->part[list->parts - 1];
        const int64_t n = TFAST_MIN(lines, (a->row_bytes - a->done + 63) / 64);
        for (int64_t i = 0; i < n; i++) __builtin_prefetch(a->at + a->done + 64 * i, 0, 2);
        lines -= n;
        a->done += 64 * n;
        if (a->done < a->row_bytes) continue;
        a->done = 0;
        a->at += a->stride;
        if (--a->rows <= 0) list->parts--;
    }
}

/* What the vector units, idle while tiles are multiplied, do after each product: a block, or NULL, of which so many
 * pairs are split, and memory, or NULL, to fetch ahead. */
typedef struct {
    split_t* split;
    int64_t pairs;
    load_row_fn load; /* of the block, a constant, as value_bytes is */
    int value_bytes;
    ahead_list* ahead;
} meanwhile_t;

V_INLINE void do_meanwhile(const meanwhile_t* m) {
    if (m->split) split_some(m->load, m->value_bytes, m->split, m->pairs);
    if (m->ahead) fetch_ahead(m->ahead);
}

/* C += a part of A times a part of B, for one or two tiles of rows (4, 5) and of columns (6, 7). */
#define MULTIPLY(tiles, columns)                      \
    do {                                              \
        tile_dot_bf16(0, 4, 6);                       \
        if (columns == 2) tile_dot_bf16(1, 4, 7);     \
        if (tiles == 2) {                             \
            tile_dot_bf16(2, 5, 6);                   \
            if (columns == 2) tile_dot_bf16(3, 5, 7); \
        }                                             \
        do_meanwhile(&meanwhile);                     \
    } while (0)
enum { PRODUCTS_PER_STEP = 6, SMALL_PRODUCTS = 5 };
#define LOAD_A(tiles, part)                                              \
    do {                                                                 \
        tile_load(4, a + (part) * T_BYTES, 64);                          \
        if (tiles == 2) tile_load(5, a + a_tile + (part) * T_BYTES, 64); \
    } while (0)
#define LOAD_B(part, columns)                                               \
    do {                                                                    \
        tile_load(6, b + 2 * (part) * T_BYTES, 64);                         \
        if (columns == 2) tile_load(7, b + (2 * (part) + 1) * T_BYTES, 64); \
    } while (0)

/* Where four tiles go: rows `stride` floats apart, the second tile of columns and that of rows so far from the first.
 */
typedef struct {
    float* at;
    int64_t stride, columns, rows;
} tiles_to;

/* `tiles` (1 or 2, a constant, and so is `columns`) times 16 rows by 16 columns over `steps` of k; the second tile of
 * rows lies a_tile bytes behind the first. The five small products come first, in the order of the fewest loads. */
V_INLINE void multiply_tiles(const char* a, int64_t a_tile, const char* b, int64_t steps, tiles_to to,
                             const meanwhile_t meanwhile, const int tiles, const int columns) {
    tile_zero(0);
    if (columns == 2) tile_zero(1);
    if (tiles == 2) {
        tile_zero(2);
        if (columns == 2) tile_zero(3);
    }
    const char *a0 = a, *b0 = b;
    for (int64_t s = 0; s < steps; s++, a += A_STEP_BYTES, b += B_STEP_BYTES) {
        TILES_READ_MEMORY(b);
        LOAD_A(tiles, 0);
        LOAD_B(2, columns);
        MULTIPLY(tiles, columns);
        LOAD_B(1, columns);
        MULTIPLY(tiles, columns);
        LOAD_A(tiles, 1);
        MULTIPLY(tiles, columns);
        LOAD_B(0, columns);
        MULTIPLY(tiles, columns);
        LOAD_A(tiles, 2);
        MULTIPLY(tiles, columns);
    }
    for (a = a0, b = b0; steps > 0; steps--, a += A_STEP_BYTES, b += B_STEP_BYTES) {
        LOAD_A(tiles, 0);
        LOAD_B(0, columns);
        MULTIPLY(tiles, columns);
    }
    tile_store(0, to.at, to.stride * 4);
    if (columns == 2) tile_store(1, to.at + to.columns, to.stride * 4);
    if (tiles == 2) {
        tile_store(2, to.at + to.rows, to.stride * 4);
        if (columns == 2) tile_store(3, to.at + to.rows + to.columns, to.stride * 4);
    }
}

/* Row r of `sums`, plus bias or what the blocks before left; `whole` (a constant): all 32 columns exist. */
V_INLINE void finish_row_of_tile(const tfast_gemm_call* p, float sums[4][256], int64_t r, const float* before,
                                 float* to, const int whole) {
    float(*tile)[256] = sums + r / T_ROWS * 2;
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const int64_t column = half * V_LANES, n = p->n - column;
        if (!whole && n <= 0) break;
        const int cut = !whole && n < V_LANES;
        vf x = v_load(tile[half] + r % T_ROWS * 16);
        if (before) x = v_add(x, load_upto(before + column, cut, n));
        if (cut)
            v_store_n(to + column, x, n);
        else
            v_store(to + column, x);
    }
}

/* Whether no product of row r of `sums` left the range; columns that do not exist are 0. */
V_INLINE int row_is_finite(float sums[4][256], int64_t r) {
    float(*tile)[256] = sums + r / T_ROWS * 2;
    return v_both_finite(v_load(tile[0] + r % T_ROWS * 16), v_load(tile[1] + r % T_ROWS * 16));
}

/* By FMAs, whatever the numbers are. The work of formats that are widened for it lies behind that of the tiles. */
typedef void (*panel_fn)(const tfast_gemm_call* p);
static void multiply_nonfinite(const tfast_gemm_call* p, panel_fn simple) {
    tfast_gemm_call call = *p;
    call.work = (tile_work*)p->work + 1;
    simple(&call);
}

/* The same row by FMAs. */
static void nonfinite_row(const tfast_gemm_call* p, panel_fn simple, int64_t row) {
    tfast_gemm_call one = *p;
    one.m = 1;
    one.a += row * p->a_stride;
    one.sums += row * PANEL;
    one.y += row * p->y_stride;
    if (p->multiply) one.multiply += row * p->multiply_stride;
    if (p->residual) one.residual += row * p->residual_stride;
    multiply_nonfinite(&one, simple);
}

/* Rows [row, row + m), m <= 32, whose products stand in `sums`. `nonfinite`, one byte a row: numbers are in parts,
 * whose products are not those of infinities, and `simple` computes such rows; NULL: products are what they are. */
static void finish_rows(const tfast_gemm_call* p, float sums[4][256], int64_t row, int64_t m, const uint8_t* nonfinite,
                        panel_fn simple) {
    const int epilogue = p->last && has_epilogue(p);
    const int direct = p->last && !epilogue;
    float* to = direct ? p->y + row * p->y_stride : p->sums + row * PANEL;
    const float* before = p->first ? p->bias : p->sums + row * PANEL;
    const int64_t to_step = direct ? p->y_stride : PANEL, before_step = p->first ? 0 : PANEL;
    for (int64_t i = 0; i < m; i++, to += to_step, before = before ? before + before_step : NULL) {
        if (nonfinite && (nonfinite[row + i] || !row_is_finite(sums, i))) {
            nonfinite_row(p, simple, row + i);
            continue;
        }
        if (p->n == PANEL)
            finish_row_of_tile(p, sums, i, before, to, 1);
        else
            finish_row_of_tile(p, sums, i, before, to, 0);
        if (epilogue) epilogue_rows(p, to, PANEL, row + i, 1);
    }
}

/* Parts of the block at hand, from the call before or made now. */
V_INLINE const split_block* block_at_hand(const load_row_fn load, const int value_bytes, const tfast_gemm_call* p,
                                          tile_work* w) {
    if (w->block[0].of == p->b) return &w->block[0];
    if (w->block[1].of == p->b) return &w->block[1];
    split_t split = begin_split(p->b, p->k, p->next, w->block[0].parts);
    w->block[0].of = p->b;
    w->block[0].finite = end_split(load, value_bytes, &split);
    return &w->block[0];
}

/* The contract of `panel` for panels of floats, and of what `load` makes floats of: the same bits for the same values.
 * `simple` is the format's own panel of the level's FMAs. load and value_bytes are constants. */
V_INLINE void multiply_split_panel(const load_row_fn load, const int value_bytes, const tfast_gemm_call* p,
                                   panel_fn simple) {
    /* Two of them: one is finished while the tile unit works on the other. */
    float sums[2][4][256] __attribute__((aligned(64)));
    tile_work* w = p->work;
    if (p->k == 0) {
        multiply_nonfinite(p, simple);
        return;
    }
    const split_block* b = block_at_hand(load, value_bytes, p, w);
    split_block* other = &w->block[b == &w->block[0]];
    const char* following = p->next;
    split_t next = begin_split(following, p->next_k, following + (following - (const char*)p->b), other->parts);
    const int64_t steps = tfast_ceil_div(p->k, T_K), tiles = tfast_ceil_div(p->m, T_ROWS);
    const int64_t pairs = tfast_ceil_div(next.end, steps * PRODUCTS_PER_STEP * tfast_ceil_div(tiles, 2));
    const meanwhile_t meanwhile = {&next, pairs, load, value_bytes, NULL};
    const char* a = p->rows;
    const uint8_t* nonfinite = (const uint8_t*)a + tiles * steps * A_STEP_BYTES;
    int64_t i = 0, now = 0;
    for (; b->finite && i < p->m; i += 2 * T_ROWS, a += 2 * steps * A_STEP_BYTES, now = !now) {
        const tiles_to to = {sums[now][0], 16, 256, 512};
        if (p->m - i > T_ROWS)
            multiply_tiles(a, steps * A_STEP_BYTES, b->parts, steps, to, meanwhile, 2, 2);
        else
            multiply_tiles(a, steps * A_STEP_BYTES, b->parts, steps, to, meanwhile, 1, 2);
        if (i) finish_rows(p, sums[!now], i - 2 * T_ROWS, 2 * T_ROWS, nonfinite, simple);
    }
    if (b->finite) {
        i -= 2 * T_ROWS;
        finish_rows(p, sums[!now], i, p->m - i, nonfinite, simple);
    } else {
        multiply_nonfinite(p, simple);
    }
    other->of = p->next_k ? following : NULL;
    other->finite = end_split(load, value_bytes, &next);
}

static void KERNEL(f32_panel_tiles)(const tfast_gemm_call* p) {
    multiply_split_panel(load_f32_row, sizeof(float), p, KERNEL(f32_panel));
}

#endif
