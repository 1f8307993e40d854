/* Which kernels are in force. Called by ops/ and by the Python settings (the names).
 *
 * Levels are laid over each other: portable has all kernels, each level that the machine has replaces the descriptors
 * that it improves. A level is added to the list in dispatch.c. */
#ifndef TFAST_RUNTIME_DISPATCH_H
#define TFAST_RUNTIME_DISPATCH_H

#include "../base/types.h"
#include "../kernels/api.h"

enum { TFAST_MAX_GEMMS = 64 };

typedef struct {
    const char* name;                                              /* of the topmost level */
    const tfast_gemm* gemms[TFAST_MAX_GEMMS + 1];                  /* best first; ends with NULL */
    const tfast_attention_kernels *attention, *attention_fallback; /* fallback: itself, or of the level below */
    const char *attention_level, *attention_fallback_level;        /* the names of their levels */
    const tfast_row_kernels* rows;
} tfast_kernels;

/* Finds the levels of this machine, and puts the best in force. Once, before all else. */
void tfast_lay_levels(void);

/* What is in force. It never changes once it is made: a call keeps the one it began with. */
const tfast_kernels* tfast_kernels_now(void);

/* The descriptor that new weights of a format are packed for; for_decode: they meet some dozens of rows at most. */
const tfast_gemm* tfast_gemm_for(const tfast_kernels* kernels, tfast_format format, int for_decode);
/* The descriptor that reads what `packer` packed; NULL where no layout is the same. */
const tfast_gemm* tfast_gemm_that_reads(const tfast_kernels* kernels, const tfast_gemm* packer);
/* `gemm`, or for integers, whose bits are those of every descriptor, the best one of its layout for so many rows of x.
 */
const tfast_gemm* tfast_gemm_for_rows(const tfast_kernels* kernels, const tfast_gemm* gemm, int64_t rows);

/* "portable", "avx2", ...; NULL: the best that the machine has. */
tfast_status tfast_set_isa(const char* name);
const char* tfast_get_isa(void);
/* The i-th level that this machine can run, in ascending order; NULL behind the last. */
const char* tfast_available_isa(int i);
/* The i-th of those that a test build emulates; NULL behind the last. */
const char* tfast_emulated_isa(int i);

#endif
