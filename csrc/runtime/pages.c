/* Memory of packed weights: large ones lie on huge pages, where the system gives them.
 *
 * Called by transformer_fast/_core_linear.pxi. A step of a decoder reads every weight once, from end to end: with pages
 * of 4 KB it waits for a translation every 64 lines. NumPy asks for huge pages for its arrays, so the probe of the
 * streaming read, and what it is compared with, has them. Zen 4, one thread, a step of Llama-3.2-1B's shape with and
 * without, in turns: float32 147 and 166 ms, Q4_0 26.6 and 29.8. Another trick of pages: here. */
#include "../tfast.h"

#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Of x86-64, and of arm64 with pages of 4 KB. */
#define HUGE_PAGE ((size_t)2 << 20)
/* Smaller weights would not fill one. */
#define LEAST_BYTES (2 * HUGE_PAGE)

void* tfast_weight_memory(size_t bytes) {
    void* memory = NULL;
    if (posix_memalign(&memory, bytes >= LEAST_BYTES ? HUGE_PAGE : 64, bytes) != 0) return NULL;
#if defined(MADV_HUGEPAGE)
    /* Whole ones alone: what stands behind them takes no more memory than it needs. A refusal costs time, no more. */
    if (bytes >= LEAST_BYTES) (void)madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return memory;
}
