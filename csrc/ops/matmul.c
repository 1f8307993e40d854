/* Products of plain matrices, one or a batch of them. Called by transformer_fast/_core.pyx.
 *
 * B is packed for the call and goes through the linear layer's loops, so the product has the bits of a linear layer
 * with that weight. With enough entries each task packs and multiplies its own; else the entries run one after the
 * other, each over all threads. */
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "../tfast.h"
#include "../tuning/tuning.h"

typedef struct {
    const tfast_matmul* call;
    tfast_packed packed; /* all but data */
    tfast_status status;
} run_t;

typedef struct {
    const tfast_matmul* call;
    const tfast_packed* packed;
    const float* b;
} pack_t;

static void pack_panel(void* ctx, int64_t panel, void* scratch) {
    (void)scratch;
    const pack_t* t = ctx;
    const tfast_packed* p = t->packed;
    const tfast_layout* layout = &p->gemm->layout;
    const int64_t n = panel * layout->panel_width, present = TFAST_MIN(layout->panel_width, p->N - n);
    const int64_t stride = t->call->b_stride;
    char* to = (char*)p->data + panel * tfast_panel_bytes(layout, p->K);
    if (t->call->b_columns) {
        const tfast_weight_rows columns = {.dtype = TFAST_F32, .data = t->b + n * stride, .stride = stride};
        p->gemm->pack(&columns, present, p->K, to, NULL);
    } else {
        p->gemm->pack_rows(t->b + n, stride, present, p->K, to);
    }
}

static tfast_status multiply(const run_t* r, int64_t entry, float* panels, int n_threads) {
    const tfast_matmul* c = r->call;
    tfast_packed packed = r->packed;
    packed.data = panels;
    pack_t pack = {c, &packed, c->b + c->b_offsets[entry]};
    const tfast_parallel loop = {.n_tasks = tfast_ceil_div(c->N, packed.gemm->layout.panel_width),
                                 .task_ns = 0.5 * (double)(c->K * packed.gemm->layout.panel_width), /* as in linear.c */
                                 .n_threads = n_threads};
    const tfast_status status = tfast_parallel_for(&loop, pack_panel, &pack);
    if (status != TFAST_OK) return status;
    const tfast_linear product = {.M = c->M,
                                  .x = c->a + c->a_offsets[entry],
                                  .x_stride = c->a_stride,
                                  .weight = &packed,
                                  .y = c->y + entry * c->M * c->N,
                                  .y_stride = c->N};
    return tfast_linear_run(&product, n_threads);
}

static void run_entry(void* ctx, int64_t entry, void* scratch) {
    run_t* r = ctx;
    const tfast_status status = multiply(r, entry, scratch, 1);
    if (status != TFAST_OK) __atomic_store_n(&r->status, status, __ATOMIC_RELAXED);
}

tfast_status tfast_matmul_run(const tfast_matmul* c, int n_threads) {
    run_t r = {.call = c, .status = TFAST_OK};
    tfast_packed_begin(c->N, c->K, TFAST_FORMAT_F32, 0, &r.packed);
    const size_t bytes = tfast_align64(tfast_packed_bytes(&r.packed));
    const double ns = tfast_flops_ns(2.0 * (double)c->M * (double)c->N * (double)c->K);
    if (c->entries >= 2 * tfast_threads_for(ns * (double)c->entries, n_threads)) {
        const tfast_parallel loop = {
            .n_tasks = c->entries, .task_ns = ns, .scratch_bytes = bytes, .n_threads = n_threads};
        const tfast_status status = tfast_parallel_for(&loop, run_entry, &r);
        return status != TFAST_OK ? status : r.status;
    }
    float* panels = tfast_workspace_take(bytes);
    if (!panels) return TFAST_NO_MEMORY;
    for (int64_t i = 0; i < c->entries && r.status == TFAST_OK; i++) r.status = multiply(&r, i, panels, n_threads);
    tfast_workspace_give(panels);
    return r.status;
}
