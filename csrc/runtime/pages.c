/* Memory of packed weights: large ones lie on huge pages, where the system gives them.
 *
 * Called by transformer_fast/_core_linear.pxi. A step of a decoder reads every weight once, from end to end: with pages
 * of 4 KB it waits for a translation every 64 lines. NumPy asks for huge pages for its arrays, so the probe of the
 * streaming read, and what it is compared with, has them. Zen 4, one thread, a step of Llama-3.2-1B's shape with and
 * without, in turns: float32 147 and 166 ms, Q4_0 26.6 and 29.8. Another trick of pages: here. */
#include "../base/os.h"
#include "../tfast.h"

enum { CACHE_LINE = 64 };

void* tfast_weight_memory(size_t bytes) {
    const size_t page = tfast_os_huge_page();
    /* Smaller weights would not fill one. */
    const int huge = page && bytes >= 2 * page;
    void* memory = tfast_os_allocate(huge ? page : CACHE_LINE, bytes);
    /* Whole ones alone: what stands behind them takes no more memory than it needs. */
    if (memory && huge) tfast_os_use_huge_pages(memory, bytes / page * page);
    return memory;
}

void tfast_weight_free(void* memory) {
    tfast_os_free(memory);
}
