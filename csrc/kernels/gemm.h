/* The register tile that every product of the library goes through, and the linear layer's kernels on top of it.
 *
 * Used by: gemm_f32_panel and gemm_f32_pack (linear layers, matmul), and by attention.h, whose two products are the
 * same tile.
 *
 *   tile:   C (m x nv vectors) += A (m x k) * B (k x panel)        m <= MR, nv <= NV, panel = NV * V_LANES floats
 *
 *           B: one row of a packed panel = NV vector loads   | b0 b1 b2 |
 *           A: one broadcast a row, each used NV times       a0 | c00 c01 c02 |
 *                                                            a1 | c10 c11 c12 |   ...
 *
 *   A is addressed as a[i * row_stride + k * col_stride]: rows of a matrix in place (col_stride 1: x of a linear layer,
 * K of attention) or columns of it (row_stride 1: V of attention). Nothing but B is ever packed.
 *
 * Register budget: AVX-512 8 x 3: 24 accumulators + 3 of B + 1 broadcast of 32; AVX2 4 x 3: 12 + 3 + 1 of 16; baseline
 * 4 x 2. Loads for each FMA: (8 + 3) / 24 = 0.46; the tile 12 x 2 has 0.58 and its rows of A need twelve streams.
 * Measured with operands in L1, AVX-512 server core (Granite Rapids), of the FMA peak: 8x3 0.91-0.97, 9x3 0.90-0.98,
 * 6x4 0.89-0.98, 12x2 0.87-0.90, 14x2 0.86-0.96, 5x5 0.83-0.96. 8 divides the usual head widths, 9 does not. */
#ifndef TFAST_KERNELS_GEMM_H
#define TFAST_KERNELS_GEMM_H

#define PANEL (TILE_VECTORS * V_LANES)

/* A sum of 192 products has less than half the rounding error of one of 1,024. */
enum { MAX_K_BLOCK = 192 };
/* Of 48 columns: 96 rows compute 2.7 times as long as their panel takes to arrive from L3. */
enum { MIN_BLOCK_ROWS = 96 };

/* Memory that will be needed next, in rows: fetched into L2 between the steps of the tiles, evenly, so that it arrives
 * while the FMAs run. Zen 5, 96 rows, 768 -> 768, of the FMA peak: a panel's 48 lines before each tile 0.91, between
 * its steps 0.96, not at all 0.96 (in L2) and less from L3. */
typedef struct {
    const char* at;
    int64_t rows, row_bytes, stride; /* stride in bytes */
    int64_t done;                    /* bytes of the row at `at` */
} ahead_t;

enum { MAX_AHEAD = 8 };

typedef struct {
    ahead_t part[MAX_AHEAD];
    int parts;
    int64_t lines_per_tile;
} ahead_list;

/* Bytes. Weights from memory (154 MB), GB/s where reading alone gives 16: one row 13.9 without and 14.5 with, four 10.1
 * and 12.0, eight 8.2 and 10.4; 2 to 16 KB are alike, 32 KB is slower; weights in cache: no difference. */
enum { STREAM_AHEAD = 8192 };

static void add_ahead(ahead_list* list, const char* at, int64_t rows, int64_t row_bytes, int64_t stride) {
    if (rows <= 0 || row_bytes <= 0 || list->parts == MAX_AHEAD) return;
    if (stride == row_bytes) {
        row_bytes *= rows;
        rows = 1;
    }
    list->part[list->parts++] = (ahead_t){at, rows, row_bytes, stride, 0};
}

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
    int64_t n;          /* columns of C that exist */
    ahead_list* ahead;  /* or NULL */
    const char* stream; /* or NULL: what is fetched between the steps of k, stream_step bytes a step */
    int64_t stream_step;
    int64_t stream_steps,
        stream_skip;  /* after so many steps so many bytes further from where they began; skip 0: never */
    const float* y;   /* or NULL: rows of a panel's width that the tile or its epilogue writes, out of cache maybe: */
    int64_t y_stride; /* with a stream, they are fetched in the first steps of k */
} tile_args;

V_INLINE vf load_upto(const float* p, int cut, int64_t n) {
    return cut ? v_load_n(p, n) : v_load(p);
}

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
        const vf x = v_set1(a[i * row_stride]);
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) acc[i][j] = v_fma(x, bk[j], acc[i][j]);
    }
}

V_INLINE void tile_sums(const tile_args* t, const int m, const int nv, vf acc[TILE_ROWS][TILE_VECTORS]) {
    const float *a = t->a, *b = t->b;
    for (int64_t k = t->k; k > 0; k--, a += t->col_stride, b += PANEL)
        tile_step(a, t->row_stride, b, 0, NULL, m, nv, acc);
}

