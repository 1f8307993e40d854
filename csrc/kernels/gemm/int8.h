/* The weight formats "int8" and "int8_a16": products of integers, exact whatever the level.
 *
 * Included by level.h, and by files of isa/ that have better instructions for them; the descriptors are made at the
 * end. The scheme: base/int8.h; weights: int8_pack.h; rows of x: int8_rows.h.
 *
 *     y = float(sum of products - zero * sum of the channel's integers) * (channel's scale * row's scale) + bias
 *
 * Each step is rounded once: what a level computes has the bits of what every other one does, up to the functions of
 * the epilogue. All of K is one sum.
 *
 * int8: a tile of INT8_ROWS x INT8_VECTORS, eight k a step. For 64 products a vector of AVX2 takes two vpmaddubsw,
 * whose second operands come from memory, vpaddw, vpmaddwd and vpaddd: 5 instructions where FMAs take 8. With VNNI it
 * is vpdpbusd alone, twice. Zen 3, 512 rows, 768 -> 3072, alone in a prototype: 228 GOP/s as 4 x 3, 219 as 6 x 2;
 * float32 97.
 *
 * int8_a16: x in 16 bits, bytes of the weight widened by their load, vpmaddwd and vpaddd. Four k of a column make two
 * sums, added at the end: a vector has half as many columns. INT16_ROWS x 2, 144 GOP/s as 6 x 2; one and two rows,
 * which memory limits, take a whole panel in one pass.
 *
 * Both take eight k a step and fetch in the first steps of a tile alone. Four k a step with a prefetch in each took the
 * tile of int8_a16 1.2 to 1.3 times as long where another thread shared the core, which halves what it decodes, and
 * 1.03 times alone.
 *
 * INT8_UNBOUNDED, where vpmaddubsw would saturate: x of "int8" in 16 bits through the tile of int8_a16, the same sums.
 *
 * What lost on Zen 3: signed x by the trick of signs, 137 GOP/s; one vpmaddubsw for each vpmaddwd, 183 GOP/s as 4 x 3,
 * 182 as 6 x 2, 188 as 3 x 4, 171 as 12 x 1, for which weights have to be bounded by twos only (base/int8.h); that, and
 * the sums of four where a block of a panel happens to be bounded so: 6 to 15 % of MiniLM's blocks are, half of those
 * of the layers that end a feed-forward; the ones of vpmaddwd from memory, which saves the spill of a sum: twelve loads
 * more a step, no faster. */
#ifndef TFAST_KERNELS_GEMM_INT8_H
#define TFAST_KERNELS_GEMM_INT8_H

#include "../../base/int8.h"
#include "epilogue.h"
#include "prefetch.h"

/* Where products of bytes go through 16 bits, NEON needs two registers for them, four for their operands, and repeats
 * those of x: with eight rows gcc 12 spills 13 of 24 sums. */
#if V_LANES == 4 && VI_DOT_BYTES_IS_BOUNDED
#define INT8_TILE_ROWS 4
#else
#define INT8_TILE_ROWS TILE_ROWS
#endif
/* A panel of the 16-lane levels is two vectors: a row of it is a row of two tiles of the tile unit, which reads the
 * same weights (isa/amx/gemm_int8.h) 64 k at a time. */
#if V_LANES == 16
enum { INT8_ROWS = 8, INT8_VECTORS = 2, INT8_K_GROUP = 64, INT16_ROWS = 8 };
#else
enum {
    INT8_ROWS = INT8_TILE_ROWS,
    INT8_VECTORS = TILE_VECTORS,
    INT8_K_GROUP = INT8_RUN_SPAN,
    INT16_ROWS = V_LANES == 8 ? 6 : 4
};
#endif
enum { INT8_PANEL = INT8_VECTORS * V_LANES, INT8_GROUP_BYTES = INT8_PANEL * 4 };
/* Rows of x come in so many: the tile unit reads whole tiles. */
#if !defined(INT8_ROW_UNIT)
#define INT8_ROW_UNIT INT8_ROWS_TOGETHER
#endif
_Static_assert(INT8_ROWS* INT8_VECTORS + 3 <= V_REGISTERS || V_LANES == 4,
               "the sums of the tile, a value of x, ones and a product must fit in the registers");
_Static_assert(INT16_ROWS * 2 + 4 <= V_REGISTERS,
               "the sums of the tile for 16 bits, two vectors of weights, a value of x and a product must fit");

#include "int8_pack.h"
#include "int8_rows.h"

