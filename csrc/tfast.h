/* The C API of transformer_fast: the only header that Cython sees.
 *
 * Every function checks nothing that Python has checked already (shapes, types, overlap): see
 * transformer_fast/functional/. All of them may be called without the GIL and from several threads. n_threads 0 means
 * the setting. A new op: its prototype here, its file in ops/, its wrapper in transformer_fast/_core.pyx with the
 * prototype in _core.pxd (docs/adding_a_kernel.md). */
#ifndef TFAST_H
#define TFAST_H

#include "base/types.h"

/* --- settings (runtime/)
 * --------------------------------------------------------------------------------------------------- */
/* Once, before all else: when the module is imported. */
void tfast_initialise(void);
void tfast_set_num_threads(int n);
int tfast_get_num_threads(void);
int tfast_has_openmp(void); /* compiled in */
/* "openmp", "native" or "serial": what runs loops from now on; 0: this build has no such backend. Results are the same
 * to the bit. */
int tfast_set_thread_backend(const char* name);
const char* tfast_get_thread_backend(void);
/* The i-th backend of this build; NULL behind the last. */
const char* tfast_thread_backend_name(int i);
tfast_status tfast_set_isa(const char* name);
const char* tfast_get_isa(void);
/* For tests: the tuning record of that name (tuning/tuning.c), NULL: that of this processor. Results are the same to
 * the bit. 0: no such name. Not while a call runs. */
int tfast_set_tuning(const char* name);
const char* tfast_get_tuning(void);
/* The i-th record's name; NULL behind the last. */
const char* tfast_tuning_name(int i);
const char* tfast_available_isa(int i);
const char* tfast_emulated_isa(int i);
size_t tfast_workspace_release(void);
const char* tfast_cpu_brand(void);
void tfast_cache_bytes(int64_t* l1d, int64_t* l2, int64_t* l3);

/* --- attention (ops/attention.c)
 * -------------------------------------------------------------------------------------------- */
/* An additive term of the scores: float values, or bytes where 0 means "not allowed" (-infinity). */
typedef enum { TFAST_BIAS_NONE = 0, TFAST_BIAS_FLOAT = 1, TFAST_BIAS_BOOL = 2 } tfast_bias_kind;
typedef struct {
    tfast_bias_kind kind;
    const void* data;
    int64_t stride[4]; /* batch, head, query, key; 0 broadcasts, negative is allowed (a table over offsets has -1, 1) */
} tfast_bias;

#define TFAST_UNLIMITED INT64_MAX

/* Structure that is no single range a row: each query row has a list of ranges of keys, [low, high) pairs that are
 * sorted, disjoint, not touching, not empty. Lists are shared by rows that see the same keys. */
typedef struct {
    const int32_t* list_of_row; /* NULL: there is no such structure */
    int64_t stride[3];          /* batch, head, query; 0 shares. Packed: a query counts over all sequences */
    const int64_t* begin;       /* list n: the ranges [begin[n], begin[n + 1]) */
    const int32_t* bounds;      /* (ranges, 2) */
    double visible;             /* pairs of query and key in all batches and heads, for the plan */
} tfast_key_ranges;

/* Keys and values in pages: position j of sequence b is row j % size of page table[b * stride + j / size]. Batch
 * strides of k, v and their scales are then those from page to page. */
typedef struct {
    const int32_t* table; /* NULL: there are no pages */
    int64_t stride;       /* from sequence to sequence; 0: all have the same pages */
    int64_t size;         /* positions of a page, a multiple of TFAST_PAGE_UNIT */
} tfast_pages;
enum { TFAST_PAGE_UNIT = 16 };

/* Weights as the data of CSR matrices, one for each batch entry and head: a row holds its visible keys in rising order.
 * The weight of a key of range r is weights[row_begin + before[r] + key - low[r]], for the keys that the row's bounds
 * leave of the range. */
typedef struct {
    tfast_key_ranges ranges;  /* what a row stores: what it sees, with weights_mean what any head sees; or NULL lists */
    const int64_t* before;    /* keys of all ranges before each */
    const int64_t* row_begin; /* of each batch entry, head and query */
    int64_t row_stride[3];
} tfast_sparse_weights;

/* Terms of scores that depend on a row and on the distance of query and key, as disentangled attention has them:
 * of_query[i][bucket] + of_key[j][bucket] for the bucket of j - i. Rows have n_buckets numbers, the last axis is dense.
 * Buckets of neighbouring distances differ by 1 at most, so that V_LANES of them lie within one vector of a row. */
