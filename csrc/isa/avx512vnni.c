/* The level "avx512vnni": AVX-512 with vpdpbusd and vpdpwssd (VNNI: Ice Lake, Zen 4 and later). It replaces the
 * products of integers, whose sums are those of every other level; the layout of weights is that of "avx512".
 * Zen 4, 512 rows, 768 -> 3072, one thread of a busy machine: int8 445 GOP/s, blocks under 8 bits 250 to 280, under 16
 * bits 150, float32 112. */
#define KERNEL(name) name##__avx512vnni
#define TILE_ROWS    8
#define TILE_VECTORS 3
#define TFAST_VNNI

#include "../simd/avx512.h"

#include "../kernels/integers.h"

const tfast_level tfast_level_avx512vnni = INTEGER_LEVEL("avx512vnni");
