/* What a level offers: descriptors of kernels, and the contract of every kernel.
 *
 * A file of isa/ fills descriptors (through level.h, or by itself as isa/amx/amx.c) and exports one tfast_level;
 * runtime/dispatch.c lays levels over each other; ops/ calls what is in force. A new weight format:
 * docs/adding_a_weight_format.md. Another kernel: its slot and contract here, its template in a folder of kernels/, its
 * line in level.h, its caller in ops/ (docs/adding_a_kernel.md).
 *
 * All kernels: single-threaded, re-entrant, no allocation, no globals; strides in elements; nothing outside the stated
 * extent is read or written; edges are handled inside; fp32 accumulation; a row's result depends on that row and the
 * shape alone, never on its neighbours or on the cut into tasks. Scratch comes from the caller. */
#ifndef TFAST_KERNELS_API_H
#define TFAST_KERNELS_API_H

#include "../base/int8.h"
#include "../tfast.h" /* tfast_attention, tfast_dtype and what else a caller sees */

/* --- products with a packed weight --------------------------------------------------------------------------------
 *
 * A packed weight W (N, K) is a row of panels, one after the other: panel j holds the columns [j * panel_width, ...) of
 * W^T, k by k in groups of k_group, each group k_group_bytes long. What a group holds is the format's own business. */

/* Where the bytes of a packed weight lie. A weight fits a level that has a descriptor of the same layout. */
typedef struct {
    tfast_format format;
    int panel_width;
    int k_group;       /* values of k that are packed together; a last group is padded with zeros */
    int k_group_bytes; /* of a whole panel */
} tfast_layout;

/* Bytes of k values of one panel, from a multiple of k_group on. */
static inline int64_t tfast_panel_bytes(const tfast_layout* layout, int64_t k) {
    return tfast_ceil_div(k, layout->k_group) * layout->k_group_bytes;
}

/* One product y (m, n) = activation(A (m, k) * B (k, n) + bias) * multiply + residual, as `panel` and `small_m` read
 * it. A is row-major with unit column stride. */
typedef struct {
    int64_t m, n, k;
    const float* a;
    int64_t a_stride;
    const void* b;        /* packed, 64-byte aligned where the layout makes every panel so */
    tfast_int8_side side; /* of the columns of b, for formats of integers */
    float* sums;          /* scratch, m x panel_width */
    float* y;
    int64_t y_stride;
    const float* bias;     /* n, or NULL for 0 */
    const float* multiply; /* (m, n), or NULL for 1: the other half of a gated feed-forward */
    int64_t multiply_stride;
    const float* residual; /* (m, n), or NULL for 0; may be y itself */
    int64_t residual_stride;
    tfast_activation activation;
    int first, last; /* `panel` alone: this is the first block of k, the last one */
    const void*
        rows; /* what `prepare` made of A, where that is a slot: of the block of k; for `small_m`, of all of k */
    const void* next; /* `panel` alone: what the next call will probably read as b, */
    int64_t next_k;   /* and its k: fetched or prepared while this one runs; 0: nothing */
    void* work;       /* `panel` alone: work_bytes that `begin` has seen, 64-byte aligned */
    int64_t k_block;  /* `small_m` alone: the length of a block of k */
    int prefetch_b;   /* `small_m` alone, of floats: whether B is fetched ahead of its loads; integers always are */
} tfast_gemm_call;

/* The largest of each column of A (m, k) * B (k, n), as `maxima` reads it; A is row-major with unit column stride. */
typedef struct {
    int64_t m, n, k; /* n <= panel_width */
    const float* a;
    int64_t a_stride;
    const void* b; /* one packed panel */
    float* maxima; /* panel_width: the largest of the rows before; becomes the largest of them and of these. NaN stays.
                      Those of columns from n on are scratch */
    const void* next; /* what is read after this call, of next_bytes: fetched while it runs; NULL: nothing */
    int64_t next_bytes;
} tfast_maxima_call;

/* Rows of a weight as the caller has them: n rows of k values. */
typedef struct {
    tfast_dtype dtype;
    const void* data;
    int64_t stride;         /* between rows, elements; of BLOCKS bytes */
    const float* scale;     /* I8 alone: of each row; a value is its integer times it */
    const float* smoothing; /* formats of integers alone: each k is multiplied by it, or NULL */
} tfast_weight_rows;

