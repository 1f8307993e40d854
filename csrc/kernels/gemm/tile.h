/* The register tile that every product of the library goes through.
 *
 * Used by the weight formats (panel.h) for linear layers and matmul, and by attention, whose two products are the same
 * tile.
 *
 *   tile:   C (m x nv vectors) += A (m x k) * B (k x panel)        m <= MR, nv <= NV, panel = NV * V_LANES floats
 *
 *           B: one row of a packed panel = NV vector loads   | b0 b1 b2 |
 *           A: one broadcast a row, each used NV times       a0 | c00 c01 c02 |
 *                                                            a1 | c10 c11 c12 |   ...
 *
 *   A is addressed as a[i * row_stride + k * col_stride]: rows of a matrix in place (col_stride 1: x of a linear layer,
 * K of attention) or columns of it (row_stride 1: V of attention). Only B is packed.
 *
 * Register budget: AVX-512 8 x 3: 24 accumulators + 3 of B + 1 broadcast of 32; AVX2 4 x 3: 12 + 3 + 1 of 16; portable
 * 4 x 2. Loads for each FMA: (8 + 3) / 24 = 0.46; the tile 12 x 2 has 0.58 and its rows of A need twelve streams.
 * Measured with operands in L1, AVX-512 server core (Granite Rapids), of the FMA peak: 8x3 0.91-0.97, 9x3 0.90-0.98,
 * 6x4 0.89-0.98, 12x2 0.87-0.90, 14x2 0.86-0.96, 5x5 0.83-0.96. 8 divides the usual head widths, 9 does not. */
#ifndef TFAST_KERNELS_GEMM_TILE_H
#define TFAST_KERNELS_GEMM_TILE_H

#include "epilogue.h"
#include "prefetch.h"

/* A step of k: c + a * b. A file whose operands are pairs of bfloat16, which are as long as a float, says so before
 * (bf16_pairs.h); `k` counts pairs then. */
#if !defined(TILE_PRODUCT)
#define TILE_PRODUCT(a, b, c) v_fma_by(a, b, c)
#endif

#define PANEL (TILE_VECTORS * V_LANES)

/* What the tile's sum becomes: C, row + sum, C + sum, or C * row + sum, where `row` has one value a column. The sum
 * itself always begins at 0: adding a block of k at the end, rather than going on from C, keeps the rounding error that
 * of the block. */
typedef enum { END_STORE, END_ADD_ROW, END_ADD_C, END_SCALE_C } tile_end;

typedef struct {
    int64_t k; /* at least 1 where there is a list */
    const float* a;
    int64_t row_stride, col_stride;
    int64_t a_step; /* from one tile of rows to the next */
    const float* b;
    const float* from; /* C as it was: END_ADD_C and END_SCALE_C read it, which may be elsewhere than C */
    int64_t from_stride;
    float* c;
    int64_t c_stride;
    tile_end end;
    const float* row;
    int64_t n;         /* columns of C that exist */
    ahead_list* ahead; /* or NULL */
    stream_t stream;   /* what is fetched between the steps of k */
    const float* y;    /* or NULL: rows of a panel's width that the tile or its epilogue writes, out of cache maybe: */
    int64_t y_stride;  /* with a stream, they are fetched in the first steps of k */
} tile_args;

/* The accumulators to C. `end` and `partial` (the last vector has n_last columns only) are constants after inlining. */
V_INLINE void tile_finish(vf acc[TILE_ROWS][TILE_VECTORS], const int m, const int nv, const tile_args* t,
                          const tile_end end, const int partial, const int64_t n_last) {
    const int64_t c_stride = t->c_stride, from_stride = t->from_stride;
    const float *from = t->from, *row = t->row;
    float* c = t->c;
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
        const int cut = partial && j == nv - 1;
        const vf r = end == END_ADD_ROW || end == END_SCALE_C ? load_upto(row + j * V_LANES, cut, n_last) : v_zero();
        float* cj = c + j * V_LANES;
        const float* fj = from + j * V_LANES;
#pragma GCC unroll 16
        for (int i = 0; i < m; i++, cj += c_stride, fj += from_stride) {
            vf x = acc[i][j];
            if (end == END_ADD_ROW) x = v_add(x, r);
            if (end == END_ADD_C) x = v_add(x, load_upto(fj, cut, n_last));
            if (end == END_SCALE_C) x = v_fma(load_upto(fj, cut, n_last), r, x);
            if (cut)
                v_store_n(cj, x, n_last);
            else
                v_store(cj, x);
        }
    }
}

