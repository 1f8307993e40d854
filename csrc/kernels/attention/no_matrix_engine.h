/* The hooks of attention for a level without a matrix engine: it computes nothing.
 *
 * Included by a level before attention.h. A level with an engine includes its own file instead, which defines the same
 * names. */
#ifndef TFAST_KERNELS_ATTENTION_NO_MATRIX_ENGINE_H
#define TFAST_KERNELS_ATTENTION_NO_MATRIX_ENGINE_H

#include "work.h"

#define engine_bytes(c, l)                               0
#define engine_begin(w, at)                              NULL
#define engine_end(w)                                    (void)(w)
#define engine_take_query(w, index)                      (void)(w)
#define engine_take_keys(w, n)                           (void)(w)
#define engine_scores(w, t, k0, t0, t1)                  (void)(w)
#define engine_values(w, t, k0, g, n_segments, alpha, o) (void)(w)

#endif