/* Rows of one panel. */
typedef struct {
    int64_t steps; /* of the tile */
    const char* x;
    int64_t x_stride; /* bytes */
    const char* w;
    const int8_row* row;
    const tfast_int8_side* side;
    const float* bias; /* or NULL */
    float* y;
    int64_t y_stride, n;
    const float* residual; /* or NULL; may be y */
    int64_t residual_stride;
    /* Fetched in the first `fetches` steps of a tile, `fetch` bytes each: what the next call reads, or this one a
     * little later. */
    const char* next;
    int64_t fetch, fetches;
    const float* written; /* or NULL: rows of a panel's width that are fetched before they are written */
    int64_t written_stride;
} int8_tile_args;

/* A vector of columns: what their sums meet on the way to y. */
typedef struct {
    vi sum;
    vf scale, bias;
    int64_t at; /* the first of them */
    int64_t n;  /* that exist */
} int8_columns;

V_INLINE int8_columns columns_of(const int8_tile_args* t, int j) {
    int8_columns c = {.at = j * V_LANES, .n = t->n - j * V_LANES};
    c.sum = vi_load(t->side->sum + c.at);
    c.scale = v_load(t->side->scale + c.at);
    c.bias = v_set1(-0.0f); /* which adds nothing, to -0 neither */
    if (t->bias && c.n > 0) c.bias = load_upto(t->bias + c.at, c.n < V_LANES, c.n);
    return c;
}

/* Their sums in one row to y. `offset`, a constant: rows have a zero; `whole`, another: all columns exist. */
V_INLINE void finish_int8(const int8_tile_args* t, const int8_columns* c, int row, vi sum, const int offset,
                          const int whole) {
    if (!whole && c->n <= 0) return;
    const int cut = !whole && c->n < V_LANES;
    const int8_row r = t->row[row];
    if (offset) sum = vi_sub(sum, vi_mul(vi_set1(r.zero), c->sum));
    vf y = v_add(v_mul(v_from_int(sum), v_mul(c->scale, v_set1(r.scale))), c->bias);
    if (t->residual) y = v_add(y, load_upto(t->residual + row * t->residual_stride + c->at, cut, c->n));
    float* to = t->y + row * t->y_stride + c->at;
    if (cut)
        v_store_n(to, y, c->n);
    else
        v_store(to, y);
}

/* Where the sums go: through scratch and the epilogue, or straight to y, with the residual. */
static void finish_to(const tfast_gemm_call* p, int8_tile_args* t) {
    const int epilogue = p->activation != TFAST_IDENTITY || p->multiply;
    t->bias = p->bias;
    t->y = epilogue ? p->sums : p->y;
    t->y_stride = epilogue ? INT8_PANEL : p->y_stride;
    t->n = p->n;
    t->residual = epilogue ? NULL : p->residual;
    t->residual_stride = p->residual_stride;
}

/* After the tile of rows [i, i + m): its epilogue, and the next rows. */
static void finish_rows_of_tile(const tfast_gemm_call* p, int8_tile_args* t, int64_t i, int64_t m) {
    if (t->y == p->sums)
        epilogue_rows(p, p->sums, INT8_PANEL, i, m);
    else
        t->y += m * t->y_stride;
    if (t->residual) t->residual += m * t->residual_stride;
    t->x += m * t->x_stride;
    t->row += m;
}

/* Eight k of a tile of bytes. */
#if defined(VI_DOT_TAKES_MATRICES)
/* sum[i][j] and sum[i + 1][j], i even, are of rows i and i + 1, and of the first and the last two columns of vector j:
 * two rows by two columns each. The partner of the last of an odd number of rows is any. */
