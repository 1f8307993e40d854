/* Late interaction: scores of queries and documents that have a vector a token (ColBERT's MaxSim). Called by
 * transformer_fast/_core.pyx.
 *
 * Query vectors are packed, those of all queries in one row of panels; documents are read in place. A block of a
 * document's rows meets one panel after the other while it is in L2, and leaves the largest score of each query vector
 * (kernels/gemm/maxima.h): no scores of tokens are kept. A task is a run of documents.
 *
 * Maxima do not depend on the order of rows or on the panel that a vector stands in, and their sums are made one by
 * one, here: a score has the bits that query and document have alone. */
#include <math.h>

#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "../tfast.h"
#include "../tuning/tuning.h"

/* Bytes ahead of the rows at hand that documents are fetched, where they are read in place. */
enum { FETCH_AHEAD = 16 * 1024 };
/* Bytes of rows that meet all panels together: half of the smallest L2 (256 KB) beside the panels. */
enum { BLOCK_BYTES = 128 * 1024 };
/* Multiplications of a task at least, 5 to 20 us: tasks of about equal size, of which there are enough. */
static const double TASK_PRODUCTS = 1 << 20;

typedef struct {
    int64_t rows, panels, units; /* query vectors; units: columns, in full multiples of column_unit */
} cut_t;

typedef struct {
    const tfast_max_sim* call;
    const tfast_gemm* gemm;
    const tfast_row_kernels* row_kernels;
    cut_t cut;            /* of the longest row of panels that a task holds */
    char* panels;         /* of all queries; NULL: each document's task packs its own query */
    int64_t rows_a_task;  /* documents that begin in as many rows are a task */
    int64_t rows_a_block; /* of a document */
} run_t;

/* Panels of about the same number of columns: a narrow last one would have too few sums to hide the latency of FMAs. */
static cut_t cut_columns(const tfast_gemm* gemm, int64_t rows) {
    const int64_t units = tfast_ceil_div(rows, gemm->column_unit), most = gemm->layout.panel_width / gemm->column_unit;
    return (cut_t){rows, tfast_ceil_div(units, most), units};
}

/* The first column of a panel; of the one behind the last, the end. */
static int64_t first_column(const tfast_gemm* gemm, const cut_t* cut, int64_t panel) {
    return TFAST_MIN(cut->units * panel / TFAST_MAX(cut->panels, 1) * gemm->column_unit, cut->rows);
}

static void pack_queries(const run_t* r, const cut_t* cut, int64_t first_row, char* panels) {
    const tfast_max_sim* c = r->call;
    const int64_t bytes = tfast_panel_bytes(&r->gemm->layout, c->D);
    for (int64_t p = 0; p < cut->panels; p++) {
        const int64_t column = first_column(r->gemm, cut, p);
        const tfast_weight_rows rows = {
            .dtype = TFAST_F32, .data = c->queries + (first_row + column) * c->query_stride, .stride = c->query_stride};
        r->gemm->pack(&rows, first_column(r->gemm, cut, p + 1) - column, c->D, panels + p * bytes, NULL);
    }
}

/* The largest score of each column with the rows of a document; room: of a block of rows in a half type. */
static void document_maxima(const run_t* r, const cut_t* cut, const char* panels, int64_t document, float* room,
                            float* maxima) {
    const tfast_max_sim* c = r->call;
    const int64_t width = r->gemm->layout.panel_width, end = c->cu_documents[document + 1];
    for (int64_t i = 0; i < cut->panels * width; i++) maxima[i] = -INFINITY;
    for (int64_t row = c->cu_documents[document]; row < end; row += r->rows_a_block) {
        tfast_maxima_call call = {.m = TFAST_MIN(r->rows_a_block, end - row), .k = c->D};
        if (c->dtype == TFAST_F32) {
            call.a = (const float*)c->documents + row * c->document_stride;
            call.a_stride = c->document_stride;
            call.next = (const char*)call.a + FETCH_AHEAD;
            call.next_bytes = call.m * c->document_stride * (int64_t)sizeof(float);
        } else {
            const uint16_t* half = (const uint16_t*)c->documents + row * c->document_stride;
            for (int64_t i = 0; i < call.m; i++)
                r->row_kernels->widen(c->D, half + i * c->document_stride, c->dtype, room + i * c->D);
            call.a = room;
            call.a_stride = c->D;
            call.next = half + call.m * c->document_stride;
            call.next_bytes = call.m * c->document_stride * (int64_t)sizeof(*half);
        }
        for (int64_t p = 0; p < cut->panels; p++) {
            call.n = first_column(r->gemm, cut, p + 1) - first_column(r->gemm, cut, p);
            call.b = panels + p * tfast_panel_bytes(&r->gemm->layout, c->D);
            call.maxima = maxima + p * width;
            r->gemm->maxima(&call);
            call.next = NULL; /* the first panel has fetched it */
        }
    }
}

