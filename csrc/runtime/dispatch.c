/* The list of levels, what each of them needs, and one filled table for each prefix of the list that the machine has.
 */
#include "dispatch.h"

#include <string.h>

#include "../base/cpu.h"

typedef struct {
    const char* name;
    unsigned needs;
    void (*fill)(tfast_kernels*);
    int many_rows; /* its products pay from some dozens of rows on; few are better served by the level below */
} level_t;

static const level_t levels[] = {
    {"scalar", 0, tfast_fill_scalar, 0},
#if defined(__x86_64__)
    {"avx2", TFAST_CPU_X86_64_V3, tfast_fill_avx2, 0},
    {"avx512", TFAST_CPU_X86_64_V4, tfast_fill_avx512, 0},
#endif
#if defined(TFAST_WITH_AMX)
    {"amx", TFAST_CPU_X86_64_V4 | TFAST_CPU_AMX_BF16, tfast_fill_amx, 1},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static tfast_kernels tables[N_LEVELS]; /* tables[i]: levels 0 .. i laid over each other */
static const tfast_kernels* now;

static int machine_has(int i) {
    return (tfast_cpu_info()->levels & levels[i].needs) == levels[i].needs;
}

__attribute__((constructor)) static void fill_tables(void) {
    for (int top = 0; top < N_LEVELS; top++) {
        for (int i = 0; i <= top; i++)
            if (machine_has(i)) levels[i].fill(&tables[top]);
        tables[top].few_rows = &tables[levels[top].many_rows ? top - 1 : top];
        if (machine_has(top)) now = &tables[top];
    }
}

const tfast_kernels* tfast_kernels_now(void) {
    return __atomic_load_n(&now, __ATOMIC_ACQUIRE);
}

tfast_status tfast_set_isa(const char* name) {
    int found = -1;
    for (int i = 0; i < N_LEVELS; i++)
        if (name ? strcmp(levels[i].name, name) == 0 : machine_has(i)) found = i;
    if (found < 0) return TFAST_UNKNOWN_ISA;
    if (!machine_has(found)) return TFAST_ISA_MISSING;
    __atomic_store_n(&now, &tables[found], __ATOMIC_RELEASE);
    return TFAST_OK;
}

const char* tfast_get_isa(void) {
    return tfast_kernels_now()->isa;
}

static int forced_tuning = -1;

tfast_tuning tfast_tuning_now(void) {
    const int forced = __atomic_load_n(&forced_tuning, __ATOMIC_RELAXED);
    return forced < 0 ? tfast_cpu_info()->tuning : (tfast_tuning)forced;
}

int tfast_set_tuning(const char* name) {
    static const char* const names[] = {
        [TFAST_TUNING_OTHER] = "other", [TFAST_TUNING_INTEL] = "intel", [TFAST_TUNING_ZEN4] = "zen4"};
    int found = -1;
    for (int i = 0; name && i < (int)(sizeof names / sizeof names[0]); i++)
        if (strcmp(names[i], name) == 0) found = i;
    if (name && found < 0) return 0;
    __atomic_store_n(&forced_tuning, found, __ATOMIC_RELAXED);
    return 1;
}

const char* tfast_available_isa(int i) {
    for (int k = 0; k < N_LEVELS; k++)
        if (machine_has(k) && i-- == 0) return levels[k].name;
    return NULL;
}
