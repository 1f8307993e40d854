/* Linear layers whose products are of integers, "int8" and "int8_a16": the scheme of base/int8.h in double, the same
 * bits on every level.
 *
 * Weights are packed from floats, and from integers of a file with and without the bound on runs; the reference takes
 * the integers of the packed weight, values / scale. */
#include <math.h>

#include "base/int8.h"
#include "check.h"
#include "data.h"
#include "groups.h"
#include "weights.h"

static const double TINY = 1.17549435e-38; /* the least normal float */

/* Integers and scale of one row of x, which is finite: each step is rounded to float, as the engine does it. */
static double quantise_row(int64_t K, const float* x, int wide, int32_t limit, double* integers) {
    float low = 0, high = 0;
    for (int64_t k = 0; k < K; k++) {
        low = fminf(low, x[k]);
        high = fmaxf(high, x[k]);
    }
    const float most = (float)INT8_X_MAX;
    float scale = wide ? fmaxf(high, -low) / (float)limit : high / most - low / most;
    scale = fmaxf(scale, (float)TINY);
    const float inverse = 1.0f / scale;
    const float zero = wide ? 0 : rintf(-low * inverse);
    for (int64_t k = 0; k < K; k++) {
        const float rounded = rintf(x[k] * inverse);
        integers[k] = wide ? rounded : fminf(rounded + zero, most) - zero;
    }
    return scale;
}

/* The largest |x| of the 16-bit scheme, of the integers of a weight. */
static int32_t x_limit(int64_t N, int64_t K, const double* integers) {
    double most = 0;
    for (int64_t n = 0; n < N; n++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++) sum += fabs(integers[n * K + k]);
        most = fmax(most, sum);
    }
    return tfast_int8_x_limit((int32_t)most);
}

/* The scale of each row, as the first level packs it. */
static const double* scales_of(const weight_t* weight) {
    tfast_packed packed;
    tfast_set_isa(tfast_available_isa(0));
    check_that(weight_pack(weight, 1, &packed) == TFAST_OK, "integers are packed");
    const double* scales = data_widened(weight->N, tfast_packed_scale(&packed));
    weight_free(&packed);
    tfast_set_isa(NULL);
    return scales;
}

static void check_product(int64_t M, const weight_t* w) {
    const int wide = w->format == TFAST_FORMAT_INT8_A16;
    const int64_t N = w->N, K = w->K;
    const product_t p = {w, {.M = M, .x = data_normal(M * K, 1), .x_stride = K}};
    const double *scale = scales_of(w), *values = weight_values(w);
    double *integers = data_room((size_t)(N * K) * sizeof *integers), *row = data_room((size_t)K * sizeof *row);
    double *expected = data_room((size_t)(M * N) * sizeof *expected),
           *sizes = data_room((size_t)(M * N) * sizeof *sizes);
    for (int64_t i = 0; i < N * K; i++)
        integers[i] = rint(values[i] / scale[i / K] * (w->smoothing ? w->smoothing[i % K] : 1));
    float* x = data_room((size_t)K * sizeof *x);
    const int32_t limit = x_limit(N, K, integers);
    for (int64_t i = 0; i < M; i++) {
        for (int64_t k = 0; k < K; k++) x[k] = p.call.x[i * K + k] * (w->smoothing ? 1.0f / w->smoothing[k] : 1.0f);
        const double x_scale = quantise_row(K, x, wide, limit, row);
        for (int64_t n = 0; n < N; n++) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < K; k++) {
                sum += row[k] * integers[n * K + k];
                magnitude += fabs(integers[n * K + k]);
            }
            expected[i * N + n] = sum * x_scale * scale[n];
            sizes[i * N + n] = magnitude * x_scale * scale[n] * (wide ? INT8_A16_X_MAX : INT8_X_MAX);
        }
    }
    check_call(&(check_t){"product of integers", weight_multiply, &p, M * N, expected, 1e-6, sizes, 1});
}

/* From floats: half a step, and where runs are bounded two more for the integer that is taken back. */
static void check_floats(tfast_format format, int64_t M, int64_t N, int64_t K) {
    const float* w = data_normal(N * K, 1 / sqrt((double)K));
    const weight_t weight = {format, TFAST_F32, N, K, w, NULL, NULL, 0};
    const double* scale = scales_of(&weight);
    double* steps = data_room((size_t)(N * K) * sizeof *steps);
    for (int64_t i = 0; i < N * K; i++) steps[i] = scale[i / K];
    const double taken_back = format == TFAST_FORMAT_INT8 ? 2 : 0;
    const check_t values = {"rounded weight",       weight_unpack,        &weight, N * K,
                            data_widened(N * K, w), 0.50001 + taken_back, steps,   1};
    check_call(&values);
    check_product(M, &weight);
}

/* From integers of a file, `most` at most. */
static void check_integers_of_files(tfast_format format, int64_t M, int64_t N, int64_t K, int most) {
    int8_t* w = data_room((size_t)(N * K));
    float* scale = data_room((size_t)N * sizeof *scale);
    double* values = data_room((size_t)(N * K) * sizeof *values);
    for (int64_t n = 0; n < N; n++) scale[n] = (float)data_integer(1, 100) / 8192;
    for (int64_t i = 0; i < N * K; i++) {
        w[i] = (int8_t)data_integer(-most, most + 1);
        values[i] = w[i] * (double)scale[i / K];
    }
    const weight_t weight = {format, TFAST_I8, N, K, w, scale, NULL, 0};
    check_call(&(check_t){"integers of a file", weight_unpack, &weight, N * K, values, 0, NULL, 1});
    check_product(M, &weight);
}

static void check_smoothing(void) {
    enum { M = 21, N = 61, K = 200 };
    float* factors = data_room(K * sizeof *factors);
    for (int64_t k = 0; k < K; k++) factors[k] = (float)data_integer(1, 9) / 4;
    const weight_t weight = {TFAST_FORMAT_INT8, TFAST_F32, N, K, data_normal(N * K, 0.1), NULL, factors, 0};
    check_product(M, &weight);
}

void check_integers(void) {
    const tfast_format formats[] = {TFAST_FORMAT_INT8, TFAST_FORMAT_INT8_A16};
    const int64_t shapes[][3] = {{1, 50, 33}, {3, 33, 7}, {5, 31, 512}, {21, 61, 768}, {67, 130, 200}};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const int64_t *s = shapes[i], M = s[0], N = s[1], K = s[2];
            check_floats(formats[f], M, N, K);
            check_integers_of_files(formats[f], M, N, K, 40); /* four of them stay within the bound of a run */
            check_integers_of_files(formats[f], M, N, K, 127);
        }
    check_smoothing();
}
