/* The tests of the C core, without Python: every group of groups.h, on every level that the build and the processor
 * have, with every thread backend of the build, on 1, 2 and 4 threads.
 *
 *     tests/c/run.sh            builds and runs it; docs/portability.md has the builds that are known to pass
 *     core_tests [GROUP ...]    some groups alone
 *
 * Prints a line a group, and a digest of the products of integers, which all builds on all machines have in common.
 * The exit status is 1 if a check failed. The suite of Python (tests/ops, tests/contracts) has many more cases: this
 * program is for compilers, C libraries and systems where that suite cannot run. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "data.h"
#include "groups.h"

static const struct {
    const char* name;
    void (*run)(void);
} groups[] = {
    {"settings", check_settings},   {"runtime", check_runtime},     {"linear", check_linear},
    {"integers", check_integers},   {"blocks", check_blocks},       {"products", check_products},
    {"search", check_search},       {"attention", check_attention}, {"key_values", check_key_values},
    {"rows", check_rows},           {"copies", check_copies},       {"layers", check_layers},
    {"recurrent", check_recurrent},
};
enum { N_GROUPS = sizeof groups / sizeof groups[0] };

static int is_chosen(const char* name, int n, char** chosen) {
    for (int i = 0; i < n; i++)
        if (strcmp(chosen[i], name) == 0) return 1;
    return n == 0;
}

static void print_list(const char* title, const char* (*item)(int)) {
    printf("%-10s", title);
    for (int i = 0; item(i); i++) printf("%s%s", i ? ", " : "", item(i));
    putchar('\n');
}

int main(int argc, char** argv) {
    check_counts all = {0, 0};
    int chosen = 0;
    tfast_initialise();
    printf("%-10s%s\n", "processor", tfast_cpu_brand());
    print_list("levels", tfast_available_isa);
    print_list("backends", tfast_thread_backend_name);
    for (int i = 0; i < N_GROUPS; i++) {
        if (!is_chosen(groups[i].name, argc - 1, argv + 1)) continue;
        const clock_t begin = clock();
        chosen++;
        data_begin(groups[i].name);
        groups[i].run();
        const check_counts found = check_take_counts();
        printf("%-12s%6lld checks, %lld failed, %.1f s of processor time\n", groups[i].name, (long long)found.checks,
               (long long)found.failures, (double)(clock() - begin) / CLOCKS_PER_SEC);
        fflush(stdout);
        all.checks += found.checks;
        all.failures += found.failures;
    }
    data_begin("");
    if (chosen < argc - 1) {
        fputs("a group of that name is not there; needed: one of", stderr);
        for (int i = 0; i < N_GROUPS; i++) fprintf(stderr, " %s", groups[i].name);
        fputc('\n', stderr);
        return 2;
    }
    printf("%-12s%6lld checks, %lld failed\n", "all", (long long)all.checks, (long long)all.failures);
    printf("digest of integers %016llx\n", (unsigned long long)check_digest());
    return all.failures ? 1 : 0;
}
