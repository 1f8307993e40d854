/* LSTM and GRU layers in both directions, with rows of several lengths. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "data.h"
#include "groups.h"
#include "reference.h"
#include "weights.h"

enum { L = 7, B = 6, INPUTS = 21, HIDDEN = 18, WAYS = 2 };

typedef struct {
    tfast_cell cell;
    int64_t gates;
    weight_t input_weight[WAYS], weight[WAYS];
    const float *x, *input_bias, *bias;
} layer_t;

static const int64_t lengths[B] = {7, 3, 0, 7, 1, 5}, order[B] = {0, 3, 5, 1, 4, 2};

/* y: the states after each step (L, B, WAYS * HIDDEN), then the last ones (WAYS, B, HIDDEN). */
static tfast_status run_layer(const void* arguments, float* y, int n_threads) {
    const layer_t* l = arguments;
    tfast_packed packed[2 * WAYS];
    tfast_status status = TFAST_OK;
    float cells[WAYS * B * HIDDEN] = {0};
    float* h = y + L * B * WAYS * HIDDEN;
    memset(h, 0, WAYS * B * HIDDEN * sizeof *h);
    for (int d = 0; d < 2 * WAYS; d++) {
        const weight_t* w = d < WAYS ? &l->input_weight[d] : &l->weight[d - WAYS];
        const tfast_status one = weight_pack(w, n_threads, &packed[d]);
        if (one != TFAST_OK) status = one;
    }
    const tfast_recurrent call = {.cell = l->cell,
                                  .L = L,
                                  .B = B,
                                  .inputs = INPUTS,
                                  .hidden = HIDDEN,
                                  .width = HIDDEN,
                                  .directions = WAYS,
                                  .x = l->x,
                                  .x_stride = {B * INPUTS, INPUTS},
                                  .input_weight = {&packed[0], &packed[1]},
                                  .weight = {&packed[2], &packed[3]},
                                  .input_bias = l->input_bias,
                                  .bias = l->bias,
                                  .order = order,
                                  .lengths = lengths,
                                  .h = h,
                                  .c = l->cell == TFAST_LSTM ? cells : NULL,
                                  .y = y,
                                  .y_stride = {B * WAYS * HIDDEN, WAYS * HIDDEN}};
    if (status == TFAST_OK) status = tfast_recurrent_run(&call, n_threads);
    for (int d = 0; d < 2 * WAYS; d++) weight_free(&packed[d]);
    return status;
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* One step of one row: a is the input's share of the gates, s the state's. */
static void step(tfast_cell cell, const double* a, const double* s, double* h, double* c) {
    for (int i = 0; i < HIDDEN; i++) {
        const int one = i, two = HIDDEN + i, three = 2 * HIDDEN + i, four = 3 * HIDDEN + i;
        if (cell == TFAST_LSTM) { /* i, f, g, o */
            c[i] = sigmoid(a[two] + s[two]) * c[i] + sigmoid(a[one] + s[one]) * tanh(a[three] + s[three]);
            h[i] = sigmoid(a[four] + s[four]) * tanh(c[i]);
        } else { /* r, z, n */
            const double r = sigmoid(a[one] + s[one]), z = sigmoid(a[two] + s[two]);
            h[i] = (1 - z) * tanh(a[three] + r * s[three]) + z * h[i];
        }
    }
}

static void reference_layer(const layer_t* l, double* y) {
    double* last = y + L * B * WAYS * HIDDEN;
    const int64_t n = l->gates * HIDDEN;
    double a[4 * HIDDEN], s[4 * HIDDEN];
    const double* x = data_widened(L * B * INPUTS, l->x);
    for (int d = 0; d < WAYS; d++) {
        const double *w = data_widened(n * INPUTS, l->input_weight[d].data),
                     *u = data_widened(n * HIDDEN, l->weight[d].data);
        const reference_epilogue of_x = {.bias = data_widened(n, l->input_bias + d * n)},
                                 of_h = {.bias = data_widened(n, l->bias + d * n)};
        for (int b = 0; b < B; b++) {
            double h[HIDDEN] = {0}, c[HIDDEN] = {0};
            for (int64_t i = 0; i < lengths[b]; i++) {
                const int64_t t = d ? lengths[b] - 1 - i : i;
                reference_linear(1, n, INPUTS, x + (t * B + b) * INPUTS, w, of_x, a);
                reference_linear(1, n, HIDDEN, h, u, of_h, s);
                step(l->cell, a, s, h, c);
                memcpy(y + ((t * B + b) * WAYS + d) * HIDDEN, h, sizeof h);
            }
            memcpy(last + (d * B + b) * HIDDEN, h, sizeof h);
        }
    }
}

static void check_cell(tfast_cell cell, int64_t gates) {
    const int64_t n = gates * HIDDEN, results = (L + 1) * B * WAYS * HIDDEN;
    layer_t l = {.cell = cell, .gates = gates, .x = data_normal(L * B * INPUTS, 1)};
    l.input_bias = data_normal(WAYS * n, 1), l.bias = data_normal(WAYS * n, 1);
    for (int d = 0; d < WAYS; d++) {
        l.input_weight[d] =
            (weight_t){TFAST_FORMAT_F32, TFAST_F32, n, INPUTS, data_normal(n * INPUTS, 0.2), NULL, NULL, 0};
        l.weight[d] = (weight_t){TFAST_FORMAT_F32, TFAST_F32, n, HIDDEN, data_normal(n * HIDDEN, 0.2), NULL, NULL, 0};
    }
    double* expected = data_room((size_t)results * sizeof *expected);
    reference_layer(&l, expected);
    check_call(&(check_t){"recurrent layer", run_layer, &l, results, expected, TOLERANCE, NULL, 0});
}

void check_recurrent(void) {
    check_cell(TFAST_LSTM, 4);
    check_cell(TFAST_GRU, 3);
}
