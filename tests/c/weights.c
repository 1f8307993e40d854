/* Packing, products and unpacking for weights.h. */
#include "weights.h"

#include "check.h"
#include "data.h"

tfast_status weight_pack(const weight_t* w, int n_threads, tfast_packed* packed) {
    tfast_packed_begin(w->N, w->K, w->format, w->for_decode, packed);
    packed->data = tfast_weight_memory(tfast_packed_bytes(packed));
    if (!packed->data) return TFAST_NO_MEMORY;
    int64_t values, bytes;
    tfast_file_block(w->format, &values, &bytes);
    const tfast_row_block rows = {w->data, w->N, w->dtype == TFAST_BLOCKS ? w->K / values * bytes : w->K, w->scale};
    const tfast_status status = tfast_pack_rows(&rows, 1, w->dtype, w->smoothing, 0, packed, n_threads);
    tfast_pack_end(w->smoothing, packed);
    return status;
}

void weight_free(tfast_packed* packed) {
    tfast_weight_free(packed->data);
}

tfast_status weight_multiply(const void* product, float* y, int n_threads) {
    const product_t* p = product;
    tfast_packed packed;
    tfast_status status = weight_pack(p->weight, n_threads, &packed);
    tfast_linear call = p->call;
    call.weight = &packed;
    call.y = y;
    call.y_stride = packed.N;
    if (status == TFAST_OK) status = tfast_linear_run(&call, n_threads);
    weight_free(&packed);
    return status;
}

tfast_status weight_unpack(const void* weight, float* w, int n_threads) {
    tfast_packed packed;
    tfast_status status = weight_pack(weight, n_threads, &packed);
    if (status == TFAST_OK) status = tfast_unpack(&packed, w, n_threads);
    weight_free(&packed);
    return status;
}

double* weight_values(const weight_t* weight) {
    float* w = data_room((size_t)(weight->N * weight->K) * sizeof *w);
    tfast_set_isa(tfast_available_isa(0));
    check_that(weight_unpack(weight, w, 1) == TFAST_OK, "a weight of format %d is unpacked", (int)weight->format);
    tfast_set_isa(NULL);
    return data_widened(weight->N * weight->K, w);
}
