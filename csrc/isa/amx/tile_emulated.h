/* The tile unit in C, for test builds on machines that have none: as slow as it is plain.
 *
 * Included by isa/amx/tile.h. As the unit has it: denormals count as zero and become zero (here at the end of a sum,
 * not after each of its steps); the even and the odd elements of a row of pairs are summed apart in fp32, rounding to
 * nearest even, their sums are added, and the result is added to C. A product of two bfloat16 is exact in fp32. Only
 * the configured rows are read and written, so that the tests with guard pages find a tile that reaches beyond its
 * memory. */
#ifndef TFAST_ISA_AMX_TILE_EMULATED_H
#define TFAST_ISA_AMX_TILE_EMULATED_H

#define TILES_READ_MEMORY(where) (void)(where)

static _Thread_local struct {
    tile_config config;
    float row[T_REGISTERS][T_ROWS][V_LANES];
} tile_unit;

static inline void tile_load_config(const tile_config* config) {
    memset(&tile_unit, 0, sizeof tile_unit);
    tile_unit.config = *config;
}

static inline void tile_release(void) {
    memset(&tile_unit, 0, sizeof tile_unit);
}

static inline void tile_zero(int to) {
    memset(tile_unit.row[to], 0, sizeof tile_unit.row[to]);
}

static inline void tile_load(int to, const void* from, int64_t stride) {
    tile_zero(to);
    for (int i = 0; i < tile_unit.config.rows[to]; i++)
        memcpy(tile_unit.row[to][i], (const char*)from + i * stride, tile_unit.config.row_bytes[to]);
}

static inline void tile_store(int from, void* to, int64_t stride) {
    for (int i = 0; i < tile_unit.config.rows[from]; i++)
        memcpy((char*)to + i * stride, tile_unit.row[from][i], tile_unit.config.row_bytes[from]);
}

/* The even (half 0) or odd elements of a row of pairs as floats. */
static inline vf tile_half(const float row[V_LANES], int half) {
    const vi x = v_bits(v_load(row));
    return v_flush_(v_from_bits(half ? vi_and(x, vi_set1(-65536)) : (vi)(x << 16)));
}

typedef float tile_four __attribute__((vector_size(16)));

/* Row i of C from `pairs`, B as floats: even elements, then odd ones. The sums of a row stay in registers. */
static inline void tile_dot_row(int c, int a, int i, tile_four (*pairs)[T_ROWS][4]) {
    tile_four sum[2][4];
    float x[V_LANES];
    for (int half = 0; half < 2; half++) {
        v_store(x, tile_half(tile_unit.row[a][i], half));
        tile_four t0 = {0}, t1 = t0, t2 = t0, t3 = t0;
        for (int k = 0; k < T_ROWS; k++) {
            const tile_four* b = pairs[half][k];
            t0 += x[k] * b[0];
            t1 += x[k] * b[1];
            t2 += x[k] * b[2];
            t3 += x[k] * b[3];
        }
        sum[half][0] = t0;
        sum[half][1] = t1;
        sum[half][2] = t2;
        sum[half][3] = t3;
    }
    const vf even = v_flush_(v_load((float*)sum[0])), odd = v_flush_(v_load((float*)sum[1]));
    float* y = tile_unit.row[c][i];
    v_store(y, v_flush_(v_add(v_flush_(v_load(y)), v_flush_(v_add(even, odd)))));
}

static void tile_dot_bf16(int c, int a, int b) {
    tile_four pairs[2][T_ROWS][4];
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < T_ROWS; k++) v_store((float*)pairs[half][k], tile_half(tile_unit.row[b][k], half));
    for (int i = 0; i < tile_unit.config.rows[c]; i++) tile_dot_row(c, a, i, pairs);
}

/* Row i of C: each of its 32-bit integers gets the products of four bytes of A's row with four of a row of B, for all
 * rows of B. */
static void tile_dot_bytes(int c, int a, int b) {
    for (int i = 0; i < tile_unit.config.rows[c]; i++) {
        vi sum = vi_load(tile_unit.row[c][i]);
        for (int k = 0; k < T_ROWS; k++)
            sum = vi_dot_four_bytes_(sum, vi_repeat_4(&tile_unit.row[a][i][k]), vi_load(tile_unit.row[b][k]));
        vi_store(tile_unit.row[c][i], sum);
    }
}

#endif
