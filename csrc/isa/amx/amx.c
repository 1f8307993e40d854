/* The level "amx": AVX-512 with the tile unit (Sapphire Rapids and later). It replaces the products with packed
 * weights, but for those of 16-bit integers, and attention; everything else is the level below. setup.py has the flags.
 *
 * Panels are two vectors wide, a pair of tiles. Those of float32 are packed by kernels/gemm/f32.h, which also computes
 * rows with infinities; those of other formats by the headers of theirs. */
#define KERNEL(name) name##__amx
#define TILE_ROWS    8
#define TILE_VECTORS 2
#define TFAST_VNNI
#define TFAST_DOT_BF16
#define INT8_ROW_UNIT 16
#define BF16_ROW_UNIT 16
#define BF16_K_GROUP  32
/* The level below decodes: ENGINE_MIN_ROWS is beyond any number of rows that a decode has. */
#define DECODE_ROWS 0
/* Splitting a block of B of float32 takes as long as multiplying 20 rows by it. Not measured for bfloat16 and integers,
 * which split nothing. */
#define MIN_MATRIX_ENGINE_ROWS 256

#include <float.h>
#include <math.h>
#include <string.h>

#include "../../simd/avx512.h"

#include "../../kernels/api.h"
#include "../../simd/math.h"

#include "../../kernels/activation.h"
#include "../../kernels/gemm/half_pack.h"

#include "../../kernels/gemm/bf16_rows.h"
#include "../../kernels/gemm/f32.h"
#include "../../kernels/gemm/int8.h"

#include "gemm.h"
#include "gemm_bf16.h"
#include "gemm_half.h"
#include "gemm_int8.h"

#include "attention.h"

#include "../../kernels/attention/attention.h"

static const tfast_gemm f32_tiles_gemm = {
    .layout = {TFAST_FORMAT_F32, PANEL, 1, PANEL * sizeof(float)},
    .many_rows = 1,
    .tile_rows = T_ROWS,
    .k_unit = T_K,
    .max_k_block = MAX_STEPS * T_K,
    .min_row_block = MIN_MATRIX_ENGINE_ROWS,
    .panel = KERNEL(f32_panel_tiles),
    .work_bytes = sizeof(tile_work),
    .begin = KERNEL(begin_tiles),
    .end = KERNEL(end_tiles),
    .prepared_bytes = KERNEL(split_rows_bytes),
    .prepare = KERNEL(split_rows),
    .pack = KERNEL(f32_pack),
    .pack_rows = KERNEL(f32_pack_rows),
    .unpack = KERNEL(f32_unpack),
};

static const tfast_gemm bf16_tiles_gemm = {
    .layout = {TFAST_FORMAT_BF16, PANEL, BF16_K_GROUP, BF16_GROUP_BYTES},
    .many_rows = 1,
    .tile_rows = T_ROWS,
    .k_unit = T_K,
    .max_k_block = MAX_BF16_STEPS * T_K,
    .min_row_block = MIN_MATRIX_ENGINE_ROWS,
    .panel = KERNEL(bf16_panel_tiles),
    .begin = KERNEL(begin_bf16_tiles),
    .end = KERNEL(end_tiles),
    .prepared_bytes = KERNEL(bf16_prepared_bytes),
    .prepare = KERNEL(bf16_prepare),
    .pack = KERNEL(bf16_pack),
    .unpack = KERNEL(bf16_unpack),
};

#define HALF_TILES_GEMM(format_, k_group_, k_group_bytes_, panel_, pack_, unpack_) \
    {                                                                              \
        .layout = {format_, PANEL, k_group_, k_group_bytes_},                      \
        .many_rows = 1,                                                            \
        .tile_rows = T_ROWS,                                                       \
        .k_unit = T_K,                                                             \
        .max_k_block = MAX_STEPS * T_K,                                            \
        .min_row_block = MIN_MATRIX_ENGINE_ROWS,                                   \
        .panel = KERNEL(panel_),                                                   \
        .work_bytes = sizeof(tile_work) + HALF_WORK_BYTES,                         \
        .begin = KERNEL(begin_tiles),                                              \
        .end = KERNEL(end_tiles),                                                  \
        .prepared_bytes = KERNEL(split_rows_bytes),                                \
        .prepare = KERNEL(split_rows),                                             \
        .pack = KERNEL(pack_),                                                     \
        .unpack = KERNEL(unpack_),                                                 \
    }

static const tfast_gemm f16_tiles_gemm =
    HALF_TILES_GEMM(TFAST_FORMAT_F16, HALF_PAIR, F16_GROUP_BYTES, f16_panel_tiles, f16_pack, f16_unpack);
static const tfast_gemm bf16_a32_tiles_gemm = HALF_TILES_GEMM(TFAST_FORMAT_BF16_A32, BF16_K_GROUP, BF16_GROUP_BYTES,
                                                              bf16_a32_panel_tiles, bf16_pack, bf16_unpack);

/* Integers that no bound holds are as good. */
#define INT8_TILES_GEMM(format_, pack_)                                           \
    {                                                                             \
        .layout = {format_, INT8_PANEL, INT8_K_GROUP, INT8_K_GROUP * INT8_PANEL}, \
        .integers = 1,                                                            \
        .many_rows = 1,                                                           \
        .fewest_rows = FEWEST_TILE_ROWS,                                          \
        .tile_rows = T_ROWS,                                                      \
        .k_unit = INT8_K_GROUP,                                                   \
        .max_k_block = INT8_MAX_K,                                                \
        .min_row_block = MIN_MATRIX_ENGINE_ROWS,                                  \
        .panel = KERNEL(int8_panel_tiles),                                        \
        .begin = KERNEL(begin_int8_tiles),                                        \
        .end = KERNEL(end_tiles),                                                 \
        .prepared_bytes = KERNEL(int8_prepared_bytes),                            \
        .prepare = KERNEL(int8_prepare),                                          \
        .pack = KERNEL(pack_),                                                    \
        .unpack = KERNEL(int8_unpack),                                            \
    }

static const tfast_gemm int8_tiles_gemm = INT8_TILES_GEMM(TFAST_FORMAT_INT8, int8_pack);
static const tfast_gemm int8_unbounded_tiles_gemm = INT8_TILES_GEMM(TFAST_FORMAT_INT8_UNBOUNDED, int8_pack_unbounded);

static const tfast_gemm* const gemms[] = {&f32_tiles_gemm,
                                          &f16_tiles_gemm,
                                          &bf16_tiles_gemm,
                                          &bf16_a32_tiles_gemm,
                                          &int8_tiles_gemm,
                                          &int8_unbounded_tiles_gemm,
                                          NULL};

static const tfast_attention_kernels attention_kernels = {
    .panel = PANEL,
    .min_tail_rows = MIN_TAIL_ROWS,
    .key_block = KEY_BLOCK,
    .k_unit = T_K,
    .piece_panels = ENGINE_PIECE_PANELS,
    .decode_rows = DECODE_ROWS,
    .matrix_engine = 1,
    .min_rows = ENGINE_MIN_ROWS,
    .min_keys = ENGINE_MIN_KEYS,
    .min_width = ENGINE_MIN_WIDTH,
    .scratch_bytes = KERNEL(attention_scratch_bytes),
    .qblock = KERNEL(attention_qblock),
    .merge = KERNEL(attention_merge),
};

const tfast_level tfast_level_amx = {"amx", gemms, &attention_kernels, NULL};
