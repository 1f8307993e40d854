/* The kernels compiled for the level "scalar": constants of the tile, then the templates. The flags stand in setup.py.
 */
#define KERNEL(name) name##__scalar
#define TILE_ROWS    4
#define TILE_VECTORS 2
#define DECODE_ROWS  4

#include "../simd/scalar.h"

#include "../kernels/level.h"

const tfast_level tfast_level_scalar = LEVEL("scalar");
