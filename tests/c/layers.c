/* Whole layers in one call, of an encoder and of a decoder: they are made of the ops of the other groups, and are
 * compared with those of reference.h one after the other. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "data.h"
#include "groups.h"
#include "reference.h"
#include "weights.h"

enum { T = 50, B = 3, HEADS = 4, D = 16, WIDTH = HEADS * D, INNER = 96, WEIGHTS = 5 };
static const int64_t cu[B + 1] = {0, 1, 30, T};

/* Weights and vectors of a layer: qkv, out, up, down, and gate for decoders. */
enum { QKV, OUT, UP, DOWN, GATE };
typedef struct {
    weight_t weights[WEIGHTS];
    const float *norm[2], *norm_bias[2], *bias[WEIGHTS], *x, *cos, *sin;
    int is_decoder;
} layer_t;

static layer_t new_layer(int is_decoder) {
    static const int64_t N[WEIGHTS] = {3 * WIDTH, WIDTH, INNER, WIDTH, INNER},
                         K[WEIGHTS] = {WIDTH, WIDTH, WIDTH, INNER, WIDTH};
    layer_t l = {.x = data_normal(T * WIDTH, 1), .is_decoder = is_decoder};
    l.cos = data_normal(T * D / 2, 0.7), l.sin = data_normal(T * D / 2, 0.7);
    for (int i = 0; i < WEIGHTS; i++) {
        const float* w = data_normal(N[i] * K[i], 1 / sqrt((double)K[i]));
        l.weights[i] = (weight_t){TFAST_FORMAT_F32, TFAST_F32, N[i], K[i], w, NULL, NULL, 0};
        l.bias[i] = data_normal(N[i], 0.1);
    }
    for (int i = 0; i < 2; i++) l.norm[i] = data_normal(WIDTH, 1), l.norm_bias[i] = data_normal(WIDTH, 0.1);
    return l;
}

static tfast_status run_encoder(const layer_t* l, const tfast_packed* packed, float* y, int n_threads) {
    const tfast_encoder_layer layer = {&packed[QKV], &packed[OUT],    &packed[UP], &packed[DOWN],
                                       l->bias[QKV], l->bias[OUT],    l->bias[UP], l->bias[DOWN],
                                       l->norm[0],   l->norm_bias[0], l->norm[1],  l->norm_bias[1]};
    const tfast_encoder call = {.T = T,
                                .B = B,
                                .hidden = WIDTH,
                                .heads = HEADS,
                                .inner = INNER,
                                .n_layers = 1,
                                .cu = cu,
                                .layers = &layer,
                                .activation = TFAST_GELU,
                                .eps1 = 1e-5f,
                                .eps2 = 1e-5f,
                                .x = l->x,
                                .y = y};
    return tfast_encoder_run(&call, n_threads);
}

static tfast_status run_decoder(const layer_t* l, const tfast_packed* packed, float* y, int n_threads) {
    float x[T * WIDTH];
    memcpy(x, l->x, sizeof x);
    const tfast_decoder_layer layer = {.qkv = {&packed[QKV]},
                                       .out = &packed[OUT],
                                       .gate = &packed[GATE],
                                       .up = &packed[UP],
                                       .down = &packed[DOWN],
                                       .qkv_bias = l->bias[QKV],
                                       .attention_norm = {l->norm[0], NULL},
                                       .feed_forward_norm = {l->norm[1], NULL},
                                       .scale = (float)(1 / sqrt((double)D)),
                                       .window = TFAST_UNLIMITED,
                                       .rotation = 0};
    const tfast_rotation rotation = {D / 2, l->cos, l->sin};
    const tfast_decoder call = {.T = T,
                                .B = B,
                                .hidden = WIDTH,
                                .heads = HEADS,
                                .kv_heads = HEADS,
                                .head_dim = D,
                                .inner = INNER,
                                .n_layers = 1,
                                .cu = cu,
                                .layers = &layer,
                                .activation = TFAST_SILU,
                                .eps = 1e-6f,
                                .residual_scale = 1,
                                .rotations = &rotation,
                                .fresh = 1,
                                .x = x,
                                .n_rows = T,
                                .y = y};
    return tfast_decoder_run(&call, n_threads);
}

static tfast_status run_layer(const void* arguments, float* y, int n_threads) {
    const layer_t* l = arguments;
    tfast_packed packed[WEIGHTS];
    tfast_status status = TFAST_OK;
    for (int i = 0; i < WEIGHTS; i++) {
        const tfast_status one = weight_pack(&l->weights[i], n_threads, &packed[i]);
        if (one != TFAST_OK) status = one;
    }
    if (status == TFAST_OK) status = (l->is_decoder ? run_decoder : run_encoder)(l, packed, y, n_threads);
    for (int i = 0; i < WEIGHTS; i++) weight_free(&packed[i]);
    return status;
}

