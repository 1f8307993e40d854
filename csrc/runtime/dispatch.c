/* The list of levels, what each of them needs, and what is in force for each prefix of the list that the machine has. */
#include "dispatch.h"

#include <string.h>

#include "../base/cpu.h"

typedef struct {
    const tfast_level* level;
    unsigned needs;
} level_t;

static const level_t levels[] = {
    {&tfast_level_portable, 0},
#if defined(__x86_64__)
    {&tfast_level_avx2, TFAST_CPU_X86_64_V3},
    {&tfast_level_avx512, TFAST_CPU_X86_64_V4},
#endif
#if defined(TFAST_WITH_AMX)
    {&tfast_level_amx, TFAST_CPU_X86_64_V4 | TFAST_CPU_AMX_BF16},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static tfast_kernels overlays[N_LEVELS]; /* overlays[i]: levels 0 .. i laid over each other */
static const tfast_kernels* now;

static int machine_has(int i) {
    return (tfast_cpu_info()->levels & levels[i].needs) == levels[i].needs;
}

static int same_layout(const tfast_layout* a, const tfast_layout* b) {
    return a->format == b->format && a->panel_width == b->panel_width && a->k_group == b->k_group &&
           a->k_group_bytes == b->k_group_bytes;
}

/* Descriptors of the level first, then those from below for whose format and number of rows it has none. */
static void lay_gemms_over(tfast_kernels* k, const tfast_gemm* const* own) {
    const tfast_gemm* below[TFAST_MAX_GEMMS + 1];
    memcpy(below, k->gemms, sizeof below);
    int n = 0;
    for (; own && own[n]; n++) k->gemms[n] = own[n];
    const int n_own = n;
    for (int i = 0; below[i]; i++) {
        int replaced = 0;
        for (int j = 0; j < n_own; j++)
            replaced |= own[j]->layout.format == below[i]->layout.format && own[j]->many_rows == below[i]->many_rows;
        if (!replaced && n < TFAST_MAX_GEMMS) k->gemms[n++] = below[i];
    }
    k->gemms[n] = NULL;
}

static void lay_over(tfast_kernels* k, const tfast_level* level) {
    k->name = level->name;
    lay_gemms_over(k, level->gemms);
    if (level->attention) {
        const int leaves_some = level->attention->min_rows > 0;
        k->attention_fallback = leaves_some ? k->attention : level->attention;
        k->attention_fallback_level = leaves_some ? k->attention_level : level->name;
        k->attention = level->attention;
        k->attention_level = level->name;
    }
    if (level->rows) k->rows = level->rows;
}

__attribute__((constructor)) static void lay_levels(void) {
    for (int top = 0; top < N_LEVELS; top++) {
        for (int i = 0; i <= top; i++)
            if (machine_has(i)) lay_over(&overlays[top], levels[i].level);
        if (machine_has(top)) now = &overlays[top];
    }
}

const tfast_kernels* tfast_kernels_now(void) {
    return __atomic_load_n(&now, __ATOMIC_ACQUIRE);
}

const tfast_gemm* tfast_gemm_for(const tfast_kernels* kernels, tfast_format format, int for_decode) {
    for (const tfast_gemm* const* g = kernels->gemms; *g; g++)
        if ((*g)->layout.format == format && !(for_decode && (*g)->many_rows)) return *g;
    return NULL;
}

const tfast_gemm* tfast_gemm_that_reads(const tfast_kernels* kernels, const tfast_gemm* packer) {
    for (const tfast_gemm* const* g = kernels->gemms; *g; g++)
        if (*g == packer) return packer;
    for (const tfast_gemm* const* g = kernels->gemms; *g; g++)
        if (same_layout(&(*g)->layout, &packer->layout)) return *g;
    return NULL;
}

tfast_status tfast_set_isa(const char* name) {
    int found = -1;
    for (int i = 0; i < N_LEVELS; i++)
        if (name ? strcmp(levels[i].level->name, name) == 0 : machine_has(i)) found = i;
    if (found < 0) return TFAST_UNKNOWN_ISA;
    if (!machine_has(found)) return TFAST_ISA_MISSING;
    __atomic_store_n(&now, &overlays[found], __ATOMIC_RELEASE);
    return TFAST_OK;
}

const char* tfast_get_isa(void) {
    return tfast_kernels_now()->name;
}

const char* tfast_available_isa(int i) {
    for (int k = 0; k < N_LEVELS; k++)
        if (machine_has(k) && i-- == 0) return levels[k].level->name;
    return NULL;
}
