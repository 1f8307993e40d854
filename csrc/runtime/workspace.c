/* A fixed list of slabs behind a spin lock that is held for a few instructions. Taking picks the smallest free slab
 * that is large enough, else grows the largest free one: the list settles at one slab for each concurrent use, of the
 * largest size seen. */
#include "workspace.h"

#include <stdlib.h>

enum { MAX_SLABS = 64, ALIGNMENT = 4096 };

typedef struct {
    void* memory;
    size_t bytes;
    int busy;
} slab_t;

static slab_t slabs[MAX_SLABS];
static char lock;

static void acquire(void) {
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE)) {
    }
}
static void release(void) {
    __atomic_clear(&lock, __ATOMIC_RELEASE);
}

void tfast_workspace_after_fork(void) {
    release(); /* its holder may have been another thread of the parent */
}

static void* allocate(size_t bytes) {
    void* p = NULL;
    return posix_memalign(&p, ALIGNMENT, bytes) == 0 ? p : NULL;
}

/* The index of the slab to use, or -1: all are busy. */
static int choose(size_t bytes) {
    int fits = -1, largest = -1;
    for (int i = 0; i < MAX_SLABS; i++) {
        if (slabs[i].busy) continue;
        if (slabs[i].bytes >= bytes && (fits < 0 || slabs[i].bytes < slabs[fits].bytes)) fits = i;
        if (largest < 0 || slabs[i].bytes > slabs[largest].bytes) largest = i;
    }
    return fits >= 0 ? fits : largest;
}

void* tfast_workspace_take(size_t bytes) {
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes == 0) bytes = ALIGNMENT;
    acquire();
    const int i = choose(bytes);
    if (i >= 0) slabs[i].busy = 1;
    release();
    if (i < 0) return allocate(bytes); /* more concurrent calls than slabs: give() frees what it does not know */
    if (slabs[i].bytes < bytes) {
        void* old = slabs[i].memory;
        slabs[i].memory = NULL; /* give() looks through the list without the lock: it must not find freed memory */
        free(old);
        slabs[i].memory = allocate(bytes);
        slabs[i].bytes = slabs[i].memory ? bytes : 0;
    }
    void* memory = slabs[i].memory;
    if (!memory) __atomic_store_n(&slabs[i].busy, 0, __ATOMIC_RELEASE);
    return memory;
}

void tfast_workspace_give(void* memory) {
    if (!memory) return;
    for (int i = 0; i < MAX_SLABS; i++)
        if (slabs[i].memory == memory) {
            __atomic_store_n(&slabs[i].busy, 0, __ATOMIC_RELEASE);
            return;
        }
    free(memory);
}

size_t tfast_workspace_release(void) {
    size_t freed = 0;
    for (int i = 0; i < MAX_SLABS; i++) {
        acquire();
        const int idle = !slabs[i].busy;
        if (idle) slabs[i].busy = 1;
        release();
        if (!idle) continue;
        freed += slabs[i].bytes;
        free(slabs[i].memory);
        slabs[i].memory = NULL;
        slabs[i].bytes = 0;
        __atomic_store_n(&slabs[i].busy, 0, __ATOMIC_RELEASE);
    }
    return freed;
}

size_t tfast_workspace_bytes(void) {
    size_t held = 0;
    for (int i = 0; i < MAX_SLABS; i++) held += slabs[i].bytes;
    return held;
}
