/* Attention whose keys and values lie in other ways: half types, integers with scales, pages, packed sequences. The
 * reference reads them dense and in double. */
#include <math.h>
#include <string.h>

#include "attention_call.h"
#include "base/convert.h"
#include "check.h"
#include "data.h"
#include "groups.h"
#include "reference.h"

/* n numbers in a half type; `values` are what they stand for. */
static uint16_t* narrowed(tfast_dtype dtype, int64_t n, const float* x, double* values) {
    uint16_t* narrow = data_room((size_t)n * sizeof *narrow);
    for (int64_t i = 0; i < n; i++) {
        narrow[i] = dtype == TFAST_F16 ? tfast_f16_from_f32(x[i]) : tfast_bf16_from_f32(x[i]);
        values[i] = dtype == TFAST_F16 ? tfast_f32_from_f16(narrow[i]) : tfast_f32_from_bf16(narrow[i]);
    }
    return narrow;
}

/* Rows of integers, each with a scale. */
static int8_t* quantised(int64_t rows, int64_t width, const float* x, float* scale, double* values) {
    int8_t* integers = data_room((size_t)(rows * width));
    for (int64_t i = 0; i < rows; i++) {
        float most = 0;
        for (int64_t d = 0; d < width; d++) most = fmaxf(most, fabsf(x[i * width + d]));
        scale[i] = most / 127;
        for (int64_t d = 0; d < width; d++) {
            integers[i * width + d] = (int8_t)rintf(x[i * width + d] / scale[i]);
            values[i * width + d] = integers[i * width + d] * (double)scale[i];
        }
    }
    return integers;
}

static void check_dtype(tfast_dtype dtype, attention_shape s, int64_t right) {
    tfast_attention c = attention_call(s);
    const int64_t rows = s.B * s.Hkv * s.Lk;
    double *k = data_room((size_t)(rows * s.D) * sizeof *k), *v = data_room((size_t)(rows * s.Dv) * sizeof *v);
    c.kv_dtype = dtype;
    c.right = right;
    c.offset = NULL;
    if (dtype == TFAST_I8) {
        float *k_scale = data_room((size_t)rows * sizeof *k_scale),
              *v_scale = data_room((size_t)rows * sizeof *v_scale);
        c.k = quantised(rows, s.D, c.k, k_scale, k);
        c.v = quantised(rows, s.Dv, c.v, v_scale, v);
        c.k_scale = k_scale, c.v_scale = v_scale;
        const int64_t stride[3] = {s.Hkv * s.Lk, s.Lk, 1};
        memcpy(c.k_scale_stride, stride, sizeof stride);
        memcpy(c.v_scale_stride, stride, sizeof stride);
    } else {
        c.k = narrowed(dtype, rows * s.D, c.k, k);
        c.v = narrowed(dtype, rows * s.Dv, c.v, v);
    }
    attention_check("narrow keys and values", &c, k, v);
}

