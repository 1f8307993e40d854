/* Scratch memory that is kept between calls: a call in a steady state allocates nothing.
 *
 * Called by runtime/parallel.c (per-thread scratch) and ops/ (plans and intermediate arrays of one call). A slab
 * belongs to one caller between tfast_workspace_take and tfast_workspace_give, so that several Python threads may run
 * ops at once. */
#ifndef TFAST_RUNTIME_WORKSPACE_H
#define TFAST_RUNTIME_WORKSPACE_H

#include "../base/types.h"

/* At least `bytes`, aligned to 4096; NULL when there is no memory. */
void* tfast_workspace_take(size_t bytes);
void tfast_workspace_give(void* slab);

/* Frees every slab that is not in use; says how many bytes that gave back. */
size_t tfast_workspace_release(void);

/* A fork must not fall between a take of the lock and its release: the child would wait for ever. */
void tfast_workspace_before_fork(void);
void tfast_workspace_after_fork(void);

#endif
