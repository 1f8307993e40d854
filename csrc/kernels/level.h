/* All kernels of one level, and their descriptors.
 *
 * Included by isa/<level>.c after its simd/<isa>.h and after it has defined KERNEL(name), the name with the suffix of
 * the level (f32_panel__avx512, so that a profile shows it), and the constants TILE_ROWS, TILE_VECTORS and DECODE_ROWS.
 * The file then exports LEVEL(name). A new weight format: its header and its descriptor here.
 *
 * Everything in here is static: inline code compiled for AVX must not leak into the baseline through the linker. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "api.h"

#include "../simd/math.h"

#include "activation.h"
#include "column_max.h"
#include "gemm/f32.h"
#include "gemm/half.h"
#include "gemm/int8.h"
#include "gemm/maxima.h"

#include "gemm/blocks.h"
#include "norm.h"
#include "probe.h"
#include "recurrent.h"
#include "rope.h"
#include "search.h"
#include "softmax.h"
#include "widen.h"

#include "attention/no_matrix_engine.h"

#include "attention/attention.h"

static const tfast_gemm f32_gemm = {
    .layout = {TFAST_FORMAT_F32, PANEL, 1, PANEL * sizeof(float)},
    .tile_rows = TILE_ROWS,
    .k_unit = K_UNIT,
    .max_k_block = MAX_K_BLOCK,
    .min_row_block = MIN_ROW_BLOCK,
    .panel = KERNEL(f32_panel),
    .max_small_m = SMALL_M,
    .small_m = KERNEL(f32_small_m),
    .column_unit = V_LANES,
    .maxima = KERNEL(f32_maxima),
    .pack = KERNEL(f32_pack),
    .pack_rows = KERNEL(f32_pack_rows),
    .unpack = KERNEL(f32_unpack),
};

_Static_assert(K_UNIT % BF16_K_GROUP == 0 && K_UNIT % HALF_PAIR == 0, "a block of k must not split a pair");
#define HALF_GEMM(format_, k_group_, k_group_bytes_, name)    \
    {                                                         \
        .layout = {format_, PANEL, k_group_, k_group_bytes_}, \
        .tile_rows = TILE_ROWS,                               \
        .k_unit = K_UNIT,                                     \
        .max_k_block = MAX_K_BLOCK,                           \
        .min_row_block = MIN_ROW_BLOCK,                       \
        .panel = KERNEL(name##_panel),                        \
        .max_small_m = SMALL_M,                               \
        .small_m = KERNEL(name##_small_m),                    \
        .work_bytes = HALF_WORK_BYTES,                        \
        .pack = KERNEL(name##_pack),                          \
        .unpack = KERNEL(name##_unpack),                      \
    }

static const tfast_gemm f16_gemm = HALF_GEMM(TFAST_FORMAT_F16, HALF_PAIR, F16_GROUP_BYTES, f16);
static const tfast_gemm bf16_gemm = HALF_GEMM(TFAST_FORMAT_BF16, BF16_K_GROUP, BF16_GROUP_BYTES, bf16);
static const tfast_gemm bf16_a32_gemm = HALF_GEMM(TFAST_FORMAT_BF16_A32, BF16_K_GROUP, BF16_GROUP_BYTES, bf16);

static const tfast_gemm* const gemms[] = {&f32_gemm,  &f16_gemm,      &bf16_gemm,           &bf16_a32_gemm,
                                          &int8_gemm, &int8_a16_gemm, &int8_unbounded_gemm, BLOCK_GEMMS,
                                          NULL};

static const tfast_attention_kernels attention_kernels = {
    .panel = PANEL,
    .min_tail_rows = MIN_TAIL_ROWS,
    .key_block = KEY_BLOCK,
    .decode_key_block = DECODE_KEY_BLOCK,
    .k_unit = K_UNIT,
    .piece_panels = PIECE_PANELS,
    .decode_rows = DECODE_ROWS,
    .scratch_bytes = KERNEL(attention_scratch_bytes),
    .qblock = KERNEL(attention_qblock),
    .decode = KERNEL(attention_decode),
    .merge = KERNEL(attention_merge),
};

static const tfast_row_kernels row_kernels = {
    .layernorm = KERNEL(layernorm),
    .rmsnorm = KERNEL(rmsnorm),
    .rope = KERNEL(rope),
    .softmax = KERNEL(softmax),
    .column_max = KERNEL(column_max),
    .activation = KERNEL(activation),
    .widen = KERNEL(widen),
    .above = KERNEL(above),
    .squares = KERNEL(squares),
    .hamming = KERNEL(hamming),
    .lstm = KERNEL(lstm),
    .gru = KERNEL(gru),
    .fma_probe = KERNEL(fma_probe),
    .read_probe = KERNEL(read_probe),
};

#define LEVEL(name) {name, gemms, &attention_kernels, &row_kernels}
