/* Linear layers with weights of floats: float32, both kinds of bfloat16, and float16.
 *
 * x of products with BF16 holds numbers of that type, so that the reference is the same on levels that round x and
 * on those that do not. */
#include <math.h>

#include "base/convert.h"
#include "check.h"
#include "data.h"
#include "groups.h"
#include "reference.h"
#include "weights.h"

static float rounded(float x, tfast_format format) {
    if (format == TFAST_FORMAT_F32) return x;
    return format == TFAST_FORMAT_F16 ? tfast_f32_from_f16(tfast_f16_from_f32(x))
                                      : tfast_f32_from_bf16(tfast_bf16_from_f32(x));
}

typedef struct {
    tfast_format format;
    int64_t M, N, K;
    int for_decode;
} shape_t;

/* All that a product may have behind it. */
static tfast_linear call_of(shape_t s, tfast_activation activation) {
    float* x = data_normal(s.M * s.K, 1);
    for (int64_t i = 0; i < s.M * s.K && s.format == TFAST_FORMAT_BF16; i++) x[i] = rounded(x[i], s.format);
    tfast_linear call = {.M = s.M, .x = x, .x_stride = s.K, .activation = activation};
    if (activation == TFAST_IDENTITY) return call;
    call.bias = data_normal(s.N, 1);
    call.multiply = data_normal(s.M * s.N, 1);
    call.multiply_stride = s.N;
    call.residual = data_normal(s.M * s.N, 1);
    call.residual_stride = s.N;
    return call;
}

static void check_shape(shape_t s, tfast_activation activation) {
    const int64_t n = s.M * s.N;
    float* w = data_normal(s.N * s.K, 1 / sqrt((double)s.K));
    const weight_t weight = {s.format, TFAST_F32, s.N, s.K, w, NULL, NULL, s.for_decode};
    const product_t p = {&weight, call_of(s, activation)};
    reference_epilogue after = {.activation = activation};
    if (p.call.bias) {
        after.bias = data_widened(s.N, p.call.bias);
        after.multiply = data_widened(n, p.call.multiply);
        after.residual = data_widened(n, p.call.residual);
    }
    double *expected = data_room((size_t)n * sizeof *expected), *values = data_widened(s.N * s.K, w);
    for (int64_t i = 0; i < s.N * s.K; i++) values[i] = rounded(w[i], s.format);
    check_call(&(check_t){"unpacked weight", weight_unpack, &weight, s.N * s.K, values, 0, NULL, 1});
    reference_linear(s.M, s.N, s.K, data_widened(s.M * s.K, p.call.x), values, after, expected);
    double* sizes = data_room((size_t)n * sizeof *sizes); /* the factor multiplies the error, too */
    for (int64_t i = 0; i < n; i++) sizes[i] = after.multiply ? fmax(1, fabs(after.multiply[i])) : 1;
    check_call(&(check_t){"linear layer", weight_multiply, &p, n, expected, TOLERANCE, sizes, 0});
}

/* Maxima over the rows of sequences, one of which is empty. */
static void check_maxima(shape_t s) {
    const int64_t cu[] = {0, 5, 5, s.M};
    enum { B = 3 };
    const weight_t weight = {s.format, TFAST_F32, s.N, s.K, data_normal(s.N * s.K, 1 / sqrt((double)s.K)),
                             NULL,     NULL,      0};
    product_t p = {&weight, call_of(s, TFAST_IDENTITY)};
    double *all = data_room((size_t)(s.M * s.N) * sizeof *all), *most = data_room((size_t)(B * s.N) * sizeof *most);
    reference_linear(s.M, s.N, s.K, data_widened(s.M * s.K, p.call.x), data_widened(s.N * s.K, weight.data),
                     (reference_epilogue){.bias = NULL}, all);
    for (int64_t i = 0; i < B * s.N; i++) {
        most[i] = -INFINITY;
        for (int64_t row = cu[i / s.N]; row < cu[i / s.N + 1]; row++) most[i] = fmax(most[i], all[row * s.N + i % s.N]);
    }
    p.call.B = B;
    p.call.cu = cu;
    check_call(&(check_t){"maxima of a linear layer", weight_multiply, &p, B * s.N, most, TOLERANCE, NULL, 0});
}

/* A weight whose rows are of two formats has the results of both, side by side. */
typedef struct {
    const weight_t* parts[2];
    tfast_linear call;
} joined_t;