/* One step of k; with `fetch`, a constant, what `next` points to is fetched besides. */
V_INLINE void tile_step(const float* a, int64_t row_stride, const float* b, const int fetch, const char* next,
                        const int m, const int nv, vf acc[TILE_ROWS][TILE_VECTORS]) {
    vf bk[TILE_VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) bk[j] = v_load(b + j * V_LANES);
    if (fetch) __builtin_prefetch(next, 0, 2);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        const v_factor x = v_load_factor(a + i * row_stride);
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) acc[i][j] = TILE_PRODUCT(x, bk[j], acc[i][j]);
    }
}

V_INLINE void tile_sums(const tile_args* t, const int m, const int nv, vf acc[TILE_ROWS][TILE_VECTORS]) {
    const float *a = t->a, *b = t->b;
    for (int64_t k = t->k; k > 0; k--, a += t->col_stride, b += PANEL)
        tile_step(a, t->row_stride, b, 0, NULL, m, nv, acc);
}

/* tile_sums, and memory that is wanted later, in a row. The rows of y come first: a store that misses the caches keeps
 * those behind it waiting, up to the sums of the next tile. Zen 4, 1024 rows, 384 -> 1536: 0.918 of the peak without,
 * 0.936 with; into L2 alone 0.920. */
V_INLINE void tile_sums_streaming(const tile_args* t, const int m, const int nv, vf acc[TILE_ROWS][TILE_VECTORS]) {
    const float *a = t->a, *b = t->b, *y = t->y;
    const int64_t step = t->stream.step;
    const char* next = t->stream.at;
    const int64_t fetching = y ? TFAST_MIN(m, t->k) : 0;
    for (int64_t i = fetching; i > 0; i--, a += t->col_stride, b += PANEL, y += t->y_stride) {
        tile_step(a, t->row_stride, b, 1, next, m, nv, acc);
        for (int j = 0; j < nv * V_LANES; j += 16) __builtin_prefetch(y + j, 1);
        fetch_step(next, step);
        next += step;
    }
    for (int64_t k = t->k - fetching; k > 0; k--, a += t->col_stride, b += PANEL) {
        tile_step(a, t->row_stride, b, 1, next, m, nv, acc);
        fetch_step(next, step);
        next += step;
    }
}

/* The same with rows that lie apart, t->stream.steps steps of k for each. */
V_INLINE void tile_sums_skipping(const tile_args* t, const int m, const int nv, vf acc[TILE_ROWS][TILE_VECTORS]) {
    const float *a = t->a, *b = t->b;
    const char* row = t->stream.at;
    for (int64_t k = t->k; k > 0; k -= t->stream.steps, row += t->stream.skip) {
        const char* next = row;
        for (int64_t i = TFAST_MIN(k, t->stream.steps); i > 0; i--, a += t->col_stride, b += PANEL) {
            tile_step(a, t->row_stride, b, 1, next, m, nv, acc);
            next += t->stream.step;
        }
    }
}