V_INLINE void int8_step(const char* x, int64_t x_stride, const char* w, const int m, vi sum[][INT8_VECTORS]) {
    vi a[INT8_ROWS / 2];
#pragma GCC unroll 4
    for (int i = 0; i < m; i += 2) a[i / 2] = vi_load(x + i * x_stride);
#pragma GCC unroll 8
    for (int j = 0; j < 2 * INT8_VECTORS; j++) {
        const vi b = vi_load(w + j % 2 * INT8_GROUP_BYTES + j / 2 * 4 * V_LANES);
#pragma GCC unroll 4
        for (int i = 0; i < m; i += 2) sum[i + j % 2][j / 2] = vi_dot_matrices(sum[i + j % 2][j / 2], a[i / 2], b);
    }
}
#elif defined(VI_DOT_TAKES_FACTOR)
V_INLINE void int8_step(const char* x, int64_t x_stride, const char* w, const int m, vi sum[][INT8_VECTORS]) {
#pragma GCC unroll 2
    for (int four = 0; four < 2; four++, x += 4, w += INT8_GROUP_BYTES) {
        vi b[INT8_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < INT8_VECTORS; j++) b[j] = vi_load(w + j * 4 * V_LANES);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            const vi_factor a = vi_load_factor(x + i * x_stride);
#pragma GCC unroll 4
            for (int j = 0; j < INT8_VECTORS; j++) sum[i][j] = vi_dot_by(sum[i][j], b[j], a);
        }
    }
}
#else
V_INLINE void int8_step(const char* x, int64_t x_stride, const char* w, const int m, vi sum[][INT8_VECTORS]) {
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        const vi x0 = vi_repeat_4(x + i * x_stride), x1 = vi_repeat_4(x + i * x_stride + 4);
#pragma GCC unroll 4
        for (int j = 0; j < INT8_VECTORS; j++) {
            const char* at = w + j * 4 * V_LANES;
            sum[i][j] = vi_dot_bytes(sum[i][j], x0, vi_load(at), x1, vi_load(at + INT8_GROUP_BYTES));
        }
    }
}
#endif
enum {
    INT8_STEP_K = 8,
    INT8_STEP_X = INT8_STEP_K * INT8_ROWS_TOGETHER,
    INT8_STEP_BYTES = INT8_STEP_K / 4 * INT8_GROUP_BYTES
};
_Static_assert((int)INT8_STEP_BYTES <= (int)MAX_FETCH, "a step must be able to fetch as much as it reads");
_Static_assert((int)INT8_STEP_K == (int)INT8_RUN_SPAN && (int)INT8_K_GROUP % (int)INT8_STEP_K == 0,
               "a step must be what the bound of a run is for, and a packed group must be whole steps");

V_INLINE void finish_int8_tile(const int8_tile_args* t, const int m, vi sum[][INT8_VECTORS], const int whole) {
#pragma GCC unroll 4
    for (int j = 0; j < INT8_VECTORS; j++) {
#if defined(VI_DOT_TAKES_MATRICES)
#pragma GCC unroll 4
        for (int i = 0; i < m; i += 2) {
            const vi first = sum[i][j], last = sum[i + 1][j];
            sum[i][j] = vi_low_halves(first, last);
            sum[i + 1][j] = vi_high_halves(first, last);
        }
#endif
        const int8_columns columns = columns_of(t, j);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) finish_int8(t, &columns, i, sum[i][j], 1, whole);
    }
}

/* `m` is a constant. The first steps fetch the rows of y, since a store that misses the caches would keep the next tile
 * waiting (gemm/tile.h), and what is wanted next; the others do nothing besides: where another thread shares the core,
 * instructions are the limit. */
V_INLINE void int8_tile(const int8_tile_args* t, const int m) {
    vi sum[INT8_ROWS][INT8_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < INT8_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < INT8_VECTORS; j++) sum[i][j] = vi_zero();
    const char *x = t->x, *w = t->w, *next = t->next;
    const float* written = t->written;
    const int64_t x_stride = t->x_stride, fetch = t->fetch, rows = written ? TFAST_MIN(m, t->steps) : 0;
    const int64_t fetches = TFAST_MIN(t->fetches, t->steps - rows);
    for (int64_t k = rows; k > 0; k--, x += INT8_STEP_X, w += INT8_STEP_BYTES, written += t->written_stride) {
        int8_step(x, x_stride, w, m, sum);
        for (int j = 0; j < INT8_PANEL; j += 16) __builtin_prefetch(written + j, 1);
    }
    for (int64_t k = fetches; k > 0; k--, x += INT8_STEP_X, w += INT8_STEP_BYTES, next += fetch) {
        __builtin_prefetch(next, 0, 2);
        fetch_step(next, fetch);
        int8_step(x, x_stride, w, m, sum);
    }
    for (int64_t k = t->steps - rows - fetches; k > 0; k--, x += INT8_STEP_X, w += INT8_STEP_BYTES)
        int8_step(x, x_stride, w, m, sum);
    if (t->n == INT8_PANEL)
        finish_int8_tile(t, m, sum, 1);
    else
        finish_int8_tile(t, m, sum, 0);
}