/* Pages in a random order: what the table's entry says has the rows of the reference's dense arrays. */
static void check_pages(int64_t Lq) {
    enum { PAGE = 2 * TFAST_PAGE_UNIT, PAGES = 9, D = 64, HKV = 2 };
    const attention_shape s = {2, 4, HKV, Lq, PAGE * PAGES, D, D};
    tfast_attention c = attention_call(s);
    const double *k = data_widened(s.B * HKV * s.Lk * D, c.k), *v = data_widened(s.B * HKV * s.Lk * D, c.v);
    const int64_t numbers = s.B * PAGES * HKV * PAGE * D;
    float *paged_k = data_room((size_t)numbers * sizeof *paged_k),
          *paged_v = data_room((size_t)numbers * sizeof *paged_v);
    int32_t* table = data_room((size_t)(s.B * PAGES) * sizeof *table);
    int64_t* lengths = data_room((size_t)s.B * sizeof *lengths);
    for (int64_t i = 0; i < s.B * PAGES; i++) table[i] = (int32_t)((i * 7 + 3) % (s.B * PAGES)); /* 7 and 18: coprime */
    for (int64_t b = 0; b < s.B; b++) lengths[b] = s.Lk - 37 * b;
    for (int64_t i = 0; i < s.B * HKV * s.Lk; i++) {
        const int64_t b = i / (HKV * s.Lk), h = i / s.Lk % HKV, j = i % s.Lk;
        const int64_t row = (table[b * PAGES + j / PAGE] * HKV + h) * PAGE + j % PAGE;
        memcpy(paged_k + row * D, (const float*)c.k + i * D, D * sizeof(float));
        memcpy(paged_v + row * D, (const float*)c.v + i * D, D * sizeof(float));
    }
    const int64_t stride[3] = {HKV * PAGE * D, PAGE * D, D};
    memcpy(c.k_stride, stride, sizeof stride);
    memcpy(c.v_stride, stride, sizeof stride);
    c.k = paged_k, c.v = paged_v, c.kv_length = lengths;
    c.pages = (tfast_pages){table, PAGES, PAGE};
    attention_check("pages", &c, k, v);
}

/* One sequence behind the other, of all lengths from 0 on. The rows of a sequence are those of a call of its own. */
typedef struct {
    tfast_attention packed;
    int64_t rows;
} packed_t;

static tfast_status run_packed(const void* arguments, float* y, int n_threads) {
    tfast_attention call = ((const packed_t*)arguments)->packed;
    call.out = y;
    return tfast_attention_run(&call, n_threads);
}

static void check_packed(void) {
    enum { B = 4, H = 3, D = 40 };
    static const int64_t cu[B + 1] = {0, 5, 5, 70, 103};
    const int64_t row = H * D;
    packed_t p = {attention_call((attention_shape){1, H, H, cu[B], cu[B], D, D}), cu[B]};
    double *expected = data_room((size_t)(cu[B] * row) * sizeof *expected), *operands[3], *out;
    const float* packed[3] = {p.packed.q, p.packed.k, p.packed.v};
    for (int o = 0; o < 3; o++) operands[o] = data_room((size_t)(cu[B] * row) * sizeof(double));
    out = data_room((size_t)(cu[B] * row) * sizeof *out);
    for (int64_t b = 0; b < B; b++) {
        const int64_t L = cu[b + 1] - cu[b];
        tfast_attention one = p.packed;
        one.Lq = one.Lk = L;
        one.right = 0;
        for (int64_t i = 0; i < L * row; i++) /* position, head, d -> head, position, d */
            for (int o = 0; o < 3; o++) operands[o][(i / D % H * L + i / row) * D + i % D] = packed[o][cu[b] * row + i];
        reference_attention(&one, operands[0], operands[1], operands[2], out, NULL);
        for (int64_t i = 0; i < L * row; i++) expected[cu[b] * row + i] = out[(i / D % H * L + i / row) * D + i % D];
    }
    tfast_attention* c = &p.packed;
    const int64_t stride[3] = {0, D, row};
    int64_t* strides[] = {c->q_stride, c->k_stride, c->v_stride, c->out_stride};
    for (int o = 0; o < 4; o++) memcpy(strides[o], stride, sizeof stride);
    c->B = B;
    c->Lq = 65; /* the longest one */
    c->Lk = 0;
    c->right = 0;
    c->cu_q = c->cu_k = cu;
    check_call(&(check_t){"packed sequences", run_packed, &p, cu[B] * row, expected, TOLERANCE, NULL, 0});
}

void check_key_values(void) {
    const attention_shape many = {2, 4, 2, 70, 133, 40, 40}, few = {2, 4, 2, 1, 300, 64, 64};
    for (int dtype = TFAST_F16; dtype <= TFAST_I8; dtype++) {
        check_dtype((tfast_dtype)dtype, many, 0);
        check_dtype((tfast_dtype)dtype, few, TFAST_UNLIMITED);
    }
    check_pages(1);
    check_pages(40);
    check_packed();
}
