/* What this machine is: instruction sets that may be used (CPU and operating system together) and cache sizes.
 *
 * Called by runtime/dispatch.c and by the ops that choose block sizes. A new instruction set level gets a bit here and
 * its test in cpu.c. */
#ifndef TFAST_BASE_CPU_H
#define TFAST_BASE_CPU_H

#include <stdint.h>

enum {
    TFAST_CPU_X86_64_V3 = 1 << 0, /* AVX2, FMA, F16C, BMI1/2, LZCNT, MOVBE */
    TFAST_CPU_X86_64_V4 = 1 << 1, /* AVX-512 F, BW, CD, DQ, VL */
    TFAST_CPU_AMX_BF16 = 1 << 2   /* AMX-TILE, AMX-BF16, AVX512-BF16, and the system lets this process use the tiles */
};

/* For what is measured to be better on some processors alone, and changes no result. What is in force: dispatch.h. */
typedef enum { TFAST_TUNING_OTHER, TFAST_TUNING_INTEL, TFAST_TUNING_ZEN4 } tfast_tuning;

typedef struct {
    unsigned levels; /* bits of the enumeration above */
    int64_t l1d_bytes, l2_bytes, l3_bytes;
    char brand[49];
    tfast_tuning tuning;
} tfast_cpu;

/* Filled at the first call; safe to call from several threads (each would write the same values). */
const tfast_cpu* tfast_cpu_info(void);

#endif
