/* The tile unit: eight registers of 16 rows of 64 bytes, the product of bfloat16 pairs, and that of bytes by fours,
 * unsigned ones of A times signed ones of B.
 *
 * Used by isa/amx/gemm*.h and isa/amx/attention.h. The names below stand for the instructions; a test build emulates
 * them for machines that have none. Register numbers are constants. */
#ifndef TFAST_ISA_AMX_TILE_H
#define TFAST_ISA_AMX_TILE_H

enum { T_ROWS = 16, T_K = 32, T_ROW_BYTES = 64, T_BYTES = T_ROWS * T_ROW_BYTES, T_REGISTERS = 8 };
_Static_assert(V_LANES == T_ROWS, "a vector must be a row of a tile of floats");
_Static_assert(T_K * 2 == T_ROW_BYTES && V_LANES * 4 == T_ROW_BYTES,
               "a row of a tile must have 32 bfloat16 or 16 floats");

/* What LDTILECFG reads. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "LDTILECFG reads 64 bytes");

#if !defined(TFAST_EMULATED)

/* gcc's tile intrinsics do not say that they read memory: what was stored before has to be there. */
#define TILES_READ_MEMORY(where)    __asm__ volatile("" : : "r"(where) : "memory")
#define tile_load_config(config)    _tile_loadconfig(config)
#define tile_release()              _tile_release()
#define tile_zero(to)               _tile_zero(to)
#define tile_load(to, from, stride) _tile_loadd(to, from, stride)
#define tile_store(from, to, step)  _tile_stored(from, to, step)
#define tile_dot_bf16(c, a, b)      _tile_dpbf16ps(c, a, b)
#define tile_dot_bytes(c, a, b)     _tile_dpbusd(c, a, b)

#else

#include "tile_emulated.h"

#endif

#endif
