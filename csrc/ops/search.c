/* Search: the k best of many corpus rows for each query, without ever holding all scores.
 *
 * Called by transformer_fast/_core.pyx. A further score: a way to fill `scores` in score_rows.
 *
 * The queries are the packed operand and the corpus is streamed as the rows of a linear layer: it is read once and
 * never copied, where packing it would write and read all of it once more. Granite Rapids, 1,000 queries and 200,000
 * rows of 384, one thread: 217 of 229 GFLOP/s of the FMA peak with AVX-512, 95 of 123 with AVX2. The linear layer of
 * the same operands gets 168 and 85 in the same run, since it writes all scores.
 *
 * A part of the corpus is one task. It goes through its rows block by block; a block's scores stay in L2 until `above`
 * has compared them with each query's k-th best, and what passes enters the query's heap. The parts' heaps are merged
 * at the end. The order (score, then lower index) is total, and a score has the bits of the linear layer's element,
 * which do not depend on the block: nor do the results, nor on parts and threads. */
#include "../tfast.h"

#include <math.h>

#include "../base/cpu.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "../tuning/tuning.h"

/* A block of scores takes half of L2, where the queries pass by it. */
#define SCORES_SHARE_OF_L2 0.5
#define MIN_BLOCK_ROWS     96 /* fewer read the queries too often: MIN_ROW_BLOCK of kernels/gemm/panel.h */
#define MAX_BLOCK_ROWS     768
#define PARTS_PER_THREAD   4
#define QUERIES_PER_MERGE  16
/* A word of bits: load, exclusive or, count, add. Granite Rapids: 0.37 ns in rows of 48 bytes, 0.54 in rows of 128;
 * four queries at a time took 0.32 and 0.35. */
#define HAMMING_WORD_NS 0.4

typedef struct {
    float score;
    int64_t index;
} entry_t;

typedef struct {
    const tfast_search* call;
    const tfast_row_kernels* kernels;
    int64_t block_rows, parts, rows_per_part;
    entry_t* heaps; /* (parts, Q, k): the worst entry first */
    float* limits;  /* (parts, Q): the score of the worst; NaN while a heap is not full */
    tfast_status status;
} plan_t;

/* Scratch of a thread, in this order. */
typedef struct {
    float *scores, *rows; /* (block_rows, Q), and (block_rows, K) where the corpus is not float32 */
    int32_t* found;
} scratch_t;

static int is_worse(const entry_t* a, const entry_t* b) {
    return a->score < b->score || (a->score == b->score && a->index > b->index);
}

