/* The table of kernels: one slot a kernel, filled once for each instruction set; the contract of every kernel stands
 * here.
 *
 * Filled by isa/<isa>.c (through fill.h), handed out by runtime/dispatch.c, called by ops/. A new kernel: its slot and
 * contract here, its template in a header of this folder, one line in fill.h, its caller in ops/
 * (docs/adding_a_kernel.md).
 *
 * All kernels: single-threaded, re-entrant, no allocation, no globals; strides in elements; nothing outside the stated
 * extent is read or written; edges are handled inside; fp32 accumulation; a row's result depends on that row and the
 * shape alone, never on its neighbours or on the cut into tasks. Scratch comes from the caller, its size from the twin
 * named *_scratch_bytes.
 *
 * Slots that must agree stand in one group and are overwritten together: the panel width of `pack` is that of the tile.
 */
#ifndef TFAST_KERNELS_TABLE_H
#define TFAST_KERNELS_TABLE_H

#include "../base/types.h"

/* One block of k of y (m, n) = activation(A (m, K) * B (K, n) + bias) * multiply + residual.
 * A is row-major with unit column stride. B is one packed panel: k rows of panel_width floats, 64-byte aligned,
 * zero-padded; n <= panel_width. `first`: the block's sum plus bias (0 where it is NULL), else plus what `sums` (m x
 * panel_width) holds from the blocks before; it goes to `sums`, or, with `last`, through the epilogue to y, which
 * nothing else writes. The caller cuts k by its length alone: the cut decides the rounding. */
typedef struct {
    int64_t m, n, k;
    int64_t k_block; /* gemm_f32_few alone reads it, and */
    int fetch;       /* whether it fetches B ahead of its loads */
    const float* a;
    int64_t a_stride;
    const void* rows; /* what gemm_f32_rows made of A, where that is a slot */
    const float* b;
    float* sums;
    float* y;
    int64_t y_stride;
    const float* bias;
    const float* multiply; /* (m, n), or NULL for 1: the other half of a gated feed-forward */
    int64_t multiply_stride;
    const float* residual; /* (m, n), or NULL for 0; may be y itself */
    int64_t residual_stride;
    tfast_activation activation;
    int first, last;
    const float* next; /* what the next call will probably read as b, fetched or prepared while this one runs */
    int64_t next_bytes;
    void* work; /* gemm_f32_work_bytes that gemm_f32_begin has seen, 64-byte aligned */
} tfast_gemm_panel;

/* An additive term of the scores: float values, or bytes where 0 means "not allowed" (-infinity). */
typedef enum { TFAST_BIAS_NONE = 0, TFAST_BIAS_FLOAT = 1, TFAST_BIAS_BOOL = 2 } tfast_bias_kind;
typedef struct {
    tfast_bias_kind kind;
    const void* data;
    int64_t stride[4]; /* batch, head, query, key; 0 broadcasts, negative is allowed (a table over offsets has -1, 1) */
} tfast_bias;

#define TFAST_UNLIMITED INT64_MAX

/* One attention call. The order of operations on a score: q.k * scale, soft cap, bias terms, ALiBi, structure; then
 * softmax with sink. Key j is visible to query i of batch b iff  j < kv_length[b]  and  offset - left <= j - i <=
 * offset + right  (right is 0 when causal; TFAST_UNLIMITED: no bound), offset = offset[b]. Packed sequences: cu_q and
 * cu_k hold B + 1 row offsets, batch strides are unused. */
