/* What the steps of one piece share: its scratch memory, and K and V of the superblock at hand.
 *
 * Used by the files of this folder and by the products of a matrix engine (isa/). */
#ifndef TFAST_KERNELS_ATTENTION_WORK_H
#define TFAST_KERNELS_ATTENTION_WORK_H

#include "scores.h"

/* Columns of V that are copied side by side: whole vectors, and whole tiles of the second product, whose rows they are.
 */
enum { VALUE_GROUP = V_LANES > TILE_ROWS ? V_LANES : TILE_ROWS };
_Static_assert(VALUE_GROUP % V_LANES == 0 && VALUE_GROUP % TILE_ROWS == 0,
               "a group of columns of V must be whole vectors and whole tiles");

/* K and V of a superblock together take about this much, half of a 1 MB L2. */
#define STAGE_FLOATS (96 * 1024)
/* Cache lines prefetched during each tile: a tile of 8 x 48 x 64 runs for about 800 cycles, and operands and output of
 * a head at L = 128 are 28 lines for each of its tiles. Measured on Zen 5 with 16, 24 and 32 lines: 213, 218 and 223
 * GFLOP/s for 8 x 12 heads of L = 128; 206, 213 and 206 in a fused projection; 214, 219 and 212 for L = 512 with an
 * additive mask. */
#define AHEAD_LINES 24
/* With lists of ranges the next block alone is fetched while the one at hand is computed: 64 keys of D = 64 are 512
 * lines of K and V, and as many keys at hand are 16 tiles. */
#define AHEAD_LIST_LINES 32
/* A block of an additive bias is 48 rows of 8 lines, wanted within the 16 tiles of its product. */
#define AHEAD_BIAS_LINES 24

/* Blocks of a superblock at most. */
enum { MAX_SUPERBLOCK_BLOCKS = 8 };

/* Panels of a piece at most: their Q and O stay in L2 beside K and V of a superblock. */
#define PIECE_PANELS 8

typedef struct {
    int64_t panels, superblock;
    size_t states, q, o, scores, k, v, seen; /* offsets of the buffers */
    size_t bytes;                            /* of all of them */
} layout_t;

/* Buffers in one scratch area. Padding to 64 bytes keeps every part on a cache line. */
static layout_t layout_of(const tfast_attention* c, int64_t max_rows) {
    layout_t l = {.panels = TFAST_MAX(1, tfast_ceil_div(max_rows, PANEL))};
    const int64_t wide = c->D + c->Dv, fit = STAGE_FLOATS / wide / KEY_BLOCK * KEY_BLOCK;
    l.superblock = tfast_clamp(fit, KEY_BLOCK, MAX_SUPERBLOCK_BLOCKS * KEY_BLOCK);
    const int64_t dv = tfast_round_up(c->Dv, VALUE_GROUP);
    size_t at = 0;
    const size_t part[] = {(size_t)l.panels * sizeof(panel_t),  (size_t)(l.panels * c->D * PANEL) * 4,
                           (size_t)(l.panels * dv * PANEL) * 4, (size_t)(KEY_BLOCK * PANEL) * 4,
                           (size_t)(l.superblock * c->D) * 4,   (size_t)(l.superblock * dv) * 4,
                           has_lists(c) ? KEY_BLOCK * PANEL : 0};
    size_t* offset[] = {&l.states, &l.q, &l.o, &l.scores, &l.k, &l.v, &l.seen};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        *offset[i] = at;
        at += (part[i] + 63) / 64 * 64;
    }
    l.bytes = at;
    return l;
}

/* The row of a piece of n_rows with which panel `index` begins. Pieces are cut so that the panels of a sequence come
 * out the same (block_begin in ops/attention.c): along a diagonal they decide where sums are cut, and so the rounding.
 */
static int64_t panel_begin(int64_t n_rows, int64_t index) {
    const int64_t last = TFAST_MAX(1, tfast_ceil_div(n_rows, PANEL)) - 1, rest = n_rows - last * PANEL;
    if (index > last) return n_rows;
    return index * PANEL - (index == last && index > 0 && rest <= MIN_TAIL_ROWS ? MIN_TAIL_ROWS : 0);
}

/* The operands and buffers that the steps of one piece share. */
typedef struct {
    const tfast_attention* c;
    const tfast_attention_piece* p;
    sequence_t s;
    layout_t l;
    panel_t* panels;
    float *q, *o, *scores, *k_stage, *v_stage;
    uint8_t* seen;       /* of panel_set_block */
    int staged;          /* K and V are read from their copies k_stage and v_stage */
    uint32_t has_blocks; /* with lists: which blocks of the superblock are there */
    int64_t begin;       /* the first key that any lane sees */
    int64_t s0;          /* the first key of the superblock */
    ahead_list* ahead;
    struct matrix_engine* engine; /* computes the products in place of the register tile; or NULL */
} work_t;

