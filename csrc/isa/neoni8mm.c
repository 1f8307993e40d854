/* The level "neoni8mm": NEON with smmla (FEAT_I8MM: Neoverse V1 and N2, Cortex-X2, Apple M2 and later), which
 * multiplies two rows of x by two columns, eight k each: twice the products of sdot. It replaces the products of
 * "int8", whose sums are those of every other level; their weights have a layout of their own. Not measured, as "neon".
 */
#define KERNEL(name) name##__neoni8mm
#define TILE_ROWS    8
#define TILE_VECTORS 3
#define TFAST_NEON_DOT
#define TFAST_NEON_I8MM

#include <float.h>
#include <math.h>
#include <string.h>

#include "../simd/neon.h"

#include "../kernels/api.h"
#include "../simd/math.h"

#include "../kernels/activation.h"
#include "../kernels/gemm/int8.h"

static const tfast_gemm* const gemms[] = {&int8_gemm, &int8_unbounded_gemm, NULL};

const tfast_level tfast_level_neoni8mm = {"neoni8mm", gemms, NULL, NULL};