typedef struct {
    const float *of_query, *of_key;          /* or NULL */
    int64_t query_stride[3], key_stride[3];  /* batch, head, position */
    const int32_t *bucket, *bucket_of_minus; /* of the distance d at bucket[d], at bucket_of_minus[-d]: rows of either
                                                side read theirs forwards */
    int64_t n_buckets;
} tfast_distance_scores;

/* One attention call. The order of operations on a score: q.k * scale, soft cap, bias terms, terms of distance,
 * ALiBi, structure; then
 * softmax with sink. Key j is visible to query i of batch b iff  j < kv_length[b]  and  offset - left <= j - i <=
 * offset + right  (right is 0 when causal; TFAST_UNLIMITED: no bound), offset = offset[b]. Packed sequences: cu_q and
 * cu_k hold B + 1 row offsets, batch strides are unused; with pages there is no cu_k, and kv_length says how many keys
 * a sequence has. */
typedef struct {
    tfast_dtype q_dtype;  /* of q and out */
    tfast_dtype kv_dtype; /* of k and v: q_dtype, or F16, BF16 or I8 where that is F32 */
    int64_t B, H, Hkv, Lq, Lk, D, Dv;
    const void *q, *k, *v;
    void* out;
    int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3]; /* batch, head, position; the last axis is dense */
    /* I8 alone: each position of a head has a scale, its values are integer * scale; strides: batch, head, position */
    const float *k_scale, *v_scale;
    int64_t k_scale_stride[3], v_scale_stride[3];
    const int64_t *cu_q, *cu_k;
    tfast_pages pages;
    const int64_t* kv_length; /* B values or NULL */
    /* With pages alone, B values or NULL: so many first keys of the sequence, whole pages, may be those of others. They
     * are read once for all sequences with the same value here and the same first page, and all their queries see them,
     * whatever the structure. A row has the same bits whoever shares its keys, but not those that it has with 0. */
    const int64_t* shared;
    const int64_t* offset; /* B values or NULL: 0 */
    int64_t left, right;
    tfast_key_ranges ranges; /* and j is in one of the row's ranges */
    float scale, softcap;    /* softcap 0: none */
    const float* additive; /* D values, or NULL: the score is then additive . tanh(q + k) (Bahdanau) in place of q . k;
                              scale 1, no soft cap */
    tfast_bias bias[2];
    tfast_distance_scores distance_scores;
    const float *alibi_slopes, *sinks; /* H values or NULL */
    float* lse;                        /* natural logarithm, or NULL */
    float* max_sum;                    /* or NULL: each row's maximum (base 2) and sum, a pair where lse has a value */
    int64_t lse_stride[2];             /* batch, head; positions are dense */
    float* weights;                    /* or NULL: zeroed by the caller; what is invisible is not written */
    int64_t weights_stride[4];         /* batch, head, query, key, where they are dense */
    tfast_sparse_weights sparse_weights; /* where weights are not dense; the call has ranges then */
    int weights_mean; /* add weight / H of every head into one matrix: the pieces of a batch then run in one task */
    /* Of ops/shared_keys.c alone: */
    const int64_t* first_key; /* B values or NULL: keys before it are done elsewhere */
    enum { TFAST_ALL_ENTRIES, TFAST_WITH_FIRST_KEY, TFAST_WITHOUT_FIRST_KEY } entries; /* the others are left alone */
    int any_rows; /* the number of rows does not decide how they are computed, as it does else */
} tfast_attention;

tfast_status tfast_attention_run(const tfast_attention* call, int n_threads);

/* Which kernel runs a piece: all keys at once, block by block, or for few query rows. */
typedef enum { TFAST_KERNEL_FULL_ROW = 0, TFAST_KERNEL_ONLINE = 1, TFAST_KERNEL_DECODE = 2 } tfast_attention_kernel;

/* The pieces of a call that are run in the same way. */
typedef struct {
    tfast_attention_kernel kernel;
    const char* level; /* whose kernel it is */
    int fallback;      /* it is not the level in force, which leaves few rows and keys to another one */
    int matrix_engine; /* it computes both products */
    int copies_kv;     /* K and V are copied as float32, superblock by superblock, before they are read */
    int64_t pieces;
    int64_t query_panel; /* query rows of one step */
    int64_t key_block;   /* keys of one step */
} tfast_attention_kind;

