/* What this machine is: instruction sets that may be used (CPU and operating system together) and cache sizes.
 *
 * Called by runtime/dispatch.c and by tuning/ and by the ops that choose block sizes. A new instruction set level gets
 * a bit here and its test in cpu.c, of arm64 in tfast_os_fill_arm64 of each system. */
#ifndef TFAST_BASE_CPU_H
#define TFAST_BASE_CPU_H

#include <stdint.h>

enum {
    TFAST_CPU_X86_64_V3 = 1 << 0,   /* AVX2, FMA, F16C, BMI1/2, LZCNT, MOVBE */
    TFAST_CPU_X86_64_V4 = 1 << 1,   /* AVX-512 F, BW, CD, DQ, VL */
    TFAST_CPU_AMX = 1 << 2,         /* AMX-TILE, AMX-BF16, AMX-INT8, and the system lets this process use the tiles */
    TFAST_CPU_AVX_VNNI = 1 << 3,    /* with X86_64_V3 */
    TFAST_CPU_AVX512_VNNI = 1 << 4, /* with X86_64_V4 */
    TFAST_CPU_AVX512_BF16 = 1 << 5, /* with X86_64_V4 */
    TFAST_CPU_NEON = 1 << 6,        /* arm64: Armv8-A, whose vectors every processor has */
    TFAST_CPU_NEON_DOT = 1 << 7,    /* FEAT_DotProd: sdot */
    TFAST_CPU_NEON_I8MM = 1 << 8    /* FEAT_I8MM: smmla */
};

typedef enum { TFAST_OTHER_VENDOR, TFAST_INTEL, TFAST_AMD } tfast_vendor;

typedef struct {
    unsigned levels; /* bits of the enumeration above */
    int64_t l1d_bytes, l2_bytes, l3_bytes;
    char brand[49];
    tfast_vendor vendor;
    int family, model; /* as the makers count them, extensions added; 0: unknown */
} tfast_cpu;

/* Filled at the first call; safe to call from several threads (each would write the same values). */
const tfast_cpu* tfast_cpu_info(void);

/* For loops that wait for another thread: leaves the core's resources to its other hardware thread for a moment. */
static inline void tfast_cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