typedef struct {
    tfast_dtype dtype; /* of q, k, v, out: F32, F16 or BF16 */
    int64_t B, H, Hkv, Lq, Lk, D, Dv;
    const void *q, *k, *v;
    void* out;
    int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3]; /* batch, head, position; the last axis is dense */
    const int64_t *cu_q, *cu_k;
    const int64_t* kv_length; /* B values or NULL */
    const int64_t* offset;    /* B values or NULL: 0 */
    int64_t left, right;
    float scale, softcap;  /* softcap 0: none */
    const float* additive; /* D values, or NULL: the score is then additive . tanh(q + k) (Bahdanau) in place of q . k;
                              scale 1, no soft cap */
    tfast_bias bias[2];
    const float *alibi_slopes, *sinks; /* H values or NULL */
    float* lse;                        /* natural logarithm, or NULL */
    int64_t lse_stride[2];             /* batch, head; positions are dense */
    float* weights;                    /* or NULL: zeroed by the caller; what is invisible is not written */
    int64_t weights_stride[4];         /* batch, head, query, key */
    int weights_mean; /* add weight / H of every head into one matrix: the pieces of a batch then run in one task */
} tfast_attention;

/* A piece of an attention call: rows [row, row + n_rows) of one batch and kv head over the keys [key_begin, key_end) of
 * it. Rows count over query heads from `head` on, one after the other (row r is query r % Lq of head + r / Lq): a group
 * of query heads that shares K and V can go in one piece. With `partial` NULL the piece covers all keys and writes out,
 * lse and weights; else it writes there n_rows * (Dv + 2) floats: unnormalised outputs row by row, then the maxima
 * (base-2 logarithm), then the sums. */
typedef struct tfast_attention_piece {
    int64_t batch, kv_head, head, row, n_rows, key_begin, key_end;
    const struct tfast_attention_piece*
        next;      /* what this thread will probably run then (its operands are prefetched), or NULL */
    int few;       /* the table's few_rows runs it */
    int copy_keys; /* fp32 K and V are copied, superblock by superblock, before they are read: enough panels read them.
                      Half types always are; a matrix unit ignores it */
    int decode;    /* the rows of the whole sequence and group are few: attention_f32_decode (its sums run in another
                      order), */
    int fetch_far; /* which fetches K and V into L2, not into L1, and K of one row not at all */
    float* partial;
} tfast_attention_piece;