/* As load_row, times the position's scale, which only integers have. */
V_INLINE vf load_kv(const char* row, int64_t d, int64_t n, tfast_dtype dtype, float scale) {
    const vf x = load_row(row, d, n, dtype);
    return dtype == TFAST_I8 ? v_mul(x, v_set1(scale)) : x;
}

/* n keys from s0 + from on, which follow each other in memory, as float32. */
static void stage_k(const work_t* w, int64_t from, int64_t n) {
    const tfast_attention* c = w->c;
    const int64_t row_bytes = c->k_stride[2] * w->s.kv_bytes, scale_step = c->k_scale_stride[2];
    const char* row = w->s.k + key_at(c, &w->s, c->k_stride, w->s0 + from) * w->s.kv_bytes;
    const float* scales = w->s.k_scale ? w->s.k_scale + key_at(c, &w->s, c->k_scale_stride, w->s0 + from) : NULL;
    float* to = w->k_stage + from * c->D;
    for (int64_t j = 0; j < n; j++, row += row_bytes, to += c->D) {
        const float scale = scales ? scales[j * scale_step] : 1;
        int64_t d = 0;
        for (; d + V_LANES <= c->D; d += V_LANES) v_store(to + d, load_kv(row, d, V_LANES, c->kv_dtype, scale));
        if (d < c->D) v_store_n(to + d, load_kv(row, d, c->D - d, c->kv_dtype, scale), c->D - d);
    }
}

/* The same of V, as operand A of the second product: [Dv / VALUE_GROUP][key][VALUE_GROUP], so that a tile reads it in
 * order. */
static void stage_v(const work_t* w, int64_t from, int64_t n) {
    const tfast_attention* c = w->c;
    const int64_t step = w->l.superblock * VALUE_GROUP, row_bytes = c->v_stride[2] * w->s.kv_bytes;
    const char* rows = w->s.v + key_at(c, &w->s, c->v_stride, w->s0 + from) * w->s.kv_bytes;
    const float* scales = w->s.v_scale ? w->s.v_scale + key_at(c, &w->s, c->v_scale_stride, w->s0 + from) : NULL;
    for (int64_t d = 0; d < c->Dv; d += V_LANES) {
        const int64_t width = c->Dv - d;
        float* to = w->v_stage + d / VALUE_GROUP * step + from * VALUE_GROUP + d % VALUE_GROUP;
        if (width >= V_LANES && c->kv_dtype == TFAST_F32)
            for (int64_t j = 0; j < n; j++)
                v_store(to + j * VALUE_GROUP, v_load((const float*)(rows + j * row_bytes) + d));
        else
            for (int64_t j = 0; j < n; j++) {
                const float scale = scales ? scales[j * c->v_scale_stride[2]] : 1;
                v_store(to + j * VALUE_GROUP, load_kv(rows + j * row_bytes, d, width, c->kv_dtype, scale));
            }
    }
}

/* The keys [s0 + from, s0 + to) of K and V as float32. */
static void stage_keys(const work_t* w, int64_t from, int64_t to) {
    for (int64_t j = from, n; j < to; j += n) {
        n = keys_in_a_row(w->c, &w->s, w->s0 + j, w->s0 + to);
        stage_k(w, j, n);
        stage_v(w, j, n);
    }
}

/* V from `key` on, as columns: element (d, j) is at[d / VALUE_GROUP * group_step + d % VALUE_GROUP + j * key_stride].
 * In place, keys follow each other up to the end of a page. */
typedef struct {
    const float* at;
    int64_t key_stride, group_step;
} values_t;

static values_t values_from(const work_t* w, int64_t key) {
    if (w->staged)
        return (values_t){w->v_stage + (key - w->s0) * VALUE_GROUP, VALUE_GROUP, w->l.superblock * VALUE_GROUP};
    return (values_t){(const float*)w->s.v + key_at(w->c, &w->s, w->c->v_stride, key), w->c->v_stride[2], VALUE_GROUP};
}

/* K from `key` on. */
static const float* keys_from(const work_t* w, int64_t key, int64_t* stride) {
    *stride = w->staged ? w->c->D : w->c->k_stride[2];
    if (w->staged) return w->k_stage + (key - w->s0) * w->c->D;
    return (const float*)w->s.k + key_at(w->c, &w->s, w->c->k_stride, key);
}

#endif
