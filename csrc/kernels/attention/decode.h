/* Attention for few query rows (one token of a decoder, times the query heads that share its K and V), which is bound
 * by reading K and V.
 *
 * Called by ops/attention.c as tfast_attention_kernels.decode. Lanes, bias terms and rows are those of panel.h and
 * scores.h. Every byte of K and V is read once for all rows; nothing is packed. Lanes of a vector
 * are elements of a head, or keys, not queries: with one row, the register tile of gemm/tile.h and its softmax would
 * leave 15 of 16 lanes idle.
 *
 *   scores:  V_LANES accumulators (rows x keys) over D, one v_sums of them gives V_LANES scores     -> S[row][key]
 *   logits:  the scale of int8 keys, soft cap, bias terms, ALiBi, what the row does not see: vectors of keys
 *   softmax: row by row, vectors of keys; the lanes of its sum are added up at the end
 *   values:  O[row][Dv] += S[row][key] * V[key]        accumulators: rows x vectors of Dv, V in order
 *
 * The scale of an int8 key multiplies its scores, that of a value its weights: K and V are widened, and no more. */
#ifndef TFAST_KERNELS_ATTENTION_DECODE_H
#define TFAST_KERNELS_ATTENTION_DECODE_H

#include "scores.h"
#include "finish.h"

/* Bytes in advance for prefetches of K and V. Measured on Zen 5, 8192 keys of D = 128 (512 bytes), microseconds for 12,
 * 16, 24, 32 keys: one row, 32 kv heads 8050, 8330, 8630, 8870; eight rows, 4 kv heads 1453, 1243, 981, 955. Two and
 * four rows were not measured by themselves. */
#define PREFETCH_BYTES(rows) ((rows) == 1 ? 6144 : 14336)
/* Zen 4 is slower with prefetches into L1 (prefetch_into_l2 of the piece). Measured from memory, 2048 keys, where a
 * plain read has 30 GB/s. One row of D = 64: 21 GB/s with the prefetches above, 22 with the same into L2, 29 with V
 * alone into L2; of D = 128: 16, 24 and 28. Four rows of D = 128: 11 into L1, 21 into L2. V of one row is prefetched 3
 * KB ahead, or one step of VALUE_KEYS ahead where V is wider than the accumulators. */
enum { FAR_VALUE_BYTES = 3072 };
/* Keys of one step of the online softmax: K and V are read in turns of this many rows. Zen 5, 8192 keys of D = 128,
 * with 128, 256, 512 and 1024 keys: 8650, 8260, 8380 and 8370 microseconds for 32 heads, 856, 829, 815 and 698 for 4.
 */
enum { DECODE_KEY_BLOCK = 512 };
/* Registers for sums of values: half of all registers, the others hold a row of V and its weights. */
enum { DECODE_ACCUMULATORS = V_REGISTERS / 2 };
/* Vectors of V that one row takes together. */
enum { ONE_ROW_VECTORS = 4 };
/* Keys whose rows of V pass by all accumulators before the next: 16 KB at Dv = 128, so that they stay in L1. */
enum { VALUE_KEYS = 32 };
/* With lists of ranges: so many keys that no row sees are not worth a step of their own: less than a turn of V. */
enum { DECODE_GAP = VALUE_KEYS };

_Static_assert(DECODE_ROWS == 4 || DECODE_ROWS == 8,
               "decode_part_of_rows() has cases for 1, 2, 4 or for 1, 2, 4, 8 rows: DECODE_ROWS must be 4 or 8");
_Static_assert(DECODE_ROWS <= V_LANES, "V_LANES / rows keys are scored together: DECODE_ROWS must not exceed V_LANES");
_Static_assert(DECODE_ROWS <= PANEL, "a panel_t must have a lane for each row of decode");
_Static_assert(DECODE_ACCUMULATORS >= DECODE_ROWS, "each row of decode needs an accumulator of values");
_Static_assert(DECODE_KEY_BLOCK % V_LANES == 0, "a block of scores of decode must be whole vectors");
_Static_assert(DECODE_KEY_BLOCK % VALUE_KEYS == 0, "a block of decode must be whole groups of values");

