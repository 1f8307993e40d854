/* Where the parts of a packed weight lie. Included by pack.c, which makes it, and linear.c, which reads it. */
#ifndef TFAST_OPS_PACKED_H
#define TFAST_OPS_PACKED_H

#include "../kernels/api.h"

static inline int64_t packed_panels(const tfast_packed* p) {
    return tfast_ceil_div(p->N, p->gemm->layout.panel_width);
}

static inline int64_t packed_panel_bytes(const tfast_packed* p) {
    return tfast_panel_bytes(&p->gemm->layout, p->K);
}

/* What stands behind the panels; NULLs where the format has nothing there. */
static inline tfast_int8_side packed_side(const tfast_packed* p) {
    if (!p->gemm->integers) return (tfast_int8_side){NULL, NULL, NULL, NULL};
    char* behind = (char*)p->data + packed_panels(p) * packed_panel_bytes(p);
    return tfast_int8_side_at(behind, packed_panels(p) * p->gemm->layout.panel_width);
}

#endif