typedef struct tfast_kernels {
    const char* isa;

    /* --- group: products with packed weights
     * ---------------------------------------------------------------------------- */
    int tile_rows;   /* MR: rows of A that share each load of B */
    int panel_width; /* NR: columns of a packed panel */
    int k_unit;      /* blocks of k are multiples of it, but for the last, */
    int k_block;     /* and not longer than this */
    int rows_block;  /* fewer rows than this read a panel too often for what they compute */
    void (*gemm_f32_panel)(const tfast_gemm_panel* p);
    /* The same for up to `most_few` rows (0: there is no such kernel), all of K and any number of consecutive panels at
     * once: k is K, cut into blocks of k_block inside, n counts columns over panels; `sums` (m x panel_width) is
     * written where there is an epilogue; first, last, rows, next and work are not read. */
    int most_few;
    void (*gemm_f32_few)(const tfast_gemm_panel* p);
    /* Before and after a row of gemm_f32_panel calls on one thread, of at most m rows each, that share `work`; NULL:
     * there is nothing to do. */
    size_t gemm_f32_work_bytes;
    void (*gemm_f32_begin)(int64_t m, void* work);
    void (*gemm_f32_end)(void);
    /* A (m, k) in the form that gemm_f32_panel reads, for a block of k, once for all panels; 64-byte aligned. NULL: A
     * is read in place. */
    size_t (*gemm_f32_rows_bytes)(int64_t m, int64_t k);
    void (*gemm_f32_rows)(int64_t m, int64_t k, const float* a, int64_t a_stride, void* rows);
    /* W (n, k), n <= panel_width, rows w_stride apart -> panel of k x panel_width floats, missing columns 0. */
    void (*gemm_f32_pack)(const float* w, int64_t w_stride, int64_t n, int64_t k, float* panel);
    /* The same panel from B (k, n), rows b_stride apart: what matmul is given. */
    void (*gemm_f32_pack_rows)(const float* b, int64_t b_stride, int64_t n, int64_t k, float* panel);
    /* The table whose group is better for weights that meet few rows at a time, and for attention that the group below
     * says; itself where there is no better. */
    const struct tfast_kernels* few_rows;

    /* --- group: attention
     * ------------------------------------------------------------------------------------------------ */
    int attention_panel; /* query rows that go through the tiles together */
    int attention_alone; /* a last panel of no more rows than this takes as many from the one before (0: never); a piece
                            that is not the last of its sequence ends where a panel does */
    int attention_block; /* keys of one step of the online softmax */
    int piece_panels;    /* of a piece at most: all of them share the work that keys take beforehand */
    int decode_rows;     /* attention_f32_decode takes up to so many rows */
    /* Fewer rows of a head or group, keys, or D + Dv than this, additive scores and calls with weights are few_rows': 0
     * where it makes no difference. Widths below twice that, panels and multiples of k_unit that are not
     * full need more rows. */
    int attention_min_rows, attention_min_keys, attention_min_width;
    size_t (*attention_f32_scratch_bytes)(const tfast_attention* call, int64_t max_rows);
    void (*attention_f32_qblock)(const tfast_attention* call, const tfast_attention_piece* piece, void* scratch);
    void (*attention_f32_decode)(const tfast_attention* call, const tfast_attention_piece* piece, void* scratch);
    /* n_parts partial results of the same rows (as above, part_stride floats apart) -> out and lse of the piece. */
    void (*attention_f32_merge)(const tfast_attention* call, const tfast_attention_piece* piece, const float* parts,
                                int64_t part_stride, int64_t n_parts);

    /* --- rows and spans
     * ---------------------------------------------------------------------------------------------------- */
    /* y = (x + r - mean) / sqrt(var + eps) * weight + bias for each of m rows of n; r, weight and bias may be NULL; y
     * may be x. */
    void (*layernorm_f32_rows)(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* r, int64_t r_stride,
                               const float* weight, const float* bias, float eps, float* y, int64_t y_stride);
    /* y = (x + r) / sqrt(mean((x + r)^2) + eps) * weight, likewise. */
    void (*rmsnorm_f32_rows)(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* r, int64_t r_stride,
                             const float* weight, float eps, float* y, int64_t y_stride);
    /* m rows of n: pairs of the first 2 * half elements turned by the angles whose cosines and sines stand in the rows
     * of cos and sin (half of them a row); pair i is (i, i + half), or (2i, 2i + 1) if interleaved. The rest is copied;
     * y may be x. */
    void (*rope_f32_rows)(int64_t m, int64_t n, int64_t half, int interleaved, const float* x, int64_t x_stride,
                          const float* cos, const float* sin, int64_t angle_stride, float* y, int64_t y_stride);
    /* y = exp(x - max) / sum for each of m rows of n; y may be x. */
    void (*softmax_f32_rows)(int64_t m, int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride);
    void (*activation_f32_span)(int64_t n, const float* x, float* y, tfast_activation kind);
    /* The gates of one row of a recurrent step with n units: x and s, the shares of the input and of the state, hold 4
     * (LSTM: i, f, g, o) or 3 (GRU: r, z, n) times n numbers. c and h are the state: c is read and written, and so is h
     * of a GRU; h of an LSTM is only written. */
    void (*lstm_f32_span)(int64_t n, const float* x, const float* s, float* c, float* h);
    void (*gru_f32_span)(int64_t n, const float* x, const float* s, float* h);

    /* --- what this machine can do
     * --------------------------------------------------------------------------------------------- */
    double (*fma_f32_probe)(int64_t rounds);            /* runs `rounds` of independent FMAs; returns the flops done */
    float (*read_f32_probe)(const float* x, int64_t n); /* reads n floats in order */
} tfast_kernels;

/* The one external symbol of each isa/<isa>.c: overwrites the slots that it improves. */
void tfast_fill_scalar(tfast_kernels* table);
void tfast_fill_avx2(tfast_kernels* table);
void tfast_fill_avx512(tfast_kernels* table);
void tfast_fill_amx(tfast_kernels* table);

#endif
