/* Linux. See os.h; what other POSIX systems do in the same way stands in os_posix.c. */
#if defined(__linux__)

#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity, sched_getcpu, syscall */
#endif
#include "os.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- memory --- */

/* Of x86-64, and of arm64 with pages of 4 KB. */
size_t tfast_os_huge_page(void) {
    return (size_t)2 << 20;
}

void tfast_os_use_huge_pages(void* memory, size_t bytes) {
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
}

/* --- processors --- */

/* The numbers that a file of a cgroup begins with; how many of `most` it has. "max" is no number. */
static int read_numbers(const char* path, long long* to, int most) {
    FILE* file = fopen(path, "r");
    if (!file) return 0;
    int n = 0;
    while (n < most && fscanf(file, "%lld", &to[n]) == 1) n++;
    fclose(file);
    return n;
}

/* Version 2 has "max 100000" or "150000 100000" in one file, version 1 two files and -1 for no quota. 0: no quota. */
static int cgroup_quota(void) {
    long long quota[2] = {0, 0};
    if (read_numbers("/sys/fs/cgroup/cpu.max", quota, 2) != 2 &&
        (read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota[0], 1) != 1 ||
         read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &quota[1], 1) != 1))
        return 0;
    if (quota[0] <= 0 || quota[1] <= 0) return 0;
    return (int)((quota[0] + quota[1] - 1) / quota[1]);
}

/* The type and not CPU_SETSIZE, which is 128 with musl although its sets hold 1024. */
_Static_assert(sizeof(cpu_set_t) * 8 == TFAST_OS_MAX_PROCESSORS, "a set must hold what the system's own holds");

int tfast_os_usable_processors(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    const int quota = cgroup_quota();
    if (quota > 0 && quota < n) n = quota;
    return n > 0 ? n : 1;
}

int tfast_os_current_processor(void) {
    return sched_getcpu();
}

void tfast_os_leave_processors(const tfast_os_processors* taken) {
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    for (int cpu = 0; cpu < TFAST_OS_MAX_PROCESSORS; cpu++)
        if (__atomic_load_n(&taken->word[cpu / 64], __ATOMIC_RELAXED) >> cpu % 64 & 1) CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    sched_setaffinity(0, sizeof allowed, &allowed);
}

/* --- waiting, and fork --- */

/* Of linux/futex.h, which is not where musl's compiler looks. */
enum { WAIT_PRIVATE = 0 | 128, WAKE_PRIVATE = 1 | 128 };

void tfast_os_wait(const uint32_t* word, uint32_t value) {
    syscall(SYS_futex, word, WAIT_PRIVATE, value, NULL, NULL, 0);
}

void tfast_os_wake(const uint32_t* word, int count) {
    syscall(SYS_futex, word, WAKE_PRIVATE, count, NULL, NULL, 0);
}

void tfast_os_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    pthread_atfork(before, in_parent, in_child);
}

/* --- what the system says of the processor --- */

/* Linux hands out the tile registers (8 KB of state a thread) to processes that ask, once, for all their threads and
 * children. It refuses where a signal stack is too small to save them. */
int tfast_os_permits_amx(void) {
#if defined(__x86_64__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

#if defined(__aarch64__)
#include <sys/auxv.h>

/* As the kernel numbers them; older headers of libc do not have them all. */
enum { ASIMDDP_BIT = 20, I8MM_BIT = 13 };

static unsigned find_levels(void) {
    unsigned levels = 0;
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

void tfast_os_fill_arm64(tfast_cpu* cpu) {
    cpu->levels |= find_levels();
    find_caches(cpu);
    find_brand(cpu);
}
#endif

#endif
