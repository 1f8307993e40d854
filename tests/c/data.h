/* Memory and random numbers of the tests: both last until the group ends.
 *
 * The numbers are the same for every compiler and system, to the bit: they are made of integers, since logarithms and
 * cosines of C libraries differ in the last bit, and the digests of builds are compared. */
#ifndef TFAST_TESTS_DATA_H
#define TFAST_TESTS_DATA_H

#include <stddef.h>
#include <stdint.h>

/* Begins a group's data: frees all that there is, and the random numbers follow from the name. */
void data_begin(const char* group);

/* Zeros, exactly so many bytes: a sanitizer sees what is read or written behind them. */
void* data_room(size_t bytes);

uint32_t data_bits(void);
/* In [low, high). */
int64_t data_integer(int64_t low, int64_t high);
/* n numbers of mean 0 and deviation `scale`: sums of 12 uniform ones. */
float* data_normal(int64_t n, double scale);
double* data_widened(int64_t n, const float* x);

#endif
