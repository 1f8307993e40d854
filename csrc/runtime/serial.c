/* The backend "serial": every loop runs on the thread that calls it. See backend.h. */
#include "backend.h"

static void nothing(void) {}

static int begin(int n) {
    (void)n;
    return 1;
}

static void run(tfast_team* team) {
    while (tfast_team_step(team, 0)) {
    }
}

static void end(int n) {
    (void)n;
}

const tfast_backend tfast_serial = {"serial", begin, run, end, nothing};
