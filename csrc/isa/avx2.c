/* The kernels compiled for the level "avx2": constants of the tile, then the templates. The flags stand in setup.py. */
#define KERNEL(name) name##__avx2
#define TILE_ROWS    4
#define TILE_VECTORS 3
#define DECODE_ROWS  8

#include "../simd/avx2.h"

#include "../kernels/level.h"

const tfast_level tfast_level_avx2 = LEVEL("avx2");