/* Moves the entry at `i` of a heap of n down to its place. */
static void sift_down(entry_t* heap, int64_t n, int64_t i) {
    const entry_t moved = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_worse(&heap[child + 1], &heap[child])) child++;
        if (!is_worse(&heap[child], &moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void sift_up(entry_t* heap, int64_t i) {
    const entry_t moved = heap[i];
    for (; i > 0 && is_worse(&moved, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = moved;
}

/* Into a heap that holds `count` of its k entries. */
static void push(entry_t* heap, int64_t k, int64_t count, entry_t entry) {
    if (count < k) {
        heap[count] = entry;
        sift_up(heap, count);
    } else if (is_worse(&heap[0], &entry)) {
        heap[0] = entry;
        sift_down(heap, k, 0);
    }
}

static int64_t first_row(const plan_t* p, int64_t part) {
    return TFAST_MIN(part * p->rows_per_part, p->call->N);
}

/* Entries of a heap of `part` once all its rows were seen. */
static int64_t entries_of(const plan_t* p, int64_t part) {
    return TFAST_MIN(p->call->k, first_row(p, part + 1) - first_row(p, part));
}

static int64_t bytes_of(tfast_dtype dtype) {
    return dtype == TFAST_F32 ? 4 : dtype == TFAST_F16 || dtype == TFAST_BF16 ? 2 : 1;
}

static const void* corpus_row(const tfast_search* c, int64_t row) {
    return (const char*)c->corpus + row * c->stride * bytes_of(c->dtype);
}

/* m rows of the corpus as floats: in place, or widened into `to`. */
static const float* float_rows(const plan_t* p, int64_t row, int64_t m, float* to, int64_t* stride) {
    const tfast_search* c = p->call;
    *stride = c->stride;
    if (c->dtype == TFAST_F32) return corpus_row(c, row);
    for (int64_t i = 0; i < m; i++) p->kernels->widen(c->K, corpus_row(c, row + i), c->dtype, to + i * c->K);
    *stride = c->K;
    return to;
}

static float inverse_length(const plan_t* p, const float* row) {
    return 1.0f / fmaxf(sqrtf(p->kernels->squares(p->call->K, row)), 1e-12f);
}

/* Row `index` of the corpus meets all queries; `count` rows of the part came before it. */
static void keep_best(const plan_t* p, int64_t part, int64_t index, int64_t count, const float* scores, float factor,
                      int32_t* found) {
    const tfast_search* c = p->call;
    entry_t* heaps = p->heaps + part * c->Q * c->k;
    float* limits = p->limits + part * c->Q;
    const int64_t passed = p->kernels->above(c->Q, scores, factor, limits, found);
    for (int64_t i = 0; i < passed; i++) {
        const int64_t q = found[i];
        const entry_t entry = {scores[q] * factor, index};
        if (isnan(entry.score)) {
            __atomic_store_n(c->nan, 1, __ATOMIC_RELAXED);
            return;
        }
        entry_t* heap = heaps + q * c->k;
        push(heap, c->k, count, entry);
        if (count + 1 >= c->k) limits[q] = heap[0].score;
    }
}

static tfast_status score_rows(const plan_t* p, int64_t part, int64_t row, int64_t m, const scratch_t* s) {
    const tfast_search* c = p->call;
    const int64_t before = row - first_row(p, part);
    if (c->query_bits) {
        for (int64_t i = 0; i < m; i++) {
            p->kernels->hamming(c->Q, c->K, corpus_row(c, row + i), c->query_bits, c->K, s->scores);
            keep_best(p, part, row + i, before + i, s->scores, 1.0f, s->found);
        }
        return TFAST_OK;
    }
    tfast_linear product = {.M = m, .weight = c->queries, .y = s->scores, .y_stride = c->Q};
    product.x = float_rows(p, row, m, s->rows, &product.x_stride);
    const tfast_status status = tfast_linear_run(&product, 1);
    if (status != TFAST_OK) return status;
    for (int64_t i = 0; i < m; i++) {
        const float factor = c->cosine ? inverse_length(p, product.x + i * product.x_stride) : 1.0f;
        keep_best(p, part, row + i, before + i, s->scores + i * c->Q, factor, s->found);
    }
    return TFAST_OK;
}

static size_t scratch_bytes(const plan_t* p) {
    const tfast_search* c = p->call;
    const size_t scores = tfast_align64((size_t)((c->query_bits ? 1 : p->block_rows) * c->Q) * sizeof(float));
    const size_t rows = c->dtype == TFAST_F32 ? 0 : tfast_align64((size_t)(p->block_rows * c->K) * sizeof(float));
    return scores + (c->query_bits ? 0 : rows) + (size_t)c->Q * sizeof(int32_t);
}

static scratch_t place_scratch(const plan_t* p, void* area) {
    const tfast_search* c = p->call;
    scratch_t s = {.scores = area};
    s.rows =
        (float*)((char*)area + tfast_align64((size_t)((c->query_bits ? 1 : p->block_rows) * c->Q) * sizeof(float)));
    s.found = (int32_t*)((char*)area + scratch_bytes(p) - (size_t)c->Q * sizeof(int32_t));
    return s;
}

static void run_part(void* ctx, int64_t part, void* area) {
    plan_t* p = ctx;
    const scratch_t s = place_scratch(p, area);
    float* limits = p->limits + part * p->call->Q;
    for (int64_t q = 0; q < p->call->Q; q++) limits[q] = NAN;
    const int64_t end = first_row(p, part + 1);
    for (int64_t row = first_row(p, part); row < end; row += p->block_rows) {
        if (__atomic_load_n(p->call->nan, __ATOMIC_RELAXED)) return;
        const tfast_status status = score_rows(p, part, row, TFAST_MIN(p->block_rows, end - row), &s);
        if (status != TFAST_OK) {
            __atomic_store_n(&p->status, status, __ATOMIC_RELAXED);
            return;
        }
    }
}

/* The heaps of some queries, of all parts, into that of the first part, and from there in order to the results. */
static void merge_queries(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const plan_t* p = ctx;
    const tfast_search* c = p->call;
    const int64_t first = task * QUERIES_PER_MERGE, last = TFAST_MIN(first + QUERIES_PER_MERGE, c->Q);
    for (int64_t q = first; q < last; q++) {
        entry_t* heap = p->heaps + q * c->k;
        int64_t count = entries_of(p, 0);
        for (int64_t part = 1; part < p->parts; part++) {
            const entry_t* other = p->heaps + (part * c->Q + q) * c->k;
            for (int64_t i = 0; i < entries_of(p, part); i++) {
                push(heap, c->k, count, other[i]);
                count = TFAST_MIN(count + 1, c->k);
            }
        }
        for (int64_t n = c->k; n > 0; n--) { /* the worst of those that are left goes to the end */
            c->scores[q * c->k + n - 1] = heap[0].score;
            c->indices[q * c->k + n - 1] = heap[0].index;
            heap[0] = heap[n - 1];
            sift_down(heap, n - 1, 0);
        }
    }
}

static double part_ns(const tfast_search* c, int64_t rows) {
    const double pairs = (double)rows * (double)c->Q;
    if (c->query_bits) return pairs * HAMMING_WORD_NS * (double)tfast_ceil_div(c->K, 8);
    return tfast_flops_ns(2.0 * pairs * (double)c->K);
}

static void make_plan(plan_t* p, int n_threads) {
    const tfast_search* c = p->call;
    const int64_t rows = (int64_t)(SCORES_SHARE_OF_L2 * (double)tfast_cpu_info()->l2_bytes) / (c->Q * 4);
    p->block_rows = tfast_clamp(rows / MIN_BLOCK_ROWS * MIN_BLOCK_ROWS, MIN_BLOCK_ROWS, MAX_BLOCK_ROWS);
    const int threads = tfast_threads_for(part_ns(c, c->N), n_threads);
    const int64_t most = threads == 1 ? 1 : threads * PARTS_PER_THREAD;
    p->rows_per_part = tfast_round_up(tfast_ceil_div(c->N, most), p->block_rows);
    p->parts = tfast_ceil_div(c->N, p->rows_per_part);
}

tfast_status tfast_search_run(const tfast_search* c, int n_threads) {
    if (!c->query_bits && !tfast_packed_fits(c->queries)) return TFAST_WRONG_LAYOUT;
    if (c->Q == 0 || c->k == 0) return TFAST_OK;
    plan_t p = {.call = c, .kernels = tfast_kernels_now()->rows, .status = TFAST_OK};
    make_plan(&p, n_threads);
    const size_t heaps = tfast_align64((size_t)(p.parts * c->Q * c->k) * sizeof(entry_t));
    p.heaps = tfast_workspace_take(heaps + (size_t)(p.parts * c->Q) * sizeof(float));
    if (!p.heaps) return TFAST_NO_MEMORY;
    p.limits = (float*)((char*)p.heaps + heaps);
    const tfast_parallel parts = {.n_tasks = p.parts,
                                  .task_ns = part_ns(c, p.rows_per_part),
                                  .n_threads = n_threads,
                                  .scratch_bytes = scratch_bytes(&p)};
    tfast_status status = tfast_parallel_for(&parts, run_part, &p);
    if (status == TFAST_OK) status = p.status;
    if (status == TFAST_OK && !*c->nan) {
        /* an entry moves down a heap of some levels once for each part, and once to the result */
        const double entry_ns = 20.0 * (double)((p.parts + 1) * c->k);
        const tfast_parallel merge = {.n_tasks = tfast_ceil_div(c->Q, QUERIES_PER_MERGE),
                                      .task_ns = entry_ns * QUERIES_PER_MERGE,
                                      .n_threads = n_threads};
        status = tfast_parallel_for(&merge, merge_queries, &p);
    }
    tfast_workspace_give(p.heaps);
    return status;
}
