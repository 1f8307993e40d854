/* The level "amx": AVX-512 with the tile unit (Sapphire Rapids and later). It overwrites the products with packed
 * weights and attention; everything else is the level below. The flags stand in setup.py.
 *
 * Panels are two vectors wide, a pair of tiles; gemm.h gives the packing and what computes rows with infinities. */
#define ISA_NAME     "amx"
#define KERNEL(name) name##__amx
#define TILE_ROWS    8
#define TILE_VECTORS 2
#define DECODE_ROWS  8
/* Splitting a block of B takes as long as multiplying 20 rows by it. */
#define ROWS_BLOCK 256

#include <float.h>
#include <math.h>
#include <string.h>

#include "../simd/avx512.h"

#include "../kernels/table.h"
#include "../simd/math.h"

#include "../kernels/activation.h"
#include "../kernels/gemm.h"

#include "amx_gemm.h"

#define ATTENTION_UNIT "../isa/amx_attention.h"
#include "../kernels/attention.h"

void tfast_fill_amx(tfast_kernels* table) {
    table->isa = ISA_NAME;
    table->tile_rows = T_ROWS;
    table->panel_width = PANEL;
    table->k_unit = T_K;
    table->k_block = MAX_STEPS * T_K;
    table->rows_block = ROWS_BLOCK;
    table->gemm_f32_panel = KERNEL(gemm_f32_panel_tiles);
    table->most_few = 0;
    table->gemm_f32_few = NULL;
    table->gemm_f32_work_bytes = sizeof(tile_work);
    table->gemm_f32_begin = KERNEL(gemm_f32_begin);
    table->gemm_f32_end = KERNEL(gemm_f32_end);
    table->gemm_f32_rows_bytes = KERNEL(gemm_f32_rows_bytes);
    table->gemm_f32_rows = KERNEL(gemm_f32_rows);
    table->gemm_f32_pack = KERNEL(gemm_f32_pack);
    table->gemm_f32_pack_rows = KERNEL(gemm_f32_pack_rows);

    table->attention_panel = PANEL;
    table->attention_alone = ATTENTION_ALONE;
    table->attention_block = ATTENTION_BLOCK;
    table->attention_min_rows = UNIT_MIN_ROWS;
    table->attention_min_keys = UNIT_MIN_KEYS;
    table->attention_min_width = UNIT_MIN_WIDTH;
    table->piece_panels = UNIT_PIECE_PANELS;
    table->decode_rows = DECODE_ROWS;
    table->attention_f32_scratch_bytes = KERNEL(attention_f32_scratch_bytes);
    table->attention_f32_qblock = KERNEL(attention_f32_qblock);
    table->attention_f32_decode = KERNEL(attention_f32_decode);
    table->attention_f32_merge = KERNEL(attention_f32_merge);
}
