/* What operating systems do differently: memory, time, processors, threads, waiting, fork, what the system says of the
 * processor.
 *
 * Called by runtime/, ops/probe.c and cpu.c. No other file of csrc names a system, or includes a header of one
 * (tests/project/test_layering.py). os_posix.c has what Linux and macOS share, os_linux.c, os_macos.c and os_windows.c
 * the rest, each empty where another system is compiled for. A new system: a file os_<system>.c with the functions that
 * os_posix.c does not have, or, where that is not POSIX, with all of them. */
#ifndef TFAST_BASE_OS_H
#define TFAST_BASE_OS_H

#include <stddef.h>
#include <stdint.h>

#include "cpu.h"

/* --- memory --- */
/* `alignment` is a power of two, at least that of a pointer; NULL: there is none. Freed by tfast_os_free and nothing
 * else: Windows keeps such memory apart from malloc's. */
void* tfast_os_allocate(size_t alignment, size_t bytes);
void tfast_os_free(void* memory);
/* The size of the pages that tfast_os_use_huge_pages asks for; 0: the system has none that a process may ask for. */
size_t tfast_os_huge_page(void);
/* A refusal costs time, no more. `memory` and `bytes` are multiples of tfast_os_huge_page. */
void tfast_os_use_huge_pages(void* memory, size_t bytes);

/* --- time --- */
/* Nanoseconds since some moment; never goes back. */
int64_t tfast_os_now(void);

/* --- processors --- */
enum { TFAST_OS_MAX_PROCESSORS = 1024 };
/* A bit for each processor; those from 1024 on are in no set. */
typedef struct {
    uint64_t word[TFAST_OS_MAX_PROCESSORS / 64];
} tfast_os_processors;

/* How many processors this process may use at a time: its affinity, and the quota of its cgroup rounded up; at least 1.
 */
int tfast_os_usable_processors(void);
/* Where the calling thread runs; -1: unknown. */
int tfast_os_current_processor(void);
/* Moves the calling thread to a processor that it may use and that is not in the set, if there is one. Its affinity is
 * the same afterwards. Does nothing where the system does not let a thread choose. */
void tfast_os_leave_processors(const tfast_os_processors* taken);

/* --- threads --- */
typedef struct {
    void (*body)(void);
} tfast_os_thread;
/* musl would give a thread 128 KB, macOS 512, glibc 8 MB. The largest frame of csrc takes 20 KB (gcc 12, -O3, weights
 * in blocks), of the emulated levels 24, and calls go some ten deep; a signal's frame with the tiles of AMX takes 11
 * KB, glibc keeps thread-local data of all libraries on the stack, and sanitizers want several times as much. Untouched
 * pages cost nothing. */
enum { TFAST_OS_STACK_BYTES = 1 << 20 };
/* Runs thread->body in a new thread that nobody joins. Signals are blocked in it, its own faults excepted: they are for
 * the threads of the program. `thread` lives as long as the thread. 0: the system starts no more threads. */
int tfast_os_start_thread(const tfast_os_thread* thread);
/* Lets another thread run that waits for this processor. */
void tfast_os_yield(void);

/* Sleeps if *word is `value`, until tfast_os_wake; it may return without reason, so that callers look again. The change
 * of *word comes before the wake. */
void tfast_os_wait(const uint32_t* word, uint32_t value);
/* Wakes at least `count` threads that wait for the word, or all if there are not so many. */
void tfast_os_wake(const uint32_t* word, int count);

/* From now on the first runs before each fork, and one of the others after it: in the process that forked, and in its
 * child, where the thread that forked is the only one. Called once. Does nothing where there is no fork. */
void tfast_os_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void));

/* --- what the system says of the processor --- */
/* Whether this process may use the tile registers of AMX; asks for them where the system wants to be asked. */
int tfast_os_permits_amx(void);
/* Adds what an arm64 processor has beyond NEON, its caches and its brand; leaves alone what the system does not tell.
 * On arm64 alone: of others base/cpu.c asks the processor itself. */
void tfast_os_fill_arm64(tfast_cpu* cpu);

#endif