static void rotate(const layer_t* l, int64_t token, double* head) {
    for (int i = 0; i < D / 2; i++) {
        const double c = l->cos[token * D / 2 + i], s = l->sin[token * D / 2 + i], a = head[i], b = head[i + D / 2];
        head[i] = a * c - b * s;
        head[i + D / 2] = b * c + a * s;
    }
}

/* qkv (T, 3 WIDTH) -> (T, WIDTH), each sequence by itself. */
static void attend(const layer_t* l, double* qkv, double* to) {
    double *heads[3], *out = data_room(T * WIDTH * sizeof *out);
    for (int o = 0; o < 3; o++) heads[o] = data_room(T * WIDTH * sizeof(double));
    for (int64_t t = 0; t < T && l->is_decoder; t++)
        for (int h = 0; h < 2 * HEADS; h++) rotate(l, t, qkv + t * 3 * WIDTH + h * D);
    for (int b = 0; b < B; b++) {
        const int64_t n = cu[b + 1] - cu[b];
        const tfast_attention c = {.B = 1,
                                   .H = HEADS,
                                   .Hkv = HEADS,
                                   .Lq = n,
                                   .Lk = n,
                                   .D = D,
                                   .Dv = D,
                                   .left = TFAST_UNLIMITED,
                                   .right = l->is_decoder ? 0 : TFAST_UNLIMITED,
                                   .scale = (float)(1 / sqrt((double)D))};
        for (int64_t i = 0; i < n * WIDTH; i++) {
            const int64_t at = (i / D % HEADS * n + i / WIDTH) * D + i % D, row = (cu[b] + i / WIDTH) * 3 * WIDTH;
            for (int o = 0; o < 3; o++) heads[o][at] = qkv[row + o * WIDTH + i % WIDTH];
        }
        reference_attention(&c, heads[0], heads[1], heads[2], out, NULL);
        for (int64_t i = 0; i < n * WIDTH; i++)
            to[cu[b] * WIDTH + i] = out[(i / D % HEADS * n + i / WIDTH) * D + i % D];
    }
}

static double* multiply(const layer_t* l, int which, const double* x, reference_epilogue after) {
    const weight_t* w = &l->weights[which];
    double* y = data_room((size_t)(T * w->N) * sizeof *y);
    if (!l->is_decoder || which == QKV) after.bias = data_widened(w->N, l->bias[which]);
    reference_linear(T, w->N, w->K, x, data_widened(w->N * w->K, w->data), after, y);
    return y;
}

static double* norm(const layer_t* l, int which, const double* x) {
    double* y = data_room(T * WIDTH * sizeof *y);
    const double* bias = l->is_decoder ? NULL : data_widened(WIDTH, l->norm_bias[which]);
    reference_norm(T, WIDTH, x, data_widened(WIDTH, l->norm[which]), bias, l->is_decoder ? 1e-6f : 1e-5f,
                   !l->is_decoder, y);
    return y;
}

/* Norms are behind each half of an encoder's layer, and before each half of a decoder's. */
static const double* reference_layer(const layer_t* l) {
    const reference_epilogue none = {.bias = NULL};
    const double* x = data_widened(T * WIDTH, l->x);
    double* attended = data_room(T * WIDTH * sizeof *attended);
    attend(l, multiply(l, QKV, l->is_decoder ? norm(l, 0, x) : x, none), attended);
    x = multiply(l, OUT, attended, (reference_epilogue){.residual = x});
    if (!l->is_decoder) {
        x = norm(l, 0, x);
        const double* inner = multiply(l, UP, x, (reference_epilogue){.activation = TFAST_GELU});
        return norm(l, 1, multiply(l, DOWN, inner, (reference_epilogue){.residual = x}));
    }
    const double *read = norm(l, 1, x), *up = multiply(l, UP, read, none);
    const double* inner = multiply(l, GATE, read, (reference_epilogue){.activation = TFAST_SILU, .multiply = up});
    return multiply(l, DOWN, inner, (reference_epilogue){.residual = x});
}

void check_layers(void) {
    /* Some ten ops one after the other: 2e-6 of each of them, on numbers of a few units. */
    const double bound = 10 * TOLERANCE;
    for (int is_decoder = 0; is_decoder < 2; is_decoder++) {
        const layer_t l = new_layer(is_decoder);
        check_call(&(check_t){is_decoder ? "decoder layer" : "encoder layer", run_layer, &l, T * WIDTH,
                              reference_layer(&l), bound, NULL, 0});
    }
}
