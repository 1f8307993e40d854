/* What an arm64 processor is: AT_HWCAP and sysfs on Linux, sysctl on macOS. The twin of what cpu.c asks of CPUID.
 *
 * Called by cpu.c. Every arm64 processor has NEON; another system than those two gets no more than that. The lines for
 * macOS were written without such a machine and have not been run. */
#include "cpu.h"

#if defined(__aarch64__) || defined(_M_ARM64)

#include <stdio.h>
#include <string.h>

#if defined(__linux__)
#include <sys/auxv.h>

/* As the kernel numbers them; older headers of libc do not have them all. */
enum { ASIMDDP_BIT = 20, I8MM_BIT = 13 };

static unsigned find_levels(void) {
    unsigned levels = TFAST_CPU_NEON;
    if (getauxval(AT_HWCAP) >> ASIMDDP_BIT & 1) levels |= TFAST_CPU_NEON_DOT;
    if (getauxval(AT_HWCAP2) >> I8MM_BIT & 1) levels |= TFAST_CPU_NEON_I8MM;
    return levels;
}

/* One line of a file of the first processor, without its end; whether there is one. */
static int read_line(const char* name, char* to, int bytes) {
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/%s", name);
    FILE* file = fopen(path, "r");
    if (!file) return 0;
    const int found = fgets(to, bytes, file) != NULL;
    fclose(file);
    if (found) to[strcspn(to, "\n")] = 0;
    return found;
}

/* Sizes are like "64K"; one directory a cache. Many small boards tell nothing. */
static void find_caches(tfast_cpu* cpu) {
    for (int i = 0; i < 16; i++) {
        char name[32], type[32], line[32];
        int level;
        long long size;
        char unit = 0;
        snprintf(name, sizeof name, "cache/index%d/type", i);
        if (!read_line(name, type, sizeof type)) return;
        if (strcmp(type, "Instruction") == 0) continue;
        snprintf(name, sizeof name, "cache/index%d/level", i);
        if (!read_line(name, line, sizeof line) || sscanf(line, "%d", &level) != 1) continue;
        snprintf(name, sizeof name, "cache/index%d/size", i);
        if (!read_line(name, line, sizeof line) || sscanf(line, "%lld%c", &size, &unit) < 1) continue;
        const int64_t bytes = (int64_t)size << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
        if (level == 1) cpu->l1d_bytes = bytes;
        if (level == 2) cpu->l2_bytes = bytes;
        if (level == 3) cpu->l3_bytes = bytes;
    }
}

/* MIDR_EL1: the maker in bits 24 to 31, the part in 4 to 15. Names are in no register. */
static void find_brand(tfast_cpu* cpu) {
    char line[32];
    unsigned long long midr;
    if (!read_line("regs/identification/midr_el1", line, sizeof line) || sscanf(line, "%llx", &midr) != 1) return;
    snprintf(cpu->brand, sizeof cpu->brand, "arm64, implementer 0x%02x, part 0x%03x", (unsigned)(midr >> 24 & 0xff),
             (unsigned)(midr >> 4 & 0xfff));
}

#elif defined(__APPLE__)
#include <sys/sysctl.h>

static int64_t number_of(const char* name) {
    int64_t value = 0; /* some are of 4 bytes, which the low half then holds */
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, NULL, 0) == 0 ? value : 0;
}

static unsigned find_levels(void) {
    unsigned levels = TFAST_CPU_NEON;
    if (number_of("hw.optional.arm.FEAT_DotProd")) levels |= TFAST_CPU_NEON_DOT;
    if (number_of("hw.optional.arm.FEAT_I8MM")) levels |= TFAST_CPU_NEON_I8MM;
    return levels;
}

/* perflevel0: the fast processors of the two kinds. */
static void find_caches(tfast_cpu* cpu) {
    cpu->l1d_bytes = number_of("hw.perflevel0.l1dcachesize");
    cpu->l2_bytes = number_of("hw.perflevel0.l2cachesize");
    cpu->l3_bytes = number_of("hw.l3cachesize");
}

static void find_brand(tfast_cpu* cpu) {
    size_t bytes = sizeof cpu->brand - 1;
    if (sysctlbyname("machdep.cpu.brand_string", cpu->brand, &bytes, NULL, 0) != 0) cpu->brand[0] = 0;
}

#else

static unsigned find_levels(void) {
    return TFAST_CPU_NEON;
}
static void find_caches(tfast_cpu* cpu) {
    (void)cpu;
}
static void find_brand(tfast_cpu* cpu) {
    (void)cpu;
}
#endif

void tfast_fill_arm64(tfast_cpu* cpu) {
    cpu->levels = find_levels();
    find_caches(cpu);
    find_brand(cpu);
    if (!cpu->brand[0]) strcpy(cpu->brand, "arm64");
}

#endif
