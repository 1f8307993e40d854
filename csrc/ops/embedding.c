/* Rows of a table by number, and the sum of rows of several tables with the norm that follows it. Called by
 * transformer_fast/_core.pyx. Rows of float32 are copied: memcpy is as fast as the memory. Tables in a half-precision
 * type stay so in memory; their rows are widened as they are read. */
#include <string.h>

#include "../kernels/api.h"
#include "../runtime/dispatch.h"
#include "../tfast.h"
#include "rows.h"

int64_t tfast_first_outside(int64_t n, const int64_t* ids, int64_t limit) {
    uint64_t outside = 0; /* without a branch, for the compiler to take several at once */
    for (int64_t i = 0; i < n; i++) outside |= (uint64_t)ids[i] >= (uint64_t)limit;
    for (int64_t i = 0; outside && i < n; i++)
        if ((uint64_t)ids[i] >= (uint64_t)limit) return i;
    return -1;
}

typedef struct {
    rows_plan plan;
    const tfast_row_kernels* kernels;
    const int64_t* ids;
    tfast_table table;
    int64_t width, y_stride;
    float* y;
} call_t;

static const char* row_of(const tfast_table* table, int64_t id) {
    return (const char*)table->data + id * table->stride * (table->dtype == TFAST_F32 ? 4 : 2);
}

static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const call_t* c = ctx;
    int64_t i;
    const int64_t n = rows_of_task(&c->plan, task, &i);
    for (const int64_t end = i + n; i < end; i++) {
        const char* row = row_of(&c->table, c->ids[i]);
        if (c->table.dtype == TFAST_F32)
            memcpy(c->y + i * c->y_stride, row, (size_t)c->width * sizeof(float));
        else
            c->kernels->widen(c->width, row, c->table.dtype, c->y + i * c->y_stride);
    }
}

tfast_status tfast_embedding(int64_t n, const int64_t* ids, int64_t width, const tfast_table* table, float* y,
                             int64_t y_stride, int n_threads) {
    call_t c = {rows_plan_for(n, width), tfast_kernels_now()->rows, ids, *table, width, y_stride, y};
    return rows_run(&c.plan, width, 0.2, n_threads, run, &c);
}

typedef struct {
    rows_plan plan;
    const tfast_row_kernels* kernels;
    const tfast_embedding_sum* call;
} sum_t;

/* Row i of table t: in place, or widened into `room`. */
static const float* summand(const sum_t* s, int t, int64_t i, float* room) {
    const tfast_table* table = &s->call->tables[t];
    const char* row = row_of(table, s->call->ids[t][i]);
    if (table->dtype == TFAST_F32) return (const float*)row;
    s->kernels->widen(s->call->width, row, table->dtype, room);
    return room;
}

/* One row: the norm adds the last table's row on the way. */
static void run_sum(void* ctx, int64_t task, void* scratch) {
    const sum_t* s = ctx;
    const tfast_embedding_sum* c = s->call;
    const int64_t width = c->width;
    int64_t i;
    const int64_t n = rows_of_task(&s->plan, task, &i);
    for (const int64_t end = i + n; i < end; i++) {
        float* y = c->y + i * width;
        const float* rows[TFAST_MAX_TABLES] = {NULL};
        for (int t = 0; t < c->n_tables; t++) rows[t] = summand(s, t, i, (float*)scratch + t * width);
        if (c->n_tables == 1) {
            s->kernels->layernorm(1, width, rows[0], 0, NULL, 0, c->weight, c->bias, c->eps, y, 0);
            continue;
        }
        if (c->n_tables > 2)
            for (int64_t j = 0; j < width; j++) y[j] = rows[0][j] + rows[1][j];
        for (int t = 2; t < c->n_tables - 1; t++)
            for (int64_t j = 0; j < width; j++) y[j] += rows[t][j];
        s->kernels->layernorm(1, width, c->n_tables > 2 ? y : rows[0], 0, rows[c->n_tables - 1], 0, c->weight, c->bias,
                              c->eps, y, 0);
    }
}

tfast_status tfast_embedding_sum_run(const tfast_embedding_sum* call, int n_threads) {
    sum_t s = {rows_plan_for(call->n, call->width), tfast_kernels_now()->rows, call};
    size_t scratch = 0;
    for (int t = 0; t < call->n_tables; t++)
        if (call->tables[t].dtype != TFAST_F32) scratch = (size_t)(call->n_tables * call->width) * sizeof(float);
    return rows_run_with_scratch(&s.plan, call->width, 0.4, scratch, n_threads, run_sum, &s);
}
