/* Attention where sequences share their first keys: these are read once for all of them.
 *
 * Called by tfast_attention_run for calls that say `shared`. Sequences that share nothing are computed as in a call
 * without it, so that they have its bits. For the others three steps:
 *
 *   own keys [shared[b], Lk) of every one                  -> (T, H, Dv), and each row's maximum and sum
 *   shared keys [0, P) of each group of sequences, as one  -> the same, group by group
 *   sequence whose queries are those of all its members
 *   both, by maxima and sums                               -> out, lse
 *
 * A group has one P and one first page. How its call is cut and computed does not depend on its number of rows
 * (any_rows), so that a row has the same bits whoever shares its keys. Queries are gathered as float32: 8 KB a row for
 * 32 heads of D = 64, whose K and V of one shared page of 64 keys have 1 MB. */
#include <math.h>
#include <string.h>

#include "../base/convert.h"
#include "../base/log_sum.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "shared_keys.h"

/* One sequence. Rows are query rows of a head. */
typedef struct {
    int64_t rows, first;                    /* its rows; those of all sequences before it */
    int64_t group;                          /* the first member of its group; -1: it shares nothing */
    int64_t group_rows, group_first, place; /* rows of the group, of all groups before it, of its members before it */
} member_t;

typedef struct {
    const tfast_attention* call;
    int64_t T; /* rows of all sequences */
    member_t* members;
    float *q, *gathered;           /* (T, H, D): of all sequences; of one group */
    float *own, *shared;           /* (T, H, Dv): by sequences; by groups */
    float *own_sums, *shared_sums; /* maxima and sums, (H, T, 2); of each group (H, group_rows, 2) */
} shared_t;

static int same_keys(const tfast_attention* c, int64_t a, int64_t b) {
    const int32_t* table = c->pages.table;
    return c->shared[a] == c->shared[b] && table[a * c->pages.stride] == table[b * c->pages.stride];
}

static void find_members(const tfast_attention* c, member_t* m) {
    int64_t T = 0, grouped = 0;
    for (int64_t b = 0; b < c->B; b++) {
        m[b] = (member_t){.rows = c->cu_q ? c->cu_q[b + 1] - c->cu_q[b] : c->Lq, .first = T, .group = -1};
        T += m[b].rows;
    }
    for (int64_t b = 0; b < c->B; b++) {
        if (c->shared[b] == 0 || m[b].group >= 0) continue;
        int64_t rows = 0;
        for (int64_t i = b; i < c->B; i++) {
            if (c->shared[i] == 0 || m[i].group >= 0 || !same_keys(c, b, i)) continue;
            m[i].group = b;
            m[i].group_first = grouped;
            m[i].place = rows;
            rows += m[i].rows;
        }
        for (int64_t i = b; i < c->B; i++)
            if (m[i].group == b) m[i].group_rows = rows;
        grouped += rows;
    }
}

static int64_t element_bytes(tfast_dtype dtype) {
    return dtype == TFAST_F32 ? 4 : 2;
}

static void load_numbers(const void* row, int64_t n, tfast_dtype dtype, float* to) {
    const uint16_t* half = row;
    if (dtype == TFAST_F32) memcpy(to, row, (size_t)n * sizeof *to);
    for (int64_t d = 0; d < n && dtype != TFAST_F32; d++)
        to[d] = dtype == TFAST_F16 ? tfast_f32_from_f16(half[d]) : tfast_f32_from_bf16(half[d]);
}

/* Row i of sequence b and a head in the caller's q or out, in elements. */
static int64_t row_at(const tfast_attention* c, const int64_t stride[3], int64_t b, int64_t head, int64_t i) {
    const int64_t sequence = c->cu_q ? c->cu_q[b] * stride[2] : b * stride[0];
    return sequence + head * stride[1] + i * stride[2];
}

static void gather_queries(void* ctx, int64_t b, void* scratch) {
    (void)scratch;
    const shared_t* s = ctx;
    const tfast_attention* c = s->call;
    if (s->members[b].group < 0) return;
    float* to = s->q + s->members[b].first * c->H * c->D;
    for (int64_t i = 0; i < s->members[b].rows; i++)
        for (int64_t h = 0; h < c->H; h++, to += c->D)
            load_numbers((const char*)c->q + row_at(c, c->q_stride, b, h, i) * element_bytes(c->q_dtype), c->D,
                         c->q_dtype, to);
}