/* The products of one weight format on one level. */
typedef struct tfast_gemm {
    tfast_layout layout;
    int column_pairs; /* of a layout whose columns share a group two by two (gemm/int8_pack.h), unlike others of its
                         numbers */
    int integers;     /* what base/int8.h describes stands behind the panels; x is quantised by `prepare` */
    int many_rows; /* pays from some dozens of rows on: weights that are packed for decoding take the next descriptor of
                      the format that is not so */
    int fewest_rows;        /* formats of integers: with fewer, the next descriptor of the same layout is faster */
    int tile_rows;          /* rows of A that share each load of B */
    int k_unit;             /* blocks of k are multiples of it (itself one of k_group), but for the last, */
    int max_k_block;        /* and not longer than this */
    int column_unit;        /* of a panel: full multiples of it cost nothing extra */
    int min_row_block;      /* fewer rows than this read a panel too often for what they compute */
    int file_k, file_bytes; /* formats of a file's blocks: values and bytes of one; `pack` takes rows of BLOCKS alone */

    /* One block of k of one panel (n <= panel_width). With `first`: the block's sum plus bias, else plus what `sums`
     * holds from the blocks before; it goes to `sums`, or, with `last`, through the epilogue to y, which nothing else
     * writes. The caller cuts k by its length alone: the cut decides the rounding. */
    void (*panel)(const tfast_gemm_call* call);
    /* Up to max_small_m rows (0: there is no such kernel), all of k and any number of consecutive panels at once: k is
     * cut into blocks of k_block inside, and n counts columns over panels. The same bits as `panel` gives. */
    int max_small_m;
    void (*small_m)(const tfast_gemm_call* call);
    /* NULL where the format has none: it is for F32 alone, in the descriptor that weights for decoding are packed for.
     */
    void (*maxima)(const tfast_maxima_call* call);
    /* Before and after a row of `panel` calls on one thread, of at most m rows each, that share `work`; NULL: there is
     * nothing to do. */
    size_t work_bytes;
    void (*begin)(int64_t m, void* work);
    void (*end)(void);
    /* A (m, k) in the form that `panel` (of a block of k) and `small_m` (of all of k) read, once for all panels;
     * 64-byte aligned. NULL: A is read in place. Formats of integers multiply A by `factor`, where it is not NULL, and
     * stay within x_limit. */
    size_t (*prepared_bytes)(int64_t m, int64_t k);
    void (*prepare)(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* factor, int32_t x_limit,
                    void* rows);
    /* n <= panel_width rows of W -> one panel, and `side` of its columns; missing columns are 0. */
    void (*pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel, const tfast_int8_side* side);
    /* The same panel from B (k, n), rows b_stride apart: what matmul is given. NULL: the format is not for matmul.
     */
    void (*pack_rows)(const float* b, int64_t b_stride, int64_t n, int64_t k, void* panel);
    /* One panel -> n rows of W, w_stride apart: the values that products use. */
    void (*unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w, int64_t w_stride);
} tfast_gemm;

/* --- attention -----------------------------------------------------------------------------------------------------
 */

/* A piece of an attention call: rows [row, row + n_rows) of one batch and kv head over the keys [key_begin, key_end) of
 * it. Rows count over query heads from `head` on, one after the other (row r is query r % Lq of head + r / Lq): a group
 * of query heads that shares K and V can go in one piece. With `partial` NULL the piece covers all keys and writes out,
 * lse and weights; else it writes there n_rows * (Dv + 2) floats: unnormalised outputs row by row, then the maxima
 * (base-2 logarithm), then the sums. */
typedef struct tfast_attention_piece {
    int64_t batch, kv_head, head, row, n_rows, key_begin, key_end;
    const struct tfast_attention_piece* next; /* what this thread will probably run then, or NULL: its operands are
                                                 prefetched */
    int fallback;                             /* the kernels of the fallback level run it */
    int copy_kv; /* enough panels read float32 K and V that they are copied first, superblock by superblock. Half
                    types always are; a matrix engine ignores it */
    int decode;  /* the whole sequence and group have few rows: `decode` runs it, whose sums have another order */
    int prefetch_into_l2; /* `decode` alone: K and V are prefetched into L2, not into L1, and K of one row not at all */
    float* partial;
} tfast_attention_piece;