enum { HALVES = 2 * INT8_VECTORS }; /* of a panel: vectors of V_LANES / 2 columns, two sums each */
/* Up to so many rows take all halves at once. */
enum { INT16_WIDE_ROWS = 2 };
_Static_assert(INT16_WIDE_ROWS* HALVES <= INT16_ROWS * 2 || V_LANES == 4,
               "the sums of the wide tile must fit where those of the tile do");

/* Eight k of a tile of 16-bit integers. */
V_INLINE void int16_step(const char* x, int64_t x_stride, const char* w, const int m, const int vectors,
                         vi sum[][HALVES]) {
#pragma GCC unroll 2
    for (int four = 0; four < INT8_STEP_K / 4; four++, x += 8, w += INT8_GROUP_BYTES) {
        vi b[HALVES];
#pragma GCC unroll 8
        for (int j = 0; j < 2 * vectors; j++) b[j] = vi_widen_bytes(w + j * 2 * V_LANES);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            const vi a = vi_repeat_8(x + i * x_stride);
#pragma GCC unroll 8
            for (int j = 0; j < 2 * vectors; j++) sum[i][j] = vi_dot_shorts(sum[i][j], a, b[j]);
        }
    }
}

V_INLINE void finish_int16_tile(const int8_tile_args* t, const int m, const int first, const int vectors,
                                vi sum[][HALVES], const int offset, const int whole) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) {
        const int8_columns columns = columns_of(t, first + j);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++)
            finish_int8(t, &columns, i, vi_add_pairs(sum[i][2 * j], sum[i][2 * j + 1]), offset, whole);
    }
}

/* Halves [2 * first, 2 * (first + vectors)) of a panel. m, vectors and offset are constants. */
V_INLINE void int16_tile(const int8_tile_args* t, const int m, const int first, const int vectors, const int offset) {
    vi sum[INT16_ROWS][HALVES];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 8
        for (int j = 0; j < 2 * vectors; j++) sum[i][j] = vi_zero();
    const char *x = t->x, *w = t->w + first * 4 * V_LANES, *next = t->next;
    const int64_t x_stride = t->x_stride, fetch = t->fetch, fetches = first ? 0 : TFAST_MIN(t->fetches, t->steps);
    for (int64_t k = fetches; k > 0; k--, x += 2 * INT8_STEP_K, w += INT8_STEP_BYTES, next += fetch) {
        __builtin_prefetch(next, 0, 2);
        fetch_step(next, fetch);
        int16_step(x, x_stride, w, m, vectors, sum);
    }
    for (int64_t k = t->steps - fetches; k > 0; k--, x += 2 * INT8_STEP_K, w += INT8_STEP_BYTES)
        int16_step(x, x_stride, w, m, vectors, sum);
    if (t->n == INT8_PANEL)
        finish_int16_tile(t, m, first, vectors, sum, offset, 1);
    else
        finish_int16_tile(t, m, first, vectors, sum, offset, 0);
}

/* Tiles of 1 to 8 rows; those that a level does not use do not exist. */
typedef void (*int8_tile_fn)(const int8_tile_args* t);
#define INT8_TILE(m)                                                                       \
    static __attribute__((noinline)) void KERNEL(int8_tile_##m)(const int8_tile_args* t) { \
        int8_tile(t, m);                                                                   \
    }
INT8_TILE(1)
INT8_TILE(2)
INT8_TILE(3)
INT8_TILE(4)
#if INT8_TILE_ROWS == 8
INT8_TILE(5)
INT8_TILE(6)
INT8_TILE(7)
INT8_TILE(8)
static const int8_tile_fn int8_tiles[] = {KERNEL(int8_tile_1), KERNEL(int8_tile_2), KERNEL(int8_tile_3),
                                          KERNEL(int8_tile_4), KERNEL(int8_tile_5), KERNEL(int8_tile_6),
                                          KERNEL(int8_tile_7), KERNEL(int8_tile_8)};
#else
static const int8_tile_fn int8_tiles[] = {KERNEL(int8_tile_1), KERNEL(int8_tile_2), KERNEL(int8_tile_3),
                                          KERNEL(int8_tile_4)};
#endif
_Static_assert(sizeof int8_tiles / sizeof *int8_tiles == INT8_ROWS, "there must be a tile for each number of rows");

