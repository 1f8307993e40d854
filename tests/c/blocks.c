/* Weights in blocks, of GGUF files and of "int4": random blocks of every format, met by x in 16 and in 8 bits; the same
 * bits on every level.
 *
 * That a block's bytes mean what they should is for the suite of Python, which has the files' own definitions. Here the
 * values are those that the first level unpacks, and every level has to multiply by them. */
#include <math.h>
#include <string.h>

#include "base/convert.h"
#include "check.h"
#include "data.h"
#include "groups.h"
#include "weights.h"

enum { A16_X_MAX = 32767, A8_X_MAX = 127 * 256 }; /* kernels/gemm/blocks_rows.h */

/* Where a block has numbers of float16, whose random bits would be of any size. */
static int halves_of(tfast_format format, int at[2]) {
    at[0] = format == TFAST_FORMAT_Q6_K ? 208 : 0;
    at[1] = 2;
    if (format == TFAST_FORMAT_MXFP4) return 0;
    return format == TFAST_FORMAT_Q4_1 || format == TFAST_FORMAT_Q5_1 || format == TFAST_FORMAT_Q4_K ||
                   format == TFAST_FORMAT_Q5_K
               ? 2
               : 1;
}

static const uint8_t* random_blocks(tfast_format format, int64_t n, int64_t values, int64_t bytes) {
    uint8_t* blocks = data_room((size_t)(n * bytes));
    int at[2];
    const int halves = halves_of(format, at);
    for (int64_t i = 0; i < n; i++) {
        uint8_t* block = blocks + i * bytes;
        for (int64_t k = 0; k < bytes; k++) block[k] = (uint8_t)data_bits();
        if (format == TFAST_FORMAT_MXFP4) block[0] = (uint8_t)data_integer(115, 122); /* an exponent */
        for (int h = 0; h < halves; h++) {
            const float scale = (float)data_integer(-1000, 1001) / (values == 256 ? 1e6f : 1e5f);
            const uint16_t half = tfast_f16_from_f32(scale);
            memcpy(block + at[h], &half, sizeof half);
        }
    }
    return blocks;
}

/* 8 significant bits in each group of k: bytes times the least power of two that takes all of the group. */
static void round_to_8_bits(int64_t K, int64_t group, double* integers) {
    for (int64_t first = 0; first < K; first += group) {
        const int64_t end = TFAST_MIN(first + group, K);
        double shift = 1;
        for (int64_t k = first; k < end; k++)
            while (integers[k] < -128 * shift || integers[k] >= 128 * shift) shift *= 2;
        for (int64_t k = first; k < end; k++) integers[k] = fmin(floor(integers[k] / shift + 0.5), 127) * shift;
    }
}

static void check_product(int64_t M, const weight_t* w, int64_t group) {
    const int64_t N = w->N, K = w->K;
    const double* values = weight_values(w);
    const product_t p = {w, {.M = M, .x = data_normal(M * K, 1), .x_stride = K}};
    double *expected = data_room((size_t)(M * N) * sizeof *expected),
           *sizes = data_room((size_t)(M * N) * sizeof *sizes);
    double* row = data_room((size_t)K * sizeof *row);
    for (int64_t i = 0; i < M; i++) {
        const float* x = p.call.x + i * K;
        float most = 0;
        for (int64_t k = 0; k < K; k++) most = fmaxf(most, fabsf(x[k]));
        const float scale = most / (float)(group ? A8_X_MAX : A16_X_MAX), inverse = 1.0f / scale;
        for (int64_t k = 0; k < K; k++) row[k] = rintf(x[k] * inverse);
        if (group) round_to_8_bits(K, group, row);
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++) {
                expected[i * N + n] += row[k] * values[n * K + k] * scale;
                sizes[i * N + n] += fabs(x[k] * values[n * K + k]);
            }
    }
    check_call(&(check_t){"product of blocks", weight_multiply, &p, M * N, expected, TOLERANCE, sizes, 1});
}

/* With x in 16 bits and in 8. */
static void check_weight(int64_t M, weight_t w) {
    check_call(&(check_t){"unpacked blocks", weight_unpack, &w, w.N * w.K, NULL, 0, NULL, 1});
    check_product(M, &w, 0);
    const int64_t group = w.format == TFAST_FORMAT_Q6_K ? 16 : 32;
    w.format = (tfast_format)(w.format + TFAST_FORMAT_A8);
    check_product(M, &w, group);
}

void check_blocks(void) {
    const int64_t shapes[][3] = {{1, 50, 512}, {5, 33, 256}, {21, 61, 768}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int64_t *s = shapes[i], N = s[1], K = s[2];
        check_weight(s[0], (weight_t){TFAST_FORMAT_INT4, TFAST_F32, N, K, data_normal(N * K, 0.05), NULL, NULL, 0});
        for (int format = TFAST_FORMAT_Q8_0; format <= TFAST_FORMAT_Q4_Z; format++) {
            int64_t values, bytes;
            tfast_file_block((tfast_format)format, &values, &bytes);
            const uint8_t* blocks = random_blocks((tfast_format)format, N * K / values, values, bytes);
            check_weight(s[0], (weight_t){(tfast_format)format, TFAST_BLOCKS, N, K, blocks, NULL, NULL, 0});
        }
    }
}