enum { TFAST_MAX_ATTENTION_KINDS = 12 }; /* kernels x fallback x copies_kv */

/* How tfast_attention_run would run a call. */
typedef struct {
    int64_t pieces, rows_per_piece, key_splits, threads;
    int64_t scratch_bytes; /* of all threads, partial results included */
    double score_flops;    /* of the visible scores, both products */
    double visible_fraction;
    int n_kinds;
    tfast_attention_kind kinds[TFAST_MAX_ATTENTION_KINDS];
} tfast_attention_plan;
void tfast_attention_explain(const tfast_attention* call, int n_threads, tfast_attention_plan* plan);

/* --- linear layers (ops/linear.c)
 * -------------------------------------------------------------------------------------------- */
/* A weight (N, K) as products read it; or several, of formats of their own, whose rows follow each other. */
typedef struct tfast_packed {
    int64_t N, K;
    const struct tfast_gemm* gemm;           /* that it was packed by (kernels/api.h) */
    void* data;                              /* 64-byte aligned, tfast_packed_bytes of them */
    int smoothed;                            /* x is multiplied by a factor for each k */
    int32_t x_limit;                         /* format INT8_A16: the largest integer of x */
    const struct tfast_packed* const* parts; /* n_parts of them, together N; then there is no gemm, and no data */
    int64_t n_parts;                         /* 0: this is one weight */
} tfast_packed;

/* n rows of a weight in the type of its file, rows `stride` elements apart, each dense. Rows of I8 have a scale each.
 */
typedef struct {
    const void* data;
    int64_t n, stride;
    const float* scale;
} tfast_row_block;

/* How many values a block of a file has in how many bytes; 0 and 0 for formats that are packed from numbers. */
void tfast_file_block(tfast_format format, int64_t* values, int64_t* bytes);
/* For the level in force: sets all but data, which the caller allocates then. for_decode: products will have some
 * dozens of rows at most, or one. */
void tfast_packed_begin(int64_t N, int64_t K, tfast_format format, int for_decode, tfast_packed* p);
size_t tfast_packed_bytes(const tfast_packed* p);
/* Memory for packed weights, aligned to a cache line; NULL: there is none. */
void* tfast_weight_memory(size_t bytes);
/* Of tfast_weight_memory, or NULL. */
void tfast_weight_free(void* memory);
/* Whether the level in force can read its layout. */
int tfast_packed_fits(const tfast_packed* p);
/* What tells how the bytes of one weight lie: a file of packed weights holds it beside them. tfast_packed_begin with
 * its format and for_decode finds the same layout where the level in force has it. */
typedef struct {
    tfast_format format;
    int for_decode, panel_width, k_group, k_group_bytes;
} tfast_packed_layout;
/* 0: the weight has none, being several, or of a format that there is not. */
int tfast_packed_layout_of(const tfast_packed* p, tfast_packed_layout* layout);
/* The rows of all blocks -> those of the weight from `first` on. dtype: of every block; I8 for the formats of integers
 * alone, which take the integers as they are, all N rows in one call; BLOCKS for those of a file's blocks, and for them
 * alone. smoothing: K positive factors of the weight, by which x is divided in every product; for format INT8, or NULL.
 * Rows come in any number of calls, in each a multiple of tfast_pack_step but for the last ones of the weight; then
 * tfast_pack_end makes it whole. */
int64_t tfast_pack_step(const tfast_packed* p);
tfast_status tfast_pack_rows(const tfast_row_block* blocks, int64_t n_blocks, tfast_dtype dtype, const float* smoothing,
                             int64_t first, tfast_packed* p, int n_threads);
void tfast_pack_end(const float* smoothing, tfast_packed* p);
/* The scale of each row of a format of integers; NULL for others. */
const float* tfast_packed_scale(const tfast_packed* p);
/* The values that products use -> w (N, K), dense. */
tfast_status tfast_unpack(const tfast_packed* p, float* w, int n_threads);

/* With cu, y is (B, N): the maximum of each column over the rows [cu[b], cu[b + 1]) of what y would be without it, NaN
 * where one of them is NaN, -infinity where there are none; M > 0. */
