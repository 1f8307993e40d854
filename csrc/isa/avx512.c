/* The kernels compiled for the level "avx512": constants of the tile, then the templates. The flags stand in setup.py.
 */
#define KERNEL(name) name##__avx512
#define TILE_ROWS    8
#define TILE_VECTORS 3
#define DECODE_ROWS  8

#include "../simd/avx512.h"

#include "../kernels/level.h"

const tfast_level tfast_level_avx512 = LEVEL("avx512");
