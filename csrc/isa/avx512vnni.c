/* The level "avx512vnni": AVX-512 with vpdpbusd and vpdpwssd (VNNI: Ice Lake, Zen 4 and later). It replaces the
 * products of integers, whose sums are those of every other level; the layout of weights is that of "avx512". Not
 * measured: the machines at hand have no such instructions, or were not there when this was written; the emulated level
 * runs the same templates in tests. */
#define KERNEL(name) name##__avx512vnni
#define TILE_ROWS    8
#define TILE_VECTORS 3
#define TFAST_VNNI

#include "../simd/avx512.h"

#include "../kernels/integers.h"

const tfast_level tfast_level_avx512vnni = INTEGER_LEVEL("avx512vnni");
