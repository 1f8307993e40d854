/* The level "avx512bf16" for machines without it, in test builds alone: its templates and constants on vectors of the
 * compiler. setup.py compiles it when TRANSFORMER_FAST_EMULATE is set. */
#define TFAST_EMULATED
#define tfast_level_avx512bf16 tfast_level_avx512bf16_emulated
#include "../avx512bf16.c"