/* maxima: of panels, brought together before. */
static float sum_of(const float* maxima, int64_t rows) {
    double sum = 0;
    for (int64_t i = 0; i < rows; i++) sum += maxima[i];
    return (float)sum;
}

/* The columns of all panels, one after the other. */
static void join_columns(const run_t* r, const cut_t* cut, float* maxima) {
    int64_t to = 0;
    for (int64_t p = 0; p < cut->panels; p++) {
        const float* from = maxima + p * r->gemm->layout.panel_width;
        const int64_t n = first_column(r->gemm, cut, p + 1) - first_column(r->gemm, cut, p);
        for (int64_t j = 0; j < n; j++) maxima[to++] = from[j];
    }
}

static size_t panels_bytes(const run_t* r) {
    return tfast_align64((size_t)(r->cut.panels * tfast_panel_bytes(&r->gemm->layout, r->call->D)));
}

static size_t maxima_bytes(const run_t* r) {
    return tfast_align64((size_t)(r->cut.panels * r->gemm->layout.panel_width) * sizeof(float));
}

/* The first document that begins at this row or behind it. */
static int64_t document_at(const tfast_max_sim* c, int64_t row) {
    int64_t low = 0, high = c->N;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (c->cu_documents[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void run(void* ctx, int64_t task, void* scratch) {
    const run_t* r = ctx;
    const tfast_max_sim* c = r->call;
    float* maxima = scratch;
    char* own = (char*)scratch + maxima_bytes(r);
    float* room = (float*)(own + (c->pairwise ? panels_bytes(r) : 0));
    const int64_t end = document_at(c, (task + 1) * r->rows_a_task);
    for (int64_t d = document_at(c, task * r->rows_a_task); d < end; d++) {
        if (c->pairwise) {
            const int64_t first = c->cu_queries[d];
            const cut_t cut = cut_columns(r->gemm, c->cu_queries[d + 1] - first);
            pack_queries(r, &cut, first, own);
            document_maxima(r, &cut, own, d, room, maxima);
            join_columns(r, &cut, maxima);
            c->scores[d] = sum_of(maxima, cut.rows);
            continue;
        }
        document_maxima(r, &r->cut, r->panels, d, room, maxima);
        join_columns(r, &r->cut, maxima);
        for (int64_t q = 0; q < c->B; q++)
            c->scores[q * c->N + d] = sum_of(maxima + c->cu_queries[q], c->cu_queries[q + 1] - c->cu_queries[q]);
    }
}

tfast_status tfast_max_sim_run(const tfast_max_sim* c, int n_threads) {
    const tfast_kernels* kernels = tfast_kernels_now();
    run_t r = {.call = c, .gemm = tfast_gemm_for(kernels, TFAST_FORMAT_F32, 1), .row_kernels = kernels->rows};
    int64_t query_rows = c->cu_queries[c->B];
    for (int64_t q = 0; c->pairwise && q < c->B; q++) {
        if (q == 0) query_rows = 0;
        query_rows = TFAST_MAX(query_rows, c->cu_queries[q + 1] - c->cu_queries[q]);
    }
    r.cut = cut_columns(r.gemm, query_rows);
    r.rows_a_block = TFAST_MAX(BLOCK_BYTES / ((int64_t)sizeof(float) * TFAST_MAX(c->D, 1)), r.gemm->tile_rows);
    const double products = (double)TFAST_MAX(query_rows, 1) * (double)TFAST_MAX(c->D, 1);
    r.rows_a_task = (int64_t)TFAST_MAX(TASK_PRODUCTS / products, 1.0);
    const int64_t rows = c->cu_documents[c->N];
    tfast_parallel loop = {.n_tasks = rows / r.rows_a_task + 1,
                           .task_ns = tfast_flops_ns(2.0 * products * (double)r.rows_a_task),
                           .scratch_bytes = maxima_bytes(&r) + (c->pairwise ? panels_bytes(&r) : 0),
                           .n_threads = n_threads};
    if (c->dtype != TFAST_F32) loop.scratch_bytes += (size_t)(r.rows_a_block * c->D) * sizeof(float);
    if (!c->pairwise) {
        r.panels = tfast_workspace_take(panels_bytes(&r));
        if (!r.panels) return TFAST_NO_MEMORY;
        pack_queries(&r, &r.cut, 0, r.panels);
    }
    const tfast_status status = tfast_parallel_for(&loop, run, &r);
    if (r.panels) tfast_workspace_give(r.panels);
    return status;
}
