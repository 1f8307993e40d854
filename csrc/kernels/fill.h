/* All kernels of one instruction set, and the function that puts them into the table.
 *
 * Included by isa/<isa>.c after its simd/<isa>.h and after it has defined KERNEL(name), the name with the suffix of the
 * instruction set (gemm_f32_panel__avx512, so that a profile shows it), and the constants TILE_ROWS, TILE_VECTORS
 * and DECODE_ROWS (see kernels/table.h).
 *
 * Everything in here is static: inline code compiled for AVX must not leak into the baseline through the linker. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "table.h"

#include "../simd/math.h"

#include "activation.h"
#include "gemm.h"
#include "gemm_few.h"
#include "norm.h"
#include "probe.h"
#include "recurrent.h"
#include "rope.h"
#include "softmax.h"

#include "attention.h"

static void fill(tfast_kernels* table) {
    table->isa = ISA_NAME;

    table->tile_rows = TILE_ROWS;
    table->panel_width = PANEL;
    table->k_unit = 8;
    table->k_block = MAX_K_BLOCK;
    table->rows_block = MIN_BLOCK_ROWS;
    table->gemm_f32_panel = KERNEL(gemm_f32_panel);
    table->most_few = FEW_ROWS;
    table->gemm_f32_few = KERNEL(gemm_f32_few);
    table->gemm_f32_work_bytes = 0;
    table->gemm_f32_begin = NULL;
    table->gemm_f32_end = NULL;
    table->gemm_f32_rows_bytes = NULL;
    table->gemm_f32_rows = NULL;
    table->gemm_f32_pack = KERNEL(gemm_f32_pack);
    table->gemm_f32_pack_rows = KERNEL(gemm_f32_pack_rows);

    table->attention_panel = PANEL;
    table->attention_alone = ATTENTION_ALONE;
    table->attention_block = ATTENTION_BLOCK;
    table->attention_min_rows = 0;
    table->attention_min_keys = 0;
    table->attention_min_width = 0;
    table->piece_panels = PIECE_PANELS;
    table->decode_rows = DECODE_ROWS;
    table->attention_f32_scratch_bytes = KERNEL(attention_f32_scratch_bytes);
    table->attention_f32_qblock = KERNEL(attention_f32_qblock);
    table->attention_f32_decode = KERNEL(attention_f32_decode);
    table->attention_f32_merge = KERNEL(attention_f32_merge);

    table->layernorm_f32_rows = KERNEL(layernorm_f32_rows);
    table->rmsnorm_f32_rows = KERNEL(rmsnorm_f32_rows);
    table->rope_f32_rows = KERNEL(rope_f32_rows);
    table->softmax_f32_rows = KERNEL(softmax_f32_rows);
    table->activation_f32_span = KERNEL(activation_f32_span);
    table->lstm_f32_span = KERNEL(lstm_f32_span);
    table->gru_f32_span = KERNEL(gru_f32_span);

    table->fma_f32_probe = KERNEL(fma_f32_probe);
    table->read_f32_probe = KERNEL(read_f32_probe);
}
