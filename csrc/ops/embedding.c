/* Rows of a table by number. Called by transformer_fast/_core.pyx. A copy of rows: memcpy is as fast as the memory, no
 * kernel is needed. */
#include <string.h>

#include "../tfast.h"
#include "rows.h"

typedef struct {
    rows_plan plan;
    const int64_t* ids;
    const float* table;
    int64_t width, table_stride, y_stride;
    float* y;
} call_t;

static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const call_t* c = ctx;
    int64_t i;
    const int64_t n = rows_of_task(&c->plan, task, &i);
    for (const int64_t end = i + n; i < end; i++)
        memcpy(c->y + i * c->y_stride, c->table + c->ids[i] * c->table_stride, (size_t)c->width * 4);
}

tfast_status tfast_embedding(int64_t n, const int64_t* ids, int64_t width, const float* table, int64_t table_stride,
                             float* y, int64_t y_stride, int n_threads) {
    call_t c = {rows_plan_for(n, width), ids, table, width, table_stride, y_stride, y};
    return rows_run(&c.plan, width, 0.2, n_threads, run, &c);
}
