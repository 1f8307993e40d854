/* How many threads a loop gets: the setting, the environment, the processors, OpenMP's limit. docs/threading.md says in
 * which order, and this file is where it is decided.
 *
 * Called by parallel.c, by the ops that choose how finely to cut, and by the Python settings. */
#include <stdlib.h>

#include "../tfast.h"
#include "backend.h"

/* Fork and join of two threads measured at 1-3 us warm (docs/threading.md): below this much work a loop stays serial.
 */
#define SERIAL_BELOW_NS 20e3

static int configured; /* set_num_threads, 0: none; atomic */

static int positive_env(const char* name) {
    const char* text = getenv(name);
    if (!text || !*text) return 0;
    char* end;
    const long n = strtol(text, &end, 10);
    return (*end == '\0' || *end == ',') && n > 0 && n < 4096 ? (int)n : 0;
}

/* Several threads may find it out at once, and the same. */
static int environment_threads(void) {
    static int cached; /* atomic */
    int n = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (n) return n;
    n = positive_env("TRANSFORMER_FAST_NUM_THREADS");
    if (!n) n = positive_env("OMP_NUM_THREADS");
    if (!n) n = tfast_os_usable_processors();
    __atomic_store_n(&cached, n, __ATOMIC_RELAXED);
    return n;
}

static int limited(int n) {
    return tfast_backend_now() == &tfast_serial ? 1 : tfast_limit_by_openmp(n);
}

void tfast_set_num_threads(int n) {
    __atomic_store_n(&configured, n, __ATOMIC_RELAXED);
}

int tfast_get_num_threads(void) {
    const int n = __atomic_load_n(&configured, __ATOMIC_RELAXED);
    return limited(n > 0 ? n : environment_threads());
}

int tfast_threads_for(double total_ns, int n_threads) {
    if (total_ns < SERIAL_BELOW_NS) return 1;
    return n_threads > 0 ? limited(n_threads) : tfast_get_num_threads();
}