/* What tile_step leaves of a step of more than a line. */
V_INLINE void fetch_step(const char* next, int64_t step) {
    if (step > 64) __builtin_prefetch(next + 64, 0, 2);
    if (step > 128) __builtin_prefetch(next + 128, 0, 2);
}

/* tile_sums, and memory that is wanted later, in a row. The rows of y come first: a store that misses the caches keeps
 * those behind it waiting, up to the sums of the next tile. Zen 4, 1024 rows, 384 -> 1536: 0.918 of the peak without,
 * 0.936 with; into L2 alone 0.920. */
V_INLINE void tile_sums_streaming(const tile_args* t, const int m, const int nv, vf acc[TILE_ROWS][TILE_VECTORS]) {
    const float *a = t->a, *b = t->b, *y = t->y;
    const int64_t step = t->stream_step;
    const char* next = t->stream;
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

/* The same with rows that lie apart, t->stream_steps steps of k for each. */
V_INLINE void tile_sums_skipping(const tile_args* t, const int m, const int nv, vf acc[TILE_ROWS][TILE_VECTORS]) {
    const float *a = t->a, *b = t->b;
    const char* row = t->stream;
    for (int64_t k = t->k; k > 0; k -= t->stream_steps, row += t->stream_skip) {
        const char* next = row;
        for (int64_t i = TFAST_MIN(k, t->stream_steps); i > 0; i--, a += t->col_stride, b += PANEL) {
            tile_step(a, t->row_stride, b, 1, next, m, nv, acc);
            next += t->stream_step;
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
    if (!t->stream)
        tile_sums(t, m, nv, acc);
    else if (!t->stream_skip)
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

/* Sets up what each of the next tiles fetches of the list's last part; how many of its rows. */
static int64_t begin_stream(tile_args* t) {
    const ahead_t* a = &t->ahead->part[t->ahead->parts - 1];
    const int64_t bytes = t->ahead->lines_per_tile * 64;
    t->stream = a->at + a->done;
    t->stream_skip = 0;
    t->stream_step = tfast_ceil_div(bytes, t->k);
    if (a->rows == 1) return 0;
    const int64_t rows = TFAST_MAX(1, bytes / a->row_bytes), lines = tfast_ceil_div(a->row_bytes, 64);
    t->stream_steps = TFAST_MAX(tfast_ceil_div(t->k, rows), TFAST_MIN(lines, t->k)); /* a line a step at most */
    t->stream_step = tfast_ceil_div(a->row_bytes, t->stream_steps);
    t->stream_skip = a->stride;
    return tfast_ceil_div(t->k, t->stream_steps);
}

/* All m rows of A, MR at a time. Moves t->a, t->from and t->c on. What the list holds is fetched between the steps of
 * the tiles, evenly: prefetches in a row make the tile's own loads wait. */
static void tile_rows(tile_args* t, int64_t m, int64_t nv) {
    const int64_t c_step = TILE_ROWS * t->c_stride, from_step = TILE_ROWS * t->from_stride;
    const tile_fn* by_rows = tiles[nv - 1];
    ahead_list* list = t->ahead;
    int64_t rows = list && list->parts ? begin_stream(t) : 0;
    for (; m > 0; m -= TILE_ROWS) {
        by_rows[TFAST_MIN(m, TILE_ROWS) - 1](t);
        t->a += t->a_step;
        t->from += from_step;
        t->c += c_step;
        if (t->y) t->y += TILE_ROWS * t->y_stride;
        if (!t->stream) continue;
        const int64_t moved = rows ? rows * t->stream_skip : t->stream_step * t->k;
        t->stream += moved;
        if (!list) continue;
        ahead_t* a = &list->part[list->parts - 1];
        if (rows) {
            a->at += moved;
            a->rows -= rows;
            if (a->rows > 0) continue;
        } else {
            a->done += moved;
            if (a->done < a->row_bytes) continue;
        }
        t->stream = NULL;
        if (--list->parts) rows = begin_stream(t);
    }
    if (list) t->stream = NULL;
}

/* From sums that a tile has just stored, and that still lie in L1, to y: an activation has 6-20 instructions for the
 * K/16 FMAs of each vector, the extra load and store are two. Unrolled into the tile, seven activations would make its
 * code outgrow the instruction cache. Every element of the residual is read before y is written there: the two may be
 * one array. */
static void epilogue_rows(const tfast_gemm_panel* p, float* sums, int64_t row, int64_t m) {
    const int64_t whole = p->n / V_LANES * V_LANES, rest = p->n - whole;
    for (int64_t i = row; i < row + m; i++, sums += PANEL) {
        float *y = p->y + i * p->y_stride, *to = p->residual || p->multiply ? sums : y;
        if (p->activation != TFAST_IDENTITY) KERNEL(activation_f32_span)(p->n, sums, to, p->activation);
        if (p->multiply) {
            const float* f = p->multiply + i * p->multiply_stride;
            to = p->residual ? sums : y;
            for (int64_t j = 0; j < whole; j += V_LANES) v_store(to + j, v_mul(v_load(sums + j), v_load(f + j)));
            if (rest) v_store_n(to + whole, v_mul(v_load_n(sums + whole, rest), v_load_n(f + whole, rest)), rest);
        }
        if (p->residual) {
            const float* r = p->residual + i * p->residual_stride;
            for (int64_t j = 0; j < whole; j += V_LANES) v_store(y + j, v_add(v_load(sums + j), v_load(r + j)));
            if (rest) v_store_n(y + whole, v_add(v_load_n(sums + whole, rest), v_load_n(r + whole, rest)), rest);
        }
    }
}

static void KERNEL(gemm_f32_panel)(const tfast_gemm_panel* p) {
    const int64_t nv = tfast_ceil_div(p->n, V_LANES);
    const int epilogue = p->last && (p->activation != TFAST_IDENTITY || p->residual || p->multiply),
              direct = p->last && !epilogue;
    tile_args t = {.k = p->k,
                   .a = p->a,
                   .row_stride = p->a_stride,
                   .col_stride = 1,
                   .a_step = TILE_ROWS * p->a_stride,
                   .b = p->b,
                   .from = p->sums,
                   .from_stride = PANEL,
                   .c = direct ? p->y : p->sums,
                   .c_stride = direct ? p->y_stride : PANEL,
                   .end = !p->first ? END_ADD_C
                          : p->bias ? END_ADD_ROW
                                    : END_STORE,
                   .row = p->bias,
                   .n = p->n,
                   .y = p->last ? p->y : NULL,
                   .y_stride = p->y_stride};
    if (p->m > TILE_ROWS && p->next_bytes) {
        t.stream = (const char*)p->next;
        t.stream_step = tfast_ceil_div(p->next_bytes, p->k * tfast_ceil_div(p->m, TILE_ROWS));
    } else if (p->m <= TILE_ROWS) {
        t.stream = (const char*)p->b + STREAM_AHEAD;
        t.stream_step = PANEL * sizeof(float);
    }
    if (!epilogue) {
        tile_rows(&t, p->m, nv);
        return;
    }
    for (int64_t i = 0; i < p->m; i += TILE_ROWS) {
        const int64_t m = TFAST_MIN(TILE_ROWS, p->m - i);
        float* sums = t.c;
        tile_rows(&t, m, nv);
        epilogue_rows(p, sums, i, m);
    }
}

/* One block of V_LANES rows, transposed into columns [0, V_LANES) of the panel; rows from n on are 0. */
static void pack_block(const float* w, int64_t w_stride, int64_t n, int64_t k, float* panel) {
    vf x[V_LANES];
    int64_t d = 0;
    for (; n >= V_LANES && d + V_LANES <= k; d += V_LANES) { /* full blocks stay in registers */
#pragma GCC unroll 16
        for (int i = 0; i < V_LANES; i++) x[i] = v_load(w + i * w_stride + d);
        v_transpose(x);
#pragma GCC unroll 16
        for (int i = 0; i < V_LANES; i++) v_store(panel + (d + i) * PANEL, x[i]);
    }
    for (; d < k; d += V_LANES) {
        const int64_t width = TFAST_MIN(V_LANES, k - d);
        for (int64_t i = 0; i < V_LANES; i++)
            x[i] = i >= n             ? v_zero()
                   : width == V_LANES ? v_load(w + i * w_stride + d)
                                      : v_load_n(w + i * w_stride + d, width);
        v_transpose(x);
        for (int64_t i = 0; i < width; i++) v_store(panel + (d + i) * PANEL, x[i]);
    }
}

static void KERNEL(gemm_f32_pack)(const float* w, int64_t w_stride, int64_t n, int64_t k, float* panel) {
    for (int64_t j = 0; j < PANEL; j += V_LANES)
        pack_block(w + TFAST_MIN(j, n) * w_stride, w_stride, n - j, k, panel + j);
}

static void KERNEL(gemm_f32_pack_rows)(const float* b, int64_t b_stride, int64_t n, int64_t k, float* panel) {
    for (int64_t i = 0; i < k; i++, b += b_stride, panel += PANEL)
        for (int64_t j = 0; j < PANEL; j += V_LANES)
            v_store(panel + j, j + V_LANES <= n ? v_load(b + j) : j < n ? v_load_n(b + j, n - j) : v_zero());
}

#endif
