/* The list of levels, what each of them needs, and what is in force for each prefix of the list that the machine has.
 */
#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

#include "../base/cpu.h"

/* A test build emulates the levels that the machine lacks; with TFAST_EMULATE 2 those that it has, too. */
#if !defined(TFAST_EMULATE)
#define TFAST_EMULATE      0
#define EMULATED_BY(level) NULL
#else
extern const tfast_level tfast_level_neon_emulated, tfast_level_neondot_emulated, tfast_level_neoni8mm_emulated,
    tfast_level_avx2_emulated, tfast_level_avxvnni_emulated, tfast_level_avx512_emulated,
    tfast_level_avx512vnni_emulated, tfast_level_avx512bf16_emulated, tfast_level_amx_emulated;
#define EMULATED_BY(level) &level##_emulated
#endif

typedef struct {
    const tfast_level* level;    /* NULL: not compiled in */
    const tfast_level* emulated; /* NULL: never */
    unsigned needs;
} level_t;

/* In ascending order. A level that a build goes without is there in a test build, emulated. */
static const level_t levels[] = {
    {&tfast_level_portable, NULL, 0},
#if defined(TFAST_WITH_NEON)
    {&tfast_level_neon, EMULATED_BY(tfast_level_neon), TFAST_CPU_NEON},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_neon), 0},
#endif
#if defined(TFAST_WITH_NEONDOT)
    {&tfast_level_neondot, EMULATED_BY(tfast_level_neondot), TFAST_CPU_NEON | TFAST_CPU_NEON_DOT},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_neondot), 0},
#endif
#if defined(TFAST_WITH_NEONI8MM)
    {&tfast_level_neoni8mm, EMULATED_BY(tfast_level_neoni8mm),
     TFAST_CPU_NEON | TFAST_CPU_NEON_DOT | TFAST_CPU_NEON_I8MM},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_neoni8mm), 0},
#endif
#if defined(TFAST_WITH_AVX2)
    {&tfast_level_avx2, EMULATED_BY(tfast_level_avx2), TFAST_CPU_X86_64_V3},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_avx2), 0},
#endif
#if defined(TFAST_WITH_AVXVNNI)
    {&tfast_level_avxvnni, EMULATED_BY(tfast_level_avxvnni), TFAST_CPU_X86_64_V3 | TFAST_CPU_AVX_VNNI},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_avxvnni), 0},
#endif
#if defined(TFAST_WITH_AVX512)
    {&tfast_level_avx512, EMULATED_BY(tfast_level_avx512), TFAST_CPU_X86_64_V4},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_avx512), 0},
#endif
#if defined(TFAST_WITH_AVX512VNNI)
    {&tfast_level_avx512vnni, EMULATED_BY(tfast_level_avx512vnni), TFAST_CPU_X86_64_V4 | TFAST_CPU_AVX512_VNNI},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_avx512vnni), 0},
#endif
#if defined(TFAST_WITH_AVX512BF16)
    {&tfast_level_avx512bf16, EMULATED_BY(tfast_level_avx512bf16), TFAST_CPU_X86_64_V4 | TFAST_CPU_AVX512_BF16},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_avx512bf16), 0},
#endif
#if defined(TFAST_WITH_AMX)
    {&tfast_level_amx, EMULATED_BY(tfast_level_amx),
     TFAST_CPU_X86_64_V4 | TFAST_CPU_AVX512_VNNI | TFAST_CPU_AVX512_BF16 | TFAST_CPU_AMX},
#elif TFAST_EMULATE
    {NULL, EMULATED_BY(tfast_level_amx), 0},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static tfast_kernels overlays[N_LEVELS]; /* overlays[i]: levels 0 .. i laid over each other */
static const tfast_kernels* now;

static int is_emulated(int i) {
    const int machine_has = levels[i].level && (tfast_cpu_info()->levels & levels[i].needs) == levels[i].needs;
    return levels[i].emulated && (!machine_has || TFAST_EMULATE == 2);
}

/* The kernels of a level; NULL where the machine lacks it. */
static const tfast_level* level_here(int i) {
    if (is_emulated(i)) return levels[i].emulated;
    return (tfast_cpu_info()->levels & levels[i].needs) == levels[i].needs ? levels[i].level : NULL;
}

static const char* level_name(int i) {
    return levels[i].level ? levels[i].level->name : levels[i].emulated->name;
}

static int same_layout(const tfast_gemm* one, const tfast_gemm* other) {
    const tfast_layout *a = &one->layout, *b = &other->layout;
    return a->format == b->format && a->panel_width == b->panel_width && a->k_group == b->k_group &&
           a->k_group_bytes == b->k_group_bytes && one->column_pairs == other->column_pairs;
}

/* Ends the process at import where TFAST_MAX_GEMMS is too small: a format that went missing would be found much later.
 */
static void put_gemm(tfast_kernels* k, int at, const tfast_gemm* gemm) {
    if (at >= TFAST_MAX_GEMMS) abort();
    k->gemms[at] = gemm;
}

/* Descriptors of the level first, then those from below for whose format and number of rows it has none. */
static void lay_gemms_over(tfast_kernels* k, const tfast_gemm* const* own) {
    const tfast_gemm* below[TFAST_MAX_GEMMS + 1];
    memcpy(below, k->gemms, sizeof below);
    int n = 0;
    for (; own && own[n]; n++) put_gemm(k, n, own[n]);
    const int n_own = n;
    for (int i = 0; below[i]; i++) {
        int replaced = 0;
        for (int j = 0; j < n_own; j++)
            replaced |= own[j]->layout.format == below[i]->layout.format && own[j]->many_rows == below[i]->many_rows;
        if (!replaced) put_gemm(k, n++, below[i]);
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

void tfast_lay_levels(void) {
    for (int top = 0; top < N_LEVELS; top++) {
        for (int i = 0; i <= top; i++)
            if (level_here(i)) lay_over(&overlays[top], level_here(i));
        if (level_here(top)) now = &overlays[top];
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
        if (same_layout(*g, packer)) return *g;
    return NULL;
}

const tfast_gemm* tfast_gemm_for_rows(const tfast_kernels* kernels, const tfast_gemm* gemm, int64_t rows) {
    for (const tfast_gemm* const* g = kernels->gemms; gemm->integers && *g; g++)
        if (rows >= (*g)->fewest_rows && same_layout(*g, gemm)) return *g;
    return gemm;
}

tfast_status tfast_set_isa(const char* name) {
    int found = -1;
    for (int i = 0; i < N_LEVELS; i++)
        if (name ? strcmp(level_name(i), name) == 0 : level_here(i) != NULL) found = i;
    if (found < 0) return TFAST_UNKNOWN_ISA;
    if (!level_here(found)) return TFAST_ISA_MISSING;
    __atomic_store_n(&now, &overlays[found], __ATOMIC_RELEASE);
    return TFAST_OK;
}

const char* tfast_get_isa(void) {
    return tfast_kernels_now()->name;
}

const char* tfast_available_isa(int i) {
    for (int k = 0; k < N_LEVELS; k++)
        if (level_here(k) && i-- == 0) return level_name(k);
    return NULL;
}

const char* tfast_emulated_isa(int i) {
    for (int k = 0; k < N_LEVELS; k++)
        if (is_emulated(k) && i-- == 0) return level_name(k);
    return NULL;
}