typedef struct {
    const tfast_attention* c;
    sequence_t s;
    panel_t* t; /* lanes are rows: ranges, heads and bias rows; its max and sum are the rows' */
    float *q, *o, *scores,
        *sums; /* q: [D / V_LANES][row][V_LANES]; scores: DECODE_KEY_BLOCK a row; sums: V_LANES a row */
    int64_t d_padded, dv_padded;
    int64_t first, end;       /* keys that any row sees */
    int64_t k_ahead, v_ahead; /* from a key to the one that is fetched meanwhile, keys */
    int fetch;                /* FETCH_NEAR, FETCH_FAR or FETCH_PAGES */
    int several;              /* with lists: a row sees several ranges of the keys at hand */
} decode_t;

/* How rows of K and V are loaded: whole vectors of one type need no test in the inner loop. A constant after inlining.
 */
typedef enum { LOAD_ANY, LOAD_F32, LOAD_F16, LOAD_BF16, LOAD_I8 } decode_loads;

V_INLINE vf decode_load(const char* row, int64_t d, int64_t width, tfast_dtype dtype, const decode_loads loads) {
    if (loads == LOAD_F32) return v_load((const float*)row + d);
    if (loads == LOAD_F16) return v_load_f16((const uint16_t*)row + d);
    if (loads == LOAD_BF16) return v_load_bf16((const uint16_t*)row + d);
    if (loads == LOAD_I8) return v_load_i8((const int8_t*)row + d);
    return load_row(row, d, width, dtype);
}

/* Whether element d of a row is the first of 64 bytes: narrow types would fetch each line four or eight times. */
V_INLINE int begins_line(int64_t d, const decode_loads loads) {
    return loads == LOAD_F32 || loads == LOAD_ANY || d % (loads == LOAD_I8 ? 64 : 32) == 0;
}

/* Into L1; into L2, but for K of one row, which the processor fetches by itself; into L2 from the same row of the next
 * page, so that runs stay whole pages. Zen 4, 32 sequences of 2112 keys in pages of 64, 12 heads of D = 64, next to
 * keys in one piece: 1.55 x the time with FETCH_FAR, 1.16 with FETCH_PAGES (a busy machine). */
enum { FETCH_NEAR = 0, FETCH_FAR = 1, FETCH_PAGES = 2 };

V_INLINE void fetch_kv(const char* p, const int far) {
    if (far)
        __builtin_prefetch(p, 0, 2);
    else
        __builtin_prefetch(p);
}

/* Keys that follow each other in memory: their rows of K, or of V, and where their scores are. */
typedef struct {
    const char* at;
    int64_t n, ahead; /* ahead: bytes from a row to the one that is fetched meanwhile */
    float* S;
} key_run;

/* Scores of `keys` (a constant: V_LANES / rows) keys of the run from j0 on, of which n exist; the others repeat the
 * last. One row takes K key by key, as it lies in memory; more share each of their loads of K. */
V_INLINE void dot_group(const decode_t* w, const key_run* run, int64_t j0, int64_t n, const int rows,
                        const decode_loads loads, const int far) {
    const int keys = V_LANES / rows;
    const tfast_dtype dtype = w->c->kv_dtype;
    const int64_t element = w->s.kv_bytes, stride = w->c->k_stride[2] * element, D = w->c->D, ahead = run->ahead;
    float* S = run->S + j0;
    const char* row[V_LANES];
    vf acc[V_LANES];
    /* One from the other: (j0 + min(j, n - 1)) * stride, which gcc computes in pairs of vectors, took 1.15 times as
     * long for 8192 keys of D = 128 (Zen 4). */
    row[0] = run->at + j0 * stride;
#pragma GCC unroll 16
    for (int j = 1; j < keys; j++) row[j] = row[j - 1] + (j < n ? stride : 0);
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) acc[i] = v_zero();
    if (rows == 1) {
#pragma GCC unroll 16
        for (int j = 0; j < keys; j++) {
            const int64_t width = j < n ? D : 0;
            for (int64_t d = 0; d < width; d += V_LANES) {
                if (far != FETCH_FAR && begins_line(d, loads)) fetch_kv(row[j] + d * element + ahead, far);
                acc[j] = v_fma(v_load(w->q + d), decode_load(row[j], d, D - d, dtype, loads), acc[j]);
            }
        }
    } else {
        for (int64_t d = 0; d < D; d += V_LANES) {
            vf q[V_LANES];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) q[r] = v_load(w->q + d * rows + r * V_LANES);
#pragma GCC unroll 16
            for (int j = 0; j < keys; j++) {
                const vf k = decode_load(row[j], d, D - d, dtype, loads);
                if (begins_line(d, loads)) fetch_kv(row[j] + d * element + ahead, far);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) acc[r * keys + j] = v_fma(q[r], k, acc[r * keys + j]);
            }
        }
    }
    float sums[V_LANES];
    v_store(sums, v_sums(acc));
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) memcpy(S + r * DECODE_KEY_BLOCK, sums + r * keys, (size_t)keys * 4);
}