/* What both calls have in common: float32 queries and results, and no lse. */
static tfast_attention base_call(const shared_t* s) {
    tfast_attention call = *s->call;
    call.q_dtype = TFAST_F32;
    call.sinks = NULL;
    call.lse = NULL;
    call.shared = NULL;
    call.q_stride[1] = call.D;
    call.q_stride[2] = call.H * call.D;
    call.out_stride[1] = call.Dv;
    call.out_stride[2] = call.H * call.Dv;
    return call;
}

/* The sequences that share nothing, from the caller's queries to its results. */
static tfast_status attend_alone(const shared_t* s, int n_threads) {
    tfast_attention call = *s->call;
    call.shared = NULL;
    call.first_key = s->call->shared;
    call.entries = TFAST_WITHOUT_FIRST_KEY;
    return tfast_attention_run(&call, n_threads);
}

static tfast_status attend_own(const shared_t* s, int n_threads) {
    tfast_attention call = base_call(s);
    call.q = s->q;
    call.out = s->own;
    call.q_stride[0] = call.Lq * call.H * call.D;
    call.out_stride[0] = call.Lq * call.H * call.Dv;
    call.max_sum = s->own_sums;
    call.lse_stride[0] = call.cu_q ? 0 : call.Lq;
    call.lse_stride[1] = s->T;
    call.first_key = s->call->shared;
    call.entries = TFAST_WITH_FIRST_KEY;
    return tfast_attention_run(&call, n_threads);
}

/* The shared keys of the group whose first member is b, seen by all its rows. */
static tfast_status attend_group(const shared_t* s, int64_t b, int n_threads) {
    const member_t* m = s->members;
    const int64_t H = s->call->H, D = s->call->D, first = m[b].group_first;
    for (int64_t i = b; i < s->call->B; i++)
        if (m[i].group == b)
            memcpy(s->gathered + m[i].place * H * D, s->q + m[i].first * H * D,
                   (size_t)(m[i].rows * H * D) * sizeof(float));
    tfast_attention call = base_call(s);
    call.B = 1;
    call.Lq = m[b].group_rows;
    call.Lk = s->call->shared[b];
    call.q = s->gathered;
    call.out = s->shared + first * H * call.Dv;
    call.max_sum = s->shared_sums + 2 * first * H;
    call.lse_stride[0] = 0;
    call.lse_stride[1] = m[b].group_rows;
    call.pages.table += b * call.pages.stride;
    call.cu_q = call.kv_length = call.offset = NULL;
    call.left = call.right = TFAST_UNLIMITED;
    call.ranges.list_of_row = NULL;
    call.any_rows = 1;
    return tfast_attention_run(&call, n_threads);
}

/* n numbers: first * its weight + second * its weight, to a row of the output's type. NULL is a part without keys; else
 * NaN and infinity reach the result even where the weight is 0, as where the keys are not shared. */
static void store_mean(const float* first, float first_weight, const float* second, float second_weight, int64_t n,
                       tfast_dtype dtype, void* to) {
    uint16_t* half = to;
    for (int64_t d = 0; d < n; d++) {
        const float a = first ? first[d] * first_weight : 0;
        const float x = a + (second ? second[d] * second_weight : 0);
        if (dtype == TFAST_F32)
            ((float*)to)[d] = x;
        else
            half[d] = dtype == TFAST_F16 ? tfast_f16_from_f32(x) : tfast_bf16_from_f32(x);
    }
}

