/* Packing of weights: rows in the type of a file to the panels of a format, and back.
 *
 * Called by transformer_fast/_core.pyx. Each task packs one panel; what a panel holds is the format's own business
 * (kernels/gemm/), what stands behind the panels base/int8.h's. */
#include "../tfast.h"

#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "packed.h"

void tfast_packed_begin(int64_t N, int64_t K, tfast_format format, int for_decode, tfast_packed* p) {
    *p = (tfast_packed){.N = N, .K = K, .gemm = tfast_gemm_for(tfast_kernels_now(), format, for_decode)};
}

void tfast_file_block(tfast_format format, int64_t* values, int64_t* bytes) {
    const tfast_gemm* gemm = tfast_gemm_for(tfast_kernels_now(), format, 0);
    *values = gemm->file_k;
    *bytes = gemm->file_bytes;
}

int tfast_packed_fits(const tfast_packed* p) {
    for (int64_t i = 0; i < p->n_parts; i++)
        if (!tfast_packed_fits(p->parts[i])) return 0;
    return p->n_parts > 0 || tfast_gemm_that_reads(tfast_kernels_now(), p->gemm) != NULL;
}

int tfast_packed_layout_of(const tfast_packed* p, tfast_packed_layout* layout) {
    if (p->gemm == NULL) return 0;
    const tfast_layout* own = &p->gemm->layout;
    *layout =
        (tfast_packed_layout){own->format, !p->gemm->many_rows, own->panel_width, own->k_group, own->k_group_bytes};
    return 1;
}

size_t tfast_packed_bytes(const tfast_packed* p) {
    size_t of_parts = 0;
    for (int64_t i = 0; i < p->n_parts; i++) of_parts += tfast_packed_bytes(p->parts[i]);
    if (p->n_parts) return of_parts;
    const int64_t panels = packed_panels(p);
    const size_t side = p->gemm->integers ? tfast_int8_side_bytes(panels * p->gemm->layout.panel_width, p->K) : 0;
    return (size_t)(panels * packed_panel_bytes(p)) + side;
}

const float* tfast_packed_scale(const tfast_packed* p) {
    return p->n_parts ? NULL : packed_side(p).scale;
}

typedef struct {
    const tfast_row_block* blocks;
    int64_t n_blocks;
    tfast_dtype dtype;
    const float* smoothing;
    const tfast_packed* p;
    tfast_int8_side side;
    int64_t first; /* row of the weight that is the first one of the blocks */
} pack_t;

/* Of what strides count. */
static int64_t element_bytes(tfast_dtype dtype) {
    return dtype == TFAST_F32 ? 4 : dtype == TFAST_I8 || dtype == TFAST_BLOCKS ? 1 : 2;
}

static int64_t row_bytes(const tfast_packed* p, tfast_dtype dtype) {
    return dtype == TFAST_BLOCKS ? p->K / p->gemm->file_k * p->gemm->file_bytes : p->K * element_bytes(dtype);
}

/* Rows [row, row + n) of all blocks together as one piece: in place where one block holds them, else copied to scratch,
 * which has room for their scales behind them. */
static tfast_weight_rows gather_rows(const pack_t* t, int64_t row, int64_t n, char* scratch) {
    const int64_t bytes = element_bytes(t->dtype), row_size = row_bytes(t->p, t->dtype);
    const tfast_row_block* b = t->blocks;
    for (; row >= b->n; b++) row -= b->n;
    if (row + n <= b->n)
        return (tfast_weight_rows){t->dtype, (const char*)b->data + row * b->stride * bytes, b->stride,
                                   b->scale ? b->scale + row : NULL, t->smoothing};
    float* scale = (float*)(scratch + tfast_align64((size_t)(n * row_size)));
    for (int64_t i = 0; i < n; i++, row++) {
        for (; row >= b->n; b++) row -= b->n;
        memcpy(scratch + i * row_size, (const char*)b->data + row * b->stride * bytes, (size_t)row_size);
        scale[i] = b->scale ? b->scale[row] : 0;
    }
    return (tfast_weight_rows){t->dtype, scratch, row_size / bytes, scale, t->smoothing};
}

static void pack_panel(void* ctx, int64_t i, void* scratch) {
    const pack_t* t = ctx;
    const tfast_layout* layout = &t->p->gemm->layout;
    const int64_t row = i * layout->panel_width, n = t->first + row;
    const int64_t width = TFAST_MIN(layout->panel_width, t->p->N - n);
    const tfast_weight_rows rows = gather_rows(t, row, width, scratch);
    const tfast_int8_side side = tfast_int8_side_from(t->side, n);
    char* panel = (char*)t->p->data + n / layout->panel_width * packed_panel_bytes(t->p);
    t->p->gemm->pack(&rows, width, t->p->K, panel, &side);
}

/* Packing moves some bytes a value: 0.5 ns. */
static double panel_ns(const tfast_packed* p) {
    return 0.5 * (double)(p->K * p->gemm->layout.panel_width);
}

