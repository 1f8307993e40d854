/* CPUID and XGETBV; on arm64 the system tells (os.h). A level counts only if every feature that the compiler's -march
 * level implies is there and the operating system saves the registers: the compiler may use any of them anywhere in
 * that translation unit. */
#include "cpu.h"

#include <string.h>

#include "os.h"

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t read_xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

static int has(unsigned reg, unsigned mask) {
    return (reg & mask) == mask;
}

static int has_amx(uint64_t xcr0, unsigned d7) {
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25;
    return (xcr0 >> 17 & 3) == 3 && has(d7, amx_bf16 | amx_tile | amx_int8) && tfast_os_permits_amx();
}

static unsigned find_levels(void) {
    unsigned a, b, c, d, b7 = 0, c7 = 0, d7 = 0, a71 = 0, ax, bx, cx = 0, dx;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned leaf1 = bit_SSE3 | bit_SSSE3 | bit_FMA | bit_CMPXCHG16B | bit_SSE4_1 | bit_SSE4_2 | bit_MOVBE |
                           bit_POPCNT | bit_OSXSAVE | bit_AVX | bit_F16C;
    if (!has(c, leaf1)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return 0;
    if (!__get_cpuid(0x80000001u, &ax, &bx, &cx, &dx)) return 0;
    const unsigned lzcnt_lahf = (1u << 5) | 1u;
    const uint64_t xcr0 = read_xcr0();
    unsigned levels = 0;
    if ((xcr0 & 0x6) == 0x6 && has(b7, bit_AVX2 | bit_BMI | bit_BMI2) && has(cx, lzcnt_lahf))
        levels |= TFAST_CPU_X86_64_V3;
    const unsigned v4 = bit_AVX512F | bit_AVX512DQ | bit_AVX512CD | bit_AVX512BW | bit_AVX512VL;
    const unsigned avx_vnni = 1u << 4, avx512_bf16 = 1u << 5, avx512_vnni = 1u << 11;
    if (!levels) return 0;
    if (!__get_cpuid_count(7, 1, &a71, &b, &c, &d)) a71 = 0;
    if (has(a71, avx_vnni)) levels |= TFAST_CPU_AVX_VNNI;
    if ((xcr0 & 0xe6) != 0xe6 || !has(b7, v4)) return levels;
    levels |= TFAST_CPU_X86_64_V4;
    if (has(c7, avx512_vnni)) levels |= TFAST_CPU_AVX512_VNNI;
    if (has(a71, avx512_bf16)) levels |= TFAST_CPU_AVX512_BF16;
    if (has_amx(xcr0, d7)) levels |= TFAST_CPU_AMX;
    return levels;
}

/* Intel's leaf 4 and AMD's leaf 0x8000001D have the same layout: one sub-leaf a cache, type 1 is data, 3 is unified. */
static void find_caches(tfast_cpu* cpu, unsigned leaf) {
    for (unsigned i = 0; i < 16; i++) {
        unsigned a, b, c, d;
        if (!__get_cpuid_count(leaf, i, &a, &b, &c, &d) || (a & 31) == 0) return;
        const unsigned type = a & 31, level = (a >> 5) & 7;
        const int64_t bytes = (int64_t)((b >> 22) + 1) * (((b >> 12) & 1023) + 1) * ((b & 4095) + 1) * ((int64_t)c + 1);
        if (type == 2) continue;
        if (level == 1) cpu->l1d_bytes = bytes;
        if (level == 2) cpu->l2_bytes = bytes;
        if (level == 3) cpu->l3_bytes = bytes;
    }
}

static void find_brand(tfast_cpu* cpu) {
    unsigned r[12];
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3])) return;
    memcpy(cpu->brand, r, 48);
    cpu->brand[48] = 0;
}

static void find_model(tfast_cpu* cpu) {
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return;
    if (b == signature_INTEL_ebx && c == signature_INTEL_ecx) cpu->vendor = TFAST_INTEL;
    if (b == signature_AMD_ebx && c == signature_AMD_ecx) cpu->vendor = TFAST_AMD;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    const int family = (int)(a >> 8 & 15), model = (int)(a >> 4 & 15);
    cpu->family = family == 15 ? family + (int)(a >> 20 & 255) : family;
    cpu->model = family == 15 || family == 6 ? model + (int)(a >> 16 & 15) * 16 : model;
}

static void fill(tfast_cpu* cpu) {
    cpu->levels = find_levels();
    find_model(cpu);
    find_caches(cpu, 4);
    if (!cpu->l1d_bytes) find_caches(cpu, 0x8000001Du);
    find_brand(cpu);
}
#elif defined(__aarch64__)
static void fill(tfast_cpu* cpu) {
    cpu->levels = TFAST_CPU_NEON; /* every arm64 processor has it */
    tfast_os_fill_arm64(cpu);
    if (!cpu->brand[0]) strcpy(cpu->brand, "arm64");
}
#else
static void fill(tfast_cpu* cpu) {
    strcpy(cpu->brand, "unknown");
}
#endif

const tfast_cpu* tfast_cpu_info(void) {
    static tfast_cpu cpu;
    static int ready;
    if (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE)) {
        tfast_cpu found = {0};
        fill(&found);
        /* Where the machine does not tell: the smallest sizes in use on the CPUs that have the levels above. */
        if (!found.l1d_bytes) found.l1d_bytes = 32 << 10;
        if (!found.l2_bytes) found.l2_bytes = 256 << 10;
        if (!found.l3_bytes) found.l3_bytes = 8 << 20;
        cpu = found;
        __atomic_store_n(&ready, 1, __ATOMIC_RELEASE);
    }
    return &cpu;
}