/* Attention of one level. */
typedef struct tfast_attention_kernels {
    int panel;         /* query rows that go through the tiles together */
    int min_tail_rows; /* a last panel of no more rows than this takes as many from the one before (0: never); a piece
                          that is not the last of its sequence ends where a panel does */
    int key_block;     /* keys of one step of the online softmax */
    int decode_key_block; /* the same in `decode` */
    int k_unit;           /* full multiples of it in D and Dv cost nothing extra */
    int piece_panels;     /* of a piece at most: all of them share the work that keys take beforehand */
    int decode_rows;      /* at most, for `decode`; 0: the level has none, and the fallback level decodes */
    int matrix_engine;    /* `qblock` computes both products on one */
    /* Fewer rows of a head or group, keys, or D + Dv than this, additive scores and calls with weights go to the
     * fallback level: 0 where it makes no difference. Widths below twice that, panels and multiples of k_unit that are
     * not full need more rows. */
    int min_rows, min_keys, min_width;
    size_t (*scratch_bytes)(const tfast_attention* call, int64_t max_rows);
    void (*qblock)(const tfast_attention* call, const tfast_attention_piece* piece, void* scratch);
    void (*decode)(const tfast_attention* call, const tfast_attention_piece* piece, void* scratch);
    /* n_parts partial results of the same rows (as above, part_stride floats apart) -> out and lse of the piece. */
    void (*merge)(const tfast_attention* call, const tfast_attention_piece* piece, const float* parts,
                  int64_t part_stride, int64_t n_parts);
} tfast_attention_kernels;

/* --- rows and spans ------------------------------------------------------------------------------------------------
 */
typedef struct tfast_row_kernels {
    /* y = (x + r - mean) / sqrt(var + eps) * weight + bias for each of m rows of n; r, weight and bias may be NULL; y
     * may be x. */
    void (*layernorm)(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* r, int64_t r_stride,
                      const float* weight, const float* bias, float eps, float* y, int64_t y_stride);
    /* y = (x + r) / sqrt(mean((x + r)^2) + eps) * weight, likewise. */
    void (*rmsnorm)(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* r, int64_t r_stride,
                    const float* weight, float eps, float* y, int64_t y_stride);
    /* m rows of n: pairs of the first 2 * half elements turned by the angles whose cosines and sines stand in the rows
     * of cos and sin (half of them a row); pair i is (i, i + half), or (2i, 2i + 1) if interleaved. The rest is copied;
     * y may be x. */
    void (*rope)(int64_t m, int64_t n, int64_t half, int interleaved, const float* x, int64_t x_stride,
                 const float* cos, const float* sin, int64_t angle_stride, float* y, int64_t y_stride);
    /* y = exp(x - max) / sum for each of m rows of n; y may be x. */
    void (*softmax)(int64_t m, int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride);
    /* y[j] = max(y[j], x[0][j], ..., x[m - 1][j]) for each of n columns; NaN where one of them is NaN. */
    void (*column_max)(int64_t m, int64_t n, const float* x, int64_t x_stride, float* y);
    void (*activation)(int64_t n, const float* x, float* y, tfast_activation kind);
    /* n values of another type, widened. */
    void (*widen)(int64_t n, const void* x, tfast_dtype dtype, float* y);
    /* The places i of n scores whose x[i] * factor is not <= limits[i] (NaN on either side is not), in ascending order
     * to `found`, which has room for n; returns how many. */
    int64_t (*above)(int64_t n, const float* x, float factor, const float* limits, int32_t* found);
    /* The sum of the squares of n values. */
    float (*squares)(int64_t n, const float* x);
    /* Minus the number of bits in which a row of bytes differs from each of n others, `stride` bytes apart. */
    void (*hamming)(int64_t n, int64_t bytes, const uint8_t* row, const uint8_t* others, int64_t stride, float* minus);
    /* The gates of one row of a recurrent step with n units: x and s, the shares of the input and of the state, hold 4
     * (LSTM: i, f, g, o) or 3 (GRU: r, z, n) times n numbers. c and h are the state: c is read and written, and so is h
     * of a GRU; h of an LSTM is only written. */
    void (*lstm)(int64_t n, const float* x, const float* s, float* c, float* h);
    void (*gru)(int64_t n, const float* x, const float* s, float* h);
    /* What this machine can do: runs `rounds` of independent FMAs and returns the flops done; reads n floats in order.
     */
    double (*fma_probe)(int64_t rounds);
    float (*read_probe)(const float* x, int64_t n);
} tfast_row_kernels;

/* --- a level ---------------------------------------------------------------------------------------------------------
 * What isa/<level>.c exports, under the one name that leaves its object: NULL where the level below is as good. */
typedef struct tfast_level {
    const char* name;
    const tfast_gemm* const* gemms; /* ends with NULL */
    const tfast_attention_kernels* attention;
    const tfast_row_kernels* rows;
} tfast_level;

extern const tfast_level tfast_level_portable, tfast_level_neon, tfast_level_neondot, tfast_level_neoni8mm,
    tfast_level_avx2, tfast_level_avxvnni, tfast_level_avx512, tfast_level_avx512vnni, tfast_level_avx512bf16,
    tfast_level_amx;

#endif
