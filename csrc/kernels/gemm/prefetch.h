/* Prefetching between the steps of a tile: what will be needed next arrives while the FMAs run.
 *
 * Used by gemm/tile.h (a stream is part of its arguments), attention (which lists K, V, Q, outputs and bias rows) and
 * the matrix engine. A list holds stretches of memory; each tile fetches a share of the last one. */
#ifndef TFAST_KERNELS_GEMM_PREFETCH_H
#define TFAST_KERNELS_GEMM_PREFETCH_H

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

static inline void add_ahead(ahead_list* list, const char* at, int64_t rows, int64_t row_bytes, int64_t stride) {
    if (rows <= 0 || row_bytes <= 0 || list->parts == MAX_AHEAD) return;
    if (stride == row_bytes) {
        row_bytes *= rows;
        rows = 1;
    }
    list->part[list->parts++] = (ahead_t){at, rows, row_bytes, stride, 0};
}

/* What one tile fetches: `step` bytes a step of k from `at` on; where skip is not 0, after so many `steps` it goes on
 * `skip` bytes behind the place where they began. */
typedef struct {
    const char* at; /* or NULL: nothing */
    int64_t step, steps, skip;
} stream_t;

/* What the first prefetch of a step leaves where the step is more than a line: up to MAX_FETCH bytes. */
enum { MAX_FETCH = 256 };
V_INLINE void fetch_step(const char* next, int64_t step) {
    if (step > 64) __builtin_prefetch(next + 64, 0, 2);
    if (step > 128) __builtin_prefetch(next + 128, 0, 2);
    if (step > 192) __builtin_prefetch(next + 192, 0, 2);
}

/* Sets up what each of the next tiles of k steps fetches of the list's last stretch; returns how many of its rows, 0
 * for bytes in a row. */
static inline int64_t begin_stream(stream_t* s, const ahead_list* list, int64_t k) {
    const ahead_t* a = &list->part[list->parts - 1];
    const int64_t bytes = list->lines_per_tile * 64;
    s->at = a->at + a->done;
    s->skip = 0;
    s->step = tfast_ceil_div(bytes, k);
    if (a->rows == 1) return 0;
    const int64_t rows = TFAST_MAX(1, bytes / a->row_bytes), lines = tfast_ceil_div(a->row_bytes, 64);
    s->steps = TFAST_MAX(tfast_ceil_div(k, rows), TFAST_MIN(lines, k)); /* a line a step at most */
    s->step = tfast_ceil_div(a->row_bytes, s->steps);
    s->skip = a->stride;
    return tfast_ceil_div(k, s->steps);
}

/* After a tile: moves on, to the next stretch where this one is through. `rows` is what begin_stream returned, and so
 * is the result. The list may be NULL: the stream then goes on without end. */
static inline int64_t advance_stream(stream_t* s, ahead_list* list, int64_t rows, int64_t k) {
    const int64_t moved = rows ? rows * s->skip : s->step * k;
    s->at += moved;
    if (!list) return rows;
    ahead_t* a = &list->part[list->parts - 1];
    if (rows) {
        a->at += moved;
        a->rows -= rows;
        if (a->rows > 0) return rows;
    } else {
        a->done += moved;
        if (a->done < a->row_bytes) return rows;
    }
    s->at = NULL;
    return --list->parts ? begin_stream(s, list, k) : rows;
}

#endif