static tfast_status run_joined(const void* arguments, float* y, int n_threads) {
    const joined_t* j = arguments;
    tfast_packed packed[2];
    const tfast_packed* parts[2] = {&packed[0], &packed[1]};
    tfast_status status = weight_pack(j->parts[0], n_threads, &packed[0]);
    if (status == TFAST_OK) status = weight_pack(j->parts[1], n_threads, &packed[1]);
    tfast_packed both = {.N = packed[0].N + packed[1].N, .K = packed[0].K, .parts = parts, .n_parts = 2};
    tfast_linear call = j->call;
    call.weight = &both;
    call.y = y;
    call.y_stride = both.N;
    if (status == TFAST_OK) status = tfast_linear_run(&call, n_threads);
    weight_free(&packed[0]);
    weight_free(&packed[1]);
    return status;
}

static void check_parts(void) {
    enum { M = 9, N = 40, K = 100 };
    const weight_t one = {TFAST_FORMAT_F32, TFAST_F32, N, K, data_normal(N * K, 0.1), NULL, NULL, 0};
    const weight_t other = {TFAST_FORMAT_F16, TFAST_F32, N, K, data_normal(N * K, 0.1), NULL, NULL, 0};
    const joined_t joined = {{&one, &other}, call_of((shape_t){TFAST_FORMAT_F32, M, 2 * N, K, 0}, TFAST_IDENTITY)};
    double *w = data_room(2 * N * K * sizeof *w), *expected = data_room(M * 2 * N * sizeof *expected);
    for (int64_t i = 0; i < N * K; i++) {
        w[i] = ((const float*)one.data)[i];
        w[N * K + i] = rounded(((const float*)other.data)[i], other.format);
    }
    reference_linear(M, 2 * N, K, data_widened(M * K, joined.call.x), w, (reference_epilogue){.bias = NULL}, expected);
    check_call(&(check_t){"weight of two formats", run_joined, &joined, M * 2 * N, expected, TOLERANCE, NULL, 0});
}

/* A weight is read by the levels that have its layout, and refused by the others. */
static void check_layouts(void) {
    const weight_t weight = {TFAST_FORMAT_F32, TFAST_F32, 33, 40, data_normal(33 * 40, 1), NULL, NULL, 0};
    const char *packer, *reader;
    float y[33];
    for (int i = 0; (packer = tfast_available_isa(i)); i++) {
        tfast_packed packed;
        tfast_packed_layout layout;
        tfast_set_isa(packer);
        check_that(weight_pack(&weight, 1, &packed) == TFAST_OK, "%s packs", packer);
        check_that(tfast_packed_layout_of(&packed, &layout) && layout.format == TFAST_FORMAT_F32, "there is a layout");
        check_that(tfast_pack_step(&packed) == layout.panel_width, "rows are packed by panels");
        check_that(tfast_packed_scale(&packed) == NULL, "floats have no scales");
        const tfast_linear call = {.M = 1, .x = weight.data, .x_stride = 40, .weight = &packed, .y = y, .y_stride = 33};
        for (int j = 0; (reader = tfast_available_isa(j)); j++) {
            tfast_set_isa(reader);
            const tfast_status wanted = tfast_packed_fits(&packed) ? TFAST_OK : TFAST_WRONG_LAYOUT;
            check_that(wanted == TFAST_OK || i != j, "%s reads its own layout", reader);
            check_that(tfast_linear_run(&call, 1) == wanted, "%s meets the layout of %s", reader, packer);
        }
        weight_free(&packed);
    }
    tfast_set_isa(NULL);
}

void check_linear(void) {
    const tfast_format formats[] = {TFAST_FORMAT_F32, TFAST_FORMAT_BF16, TFAST_FORMAT_BF16_A32, TFAST_FORMAT_F16};
    const int64_t shapes[][3] = {{1, 50, 33}, {4, 33, 200}, {7, 31, 64}, {67, 97, 257}, {33, 130, 777}};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const shape_t s = {formats[f], shapes[i][0], shapes[i][1], shapes[i][2], i % 2};
            check_shape(s, TFAST_IDENTITY);
            check_shape(s, (tfast_activation)(1 + i));
        }
    check_maxima((shape_t){TFAST_FORMAT_F32, 67, 97, 257, 0});
    check_parts();
    check_layouts();
}
