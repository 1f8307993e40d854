/* The level "neon" for machines without it, in test builds alone: its templates and constants on vectors of the
 * compiler. setup.py compiles it when TRANSFORMER_FAST_EMULATE is set. */
#define TFAST_EMULATED
#define tfast_level_neon tfast_level_neon_emulated
#include "../neon.c"
