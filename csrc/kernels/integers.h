/* The kernels of a level that improves the formats of integers alone.
 *
 * Included by isa/<level>.c after what level.h asks for. The file then exports INTEGER_LEVEL(name); everything else is
 * the level below. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "api.h"

#include "../simd/math.h"

#include "activation.h"
#include "gemm/int8.h"

#include "gemm/blocks.h"

static const tfast_gemm* const gemms[] = {&int8_gemm, &int8_a16_gemm, &int8_unbounded_gemm, BLOCK_GEMMS, NULL};

#define INTEGER_LEVEL(name) {name, gemms, NULL, NULL}
