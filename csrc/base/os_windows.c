/* Windows 8 and later (WaitOnAddress: link with synchronization.lib). See os.h.
 *
 * Run under wine alone. `long` has 32 bits here: nothing in csrc keeps a size, an address or a count in one. */
#if defined(_WIN32)

#if !defined(_WIN32_WINNT)
#define _WIN32_WINNT 0x0602
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "os.h"

#include <malloc.h>
#include <process.h>

/* --- memory --- */

void* tfast_os_allocate(size_t alignment, size_t bytes) {
    return _aligned_malloc(bytes ? bytes : 1, alignment);
}

void tfast_os_free(void* memory) {
    _aligned_free(memory);
}

/* Large pages take a privilege that users do not have. */
size_t tfast_os_huge_page(void) {
    return 0;
}

void tfast_os_use_huge_pages(void* memory, size_t bytes) {
    (void)memory, (void)bytes;
}

/* --- time --- */

int64_t tfast_os_now(void) {
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    const int64_t seconds = ticks.QuadPart / per_second.QuadPart, rest = ticks.QuadPart % per_second.QuadPart;
    return seconds * 1000000000 + rest * 1000000000 / per_second.QuadPart;
}

/* --- processors --- */

/* An affinity is one of up to 64 processors, those of one group; a process that has all of its group may have threads
 * in the others. */
int tfast_os_usable_processors(void) {
    DWORD_PTR own = 0, all = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &own, &all) || own == 0 || own == all) {
        const DWORD n = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
        return n > 0 ? (int)n : 1;
    }
    int n = 0;
    for (; own; own &= own - 1) n++;
    return n;
}

int tfast_os_current_processor(void) {
    return -1;
}

/* Windows gives each thread an ideal processor of its own; that it wakes two on one was not seen. */
void tfast_os_leave_processors(const tfast_os_processors* taken) {
    (void)taken;
}

/* --- threads --- */

static unsigned __stdcall begin(void* given) {
    const tfast_os_thread* thread = given;
    thread->body();
    return 0;
}

/* There are no signals to block. */
int tfast_os_start_thread(const tfast_os_thread* thread) {
    const uintptr_t handle =
        _beginthreadex(NULL, TFAST_OS_STACK_BYTES, begin, (void*)thread, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (!handle) return 0;
    CloseHandle((HANDLE)handle);
    return 1;
}

void tfast_os_yield(void) {
    SwitchToThread();
}

void tfast_os_wait(const uint32_t* word, uint32_t value) {
    WaitOnAddress((volatile VOID*)word, &value, sizeof value, INFINITE);
}

void tfast_os_wake(const uint32_t* word, int count) {
    if (count > 1)
        WakeByAddressAll((PVOID)word);
    else
        WakeByAddressSingle((PVOID)word);
}

void tfast_os_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    (void)before, (void)in_parent, (void)in_child;
}

/* --- what the system says of the processor --- */

/* Windows 11 lets every process use the tiles, but says so in no way that could be tried here. */
int tfast_os_permits_amx(void) {
    return 0;
}

#if defined(__aarch64__)
void tfast_os_fill_arm64(tfast_cpu* cpu) {
    enum { V82_DOT_PRODUCT = 43 }; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE, which older headers lack */
    if (IsProcessorFeaturePresent(V82_DOT_PRODUCT)) cpu->levels |= TFAST_CPU_NEON_DOT;
}
#endif

#endif
