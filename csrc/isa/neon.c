/* The kernels compiled for the level "neon", arm64 without more: constants of the tile, then the templates. The flags
 * stand in setup.py.
 *
 * Tiles for 32 registers: 8 x 3 sums + 3 of B + 1 value of A (a factor in a lane) = 28. Of the tiles that fit, rows r
 * and vectors v with r v + v + 1 <= 32, and r 4 or 8, it has the fewest loads for an FMA, (r + v) / (r v) = 0.46. Not
 * measured: there was no such machine. docs/kernels.md counts the instructions of its loops. */
#define KERNEL(name) name##__neon
#define TILE_ROWS    8
#define TILE_VECTORS 3
#define DECODE_ROWS  4

#include "../simd/neon.h"

#include "../kernels/level.h"

const tfast_level tfast_level_neon = LEVEL("neon");