/* One row of one head, from the maxima (base 2) and sums of its two parts: sum == 0 where a part has no keys. */
static void merge_row(const shared_t* s, int64_t b, int64_t head, int64_t i) {
    const tfast_attention* c = s->call;
    const member_t* m = &s->members[b];
    const float* own = s->own_sums + 2 * (head * s->T + m->first + i);
    const float* shared = s->shared_sums + 2 * (m->group_first * c->H + head * m->group_rows + m->place + i);
    const float* own_row = s->own + ((m->first + i) * c->H + head) * c->Dv;
    const float* shared_row = s->shared + ((m->group_first + m->place + i) * c->H + head) * c->Dv;
    float top = TFAST_MAX(own[0], shared[0]);
    const float sink = c->sinks ? c->sinks[head] * (float)M_LOG2E : -INFINITY;
    top = TFAST_MAX(top, sink);
    const float base = top == -INFINITY ? 0 : top;
    const float own_sum = own[1] == 0 ? 0 : own[1] * exp2f(own[0] - base);
    const float shared_sum = shared[1] == 0 ? 0 : shared[1] * exp2f(shared[0] - base);
    const float total = own_sum + shared_sum + (c->sinks ? exp2f(sink - base) : 0);
    const float factor = total == 0 ? 0 : 1 / total;
    if (c->lse) {
        const int64_t at = b * c->lse_stride[0] + head * c->lse_stride[1] + (c->cu_q ? c->cu_q[b] : 0) + i;
        c->lse[at] = total == 0 ? -INFINITY : tfast_log_sum(top, total);
    }
    store_mean(own[1] == 0 ? NULL : own_row, own_sum * factor, shared[1] == 0 ? NULL : shared_row, shared_sum * factor,
               c->Dv, c->q_dtype, (char*)c->out + row_at(c, c->out_stride, b, head, i) * element_bytes(c->q_dtype));
}

static void merge_sequence(void* ctx, int64_t b, void* scratch) {
    (void)scratch;
    const shared_t* s = ctx;
    if (s->members[b].group < 0) return;
    for (int64_t i = 0; i < s->members[b].rows; i++)
        for (int64_t h = 0; h < s->call->H; h++) merge_row(s, b, h, i);
}

static void* place(char* area, size_t* used, size_t bytes) {
    void* at = area ? area + *used : NULL;
    *used += tfast_align64(bytes);
    return at;
}

/* The buffers of a call in one area -> their size; with area NULL only that. */
static size_t place_buffers(shared_t* s, char* area) {
    size_t used = 0;
    const tfast_attention* c = s->call;
    const size_t heads = (size_t)(s->T * c->H), q = heads * (size_t)c->D * 4, out = heads * (size_t)c->Dv * 4;
    s->members = place(area, &used, (size_t)c->B * sizeof *s->members);
    s->q = place(area, &used, q);
    s->gathered = place(area, &used, q);
    s->own = place(area, &used, out);
    s->shared = place(area, &used, out);
    s->own_sums = place(area, &used, heads * 8);
    s->shared_sums = place(area, &used, heads * 8);
    return used;
}

static tfast_status run_steps(shared_t* s, int n_threads) {
    const tfast_attention* c = s->call;
    /* 1 ns a number. */
    tfast_parallel loop = {.n_tasks = c->B, .n_threads = n_threads, .task_ns = (double)(s->T * c->H * c->D / c->B)};
    tfast_status status = tfast_parallel_for(&loop, gather_queries, s);
    if (status == TFAST_OK) status = attend_alone(s, n_threads);
    if (status == TFAST_OK) status = attend_own(s, n_threads);
    for (int64_t b = 0; b < c->B && status == TFAST_OK; b++)
        if (s->members[b].group == b && s->members[b].group_rows) status = attend_group(s, b, n_threads);
    return status == TFAST_OK ? tfast_parallel_for(&loop, merge_sequence, s) : status;
}

tfast_status tfast_attention_run_shared(const tfast_attention* c, int n_threads) {
    shared_t s = {.call = c};
    for (int64_t b = 0; b < c->B; b++) s.T += c->cu_q ? c->cu_q[b + 1] - c->cu_q[b] : c->Lq;
    if (s.T == 0 || c->H == 0) return TFAST_OK;
    char* area = tfast_workspace_take(place_buffers(&s, NULL));
    if (!area) return TFAST_NO_MEMORY;
    place_buffers(&s, area);
    find_members(c, s.members);
    const tfast_status status = run_steps(&s, n_threads);
    tfast_workspace_give(area);
    return status;
}