/* `offset` is the suffix and the constant of int16_tile. */
#define INT16_TILE(m, offset)                                                                          \
    static __attribute__((noinline)) void KERNEL(int16_tile_##m##_##offset)(const int8_tile_args* t) { \
        if (m <= INT16_WIDE_ROWS) {                                                                    \
            int16_tile(t, m, 0, INT8_VECTORS, offset);                                                 \
            return;                                                                                    \
        }                                                                                              \
        int16_tile(t, m, 0, 1, offset);                                                                \
        int16_tile(t, m, 1, 1, offset);                                                                \
        if (INT8_VECTORS > 2) int16_tile(t, m, INT8_VECTORS - 1, 1, offset);                           \
    }
_Static_assert(INT8_VECTORS == 2 || INT8_VECTORS == 3, "INT16_TILE has two or three vectors");
#define INT16_NAME(m, offset)    KERNEL(int16_tile_##m##_##offset)
#define INT16_TILES_TO_4(offset) INT16_TILE(1, offset) INT16_TILE(2, offset) INT16_TILE(3, offset) INT16_TILE(4, offset)
#define INT16_NAMES_TO_4(offset) \
    INT16_NAME(1, offset), INT16_NAME(2, offset), INT16_NAME(3, offset), INT16_NAME(4, offset)
#define INT16_TILES_TO_6(offset) INT16_TILES_TO_4(offset) INT16_TILE(5, offset) INT16_TILE(6, offset)
#define INT16_NAMES_TO_6(offset) INT16_NAMES_TO_4(offset), INT16_NAME(5, offset), INT16_NAME(6, offset)
#if V_LANES == 4
#define INT16_TILES(offset) INT16_TILES_TO_4(offset)
#define INT16_NAMES(offset) {INT16_NAMES_TO_4(offset)}
#elif V_LANES == 8
#define INT16_TILES(offset) INT16_TILES_TO_6(offset)
#define INT16_NAMES(offset) {INT16_NAMES_TO_6(offset)}
#else
#define INT16_TILES(offset) INT16_TILES_TO_6(offset) INT16_TILE(7, offset) INT16_TILE(8, offset)
#define INT16_NAMES(offset) {INT16_NAMES_TO_6(offset), INT16_NAME(7, offset), INT16_NAME(8, offset)}
#endif
INT16_TILES(0)
static const int8_tile_fn int16_tiles[] = INT16_NAMES(0);
_Static_assert(sizeof int16_tiles / sizeof *int16_tiles == INT16_ROWS, "there must be a tile for each number of rows");
#if VI_DOT_BYTES_IS_BOUNDED /* else INT8_UNBOUNDED is INT8 */
INT16_TILES(1)
static const int8_tile_fn int16_offset_tiles[] = INT16_NAMES(1);
_Static_assert(sizeof int16_offset_tiles == sizeof int16_tiles, "there must be a tile for each number of rows");
#endif

/* All rows of a panel, `rows_a_tile` at a time: `tiles[i]` takes i + 1. `bytes`: of a value of x. */
static void int8_panel_rows(const tfast_gemm_call* p, const int8_tile_fn* tiles, const int rows_a_tile,
                            const int bytes) {
    const int64_t steps = tfast_ceil_div(p->k, INT8_STEP_K);
    int8_tile_args t = {.steps = steps,
                        .x = p->rows,
                        .x_stride = int8_row_stride(p->k, bytes),
                        .w = p->b,
                        .row = int8_rows_of(p->rows, p->m, p->k, bytes),
                        .side = &p->side,
                        .next = p->b};
    finish_to(p, &t);
    const int64_t n_tiles = tfast_ceil_div(p->m, rows_a_tile);
    int64_t wanted = 0; /* bytes that each tile fetches */
    if (n_tiles == 1) { /* memory is the limit */
        t.next = t.w + STREAM_AHEAD;
        wanted = steps * INT8_STEP_BYTES;
    } else {
        if (p->next_k) {
            t.next = p->next;
            wanted = tfast_ceil_div(steps * INT8_STEP_BYTES, n_tiles);
        }
        t.written = p->y;
        t.written_stride = p->y_stride;
    }
    /* The first steps fetch rows of y. */
    const int64_t free_steps = TFAST_MAX(1, t.written ? steps - rows_a_tile : steps);
    t.fetch = TFAST_MIN(MAX_FETCH, tfast_round_up(tfast_ceil_div(wanted, free_steps), 64));
    t.fetches = t.fetch ? tfast_ceil_div(wanted, t.fetch) : 0;
    for (int64_t i = 0; i < p->m; i += rows_a_tile) {
        const int64_t m = TFAST_MIN(rows_a_tile, p->m - i);
        tiles[m - 1](&t);
        finish_rows_of_tile(p, &t, i, m);
        t.next += t.fetches * t.fetch;
        if (t.written) t.written += m * t.written_stride;
    }
}

