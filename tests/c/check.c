/* The comparison and the loops of check.h. */
#include "check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data.h"

const int check_threads[] = {1, 2, 4, 0};

static check_counts counts;
/* FNV-1a, of 64 bits. */
static uint64_t digest = 0xcbf29ce484222325u;

/* A wrong kernel fails hundreds of checks: the first ones tell enough. */
enum { MOST_MESSAGES = 20 };

__attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
    counts.failures++;
    if (counts.failures > MOST_MESSAGES) return;
    va_list arguments;
    va_start(arguments, format);
    fputs("FAILED ", stdout);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    fflush(stdout);
}

void check_that(int holds, const char* what, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(text, sizeof text, what, arguments);
    va_end(arguments);
    counts.checks++;
    if (!holds) fail("%s", text);
}

/* The first number of y that is farther from the reference than it may be, or -1. NaN and infinity must be where the
 * reference has them. */
static int64_t first_apart(const check_t* c, const float* y) {
    for (int64_t i = 0; i < c->n; i++) {
        const double wanted = c->expected[i], bound = c->bound * (c->sizes ? c->sizes[i] : 1);
        const int near = isfinite(wanted) ? fabs((double)y[i] - wanted) <= bound : (double)y[i] == wanted;
        if (!(near || (isnan(wanted) && isnan(y[i])))) return i;
    }
    return -1;
}

static int64_t first_other_bits(int64_t n, const float* y, const float* other) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(y + i, other + i, sizeof *y) != 0) return i;
    return -1;
}

typedef struct {
    const char *level, *backend;
    int threads;
} where_t;

/* One run, and its comparison with `same`, the run whose bits it must have (NULL: the reference instead). */
static void run_once(const check_t* c, where_t at, const float* same, float* y) {
    memset(y, 0xff, (size_t)c->n * sizeof *y); /* NaN: what a call does not write is found */
    const tfast_status status = c->run(c->arguments, y, at.threads);
    counts.checks++;
    int64_t i = -1;
    if (status != TFAST_OK)
        fail("%s on %s, %s, %d threads: status %d", c->name, at.level, at.backend, at.threads, (int)status);
    else if (same && (i = first_other_bits(c->n, y, same)) >= 0)
        fail("%s on %s, %s, %d threads: number %lld is %.9g; needed: the bits of %.9g", c->name, at.level, at.backend,
             at.threads, (long long)i, (double)y[i], (double)same[i]);
    else if (!same && c->expected && (i = first_apart(c, y)) >= 0)
        fail("%s on %s, %s, %d threads: number %lld is %.9g; needed: %.9g within %.3g", c->name, at.level, at.backend,
             at.threads, (long long)i, (double)y[i], c->expected[i], c->bound * (c->sizes ? c->sizes[i] : 1));
}

static void add_to_digest(const void* bytes, size_t n) {
    for (size_t i = 0; i < n; i++) digest = (digest ^ ((const unsigned char*)bytes)[i]) * 0x100000001b3u;
}

void check_call(const check_t* c) {
    const char* own_backend = tfast_get_thread_backend();
    float *first = data_room((size_t)c->n * sizeof *first), *y = data_room((size_t)c->n * sizeof *y);
    float* on_first_level = data_room((size_t)c->n * sizeof *y);
    const char* level;
    for (int l = 0; (level = tfast_available_isa(l)); l++) {
        tfast_set_isa(level);
        const float* same = NULL;
        for (int b = 0; tfast_thread_backend_name(b); b++) {
            tfast_set_thread_backend(tfast_thread_backend_name(b));
            for (int t = 0; check_threads[t]; t++) {
                run_once(c, (where_t){level, tfast_thread_backend_name(b), check_threads[t]}, same, same ? y : first);
                same = first;
            }
        }
        if (!c->same_on_levels) continue;
        if (l == 0) {
            memcpy(on_first_level, first, (size_t)c->n * sizeof *y);
            add_to_digest(first, (size_t)c->n * sizeof *first);
        } else {
            const int64_t i = first_other_bits(c->n, first, on_first_level);
            check_that(i < 0, "%s on %s: number %lld has other bits than on %s", c->name, level, (long long)i,
                       tfast_available_isa(0));
        }
    }
    tfast_set_isa(NULL);
    tfast_set_thread_backend(own_backend);
}

check_counts check_take_counts(void) {
    const check_counts taken = counts;
    counts = (check_counts){0, 0};
    return taken;
}

uint64_t check_digest(void) {
    return digest;
}
