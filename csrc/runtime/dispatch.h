/* Which table of kernels is in force, and which variants of them. Called by ops/ and by the Python settings (the
 * names).
 *
 * The table is an overlay: scalar fills every slot, each level that the machine has overwrites the slots it improves. A
 * level is added to the list in dispatch.c. */
#ifndef TFAST_RUNTIME_DISPATCH_H
#define TFAST_RUNTIME_DISPATCH_H

#include "../base/cpu.h"
#include "../base/types.h"
#include "../kernels/table.h"

/* The kernels in force. A table never changes once it is filled: a call keeps the one it began with. */
const tfast_kernels* tfast_kernels_now(void);

/* "scalar", "avx2", ...; NULL: the best that the machine has. */
tfast_status tfast_set_isa(const char* name);
const char* tfast_get_isa(void);
/* The i-th level that this machine can run, in ascending order; NULL behind the last. */
const char* tfast_available_isa(int i);

/* The machine's, unless a test has set another. */
tfast_tuning tfast_tuning_now(void);
/* "other", "intel", "zen4"; NULL: the machine's. 0: no such name. Not while a call runs. */
int tfast_set_tuning(const char* name);

#endif
