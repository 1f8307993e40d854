/* The level "amx" for machines without it, in test builds alone: its templates and constants on vectors of the
 * compiler, and the tile unit in C. setup.py compiles it when TRANSFORMER_FAST_EMULATE is set. */
#define TFAST_EMULATED
#define tfast_level_amx tfast_level_amx_emulated
#include "../amx/amx.c"
