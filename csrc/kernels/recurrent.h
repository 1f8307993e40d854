/* The gates of recurrent cells, one row at a time: everything of a step that is not a product. Called by
 * ops/recurrent.c.
 *
 *   LSTM:  i, f, o = sigmoid(x + s), g = tanh(x + s)      c = f * c + i * g      h = o * tanh(c)
 *   GRU:   r, z = sigmoid(x + s)                          n = tanh(x + r * s)    h = n + z * (h - n)
 *
 * x is the input's share of a gate and s the state's; the gates lie one after the other, n numbers each, in torch's
 * order: i f g o and r z n. A unit of an LSTM costs five divisions and three exponentials (GRU: three and two) beside
 * the 8 P (6 P) operations of its products with a state of width P: a few percent of a step, so that there is nothing
 * to gain from fusing it into the tile. */
#ifndef TFAST_KERNELS_RECURRENT_H
#define TFAST_KERNELS_RECURRENT_H

V_INLINE vf gate_part(const float* p, int64_t w) {
    return w == V_LANES ? v_load(p) : v_load_n(p, w);
}

V_INLINE void gate_put(float* p, vf x, int64_t w) {
    if (w == V_LANES)
        v_store(p, x);
    else
        v_store_n(p, x, w);
}

V_INLINE vf gate_sum(const float* x, const float* s, int64_t w) {
    return v_add(gate_part(x, w), gate_part(s, w));
}

static void KERNEL(lstm)(int64_t n, const float* x, const float* s, float* c, float* h) {
    for (int64_t j = 0; j < n; j += V_LANES) {
        const int64_t w = TFAST_MIN(V_LANES, n - j);
        const vf in = v_sigmoid(gate_sum(x + j, s + j, w)), forget = v_sigmoid(gate_sum(x + n + j, s + n + j, w));
        const vf fresh = v_tanh(gate_sum(x + 2 * n + j, s + 2 * n + j, w));
        const vf out = v_sigmoid(gate_sum(x + 3 * n + j, s + 3 * n + j, w));
        const vf cell = v_fma(forget, gate_part(c + j, w), v_mul(in, fresh));
        gate_put(c + j, cell, w);
        gate_put(h + j, v_mul(out, v_tanh(cell)), w);
    }
}

static void KERNEL(gru)(int64_t n, const float* x, const float* s, float* h) {
    for (int64_t j = 0; j < n; j += V_LANES) {
        const int64_t w = TFAST_MIN(V_LANES, n - j);
        const vf reset = v_sigmoid(gate_sum(x + j, s + j, w)), keep = v_sigmoid(gate_sum(x + n + j, s + n + j, w));
        const vf fresh = v_tanh(v_fma(reset, gate_part(s + 2 * n + j, w), gate_part(x + 2 * n + j, w)));
        gate_put(h + j, v_fma(keep, v_sub(gate_part(h + j, w), fresh), fresh), w);
    }
}

#endif
