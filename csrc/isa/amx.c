/* The level "amx": AVX-512 with the tile unit (Sapphire Rapids and later). It overwrites the products with packed
 * weights alone; everything else is the level below. The flags stand in setup.py.
 *
 * Panels are two vectors wide, a pair of tiles; gemm.h gives the packing and what computes rows with infinities. */
#define ISA_NAME     "amx"
#define KERNEL(name) name##__amx
#define TILE_ROWS    8
#define TILE_VECTORS 2
/* Splitting a block of B takes as long as multiplying 20 rows by it. */
#define ROWS_BLOCK 256

#include <math.h>
#include <string.h>

#include "../simd/avx512.h"

#include "../kernels/table.h"
#include "../simd/math.h"

#include "../kernels/activation.h"
#include "../kernels/gemm.h"

#include "amx_gemm.h"

void tfast_fill_amx(tfast_kernels* table) {
    table->isa = ISA_NAME;
    table->tile_rows = T_ROWS;
    table->panel_width = PANEL;
    table->k_unit = T_K;
    table->k_block = MAX_STEPS * T_K;
    table->rows_block = ROWS_BLOCK;
    table->gemm_f32_panel = KERNEL(gemm_f32_panel_tiles);
    table->gemm_f32_work_bytes = sizeof(tile_work);
    table->gemm_f32_begin = KERNEL(gemm_f32_begin);
    table->gemm_f32_end = KERNEL(gemm_f32_end);
    table->gemm_f32_rows_bytes = KERNEL(gemm_f32_rows_bytes);
    table->gemm_f32_rows = KERNEL(gemm_f32_rows);
    table->gemm_f32_pack = KERNEL(gemm_f32_pack);
    table->gemm_f32_pack_rows = KERNEL(gemm_f32_pack_rows);
}
