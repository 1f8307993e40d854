/* The kernels compiled for the level "portable": constants of the tile, then the templates. The flags stand in
 * setup.py.
 */
#define KERNEL(name) name##__portable
#define TILE_ROWS    4
#define TILE_VECTORS 2
#define DECODE_ROWS  4
#define V_LANES      4
#define V_REGISTERS  16 /* of x86-64; arm64 has the level "neon" */

#define VI_SIGNED_BYTES         0
#define VI_DOT_BYTES_IS_BOUNDED 0
#define VI_CODES_IN_SHORTS      0

#include "../simd/portable.h"

#include "../kernels/level.h"

const tfast_level tfast_level_portable = LEVEL("portable");
