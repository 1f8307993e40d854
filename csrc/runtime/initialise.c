/* What has to be done once before any call: the module's import does it (transformer_fast/_core.pyx), and not a
 * constructor, whose order among those of other libraries the linker would choose. */
#include "../tfast.h"
#include "dispatch.h"
#include "parallel.h"

void tfast_initialise(void) {
    static int done;
    if (__atomic_exchange_n(&done, 1, __ATOMIC_ACQ_REL)) return; /* a module may be imported again */
    tfast_lay_levels();
    tfast_start_threads();
}
