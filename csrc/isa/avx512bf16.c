/* The level "avx512bf16": AVX-512 with vdpbf16ps (Cooper Lake, Zen 4, Sapphire Rapids and later). It replaces the
 * products with weights in bfloat16, and rounds x for them; the layout of weights is that of "avx512". */
#define KERNEL(name) name##__avx512bf16
#define TILE_ROWS    8
#define TILE_VECTORS 3
#define TFAST_DOT_BF16

#include <float.h>
#include <math.h>
#include <string.h>

#include "../simd/avx512.h"

#include "../kernels/api.h"
#include "../simd/math.h"

#include "../kernels/activation.h"
#include "../kernels/gemm/bf16_pairs.h"

static const tfast_gemm bf16_gemm = {
    .layout = {TFAST_FORMAT_BF16, PANEL, BF16_K_GROUP, BF16_GROUP_BYTES},
    .tile_rows = TILE_ROWS,
    .k_unit = K_UNIT,
    .max_k_block = MAX_PAIRS_K_BLOCK,
    .min_row_block = MIN_ROW_BLOCK,
    .panel = KERNEL(bf16_pairs_panel),
    .max_small_m = SMALL_M,
    .small_m = KERNEL(bf16_pairs_small_m),
    .prepared_bytes = KERNEL(bf16_prepared_bytes),
    .prepare = KERNEL(bf16_prepare),
    .pack = KERNEL(bf16_pack),
    .unpack = KERNEL(bf16_unpack),
};

static const tfast_gemm* const gemms[] = {&bf16_gemm, NULL};

const tfast_level tfast_level_avx512bf16 = {"avx512bf16", gemms, NULL, NULL};
