/* What a search does with a row of a corpus beside its products with the queries: which scores are high enough, the
 * row's length, and the distance of bits.
 *
 * Called by ops/search.c. A further measure of bits or bytes: a function like `hamming`, whose results `above` reads.
 *
 *   scores of one row of the corpus:  | q0 q1 q2 ... q(n-1) |  * factor
 *   limits, the k-th best so far:     | l0 l1 l2 ... l(n-1) |   four vectors of both, one branch
 *
 * Loads for each vector of scores: one of them, one of their limits, against K multiply-adds that it took: 0.5 % for
 * K = 384. After the first rows nearly all scores are below their limits, so the branch is predicted. */
#ifndef TFAST_KERNELS_SEARCH_H
#define TFAST_KERNELS_SEARCH_H

/* Vectors of comparisons a branch. */
enum { ABOVE_VECTORS = 4, ABOVE_STEP = ABOVE_VECTORS * V_LANES };

static int64_t KERNEL(above)(int64_t n, const float* x, float factor, const float* limits, int32_t* found) {
    const vf f = v_set1(factor);
    int64_t count = 0, i = 0;
    for (; i + ABOVE_STEP <= n; i += ABOVE_STEP) {
        vm below = v_le(v_mul(v_load(x + i), f), v_load(limits + i));
#pragma GCC unroll 4
        for (int j = V_LANES; j < ABOVE_STEP; j += V_LANES)
            below = v_and(below, v_le(v_mul(v_load(x + i + j), f), v_load(limits + i + j)));
        if (v_all(below)) continue;
        for (int64_t j = i; j < i + ABOVE_STEP; j++)
            if (!(x[j] * factor <= limits[j])) found[count++] = (int32_t)j;
    }
    for (; i < n; i++)
        if (!(x[i] * factor <= limits[i])) found[count++] = (int32_t)i;
    return count;
}

static float KERNEL(squares)(int64_t n, const float* x) {
    return squared_distances(n, x, 0.0f);
}

V_INLINE uint64_t load_word(const uint8_t* p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

V_INLINE uint64_t load_part_of_word(const uint8_t* p, int64_t bytes) {
    uint64_t word = 0;
    memcpy(&word, p, (size_t)bytes);
    return word;
}

/* One instruction where the level has it (x86-64-v2 on); the portable one would call a function of the compiler's
 * library: sums of 2, 4 and 8 bits in place, and of the bytes by a product. */
V_INLINE int64_t count_bits(uint64_t x) {
#if defined(__POPCNT__)
    return __builtin_popcountll(x);
#else
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int64_t)(x * 0x0101010101010101u >> 56);
#endif
}

static void KERNEL(hamming)(int64_t n, int64_t bytes, const uint8_t* row, const uint8_t* others, int64_t stride,
                            float* minus) {
    const int64_t whole = bytes / 8 * 8, left = bytes - whole;
    for (int64_t j = 0; j < n; j++, others += stride) {
        int64_t bits = 0;
        for (int64_t i = 0; i < whole; i += 8) bits += count_bits(load_word(row + i) ^ load_word(others + i));
        if (left) bits += count_bits(load_part_of_word(row + whole, left) ^ load_part_of_word(others + whole, left));
        minus[j] = -(float)bits;
    }
}

#endif