/* Whether no run of integers leaves the bound that kernels rely on. */
static int is_bounded(const tfast_row_block* blocks, int64_t n_blocks, int64_t K) {
    for (const tfast_row_block* b = blocks; b < blocks + n_blocks; b++)
        for (int64_t i = 0; i < b->n; i++) {
            const int8_t* w = (const int8_t*)b->data + i * b->stride;
            for (int64_t k = 0; k < K; k += INT8_RUN_SPAN) {
                int above[2] = {0, 0}, below[2] = {0, 0};
                for (int j = 0; j < TFAST_MIN(INT8_RUN_SPAN, K - k); j++) {
                    above[tfast_int8_first_run(j)] += TFAST_MAX(w[k + j], 0);
                    below[tfast_int8_first_run(j)] -= TFAST_MIN(w[k + j], 0);
                }
                const int worst = TFAST_MAX(TFAST_MAX(above[0], above[1]), TFAST_MAX(below[0], below[1]));
                if (worst > INT8_RUN_LIMIT) return 0;
            }
        }
    return 1;
}

static int same_panels(const tfast_layout* a, const tfast_layout* b) {
    return a->panel_width == b->panel_width && a->k_group == b->k_group && a->k_group_bytes == b->k_group_bytes;
}

int64_t tfast_pack_step(const tfast_packed* p) {
    return p->gemm->layout.panel_width;
}

tfast_status tfast_pack_rows(const tfast_row_block* blocks, int64_t n_blocks, tfast_dtype dtype, const float* smoothing,
                             int64_t first, tfast_packed* p, int n_threads) {
    if (dtype == TFAST_I8 && p->gemm->layout.format == TFAST_FORMAT_INT8 && !is_bounded(blocks, n_blocks, p->K)) {
        const tfast_gemm* unbounded = tfast_gemm_for(tfast_kernels_now(), TFAST_FORMAT_INT8_UNBOUNDED, 0);
        /* The memory has the size of the layout that the weight began with, maybe under another level. */
        if (!same_panels(&unbounded->layout, &p->gemm->layout)) return TFAST_WRONG_LAYOUT;
        p->gemm = unbounded;
    }
    pack_t t = {blocks, n_blocks, dtype, smoothing, p, packed_side(p), first};
    const int64_t width = p->gemm->layout.panel_width;
    int64_t n = 0;
    for (int64_t i = 0; i < n_blocks; i++) n += blocks[i].n;
    const size_t gathered =
        n_blocks > 1 ? tfast_align64((size_t)(width * row_bytes(p, dtype))) + (size_t)width * sizeof(float) : 0;
    const tfast_parallel loop = {
        .n_tasks = tfast_ceil_div(n, width), .task_ns = panel_ns(p), .n_threads = n_threads, .scratch_bytes = gathered};
    return tfast_parallel_for(&loop, pack_panel, &t);
}

/* What is known of x only once all panels are packed. Factors that are not used, and channels behind the last one, are
 * 0: the bytes of a weight follow from its values, and hold nothing else where they are written to a file. */
void tfast_pack_end(const float* smoothing, tfast_packed* p) {
    if (!p->gemm->integers) return;
    const tfast_int8_side side = packed_side(p);
    const size_t behind = (size_t)(packed_panels(p) * p->gemm->layout.panel_width - p->N);
    memset(side.scale + p->N, 0, behind * sizeof(float));
    memset(side.sum + p->N, 0, behind * sizeof(int32_t));
    memset(side.magnitude + p->N, 0, behind * sizeof(int32_t));
    if (!smoothing) memset(side.factor, 0, (size_t)p->K * sizeof(float));
    int32_t most = 0;
    for (int64_t n = 0; n < p->N; n++) most = TFAST_MAX(most, side.magnitude[n]);
    p->x_limit = tfast_int8_x_limit(most);
    p->smoothed = smoothing != NULL;
    for (int64_t k = 0; smoothing && k < p->K; k++) side.factor[k] = 1.0f / smoothing[k];
}

typedef struct {
    const tfast_packed* p;
    tfast_int8_side side;
    float* w;
} unpack_t;

static void unpack_panel(void* ctx, int64_t i, void* scratch) {
    (void)scratch;
    const unpack_t* t = ctx;
    const tfast_packed* p = t->p;
    const int64_t n = i * p->gemm->layout.panel_width, width = TFAST_MIN(p->gemm->layout.panel_width, p->N - n);
    tfast_int8_side side = tfast_int8_side_from(t->side, n);
    if (!p->smoothed) side.factor = NULL;
    p->gemm->unpack((const char*)p->data + i * packed_panel_bytes(p), &side, width, p->K, t->w + n * p->K, p->K);
}

tfast_status tfast_unpack(const tfast_packed* p, float* w, int n_threads) {
    tfast_status status = TFAST_OK;
    for (int64_t i = 0; i < p->n_parts && status == TFAST_OK; w += p->parts[i++]->N * p->K)
        status = tfast_unpack(p->parts[i], w, n_threads);
    if (p->n_parts) return status;
    unpack_t t = {p, packed_side(p), w};
    const tfast_parallel loop = {.n_tasks = packed_panels(p), .task_ns = panel_ns(p), .n_threads = n_threads};
    return tfast_parallel_for(&loop, unpack_panel, &t);
}