typedef struct {
    int64_t M;
    const float* x;
    int64_t x_stride;
    const tfast_packed* weight;
    const float* bias; /* N or NULL */
    tfast_activation activation;
    const float* multiply; /* (M, N) or NULL: the activation's result times this; may be y itself */
    int64_t multiply_stride;
    const float* residual; /* (M, N) or NULL; may be y itself */
    int64_t residual_stride;
    float* y;
    int64_t y_stride;
    int64_t B;
    const int64_t* cu; /* B + 1, from 0 to M, or NULL */
} tfast_linear;
tfast_status tfast_linear_run(const tfast_linear* call, int n_threads);

/* --- products of plain matrices (ops/matmul.c) ------------------------------------------------------------- */
/* y[i] (M, N) = A_i (M, K) * B_i (K, N) for `entries` pairs, at a + a_offsets[i] and b + b_offsets[i]; y is dense. */
typedef struct {
    int64_t entries, M, N, K;
    const float *a, *b;
    const int64_t *a_offsets, *b_offsets; /* elements */
    int64_t a_stride, b_stride;           /* between rows of A; of B, or with b_columns between its columns */
    int b_columns;                        /* columns of B are dense, not rows */
    float* y;
} tfast_matmul;
tfast_status tfast_matmul_run(const tfast_matmul* call, int n_threads);

/* --- late interaction (ops/max_sim.c) ---------------------------------------------------------------------- */
/* The score of query q and document d is the sum, over the rows of the query, of the row's largest dot product with a
 * row of the document; a document without rows gives -infinity, a query without rows 0. Queries (cu_queries[B], D) and
 * documents (cu_documents[N], D) are packed, their last axes dense. */
typedef struct {
    int64_t B, N, D;
    const float* queries;
    int64_t query_stride;
    tfast_dtype dtype; /* of the documents: F32, F16 or BF16, */
    const void* documents;
    int64_t document_stride;                  /* elements */
    const int64_t *cu_queries, *cu_documents; /* B + 1 and N + 1, ascending from 0 */
    int pairwise;                             /* B = N, and query i meets document i alone: scores (N,) */
    float* scores;                            /* (B, N), dense */
} tfast_max_sim;
tfast_status tfast_max_sim_run(const tfast_max_sim* call, int n_threads);
/* --- search (ops/search.c) --------------------------------------------------------------------------------- */
/* The k of N corpus rows with the highest scores for each of Q queries: scores and indices (Q, k), dense, the highest
 * first, of equal ones the lower index; k <= N. The score is the product with the query, divided by the row's length if
 * `cosine` (1e-12 at least), or with `query_bits` in place of `queries` minus the Hamming distance. */
typedef struct {
    int64_t Q, N, K, k; /* K: values of a row; with query_bits bytes */
    tfast_dtype dtype;  /* of corpus: F32, F16, BF16, I8 or U8 */
    const void* corpus;
    int64_t stride;              /* between rows, elements; values of a row are dense */
    const tfast_packed* queries; /* (Q, K), of format F32, */
    const uint8_t* query_bits;   /* or (Q, K) dense bytes */
    int cosine;
    float* scores;
    int64_t* indices;
    int* nan; /* set to 1 where a score is NaN: results mean nothing then; not written else */
} tfast_search;
tfast_status tfast_search_run(const tfast_search* call, int n_threads);

/* --- encoder layers (ops/encoder.c) ------------------------------------------------------------------------ */
typedef struct {
    const tfast_packed *qkv, *out, *up, *down; /* (3h, h), (h, h), (inner, h), (h, inner) */
    const float *qkv_bias, *out_bias, *up_bias, *down_bias;
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
} tfast_encoder_layer; /* biases and norm parameters: dense, or NULL */

/* n_layers encoder layers over B packed sequences: x (T, hidden) -> y (T, hidden), both dense; y may be x. With
 * pooled only row pooled[b] of each sequence, counted from its first, goes through the last layer: y is (B, hidden)
 * then, may not be x, and no sequence is empty. */
typedef struct {
    int64_t T, B, hidden, heads, inner, n_layers;
    const int64_t* cu; /* B + 1 */
    const tfast_encoder_layer* layers;
    tfast_activation activation;
    float eps1, eps2;
    int norm_first, causal;
    const int64_t* pooled; /* B, or NULL */
    const float* x;
    float* y;
} tfast_encoder;
tfast_status tfast_encoder_run(const tfast_encoder* call, int n_threads);

