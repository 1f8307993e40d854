/* What every file of tests/c shares: calls that are repeated on all levels, thread backends and numbers of threads,
 * and the comparison of what they give with a reference in double.
 *
 * Used by the groups (linear.c, attention.c, ...) and by main.c, which runs them. A new group: its file, and its line
 * in groups.h. */
#ifndef TFAST_TESTS_CHECK_H
#define TFAST_TESTS_CHECK_H

#include "tfast.h"

/* float32 against float64 on N(0,1) data: the bound of docs/numerics.md. */
#define TOLERANCE 2e-6

typedef struct {
    const char* name;
    tfast_status (*run)(const void* arguments, float* y, int n_threads);
    const void* arguments;
    int64_t n;              /* numbers of y */
    const double* expected; /* n of them, or NULL: the bits are compared, and nothing else */
    double bound;           /* of |y[i] - expected[i]|, */
    const double* sizes;    /* times sizes[i] where there are any */
    int same_on_levels;     /* y has the same bits on every level, and goes into the digest */
} check_t;

/* Runs the call on every level, backend and number of threads. On one level all have the same bits. */
void check_call(const check_t* check);

/* A single condition; `what` says what does not hold. */
void check_that(int holds, const char* what, ...) __attribute__((format(printf, 2, 3)));

extern const int check_threads[]; /* numbers of threads, 0 behind the last */

/* What has been counted since the last call, and of all groups. */
typedef struct {
    int64_t checks, failures;
} check_counts;
check_counts check_take_counts(void);
uint64_t check_digest(void);

#endif