/* `m` and `nv` are constants after inlining, so that the accumulators live in registers. */
V_INLINE void tile_body(const tile_args* t, const int m, const int nv) {
    vf acc[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) acc[i][j] = v_zero();
    if (!t->stream.at)
        tile_sums(t, m, nv, acc);
    else if (!t->stream.skip)
        tile_sums_streaming(t, m, nv, acc);
    else
        tile_sums_skipping(t, m, nv, acc);
    const int64_t n_last = t->n - (nv - 1) * V_LANES;
    const tile_end end = t->end;
    if (n_last < V_LANES) {
        tile_finish(acc, m, nv, t, end, 1, n_last);
        return;
    }
    switch (end) {
    case END_STORE:
        tile_finish(acc, m, nv, t, END_STORE, 0, 0);
        break;
    case END_ADD_ROW:
        tile_finish(acc, m, nv, t, END_ADD_ROW, 0, 0);
        break;
    case END_ADD_C:
        tile_finish(acc, m, nv, t, END_ADD_C, 0, 0);
        break;
    case END_SCALE_C:
        tile_finish(acc, m, nv, t, END_SCALE_C, 0, 0);
        break;
    }
}

typedef void (*tile_fn)(const tile_args* t);
#define TILE(m, nv)                                                                     \
    static __attribute__((noinline)) void KERNEL(tile_##m##x##nv)(const tile_args* t) { \
        tile_body(t, m, nv);                                                            \
    }
#define TILES(nv) TILE(1, nv) TILE(2, nv) TILE(3, nv) TILE(4, nv) TILES_ABOVE_4(nv)
#define TILE_NAMES(nv) \
    {KERNEL(tile_1x##nv), KERNEL(tile_2x##nv), KERNEL(tile_3x##nv), KERNEL(tile_4x##nv) TILE_NAMES_ABOVE_4(nv)}
_Static_assert(TILE_ROWS == 4 || TILE_ROWS == 8,
               "TILES makes tiles of 1 to 4 or 1 to 8 rows: TILE_ROWS must be one of them");
_Static_assert(TILE_VECTORS == 2 || TILE_VECTORS == 3,
               "tiles[] has two or three vectors: TILE_VECTORS must be one of them");
_Static_assert(V_LANES == 4 || V_LANES == 8 || V_LANES == 16, "transposes and unrolling know 4, 8 and 16 lanes");
_Static_assert(TILE_ROWS* TILE_VECTORS + TILE_VECTORS + 1 <= V_REGISTERS,
               "the tile's sums, a row of B and a value of A must fit in the registers");
#if TILE_ROWS == 8
#define TILES_ABOVE_4(nv)      TILE(5, nv) TILE(6, nv) TILE(7, nv) TILE(8, nv)
#define TILE_NAMES_ABOVE_4(nv) , KERNEL(tile_5x##nv), KERNEL(tile_6x##nv), KERNEL(tile_7x##nv), KERNEL(tile_8x##nv)
#else
#define TILES_ABOVE_4(nv)
#define TILE_NAMES_ABOVE_4(nv)
#endif
TILES(1)
TILES(2)
#if TILE_VECTORS == 3
TILES(3)
static const tile_fn tiles[TILE_VECTORS][TILE_ROWS] = {TILE_NAMES(1), TILE_NAMES(2), TILE_NAMES(3)};
#else
static const tile_fn tiles[TILE_VECTORS][TILE_ROWS] = {TILE_NAMES(1), TILE_NAMES(2)};
#endif

/* All m rows of A, MR at a time. Moves t->a, t->from and t->c on. What the list holds is fetched between the steps of
 * the tiles, evenly: prefetches in a row make the tile's own loads wait. */
static void tile_rows(tile_args* t, int64_t m, int64_t nv) {
    const int64_t c_step = TILE_ROWS * t->c_stride, from_step = TILE_ROWS * t->from_stride;
    const tile_fn* by_rows = tiles[nv - 1];
    ahead_list* list = t->ahead;
    int64_t rows = list && list->parts ? begin_stream(&t->stream, list, t->k) : 0;
    for (; m > 0; m -= TILE_ROWS) {
        by_rows[TFAST_MIN(m, TILE_ROWS) - 1](t);
        t->a += t->a_step;
        t->from += from_step;
        t->c += c_step;
        if (t->y) t->y += TILE_ROWS * t->y_stride;
        if (t->stream.at) rows = advance_stream(&t->stream, list, rows, t->k);
    }
    if (list) t->stream.at = NULL;
}

#endif
