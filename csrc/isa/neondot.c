/* The level "neondot": NEON with sdot (Armv8.2-A dotprod: Cortex-A55 and A76, Neoverse N1, Apple M1 and later). It
 * replaces the products of integers, whose sums are those of every other level; the layout of weights is that of
 * "neon". Not measured, as "neon". */
#define KERNEL(name) name##__neondot
#define TILE_ROWS    8
#define TILE_VECTORS 3
#define TFAST_NEON_DOT

#include "../simd/neon.h"

#include "../kernels/integers.h"

const tfast_level tfast_level_neondot = INTEGER_LEVEL("neondot");
