/* The records, and which of them belongs to a processor. See tuning.h. */
#include "tuning.h"

#include <string.h>

#include "../tfast.h"

/* small_m_prefetches: Zen 4 reads a stream as fast by itself. GB/s without and with prefetches: one row, 2.4 MB in L3
 * 73 and 61, 134 MB from memory 26 and 24; four rows from memory 30 and 26. Granite Rapids, 154 MB from memory where
 * reading alone gives 16: one row 13.9 and 14.5, four 10.1 and 12.0, eight 8.2 and 10.4.
 *
 * decode_prefetches_into_l2: Zen 4 loses by fetching into L1; figures in attention's decode.h.
 *
 * copy_kv: a copy costs one load and store an element, each panel 2 * panel / lanes FMAs, and what it buys is reading
 * in order. Granite Rapids (level avx512) at L = 128, three panels: rows of 256 bytes side by side 141 GFLOP/s without
 * the copy, 135 with it; rows of 256 bytes in a fused projection, 9 KB apart, 126 without, 131 with; D = 128, 12 KB
 * apart, L = 512: 109 without, 135 with. On Zen 5 every one of ten such cases is faster without, by 1 to 7 %.
 *
 * chunk_tokens: fewer read the weights too often, more leave L2 with the intermediate of the feed-forward (of MiniLM 6
 * KB a token). Linear layers reach 0.85 of their speed at 128 rows and 0.95 at 416 where L2 has 1 or 2 MB. Zen 3, L2 of
 * 512 KB, all-MiniLM-L6-v2 with 128 in place of 384 tokens, median of 14 to 30 turns: 8 x 128 int8 1.06-1.08 times as
 * fast, float32 1.05; 64 x 24 int8 1.10, float32 1.06; BERT-base's shape 8 x 128 int8 1.00. 256 tokens are between.
 *
 * gflops: 50 is between the portable level and an AVX-512 core. It only has to tell some microseconds from some
 * hundred.
 *
 * Records that equal another one were not measured to differ; each has its line so that a measurement has a place. */
#define COMMON .chunk_tokens = 384, .gflops = 50
#define INTEL  .small_m_prefetches = 1, .copy_kv_min_panels_dense = 4, .copy_kv_min_panels_strided = 3, COMMON
#define AMD    .small_m_prefetches = 1, COMMON

static const tfast_tuning records[] = {
    {"generic", AMD},
    {"haswell", INTEL},
    {"skylake", INTEL},
    {"icelake", INTEL},
    {"sapphirerapids", INTEL},
    {"graniterapids", INTEL},
    {"intel", INTEL}, /* any other of that maker */
    {"zen2", AMD},
    {"zen3", .small_m_prefetches = 1, .chunk_tokens = 128, .gflops = 50},
    {"zen4", .small_m_prefetches = 0, .decode_prefetches_into_l2 = 1, COMMON},
    {"zen5", AMD},
};
enum { N_RECORDS = sizeof records / sizeof records[0] };

/* Family and models [first, last] of CPUID leaf 1; the first line that fits counts. */
static const struct {
    tfast_vendor vendor;
    int family, first, last;
    const char* name;
} processors[] = {
    {TFAST_AMD, 0x17, 0x30, 0xff, "zen2"},
    {TFAST_AMD, 0x19, 0x10, 0x1f, "zen4"},
    {TFAST_AMD, 0x19, 0x60, 0xaf, "zen4"},
    {TFAST_AMD, 0x19, 0x00, 0xff, "zen3"},
    {TFAST_AMD, 0x1a, 0x00, 0xff, "zen5"},
    {TFAST_INTEL, 6, 0x3c, 0x3d, "haswell"}, /* 3d, 47, 4f and 56 are Broadwell */
    {TFAST_INTEL, 6, 0x3f, 0x3f, "haswell"},
    {TFAST_INTEL, 6, 0x45, 0x47, "haswell"},
    {TFAST_INTEL, 6, 0x4f, 0x4f, "haswell"},
    {TFAST_INTEL, 6, 0x56, 0x56, "haswell"},
    {TFAST_INTEL, 6, 0x4e, 0x4e, "skylake"},
    {TFAST_INTEL, 6, 0x55, 0x55, "skylake"}, /* and Cascade Lake, Cooper Lake */
    {TFAST_INTEL, 6, 0x5e, 0x5e, "skylake"},
    {TFAST_INTEL, 6, 0x8e, 0x8e, "skylake"},
    {TFAST_INTEL, 6, 0x9e, 0x9e, "skylake"},
    {TFAST_INTEL, 6, 0x6a, 0x6c, "icelake"},
    {TFAST_INTEL, 6, 0x7d, 0x7e, "icelake"},
    {TFAST_INTEL, 6, 0x8f, 0x8f, "sapphirerapids"},
    {TFAST_INTEL, 6, 0xcf, 0xcf, "sapphirerapids"}, /* Emerald Rapids */
    {TFAST_INTEL, 6, 0xad, 0xae, "graniterapids"},
};

static const tfast_tuning* record(const char* name) {
    for (int i = 0; i < N_RECORDS; i++)
        if (strcmp(records[i].name, name) == 0) return &records[i];
    return NULL;
}

static const tfast_tuning* own_record(void) {
    const tfast_cpu* cpu = tfast_cpu_info();
    for (size_t i = 0; i < sizeof processors / sizeof processors[0]; i++)
        if (cpu->vendor == processors[i].vendor && cpu->family == processors[i].family &&
            cpu->model >= processors[i].first && cpu->model <= processors[i].last)
            return record(processors[i].name);
    return record(cpu->vendor == TFAST_INTEL ? "intel" : "generic");
}

static const tfast_tuning* now;

const tfast_tuning* tfast_tuning_now(void) {
    const tfast_tuning* found = __atomic_load_n(&now, __ATOMIC_RELAXED);
    if (found) return found;
    found = own_record();
    __atomic_store_n(&now, found, __ATOMIC_RELAXED);
    return found;
}

int tfast_set_tuning(const char* name) {
    const tfast_tuning* found = name ? record(name) : own_record();
    if (!found) return 0;
    __atomic_store_n(&now, found, __ATOMIC_RELAXED);
    return 1;
}

const char* tfast_get_tuning(void) {
    return tfast_tuning_now()->name;
}

const char* tfast_tuning_name(int i) {
    return i >= 0 && i < N_RECORDS ? records[i].name : NULL;
}

double tfast_flops_ns(double flops) {
    return flops / tfast_tuning_now()->gflops;
}
