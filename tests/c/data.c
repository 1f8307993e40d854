/* The list of what has been allocated, and splitmix64 (Steele, Lea, Flood 2014). */
#include "data.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_ROOMS = 4096 };

static void* rooms[MOST_ROOMS];
static int n_rooms;
static uint64_t state;

void data_begin(const char* group) {
    while (n_rooms) free(rooms[--n_rooms]);
    state = 0;
    for (; *group; group++) state = state * 31 + (unsigned char)*group;
}

void* data_room(size_t bytes) {
    void* room = calloc(1, bytes ? bytes : 1);
    if (!room || n_rooms == MOST_ROOMS) {
        fputs("no memory, or too many arrays in one group (MOST_ROOMS)\n", stderr);
        exit(2);
    }
    rooms[n_rooms++] = room;
    return room;
}

uint32_t data_bits(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

int64_t data_integer(int64_t low, int64_t high) {
    return low + (int64_t)(data_bits() % (uint64_t)(high - low));
}

float* data_normal(int64_t n, double scale) {
    float* x = data_room((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        int64_t sum = -6 * 65536;
        for (int k = 0; k < 12; k++) sum += data_bits() >> 16;
        x[i] = (float)((double)sum / 65536 * scale);
    }
    return x;
}

double* data_widened(int64_t n, const float* x) {
    double* y = data_room((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}