/* --- decoder layers (ops/decoder.c) ------------------------------------------------------------------------ */
/* Weights of a norm, both dense; weight NULL: there is no such norm. bias NULL: 0. */
typedef struct {
    const float *weight, *bias;
} tfast_norm;

/* One layer: x + attention(norm(x)), then + feed-forward(norm(...)). */
typedef struct {
    const tfast_packed* qkv[3];                 /* queries, keys and values in one (H D + 2 Hkv D, h), or one each */
    const tfast_packed *out, *gate, *up, *down; /* (h, H D), (inner, h) twice, (h, inner); gate NULL: not gated */
    const float *qkv_bias, *out_bias, *gate_bias, *up_bias, *down_bias; /* dense, or NULL; qkv_bias of all three */
    tfast_norm attention_norm, feed_forward_norm;                       /* of what attention and feed-forward read */
    tfast_norm attention_out_norm, feed_forward_out_norm;               /* of what they give, before it is added */
    tfast_norm q_norm, k_norm;                                          /* of each head, D wide, */
    int whole_qk_norm;                                                  /* or of all heads together */
    const float* sinks;                                                 /* H, or NULL */
    float scale, softcap;                                               /* softcap 0: none */
    int64_t window;      /* keys up to its own, that included, that a query sees; or TFAST_UNLIMITED */
    int64_t ahead;       /* keys after its own that a query sees, or TFAST_UNLIMITED; with caches 0 */
    int rotation;        /* which of tfast_decoder.rotations; -1: none */
    int cache;           /* which of tfast_decoder.caches, */
    int64_t cache_layer; /* and which layer of it */
} tfast_decoder_layer;

/* The past of layers that share their lengths: an array (B, Hkv, capacity, D), dense, for the keys and one for the
 * values of each layer. */
typedef struct {
    tfast_dtype dtype; /* F32, F16, BF16, or I8: value = integer * the scale of its row, head and position */
    int64_t capacity;
    void *const *k, *const *v;
    float *const *k_scale, *const *v_scale; /* I8 alone: (B, Hkv, capacity), dense, for each layer */
    const int64_t* lengths;                 /* B: positions stored so far */
    const int64_t* kept;   /* B: of a row's new positions the last ones, which are stored from lengths[b] on */
    tfast_pages pages;     /* of arrays (pages, Hkv, size, D) in place of those above, scales (pages, Hkv, size) */
    const int64_t* shared; /* with pages, B values or NULL: as tfast_attention.shared, of layers without a window */
} tfast_cache;

/* Cosines and sines for each token: (T, half), dense. */
typedef struct {
    int64_t half;
    const float *cos, *sin;
} tfast_rotation;

/* n_layers decoder layers over T new tokens of B rows (row b's are cu[b] to cu[b + 1]): x (T, hidden), dense, is
 * overwritten. A token sees those of its row before it and itself, of the caches' past and of this call, and those
 * after it as far as a layer looks ahead. Of the tokens `rows` (n_rows of them, rising; NULL: all) the last layer's
 * results go through final_norm and head, each if there is one -> y (n_rows, hidden) or (n_rows, head's N), dense. */
typedef struct {
    int64_t T, B, hidden, heads, kv_heads, head_dim, inner, n_layers;
    const int64_t* cu; /* B + 1 */
    const tfast_decoder_layer* layers;
    tfast_activation activation;
    int layer_norm;  /* norms are layer norms, else RMS norms */
    int by_head;     /* query, key and value of a head follow each other, else of all heads; Hkv is H */
    int interleaved; /* pairs of a rotation are neighbours */
    int parallel;    /* feed-forward reads the layer's x, not attention's result; without a norm of its own what
                        attention reads */
    float eps, residual_scale; /* of all norms; of what is added to x */
    const tfast_rotation* rotations;
    const tfast_cache* caches; /* NULL: nothing is kept, and there is no past */
    int fresh;                 /* no row with tokens has a past */
    int stepwise; /* B is 1, and not fresh: tokens attend as those of so many steps would, with their bits */
    float* x;
    const int64_t* rows;
    int64_t n_rows;
    tfast_norm final_norm;
    const tfast_packed* head;
    const float* head_bias; /* or NULL */
    float* y;
} tfast_decoder;
tfast_status tfast_decoder_run(const tfast_decoder* call, int n_threads);