static void KERNEL(int8_panel)(const tfast_gemm_call* p) {
    int8_panel_rows(p, int8_tiles, INT8_ROWS, 1);
}

static void KERNEL(int8_a16_panel)(const tfast_gemm_call* p) {
    int8_panel_rows(p, int16_tiles, INT16_ROWS, 2);
}

static size_t KERNEL(int8_prepared_bytes)(int64_t m, int64_t k) {
    return int8_rows_bytes(m, k, 1);
}

static size_t KERNEL(int16_prepared_bytes)(int64_t m, int64_t k) {
    return int8_rows_bytes(m, k, 2);
}

static void KERNEL(int8_prepare)(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* factor,
                                 int32_t x_limit, void* rows) {
    (void)x_limit;
    int8_row* row = int8_rows_of(rows, m, k, 1);
    for (int64_t i = 0; i < m; i++)
        row[i] = quantise_row(a + i * a_stride, factor, k, 1, (char*)rows + int8_row_at(i, k));
}

static void KERNEL(int8_a16_prepare)(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* factor,
                                     int32_t x_limit, void* rows) {
    (void)factor;
    int8_row* row = int8_rows_of(rows, m, k, 2);
    for (int64_t i = 0; i < m; i++)
        row[i] = quantise_row_to_16_bits(a + i * a_stride, k, x_limit, (char*)rows + i * int8_row_stride(k, 2));
}

#if VI_DOT_BYTES_IS_BOUNDED
static void KERNEL(int8_unbounded_panel)(const tfast_gemm_call* p) {
    int8_panel_rows(p, int16_offset_tiles, INT16_ROWS, 2);
}

static void KERNEL(int8_unbounded_prepare)(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* factor,
                                           int32_t x_limit, void* rows) {
    (void)x_limit;
    int8_row* row = int8_rows_of(rows, m, k, 2);
    for (int64_t i = 0; i < m; i++)
        row[i] = quantise_row(a + i * a_stride, factor, k, 2, (char*)rows + i * int8_row_stride(k, 2));
}
#endif

/* 96 rows compute longer than their panel takes to arrive from L3, as in gemm/panel.h: a quarter of the bytes for half
 * the time. */
enum { INT8_MIN_ROW_BLOCK = 96 };

#define INT8_GEMM(format_, rows_, panel_, prepared_bytes_, prepare_, pack_)       \
    {                                                                             \
        .layout = {format_, INT8_PANEL, INT8_K_GROUP, INT8_K_GROUP * INT8_PANEL}, \
        .column_pairs = INT8_COLUMN_PAIRS,                                        \
        .integers = 1,                                                            \
        .tile_rows = rows_,                                                       \
        .k_unit = INT8_K_GROUP,                                                   \
        .max_k_block = INT8_MAX_K,                                                \
        .min_row_block = INT8_MIN_ROW_BLOCK,                                      \
        .panel = KERNEL(panel_),                                                  \
        .prepared_bytes = KERNEL(prepared_bytes_),                                \
        .prepare = KERNEL(prepare_),                                              \
        .pack = KERNEL(pack_),                                                    \
        .unpack = KERNEL(int8_unpack),                                            \
    }

static const tfast_gemm int8_gemm =
    INT8_GEMM(TFAST_FORMAT_INT8, INT8_ROWS, int8_panel, int8_prepared_bytes, int8_prepare, int8_pack);
static const tfast_gemm int8_a16_gemm = INT8_GEMM(TFAST_FORMAT_INT8_A16, INT16_ROWS, int8_a16_panel,
                                                  int16_prepared_bytes, int8_a16_prepare, int8_pack_unbounded);
#if VI_DOT_BYTES_IS_BOUNDED
static const tfast_gemm int8_unbounded_gemm =
    INT8_GEMM(TFAST_FORMAT_INT8_UNBOUNDED, INT16_ROWS, int8_unbounded_panel, int16_prepared_bytes,
              int8_unbounded_prepare, int8_pack_unbounded);
#else
static const tfast_gemm int8_unbounded_gemm = INT8_GEMM(TFAST_FORMAT_INT8_UNBOUNDED, INT8_ROWS, int8_panel,
                                                        int8_prepared_bytes, int8_prepare, int8_pack_unbounded);
#endif

#endif
