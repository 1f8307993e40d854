/* What POSIX systems have in common. See os.h. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "os.h"

#if !defined(_WIN32)

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

void* tfast_os_allocate(size_t alignment, size_t bytes) {
    void* memory = NULL;
    return posix_memalign(&memory, alignment, bytes) == 0 ? memory : NULL;
}

void tfast_os_free(void* memory) {
    free(memory);
}

int64_t tfast_os_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Raised by what the thread itself does, and sent to no other: Python's faulthandler reports them. */
static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};

static void* begin(void* given) {
    const tfast_os_thread* thread = given;
    thread->body();
    return NULL;
}

int tfast_os_start_thread(const tfast_os_thread* thread) {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, TFAST_OS_STACK_BYTES);
    /* A thread begins with the mask of the one that starts it. */
    sigset_t others, before;
    sigfillset(&others);
    for (size_t i = 0; i < sizeof own_faults / sizeof own_faults[0]; i++) sigdelset(&others, own_faults[i]);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    pthread_t id;
    const int started = pthread_create(&id, &attributes, begin, (void*)thread) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

void tfast_os_yield(void) {
    sched_yield();
}

#endif