/* --- recurrent layers (ops/recurrent.c) -------------------------------------------------------------------- */
typedef enum { TFAST_LSTM = 0, TFAST_GRU = 1 } tfast_cell;

/* One layer over L steps of B rows, G gates (LSTM 4, GRU 3) of `hidden` units, in one or two directions: the second, or
 * the only one with `reverse`, runs from each row's end to its start. The state is `width` wide: hidden, or fewer where
 * an LSTM projects it. */
typedef struct {
    tfast_cell cell;
    int64_t L, B, inputs, hidden, width, directions;
    int reverse;
    const float* x; /* (L, B, inputs); strides of step and row */
    int64_t x_stride[2];
    const tfast_packed *input_weight[2], *weight[2]; /* (G * hidden, inputs) and (G * hidden, width) */
    const float *input_bias, *bias;                  /* directions * G * hidden each, or NULL */
    const tfast_packed* projection[2];               /* (width, hidden), or NULL */
    const int64_t *order, *lengths; /* the rows by falling length; row b has lengths[b] steps, 0 to L */
    float *h, *c; /* (directions, B, width) and (directions, B, hidden; LSTM only), dense: first state, then last */
    float* y;     /* (L, B, directions * width), the state after each step, 0 behind a row's end */
    int64_t y_stride[2];
} tfast_recurrent;
tfast_status tfast_recurrent_run(const tfast_recurrent* call, int n_threads);

/* --- rows and spans (ops/norm.c, softmax.c, activation.c)
 * --------------------------------------------------------------------- */
tfast_status tfast_layernorm(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* residual,
                             int64_t residual_stride, const float* weight, const float* bias, float eps, float* y,
                             int64_t y_stride, int n_threads);
tfast_status tfast_rmsnorm(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* residual,
                           int64_t residual_stride, const float* weight, float eps, float* y, int64_t y_stride,
                           int n_threads);
tfast_status tfast_softmax(int64_t m, int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride,
                           int n_threads);
tfast_status tfast_activate(int64_t n, const float* x, float* y, tfast_activation kind, int n_threads);

/* --- copies (ops/embedding.c, heads.c)
 * ------------------------------------------------------------------------------------------ */
/* The index of the first of n ids that is not in [0, limit), or -1. */
int64_t tfast_first_outside(int64_t n, const int64_t* ids, int64_t limit);
/* Rows in the type of their file, `stride` elements apart, each dense. */
typedef struct {
    tfast_dtype dtype;
    const void* data;
    int64_t stride;
} tfast_table;
/* y[i] = table[ids[i]]; the ids have been checked. */
tfast_status tfast_embedding(int64_t n, const int64_t* ids, int64_t width, const tfast_table* table, float* y,
                             int64_t y_stride, int n_threads);
/* y[i] = layer norm of the sum of tables[t][ids[t][i]]; y (n, width) dense. */
#define TFAST_MAX_TABLES 8
typedef struct {
    int64_t n, width;
    int n_tables; /* 1 to TFAST_MAX_TABLES */
    const int64_t* ids[TFAST_MAX_TABLES];
    tfast_table tables[TFAST_MAX_TABLES];
    const float *weight, *bias; /* or NULL */
    float eps, *y;
} tfast_embedding_sum;
tfast_status tfast_embedding_sum_run(const tfast_embedding_sum* call, int n_threads);
/* y = x turned by its positions' angles: (B, H, L, D), strides of the first three axes; y may be x. */
typedef struct {
    int64_t B, H, L, D, half;
    int interleaved;
    const float *x, *cos, *sin; /* angles: (B, L, half) */
    int64_t x_stride[3], angle_stride[2], y_stride[3];
    float* y;
} tfast_rope;
tfast_status tfast_rope_run(const tfast_rope* call, int n_threads);
/* y[b, h, l, :] = x[b, h, l, :]: strides in bytes, rows of `row_bytes`; splits and joins heads. */
tfast_status tfast_copy_heads(int64_t B, int64_t H, int64_t L, int64_t row_bytes, const char* x,
                              const int64_t x_stride[3], char* y, const int64_t y_stride[3], int n_threads);

/* --- what the machine can do at best (ops/probe.c)
 * ---------------------------------------------------------------------------------- */
double tfast_measure_fma(double seconds, int n_threads); /* GFLOP/s of the instruction set in force */
double tfast_measure_read(const float* x, int64_t n, int repeats, int n_threads); /* GB/s, best of the repeats */

#endif
