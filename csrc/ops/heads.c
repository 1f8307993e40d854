/* Copies between (B, L, H * D) and (B, H, L, D). Called by transformer_fast/_core.pyx.
 *
 * Inside the engine nobody needs them (attention takes strides); they are for callers that want contiguous heads.
 * Blocked over positions, so that the rows of all heads that share a page and the lines next to each other are touched
 * together. */
#include <string.h>

#include "../tfast.h"
#include "rows.h"

/* Positions of one block: 32 rows of 12 heads x 64 floats are 96 KB of each side, within L2. */
#define BLOCK_POSITIONS 32

typedef struct {
    int64_t H, L, row_bytes, blocks;
    const char* x;
    char* y;
    const int64_t *xs, *ys;
} call_t;

static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const call_t* c = ctx;
    const int64_t b = task / c->blocks, first = task % c->blocks * BLOCK_POSITIONS,
                  last = TFAST_MIN(first + BLOCK_POSITIONS, c->L);
    for (int64_t h = 0; h < c->H; h++) {
        const char* x = c->x + b * c->xs[0] + h * c->xs[1];
        char* y = c->y + b * c->ys[0] + h * c->ys[1];
        for (int64_t l = first; l < last; l++) memcpy(y + l * c->ys[2], x + l * c->xs[2], (size_t)c->row_bytes);
    }
}

tfast_status tfast_copy_heads(int64_t B, int64_t H, int64_t L, int64_t row_bytes, const char* x,
                              const int64_t x_stride[3], char* y, const int64_t y_stride[3], int n_threads) {
    call_t c = {H, L, row_bytes, tfast_ceil_div(L, BLOCK_POSITIONS), x, y, x_stride, y_stride};
    const tfast_parallel loop = {.n_tasks = B * c.blocks,
                                 .n_threads = n_threads,
                                 .task_ns = 0.05 * (double)(H * TFAST_MIN(L, BLOCK_POSITIONS) * row_bytes)};
    return tfast_parallel_for(&loop, run, &c);
}
