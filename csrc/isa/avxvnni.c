/* The level "avxvnni": AVX2 with vpdpbusd and vpdpwssd (AVX-VNNI: Alder Lake and later). It replaces the products of
 * integers, whose sums are those of every other level; the layout of weights is that of "avx2". Not measured: the
 * machines at hand have no such instructions, or were not there when this was written; the emulated level runs the same
 * templates in tests. */
#define KERNEL(name) name##__avxvnni
#define TILE_ROWS    4
#define TILE_VECTORS 3
#define TFAST_VNNI

#include "../simd/avx2.h"

#include "../kernels/integers.h"

const tfast_level tfast_level_avxvnni = INTEGER_LEVEL("avxvnni");
