/* The kernels compiled for the level "avx2": constants of the tile, then the templates. The flags stand in setup.py. */
#define ISA_NAME     "avx2"
#define KERNEL(name) name##__avx2
#define TILE_ROWS    4
#define TILE_VECTORS 3
#define DECODE_ROWS  8

#include "../simd/avx2.h"

#include "../kernels/fill.h"

void tfast_fill_avx2(tfast_kernels* table) {
    fill(table);
}
