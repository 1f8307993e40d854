/* Types that every room of csrc shares: status codes, element types, activations and the meaning of the shape letters.
 *
 * Called by everybody; includes nothing of the project. Add here only what at least two rooms need.
 *
 * Shape letters, used with this meaning in all of csrc and in the Python docstrings:
 *   B batch, T packed tokens, H query heads, Hkv key/value heads (H is a multiple of Hkv), Lq queries, Lk keys,
 *   D width of a query and key head, Dv width of a value head; M, N, K for products: C (M, N) = A (M, K) times W (N, K)
 * transposed. Strides are int64_t and count elements, never bytes. */
#ifndef TFAST_BASE_TYPES_H
#define TFAST_BASE_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    TFAST_OK = 0,
    TFAST_NO_MEMORY = 1,   /* the workspace could not grow */
    TFAST_UNKNOWN_ISA = 2, /* no level of that name is compiled in */
    TFAST_ISA_MISSING = 3, /* the level is compiled in, but this machine lacks it */
    TFAST_WRONG_LAYOUT = 4 /* a packed weight met another instruction set than it was packed for */
} tfast_status;

typedef enum {
    TFAST_F32 = 0,
    TFAST_F16 = 1,
    TFAST_BF16 = 2,
    TFAST_I8 = 3,     /* of weights, keys and values, and of vectors that are searched */
    TFAST_BLOCKS = 4, /* of weights alone: bytes of blocks as a GGUF file has them; a row is K values long, strides
                         count bytes */
    TFAST_U8 = 5      /* of vectors that are searched alone */
} tfast_dtype;

/* How the values of a packed weight are stored, and what meets them; INT8_UNBOUNDED is INT8 for integers of others,
 * which no bound holds (base/int8.h). Products with BF16 round x where the processor multiplies bfloat16, those with
 * BF16_A32 and F16 nowhere. */
typedef enum {
    TFAST_FORMAT_F32 = 0,
    TFAST_FORMAT_BF16 = 1,
    TFAST_FORMAT_INT8 = 2,
    TFAST_FORMAT_INT8_A16 = 3,
    TFAST_FORMAT_INT8_UNBOUNDED = 4,
    TFAST_FORMAT_INT4 = 5, /* the formats of kernels/gemm/blocks.h: this one is packed from floats, */
    TFAST_FORMAT_Q8_0 = 6, /* those from here on from the blocks of GGUF files */
    TFAST_FORMAT_Q4_0 = 7,
    TFAST_FORMAT_Q4_1 = 8,
    TFAST_FORMAT_Q5_0 = 9,
    TFAST_FORMAT_Q5_1 = 10,
    TFAST_FORMAT_Q4_K = 11,
    TFAST_FORMAT_Q5_K = 12,
    TFAST_FORMAT_Q6_K = 13,
    TFAST_FORMAT_IQ4_NL = 14,
    TFAST_FORMAT_MXFP4 = 15,
    TFAST_FORMAT_Q4_Z = 16, /* of blocks, too: codes of 4 bits with a scale and a zero, from files of GPTQ and alike */
    TFAST_FORMAT_F16 = 17,
    TFAST_FORMAT_BF16_A32 = 18,
    TFAST_FORMAT_A8 = 64 /* added to a format of blocks: the same weight, met by x in 8 bits */
} tfast_format;

/* Element-wise functions, alone and as the epilogue of a linear layer. */
typedef enum {
    TFAST_IDENTITY = 0,
    TFAST_RELU = 1,
    TFAST_GELU = 2,       /* x * Phi(x), by erf */
    TFAST_GELU_TANH = 3,  /* GPT-2's approximation */
    TFAST_QUICK_GELU = 4, /* x * sigmoid(1.702 x), as CLIP */
    TFAST_SILU = 5,       /* x * sigmoid(x) */
    TFAST_TANH = 6
} tfast_activation;

#define TFAST_MIN(a, b) ((a) < (b) ? (a) : (b))
#define TFAST_MAX(a, b) ((a) > (b) ? (a) : (b))

static inline int64_t tfast_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static inline int64_t tfast_clamp(int64_t x, int64_t lo, int64_t hi) {
    return x < lo ? lo : x > hi ? hi : x;
}
static inline size_t tfast_align64(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}
static inline int64_t tfast_round_up(int64_t a, int64_t b) {
    return tfast_ceil_div(a, b) * b;
}

#endif
