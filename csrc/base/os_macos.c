/* macOS, and other POSIX systems without a file of their own. See os.h; os_posix.c has what they share with Linux.
 *
 * Compiled and linked by `make macos`, not run on macOS. macOS has no affinity of threads and no quota, and its
 * calls that wait on an address came with macOS 14.4: a mutex and a condition do the same on all of them. */
#if !defined(__linux__) && !defined(_WIN32)

#include "os.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/* --- memory --- */

size_t tfast_os_huge_page(void) {
    return 0;
}

void tfast_os_use_huge_pages(void* memory, size_t bytes) {
    (void)memory, (void)bytes;
}

/* --- processors --- */

int tfast_os_usable_processors(void) {
    const int n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

int tfast_os_current_processor(void) {
    return -1;
}

void tfast_os_leave_processors(const tfast_os_processors* taken) {
    (void)taken;
}

/* --- waiting, and fork --- */

/* One pair for all words: a wake lets every sleeper look at its word again. Few sleep, and seldom. */
static pthread_mutex_t waiting = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void tfast_os_wait(const uint32_t* word, uint32_t value) {
    pthread_mutex_lock(&waiting);
    if (__atomic_load_n(word, __ATOMIC_RELAXED) == value) pthread_cond_wait(&changed, &waiting);
    pthread_mutex_unlock(&waiting);
}

void tfast_os_wake(const uint32_t* word, int count) {
    (void)word, (void)count;
    pthread_mutex_lock(&waiting);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&waiting);
}

static void lock(void) {
    pthread_mutex_lock(&waiting);
}
static void unlock(void) {
    pthread_mutex_unlock(&waiting);
}
/* Those that waited are not there. */
static void forget(void) {
    changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pthread_mutex_unlock(&waiting);
}

void tfast_os_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    pthread_atfork(lock, unlock, forget);
    pthread_atfork(before, in_parent, in_child);
}

/* --- what the system says of the processor --- */

int tfast_os_permits_amx(void) {
    return 0;
}

#if defined(__APPLE__) && defined(__aarch64__)
static int64_t number_of(const char* name) {
    int64_t value = 0; /* some are of 4 bytes, which the low half then holds */
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, NULL, 0) == 0 ? value : 0;
}

/* perflevel0: the fast processors of the two kinds. */
void tfast_os_fill_arm64(tfast_cpu* cpu) {
    if (number_of("hw.optional.arm.FEAT_DotProd")) cpu->levels |= TFAST_CPU_NEON_DOT;
    if (number_of("hw.optional.arm.FEAT_I8MM")) cpu->levels |= TFAST_CPU_NEON_I8MM;
    cpu->l1d_bytes = number_of("hw.perflevel0.l1dcachesize");
    cpu->l2_bytes = number_of("hw.perflevel0.l2cachesize");
    cpu->l3_bytes = number_of("hw.l3cachesize");
    size_t bytes = sizeof cpu->brand - 1;
    if (sysctlbyname("machdep.cpu.brand_string", cpu->brand, &bytes, NULL, 0) != 0) cpu->brand[0] = 0;
}
#elif defined(__aarch64__)
void tfast_os_fill_arm64(tfast_cpu* cpu) {
    (void)cpu;
}
#endif

#endif
