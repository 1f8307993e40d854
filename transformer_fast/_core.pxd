# cython: language_level=3
"""csrc/tfast.h as Cython sees it: what _core.pyx calls. A new op of the engine: its prototype here."""
from libc.stdint cimport int32_t, int64_t, uint8_t


cdef extern from "tfast.h" nogil:
    ctypedef enum tfast_status:
        TFAST_OK, TFAST_NO_MEMORY, TFAST_UNKNOWN_ISA, TFAST_ISA_MISSING, TFAST_WRONG_LAYOUT
    const int64_t TFAST_UNLIMITED
    ctypedef enum tfast_dtype:
        TFAST_F32, TFAST_F16, TFAST_BF16, TFAST_I8, TFAST_BLOCKS, TFAST_U8
    ctypedef enum tfast_activation:
        TFAST_IDENTITY
    ctypedef enum tfast_bias_kind:
        TFAST_BIAS_NONE, TFAST_BIAS_FLOAT, TFAST_BIAS_BOOL
    ctypedef struct tfast_bias:
        tfast_bias_kind kind
        const void *data
        int64_t stride[4]
    int TFAST_PAGE_UNIT
    ctypedef struct tfast_pages:
        const int32_t *table
        int64_t stride
        int64_t size
    ctypedef struct tfast_key_ranges:
        const int32_t *list_of_row
        int64_t stride[3]
        const int64_t *begin
        const int32_t *bounds
        double visible
    ctypedef struct tfast_sparse_weights:
        tfast_key_ranges ranges
        const int64_t *before
        const int64_t *row_begin
        int64_t row_stride[3]
    ctypedef struct tfast_distance_scores:
        const float *of_query
        const float *of_key
        int64_t query_stride[3]
        int64_t key_stride[3]
        const int32_t *bucket
        const int32_t *bucket_of_minus
        int64_t n_buckets
    ctypedef struct tfast_attention:
        tfast_dtype q_dtype, kv_dtype
        int64_t B, H, Hkv, Lq, Lk, D, Dv
        const void *q
        const void *k
        const void *v
        void *out
        int64_t q_stride[3]
        int64_t k_stride[3]
        int64_t v_stride[3]
        int64_t out_stride[3]
        const float *k_scale
        const float *v_scale
        int64_t k_scale_stride[3]
        int64_t v_scale_stride[3]
        const int64_t *cu_q
        const int64_t *cu_k
        tfast_pages pages
        const int64_t *kv_length
        const int64_t *shared
        const int64_t *offset
        int64_t left, right
        tfast_key_ranges ranges
        float scale, softcap
        const float *additive
        tfast_bias bias[2]
        tfast_distance_scores distance_scores
        const float *alibi_slopes
        const float *sinks
        float *lse
        int64_t lse_stride[2]
        float *weights
        int64_t weights_stride[4]
        tfast_sparse_weights sparse_weights
        int weights_mean
    ctypedef enum tfast_attention_kernel:
        TFAST_KERNEL_FULL_ROW, TFAST_KERNEL_ONLINE, TFAST_KERNEL_DECODE
    ctypedef struct tfast_attention_kind:
        tfast_attention_kernel kernel
        const char *level
        int matrix_engine, copies_kv
        int64_t pieces, query_panel, key_block
    ctypedef struct tfast_attention_plan:
        int64_t pieces, rows_per_piece, key_splits, threads, scratch_bytes
        double score_flops, visible_fraction
        int n_kinds
        tfast_attention_kind *kinds
    ctypedef enum tfast_format:
        TFAST_FORMAT_F32
    ctypedef struct tfast_packed:
        int64_t N, K
        void *data
        int smoothed
        int32_t x_limit
        const tfast_packed *const *parts
        int64_t n_parts
    ctypedef struct tfast_packed_layout:
        tfast_format format
        int for_decode, panel_width, k_group, k_group_bytes
    ctypedef struct tfast_row_block:
        const void *data
        int64_t n, stride
        const float *scale
    ctypedef struct tfast_linear:
        int64_t M
        const float *x
        int64_t x_stride
        const tfast_packed *weight
        const float *bias
        tfast_activation activation
        const float *multiply
        int64_t multiply_stride
        const float *residual
        int64_t residual_stride
        float *y
        int64_t y_stride
        int64_t B
        const int64_t *cu

    void tfast_initialise()
    void tfast_set_num_threads(int n)
    int tfast_get_num_threads()
    int tfast_has_openmp()
    int tfast_set_thread_backend(const char *name)
    const char *tfast_get_thread_backend()
    const char *tfast_thread_backend_name(int i)
    tfast_status tfast_set_isa(const char *name)
    int tfast_set_tuning(const char *name)
    const char *tfast_get_tuning()
    const char *tfast_tuning_name(int i)
    const char *tfast_get_isa()
    const char *tfast_available_isa(int i)
    const char *tfast_emulated_isa(int i)
    size_t tfast_workspace_release()
    const char *tfast_cpu_brand()
    void tfast_cache_bytes(int64_t *l1d, int64_t *l2, int64_t *l3)
    tfast_status tfast_attention_run(const tfast_attention *call, int n_threads)
    void tfast_attention_explain(const tfast_attention *call, int n_threads, tfast_attention_plan *plan)
    void tfast_file_block(tfast_format format, int64_t *values, int64_t *nbytes)
    void tfast_packed_begin(int64_t N, int64_t K, tfast_format format, int for_decode, tfast_packed *p)
    size_t tfast_packed_bytes(const tfast_packed *p)
    void *tfast_weight_memory(size_t bytes)
    void tfast_weight_free(void *memory)
    int tfast_packed_fits(const tfast_packed *p)
    int tfast_packed_layout_of(const tfast_packed *p, tfast_packed_layout *layout)
    int64_t tfast_pack_step(const tfast_packed *p)
    tfast_status tfast_pack_rows(const tfast_row_block *blocks, int64_t n_blocks, tfast_dtype dtype,
                                 const float *smoothing, int64_t first, tfast_packed *p, int n_threads)
    void tfast_pack_end(const float *smoothing, tfast_packed *p)
    const float *tfast_packed_scale(const tfast_packed *p)
    tfast_status tfast_unpack(const tfast_packed *p, float *w, int n_threads)
    tfast_status tfast_linear_run(const tfast_linear *call, int n_threads)
    ctypedef struct tfast_matmul:
        int64_t entries, M, N, K
        const float *a
        const float *b
        const int64_t *a_offsets
        const int64_t *b_offsets
        int64_t a_stride, b_stride
        int b_columns
        float *y
    tfast_status tfast_matmul_run(const tfast_matmul *call, int n_threads)

    ctypedef struct tfast_max_sim:
        int64_t B
        int64_t N
        int64_t D
        const float *queries
        int64_t query_stride
        tfast_dtype dtype
        const void *documents
        int64_t document_stride
        const int64_t *cu_queries
        const int64_t *cu_documents
        int pairwise
        float *scores

    tfast_status tfast_max_sim_run(const tfast_max_sim *call, int n_threads)
    ctypedef struct tfast_search:
        int64_t Q, N, K, k
        tfast_dtype dtype
        const void *corpus
        int64_t stride
        const tfast_packed *queries
        const uint8_t *query_bits
        int cosine
        float *scores
        int64_t *indices
        int *nan
    tfast_status tfast_search_run(const tfast_search *call, int n_threads)
    ctypedef struct tfast_encoder_layer:
        const tfast_packed *qkv
        const tfast_packed *out
        const tfast_packed *up
        const tfast_packed *down
        const float *qkv_bias
        const float *out_bias
        const float *up_bias
        const float *down_bias
        const float *norm1_weight
        const float *norm1_bias
        const float *norm2_weight
        const float *norm2_bias
    ctypedef struct tfast_encoder:
        int64_t T, B, hidden, heads, inner, n_layers
        const int64_t *cu
        const tfast_encoder_layer *layers
        tfast_activation activation
        float eps1, eps2
        int norm_first, causal
        const int64_t *pooled
        const float *x
        float *y

    tfast_status tfast_encoder_run(const tfast_encoder *call, int n_threads)
    ctypedef struct tfast_norm:
        const float *weight
        const float *bias
    ctypedef struct tfast_decoder_layer:
        const tfast_packed *qkv[3]
        const tfast_packed *out
        const tfast_packed *gate
        const tfast_packed *up
        const tfast_packed *down
        const float *qkv_bias
        const float *out_bias
        const float *gate_bias
        const float *up_bias
        const float *down_bias
        tfast_norm attention_norm, feed_forward_norm, attention_out_norm, feed_forward_out_norm, q_norm, k_norm
        int whole_qk_norm
        const float *sinks
        float scale, softcap
        int64_t window, ahead
        int rotation, cache
        int64_t cache_layer
    ctypedef struct tfast_cache:
        tfast_dtype dtype
        int64_t capacity
        void *const *k
        void *const *v
        float *const *k_scale
        float *const *v_scale
        const int64_t *lengths
        const int64_t *kept
        tfast_pages pages
        const int64_t *shared
    ctypedef struct tfast_rotation:
        int64_t half
        const float *cos
        const float *sin
    ctypedef struct tfast_decoder:
        int64_t T, B, hidden, heads, kv_heads, head_dim, inner, n_layers
        const int64_t *cu
        const tfast_decoder_layer *layers
        tfast_activation activation
        int layer_norm, by_head, interleaved, parallel
        float eps, residual_scale
        const tfast_rotation *rotations
        const tfast_cache *caches
        int fresh
        int stepwise
        float *x
        const int64_t *rows
        int64_t n_rows
        tfast_norm final_norm
        const tfast_packed *head
        const float *head_bias
        float *y

    tfast_status tfast_decoder_run(const tfast_decoder *call, int n_threads)
    ctypedef enum tfast_cell:
        TFAST_LSTM
    ctypedef struct tfast_recurrent:
        tfast_cell cell
        int64_t L, B, inputs, hidden, width, directions
        int reverse
        const float *x
        int64_t x_stride[2]
        const tfast_packed *input_weight[2]
        const tfast_packed *weight[2]
        const float *input_bias
        const float *bias
        const tfast_packed *projection[2]
        const int64_t *order
        const int64_t *lengths
        float *h
        float *c
        float *y
        int64_t y_stride[2]

    tfast_status tfast_recurrent_run(const tfast_recurrent *call, int n_threads)
    tfast_status tfast_layernorm(int64_t m, int64_t n, const float *x, int64_t x_stride, const float *residual,
                                 int64_t residual_stride, const float *weight, const float *bias, float eps, float *y,
                                 int64_t y_stride, int n_threads)
    tfast_status tfast_softmax(int64_t m, int64_t n, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                               int n_threads)
    tfast_status tfast_activate(int64_t n, const float *x, float *y, tfast_activation kind, int n_threads)
    int64_t tfast_first_outside(int64_t n, const int64_t *ids, int64_t limit)
    ctypedef struct tfast_table:
        tfast_dtype dtype
        const void *data
        int64_t stride
    tfast_status tfast_embedding(int64_t n, const int64_t *ids, int64_t width, const tfast_table *table, float *y,
                                 int64_t y_stride, int n_threads)
    tfast_status tfast_rmsnorm(int64_t m, int64_t n, const float *x, int64_t x_stride, const float *residual,
                               int64_t residual_stride, const float *weight, float eps, float *y, int64_t y_stride,
                               int n_threads)
    enum:
        TFAST_MAX_TABLES
    ctypedef struct tfast_embedding_sum:
        int64_t n, width
        int n_tables
        const int64_t *ids[8]
        tfast_table tables[8]
        const float *weight
        const float *bias
        float eps
        float *y
    tfast_status tfast_embedding_sum_run(const tfast_embedding_sum *call, int n_threads)
    ctypedef struct tfast_rope:
        int64_t B, H, L, D, half
        int interleaved
        const float *x
        const float *cos
        const float *sin
        int64_t x_stride[3]
        int64_t angle_stride[2]
        int64_t y_stride[3]
        float *y
    tfast_status tfast_rope_run(const tfast_rope *call, int n_threads)
    tfast_status tfast_copy_heads(int64_t B, int64_t H, int64_t L, int64_t row_bytes, const char *x,
                                  const int64_t *x_stride, char *y, const int64_t *y_stride, int n_threads)
    double tfast_measure_fma(double seconds, int n_threads)
    double tfast_measure_read(const float *x, int64_t n, int repeats, int n_threads)
