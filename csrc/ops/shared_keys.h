/* What tfast_attention_run does with a call that says `shared`: the way in to shared_keys.c, for ops/attention.c alone.
 */
#ifndef TFAST_OPS_SHARED_KEYS_H
#define TFAST_OPS_SHARED_KEYS_H

#include "../tfast.h"

tfast_status tfast_attention_run_shared(const tfast_attention* call, int n_threads);

#endif