/* S has room for whole groups: DECODE_KEY_BLOCK and the keys before a run of a page are multiples of them. A run's last
 * group writes scores of the run after it, which comes later. */
V_INLINE void dot_block(const decode_t* w, const key_run* run, const int rows, const decode_loads loads,
                        const int far) {
    const int64_t keys = V_LANES / rows;
    for (int64_t j = 0; j < run->n; j += keys) dot_group(w, run, j, TFAST_MIN(keys, run->n - j), rows, loads, far);
}
_Static_assert(TFAST_PAGE_UNIT % V_LANES == 0, "a run of a page must begin where a group of keys does");

/* n keys of the run from j0 on, vectors of Dv from d on; `last` is the width of the last of them. O is multiplied by
 * alpha first, where it is given. */
V_INLINE void value_columns(const decode_t* w, const key_run* run, int64_t j0, int64_t n, int64_t d, int64_t last,
                            const float* alpha, const int rows, const int vectors, const decode_loads loads,
                            const int far) {
    const int64_t element = w->s.kv_bytes, stride = w->c->v_stride[2] * element, ahead = run->ahead;
    const tfast_dtype dtype = w->c->kv_dtype;
    const float* S = run->S + j0;
    const char* v = run->at + j0 * stride;
    vf acc[8][ONE_ROW_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) {
            acc[r][i] = v_load(w->o + r * w->dv_padded + d + i * V_LANES);
            if (alpha) acc[r][i] = v_mul(acc[r][i], v_set1(alpha[r]));
        }
    for (int64_t j = 0; j < n; j++, v += stride) {
        vf x[ONE_ROW_VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) {
            x[i] = decode_load(v, d + i * V_LANES, i == vectors - 1 ? last : V_LANES, dtype, loads);
            if (begins_line(d + i * V_LANES, loads)) fetch_kv(v + (d + i * V_LANES) * element + ahead, far);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const v_factor weight = v_load_factor(S + r * DECODE_KEY_BLOCK + j);
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) acc[r][i] = v_fma_by(weight, x[i], acc[r][i]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) v_store(w->o + r * w->dv_padded + d + i * V_LANES, acc[r][i]);
}

V_INLINE void value_block(const decode_t* w, const key_run* run, const float* alpha, const int rows,
                          const decode_loads loads, const int far) {
    const int wide = rows >= DECODE_ACCUMULATORS / ONE_ROW_VECTORS ? DECODE_ACCUMULATORS / rows : ONE_ROW_VECTORS;
    for (int64_t j = 0; j < run->n; j += VALUE_KEYS) {
        const int64_t keys = TFAST_MIN(VALUE_KEYS, run->n - j), step = wide * V_LANES;
        const float* scale = j == 0 ? alpha : NULL;
        int64_t d = 0;
        for (; d + step <= w->c->Dv; d += step)
            value_columns(w, run, j, keys, d, V_LANES, scale, rows, wide, loads, far);
        for (; d < w->c->Dv; d += V_LANES) value_columns(w, run, j, keys, d, w->c->Dv - d, scale, rows, 1, loads, far);
    }
}

/* All rows over one block: products, and weighted sums. Rows are filled up to a power of two with queries of 0. */
typedef enum { DECODE_DOTS, DECODE_VALUES } decode_part;

/* One part over one run; `loads` and `far` are constants after inlining. */
V_INLINE void decode_part_as(const decode_t* w, const key_run* run, const float* alpha, decode_part part,
                             const int rows, const decode_loads loads, const int far) {
    if (part == DECODE_DOTS)
        dot_block(w, run, rows, loads, far);
    else
        value_block(w, run, alpha, rows, loads, far);
}

V_INLINE void decode_rows(const decode_t* w, const key_run* run, const float* alpha, decode_part part, const int rows) {
    const int64_t width = part == DECODE_DOTS ? w->c->D : w->c->Dv;
    const int whole = width % V_LANES == 0, far = w->fetch;
    if (whole && w->c->kv_dtype == TFAST_F32 && far == FETCH_PAGES)
        decode_part_as(w, run, alpha, part, rows, LOAD_F32, FETCH_PAGES);
    else if (whole && w->c->kv_dtype == TFAST_F32 && far)
        decode_part_as(w, run, alpha, part, rows, LOAD_F32, FETCH_FAR);
    else if (whole && w->c->kv_dtype == TFAST_F32)
        decode_part_as(w, run, alpha, part, rows, LOAD_F32, FETCH_NEAR);
    else if (whole && w->c->kv_dtype == TFAST_F16)
        decode_part_as(w, run, alpha, part, rows, LOAD_F16, far);
    else if (whole && w->c->kv_dtype == TFAST_BF16)
        decode_part_as(w, run, alpha, part, rows, LOAD_BF16, far);
    else if (whole && w->c->kv_dtype == TFAST_I8)
        decode_part_as(w, run, alpha, part, rows, LOAD_I8, far);
    else
        decode_part_as(w, run, alpha, part, rows, LOAD_ANY, far);
}

static void decode_part_of_rows(const decode_t* w, const key_run* run, const float* alpha, decode_part part, int rows) {
    switch (rows) {
    case 1:
        decode_rows(w, run, alpha, part, 1);
        break;
    case 2:
        decode_rows(w, run, alpha, part, 2);
        break;
    case 4:
        decode_rows(w, run, alpha, part, 4);
        break;
#if DECODE_ROWS == 8
    case 8:
        decode_rows(w, run, alpha, part, 8);
        break;
#endif
    }
}

/* Whether a row whose lo and hi hold `key` sees it; *at is its first range that may, and moves on. */
V_INLINE int row_sees(const decode_t* w, int64_t key, int64_t* at) {
    if (!w->several) return 1;
    while (w->c->ranges.bounds[2 * *at + 1] <= key) ++*at;
    return w->c->ranges.bounds[2 * *at] <= key;
}

/* Bytes from key j to the one that is fetched meanwhile, `ahead` keys on: a page, where there are pages. */
static int64_t bytes_ahead(const decode_t* w, const int64_t stride[3], int64_t j, int64_t ahead) {
    if (!w->s.table || j + ahead >= w->s.lk) return ahead * stride[2] * w->s.kv_bytes;
    return (key_at(w->c, &w->s, stride, j + ahead) - key_at(w->c, &w->s, stride, j)) * w->s.kv_bytes;
}

/* One part over a block, whose keys lie in one piece, or in pages. */
static void decode_part_of_block(const decode_t* w, int64_t k0, int64_t n, const float* alpha, decode_part part,
                                 int rows) {
    const int dots = part == DECODE_DOTS;
    const int64_t *stride = dots ? w->c->k_stride : w->c->v_stride, ahead = dots ? w->k_ahead : w->v_ahead;
    const char* base = dots ? w->s.k : w->s.v;
    for (int64_t j = 0; j < n;) {
        const key_run run = {.at = base + key_at(w->c, &w->s, stride, k0 + j) * w->s.kv_bytes,
                             .n = keys_in_a_row(w->c, &w->s, k0 + j, k0 + n),
                             .ahead = bytes_ahead(w, stride, k0 + j, ahead),
                             .S = w->scores + j};
        decode_part_of_rows(w, &run, j == 0 ? alpha : NULL, part, rows);
        j += run.n;
    }
}

/* Where a row does not see every key of a block: a key adds to the rows that see it and to no other, since 0 * NaN is
 * NaN. */
static void decode_values_by_row(const decode_t* w, int64_t k0, int64_t n, const float* alpha) {
    for (int64_t r = 0; r < w->t->n; r++) {
        float* o = w->o + r * w->dv_padded;
        for (int64_t d = 0; d < w->c->Dv; d += V_LANES) {
            vf acc = v_mul(v_load(o + d), v_set1(alpha[r]));
            int64_t at = w->t->at[r];
            for (int64_t j = 0; j < n; j++) {
                if (k0 + j < w->t->lo[r] || k0 + j >= w->t->hi[r] || !row_sees(w, k0 + j, &at)) continue;
                const char* row = w->s.v + key_at(w->c, &w->s, w->c->v_stride, k0 + j) * w->s.kv_bytes;
                const vf x = load_row(row, d, w->c->Dv - d, w->c->kv_dtype);
                acc = v_fma(v_set1(w->scores[r * DECODE_KEY_BLOCK + j]), x, acc);
            }
            v_store(o + d, acc);
        }
    }
}

static void decode_add_bias(const tfast_bias* b, const char* row, int64_t k0, int64_t n, float* S) {
    for (int64_t j = 0; j < n; j += V_LANES) {
        const int64_t width = TFAST_MIN(V_LANES, n - j);
        vf x;
        if (b->stride[3] == 1 && b->kind == TFAST_BIAS_FLOAT)
            x = v_load_n((const float*)row + k0 + j, width);
        else if (b->stride[3] == 1)
            x = v_from_mask_bytes((const uint8_t*)row + k0 + j, width);
        else {
            float one[V_LANES] = {0};
            for (int64_t i = 0; i < width; i++) one[i] = bias_value(b, row, k0 + j + i);
            x = v_load(one);
        }
        v_store(S + j, biased(b->kind == TFAST_BIAS_FLOAT, v_load(S + j), x));
    }
}

/* Row S of n keys times their scales. */
static void decode_scale(const float* scale, int64_t stride, int64_t n, float* S) {
    for (int64_t j = 0; j < n; j += V_LANES) {
        const int64_t width = TFAST_MIN(V_LANES, n - j);
        float one[V_LANES] = {0};
        if (stride == 1) {
            v_store_n(S + j, v_mul(v_load_n(S + j, width), v_load_n(scale + j, width)), width);
            continue;
        }
        for (int64_t i = 0; i < width; i++) one[i] = scale[(j + i) * stride];
        v_store_n(S + j, v_mul(v_load_n(S + j, width), v_load(one)), width);
    }
}

/* The same of a block, whose scales lie in one piece, or in pages. */
static void decode_scale_block(const decode_t* w, const float* scale, const int64_t stride[3], int64_t k0, int64_t n,
                               float* S) {
    for (int64_t j = 0, run; j < n; j += run) {
        run = keys_in_a_row(w->c, &w->s, k0 + j, k0 + n);
        decode_scale(scale + key_at(w->c, &w->s, stride, k0 + j), stride[2], run, S + j);
    }
}

/* Raw products of row r to final logits (base 2), -infinity for keys that it does not see; ranges as in the panels. */
static void decode_shape(const decode_t* w, int64_t r, int64_t k0, int64_t n, float* S) {
    const tfast_attention* c = w->c;
    const panel_t* t = w->t;
    float count[V_LANES];
    for (int64_t i = 0; i < V_LANES; i++) count[i] = (float)i;
    if (c->softcap > 0)
        for (int64_t j = 0; j < n; j += V_LANES)
            v_store(S + j, v_mul(v_tanh(v_load(S + j)), v_set1(c->softcap * V_LOG2E)));
    for (int term = 0; term < 2; term++)
        if (c->bias[term].kind != TFAST_BIAS_NONE) decode_add_bias(&c->bias[term], t->bias_row[term][r], k0, n, S);
    if (c->alibi_slopes) {
        const float origin = (float)(t->query[r] + w->s.offset - k0);
        for (int64_t j = 0; j < n; j += V_LANES) {
            const vf at = v_sub(v_add(v_set1((float)j), v_load(count)), v_set1(origin));
            v_store(S + j, v_fma(v_set1(t->slope[r]), at, v_load(S + j)));
        }
    }
    for (int64_t j = 0; j < t->lo[r] - k0 && j < n; j++) S[j] = -INFINITY;
    for (int64_t j = TFAST_MAX(0, t->hi[r] - k0); j < n; j++) S[j] = -INFINITY;
    int64_t at = t->at[r];
    for (int64_t j = t->lo[r] - k0; w->several && j < t->hi[r] - k0; j++)
        if (!row_sees(w, k0 + j, &at)) S[j] = -INFINITY;
}

/* One step of row r's online softmax over n keys, the last vector filled up with -infinity: S becomes weights. Returns
 * what earlier sums are multiplied by. */
static float decode_softmax(const decode_t* w, int64_t r, int64_t n, float* S) {
    const int64_t padded = tfast_round_up(n, V_LANES);
    float *max = &w->t->max[r], *sums = w->sums + r * V_LANES;
    for (int64_t j = n; j < padded; j++) S[j] = -INFINITY;
    const float before = *max;
    vf top = v_set1(before);
    for (int64_t j = 0; j < padded; j += V_LANES) top = v_max(v_load(S + j), top); /* passes over NaN: exp has it */
    const float now = v_hmax(top);
    const vf used = v_set1(now == -INFINITY ? 0 : now);
    const vf factor = v_exp2(v_sub(v_set1(before), used));
    vf sum = v_mul(v_load(sums), factor);
    for (int64_t j = 0; j < padded; j += V_LANES) {
        const vf e = v_exp2(v_sub(v_load(S + j), used));
        v_store(S + j, e);
        sum = v_add(sum, e);
    }
    v_store(sums, sum);
    *max = now;
    float first[V_LANES];
    v_store(first, factor);
    return first[0];
}

static void decode_block(const decode_t* w, int64_t k0, int64_t n, int rows) {
    float alpha[DECODE_ROWS];
    int ragged = 0;
    decode_part_of_block(w, k0, n, NULL, DECODE_DOTS, rows);
    for (int64_t r = 0; r < rows; r++) {
        float* S = w->scores + r * DECODE_KEY_BLOCK;
        if (w->s.k_scale) decode_scale_block(w, w->s.k_scale, w->c->k_scale_stride, k0, n, S);
        decode_shape(w, r, k0, n, S);
        alpha[r] = decode_softmax(w, r, n, S);
        if (w->s.v_scale) decode_scale_block(w, w->s.v_scale, w->c->v_scale_stride, k0, n, S);
        ragged |= k0 < w->t->lo[r] || k0 + n > w->t->hi[r];
    }
    ragged |= w->several;
    if (ragged)
        decode_values_by_row(w, k0, n, alpha);
    else
        decode_part_of_block(w, k0, n, alpha, DECODE_VALUES, rows);
}

/* With lists: how far from k0 on, which some row sees, keys go together: to `limit` at most, and to the first
 * DECODE_GAP keys that no row sees. Sets lo and hi of the rows to what they see of these keys. */
static int64_t decode_enter(decode_t* w, int64_t k0, int64_t limit, int rows) {
    const int32_t* bounds = w->c->ranges.bounds;
    int64_t end = k0;
    for (int grows = 1; grows;) {
        grows = 0;
        for (int r = 0; r < rows; r++)
            for (int64_t i = w->t->at[r]; i < w->t->list_end[r] && bounds[2 * i] < end + DECODE_GAP; i++) {
                if (w->t->span_lo[r] >= end + DECODE_GAP) break; /* what stands before it is not seen */
                const int64_t hi = TFAST_MIN(bounds[2 * i + 1], TFAST_MIN(limit, w->t->span_hi[r]));
                if (hi <= end) continue;
                end = hi;
                grows = 1;
            }
    }
    w->several = 0;
    for (int r = 0; r < rows; r++) w->several |= lane_in_block(w->c, w->t, r, k0, end - k0, &w->t->lo[r], &w->t->hi[r]);
    return end;
}

static void decode_store(const decode_t* w, const tfast_attention_piece* p) {
    const tfast_attention* c = w->c;
    const panel_t* t = w->t;
    for (int64_t r = 0; r < t->n; r++) {
        float* o = w->o + r * w->dv_padded;
        if (p->partial) {
            memcpy(p->partial + r * c->Dv, o, (size_t)c->Dv * 4);
            p->partial[p->n_rows * c->Dv + r] = t->max[r];
            p->partial[p->n_rows * (c->Dv + 1) + r] = t->sum[r];
            continue;
        }
        const vf factor = v_set1(finish_row(c, p, &w->s, t->head[r], t->query[r], t->max[r], t->sum[r]));
        for (int64_t d = 0; d < c->Dv; d += V_LANES) v_store(o + d, v_mul(v_load(o + d), factor));
        store_row(w->s.out + (t->head[r] * c->out_stride[1] + t->query[r] * c->out_stride[2]) * w->s.q_bytes, o, c->Dv,
                  c->q_dtype);
    }
}

static size_t decode_bytes(const tfast_attention* c) {
    const int64_t row = DECODE_KEY_BLOCK + V_LANES + tfast_round_up(c->D, V_LANES) + tfast_round_up(c->Dv, V_LANES);
    return (sizeof(panel_t) + 63) / 64 * 64 + (size_t)(DECODE_ROWS * row) * 4;
}

static void begin_decode(const tfast_attention* c, const tfast_attention_piece* p, char* scratch, int rows,
                         decode_t* w) {
    panel_t* t = (panel_t*)scratch;
    w->c = c;
    w->t = t;
    set_sequence(c, p, &w->s);
    const int64_t element = w->s.kv_bytes;
    const int64_t k_bytes = PREFETCH_BYTES(rows);
    const int64_t far_bytes = c->Dv <= ONE_ROW_VECTORS * V_LANES ? FAR_VALUE_BYTES : VALUE_KEYS * c->Dv * element;
    const int64_t v_bytes = p->prefetch_into_l2 && rows == 1 ? far_bytes : k_bytes;
    w->fetch = w->s.table ? FETCH_PAGES : p->prefetch_into_l2 ? FETCH_FAR : FETCH_NEAR;
    w->several = 0;
    w->k_ahead = tfast_ceil_div(k_bytes, c->D * element);
    w->v_ahead = tfast_ceil_div(v_bytes, TFAST_MAX(c->Dv, 1) * element);
    if (w->s.table) w->k_ahead = w->v_ahead = c->pages.size;
    w->d_padded = tfast_round_up(c->D, V_LANES);
    w->dv_padded = tfast_round_up(c->Dv, V_LANES);
    w->scores = (float*)(scratch + (sizeof(panel_t) + 63) / 64 * 64);
    w->sums = w->scores + rows * DECODE_KEY_BLOCK;
    w->q = w->sums + rows * V_LANES;
    w->o = w->q + rows * w->d_padded;
    memset(w->sums, 0, (size_t)(rows * (V_LANES + w->d_padded + w->dv_padded)) * 4);
    panel_set_lanes(c, p, &w->s, t, p->row, p->n_rows, rows);
    w->first = INT64_MAX;
    w->end = 0;
    for (int r = 0; r < rows; r++) {
        if (t->lo[r] < t->hi[r]) w->first = TFAST_MIN(w->first, t->lo[r]);
        w->end = TFAST_MAX(w->end, t->hi[r]);
    }
}

static void load_queries(const decode_t* w, int64_t n_rows, int rows) {
    const tfast_attention* c = w->c;
    const vf factor = v_set1(query_factor(c));
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t at = w->t->head[r] * c->q_stride[1] + w->t->query[r] * c->q_stride[2];
        const char* row = w->s.q + at * w->s.q_bytes;
        for (int64_t d = 0; d < c->D; d += V_LANES)
            v_store(w->q + d * rows + r * V_LANES, v_mul(load_row(row, d, c->D - d, c->q_dtype), factor));
    }
}

static void KERNEL(attention_decode)(const tfast_attention* c, const tfast_attention_piece* p, void* scratch) {
    int rows = 1;
    while (rows < p->n_rows) rows *= 2;
    decode_t w;
    begin_decode(c, p, scratch, rows, &w);
    load_queries(&w, p->n_rows, rows);
    for (int64_t k0 = w.first; k0 < w.end;) {
        if (has_lists(c)) k0 = panel_next_key(c, w.t, rows, k0);
        if (k0 >= w.end) break;
        int64_t next = TFAST_MIN((k0 / DECODE_KEY_BLOCK + 1) * DECODE_KEY_BLOCK, w.end);
        if (has_lists(c)) next = decode_enter(&w, k0, next, rows);
        decode_block(&w, k0, next - k0, rows);
        k0 = next;
    }
    for (int64_t r = 0; r < p->n_rows; r++) w.t->sum[r] = v_sum(v_load(w.sums + r * V_LANES));
    decode_store(&w, p);
}

#endif
