/* The backend "native": threads of the library's own, on the system's calls in base/os.h alone. See backend.h.
 *
 * Helpers are started when a loop first asks for them and live as long as the process. Any helper helps any caller; the
 * caller runs tasks as well, and never waits for a helper that has not begun.
 *
 * A loop, from open to close. Loops stand in `slots`, which are never freed, and a slot's `state` is one word:
 *
 *     OPEN | RESERVED | WAITED | inside (13 bits) | tickets (13 bits)          0: the slot is free
 *
 *   caller   0 -> RESERVED             by compare-and-swap: the slot is its own; writes `team`
 *            -> OPEN | n - 1 tickets   release: what a helper sees of the team is whole
 *   helper   OPEN and tickets > 0 -> tickets - 1, inside + 1      by compare-and-swap, acquire; the ticket's number is
 *                                                                 that of its scratch
 *            ... reads `team`, runs tasks ...
 *            -> inside - 1             release: the last that it does with the loop
 *   caller   takes OPEN away           from here on no helper comes in; acquire
 *            waits for inside = 0      for those in a task, not for those that sleep; acquire
 *            -> 0
 *
 * The team lives on the caller's stack. A helper reads it between its own compare-and-swap, which fails unless the loop
 * is open at that moment, and its own inside - 1, for which the caller waits: so it is never read after the caller has
 * returned. That the slot may have been closed and opened by another loop between a helper's look and its
 * compare-and-swap does no harm: the state alone says that it may come in, and `team` is read after it. What a helper
 * touches after inside - 1 is the slot, which is there for ever: a wake too much is one that its next owner looks
 * through.
 *
 * All threads together. One word, `pool`, counts threads that are active (callers, and helpers inside a loop), the
 * callers among them, helpers that spin, and helpers that sleep or are about to:
 *
 * - a helper comes in only while active < the limit of the loop, and leaves after its task when callers have come in
 *   the meantime: callers and helpers together are no more than the threads that are set, except where the callers
 *   alone are more, or until a helper's task ends;
 * - callers that were in loops together a moment ago count as active (`crowd`): each spends some microseconds in Python
 *   between two calls, and a helper that came in for these would take a processor from the callers;
 * - the caller publishes its loop, then adds itself to `pool` and sees in the same word how many helpers sleep. A
 *   helper adds itself to those that sleep, then looks through the slots once more. Both are read-modify-writes of one
 *   word, so one comes first: if the helper, the caller sees a sleeper and wakes it; if the caller, the helper's last
 *   look (acquire) finds the loop. So no helper that might come in sleeps through a loop. One that might not, because
 *   enough were active, is called again by the caller of a long loop when they are gone (call_for_the_rest);
 * - helpers sleep on `wakes`, which a caller changes before it wakes: a helper that has read it before its last look
 *   does not fall asleep after the change.
 *
 * Fork: the child has none of the helpers, and nobody in a loop, since the thread that forks is in none. All of the
 * above is set back to the beginning, and the child's first loop starts helpers of its own. */
#include <string.h>

#include "../base/cpu.h"
#include "backend.h"

/* How long a helper that finds no work spins before it sleeps: as long as waking takes on a virtual machine, which
 * costs at most twice what the better of both would have. Between two calls of a model's run lie 5 to 60 us of Python.
 * One that is called again soon after it fell asleep expects the next call after as long a gap, and spins longer until
 * it is wrong. docs/threading.md has figures. */
#define SPIN_NS      300000
#define LONG_SPIN_NS 2000000
/* Between two looks at the clock: 30 ns each. */
#define TURNS_PER_LOOK 64
/* For how long callers that are between two calls count as active. Two that call without a pause on two processors,
 * attention of 100 us: 0.97 of the calls of the backend "serial", and 0.66 of them where only callers inside a loop
 * count. Longer than the Python between two calls, and shorter than a caller that is now alone should do without help.
 */
#define CROWD_NS 1000000
/* A caller wakes a helper for the rest of a loop if that is worth several times the time to wake. */
#define WORTH_WAKING_NS 1e6

enum { MAX_LOOPS = 64, CACHE_LINE = 64 };

#define OPEN       0x80000000u
#define RESERVED   0x40000000u
#define WAITED     0x20000000u
#define TICKETS    0x1fffu
#define INSIDE_ONE 0x2000u
#define INSIDE     (0x1fffu * INSIDE_ONE)
_Static_assert((TICKETS & INSIDE) == 0 && ((OPEN | RESERVED | WAITED) & (TICKETS | INSIDE)) == 0, "fields overlap");

typedef struct {
    _Alignas(CACHE_LINE) uint32_t state; /* atomic */
    int limit;                           /* of the loop; atomic, for the look before a helper comes in */
    tfast_team* team;                    /* of the thread that reserved it, and of those inside */
} slot_t;

static slot_t slots[MAX_LOOPS];
static int n_slots; /* those from here on were never taken; atomic */

#define ACTIVE_ONE   ((uint64_t)1)
#define SPINNING_ONE ((uint64_t)1 << 16)
#define SLEEPING_ONE ((uint64_t)1 << 32)
#define CALLERS_ONE  ((uint64_t)1 << 48)
#define CALLER       (ACTIVE_ONE + CALLERS_ONE)
static _Alignas(CACHE_LINE) uint64_t pool; /* atomic */
static uint32_t wakes;                     /* atomic */
/* The most callers that were in loops together, from bit 48 on, and below when that was, in ns; atomic. */
static uint64_t crowd;
static int place_of_caller; /* the processor of the last one; -1: unknown; atomic */

static int n_helpers;            /* changed by the thread that has `starting`; atomic */
static char refused;             /* the system starts no more; atomic */
static char starting;            /* a thread is starting helpers */
static int processors;           /* that this process may use; atomic, 0: not yet known */
static _Thread_local int inside; /* the thread runs a task: a loop in it is serial */

static int active(uint64_t p) {
    return (int)(p & 0xffff);
}
static int spinning(uint64_t p) {
    return (int)(p >> 16 & 0xffff);
}
static int sleeping(uint64_t p) {
    return (int)(p >> 32 & 0xffff);
}

static int callers(uint64_t p) {
    return (int)(p >> 48);
}

static uint64_t pool_now(void) {
    return __atomic_load_n(&pool, __ATOMIC_RELAXED);
}

/* The largest number of callers of the last moment, at most 1 where it is long ago. */
static int recent_callers(void) {
    const uint64_t c = __atomic_load_n(&crowd, __ATOMIC_RELAXED);
    const int n = (int)(c >> 48);
    if (n <= 1) return n;
    return ((uint64_t)tfast_os_now() - c) % CALLERS_ONE < CROWD_NS ? n : 1;
}

static void note_callers(int n) {
    if (n > 1 && n >= recent_callers())
        __atomic_store_n(&crowd, (uint64_t)n * CALLERS_ONE + (uint64_t)tfast_os_now() % CALLERS_ONE, __ATOMIC_RELAXED);
}

/* Active threads, and callers that are between two calls. */
static int occupied(uint64_t p) {
    const int recent = recent_callers();
    return active(p) + (recent > callers(p) ? recent - callers(p) : 0);
}

/* Whether threads that only wait would take processors from those that work. Between two calls of a program's one
 * thread nobody is active: it is counted all the same. */
static int crowded(void) {
    const uint64_t p = pool_now();
    const int n = occupied(p);
    return (n > 1 ? n : 1) + spinning(p) > __atomic_load_n(&processors, __ATOMIC_RELAXED);
}

/* --- a helper --- */

/* Comes in, if threads and tickets are left: the number of its scratch, or 0. */
static int enter(slot_t* slot) {
    uint32_t s = __atomic_load_n(&slot->state, __ATOMIC_RELAXED);
    if (!(s & OPEN) || !(s & TICKETS)) return 0;
    const int limit = __atomic_load_n(&slot->limit, __ATOMIC_RELAXED);
    uint64_t p = pool_now();
    do {
        if (occupied(p) >= limit) return 0;
    } while (
        !__atomic_compare_exchange_n(&pool, &p, p + ACTIVE_ONE - SPINNING_ONE, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    do {
        if (!(s & OPEN) || !(s & TICKETS)) {
            __atomic_fetch_add(&pool, SPINNING_ONE - ACTIVE_ONE, __ATOMIC_RELAXED);
            return 0;
        }
    } while (!__atomic_compare_exchange_n(&slot->state, &s, s + INSIDE_ONE - 1, 1, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    return (int)(s & TICKETS);
}

/* `again`: there are tasks left; the ticket goes back, if it is the last that was given. */
static void leave(slot_t* slot, int ticket, int again) {
    uint32_t s = __atomic_load_n(&slot->state, __ATOMIC_RELAXED), next;
    do {
        next = s - INSIDE_ONE;
        if (again && (int)(s & TICKETS) == ticket - 1) next++;
    } while (!__atomic_compare_exchange_n(&slot->state, &s, next, 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
    if ((next & WAITED) && !(next & INSIDE)) tfast_os_wake(&slot->state, 1);
}

/* Whether this helper is one too many, since callers have come: it is not active any more then. */
static int make_room(int limit) {
    uint64_t p = pool_now();
    do {
        if (occupied(p) <= limit) return 0;
    } while (
        !__atomic_compare_exchange_n(&pool, &p, p + SPINNING_ONE - ACTIVE_ONE, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return 1;
}

static void help(slot_t* slot, int ticket) {
    tfast_team* team = slot->team;
    tfast_team_settle(team);
    while (tfast_team_step(team, ticket))
        if (make_room(team->limit)) {
            leave(slot, ticket, 1);
            return;
        }
    leave(slot, ticket, 0);
    __atomic_fetch_add(&pool, SPINNING_ONE - ACTIVE_ONE, __ATOMIC_RELAXED);
}

/* Begins behind the slot where it found work last, so that no caller is the last to be helped every time. */
static int look_for_work(int* first) {
    const int n = __atomic_load_n(&n_slots, __ATOMIC_ACQUIRE);
    for (int i = 0; i < n; i++) {
        const int at = (*first + i) % n;
        const int ticket = enter(&slots[at]);
        if (!ticket) continue;
        help(&slots[at], ticket);
        *first = (at + 1) % n;
        return 1;
    }
    return 0;
}

static int is_there_work(void) {
    const int n = __atomic_load_n(&n_slots, __ATOMIC_ACQUIRE);
    for (int i = 0; i < n; i++) {
        const uint32_t s = __atomic_load_n(&slots[i].state, __ATOMIC_ACQUIRE);
        const int limit = __atomic_load_n(&slots[i].limit, __ATOMIC_RELAXED);
        if ((s & OPEN) && (s & TICKETS) && occupied(pool_now()) < limit) return 1;
    }
    return 0;
}

static void sleep_until_called(void) {
    __atomic_fetch_add(&pool, SLEEPING_ONE - SPINNING_ONE, __ATOMIC_ACQ_REL);
    const uint32_t seen = __atomic_load_n(&wakes, __ATOMIC_ACQUIRE);
    if (!is_there_work()) tfast_os_wait(&wakes, seen);
    __atomic_fetch_add(&pool, SPINNING_ONE - SLEEPING_ONE, __ATOMIC_ACQ_REL);
}

/* Linux may have woken it where the caller runs: as long as it stays, only one of the two makes progress. */
static void leave_caller(void) {
    const int place = __atomic_load_n(&place_of_caller, __ATOMIC_RELAXED);
    if (place < 0 || place >= TFAST_OS_MAX_PROCESSORS || tfast_os_current_processor() != place) return;
    tfast_os_processors taken = {0};
    taken.word[place / 64] = (uint64_t)1 << place % 64;
    tfast_os_leave_processors(&taken);
}

static void helper(void) {
    inside = 1;
    leave_caller();
    int first = 0;
    int64_t worked = tfast_os_now(), spinning_since = worked, patience = SPIN_NS;
    for (unsigned turn = 1;; turn++) {
        if (look_for_work(&first)) {
            worked = spinning_since = tfast_os_now();
            continue;
        }
        tfast_cpu_relax();
        if (turn % TURNS_PER_LOOK) continue;
        if (crowded() || tfast_os_now() - spinning_since > patience) {
            sleep_until_called();
            leave_caller();
            spinning_since = tfast_os_now();
            patience = spinning_since - worked < LONG_SPIN_NS ? LONG_SPIN_NS : SPIN_NS;
        }
    }
}

/* --- a caller --- */

/* So many more helpers, up to `most` in all. What the system refuses once is not asked for again: loops go on with
 * those that there are. */
static void start_helpers(int more, int most) {
    static const tfast_os_thread thread = {helper};
    if (__atomic_load_n(&n_helpers, __ATOMIC_RELAXED) >= most || __atomic_load_n(&refused, __ATOMIC_RELAXED)) return;
    if (__atomic_test_and_set(&starting, __ATOMIC_ACQUIRE)) return;
    for (int n = __atomic_load_n(&n_helpers, __ATOMIC_RELAXED); more > 0 && n < most; n++, more--) {
        __atomic_fetch_add(&pool, SPINNING_ONE, __ATOMIC_RELAXED);
        if (!tfast_os_start_thread(&thread)) {
            __atomic_fetch_sub(&pool, SPINNING_ONE, __ATOMIC_RELAXED);
            __atomic_store_n(&refused, 1, __ATOMIC_RELAXED);
            break;
        }
        __atomic_store_n(&n_helpers, n + 1, __ATOMIC_RELAXED);
    }
    __atomic_clear(&starting, __ATOMIC_RELEASE);
}

/* `p`: the pool with this caller. Returns how many helpers were woken. */
static int call_helpers(uint64_t p, int wanted, int limit) {
    const int room = limit - occupied(p);
    const int missing = (wanted < room ? wanted : room) - spinning(p);
    if (missing <= 0) return 0;
    const int woken = missing < sleeping(p) ? missing : sleeping(p);
    if (woken) {
        __atomic_fetch_add(&wakes, 1, __ATOMIC_RELEASE);
        tfast_os_wake(&wakes, woken);
    }
    if (missing > woken) start_helpers(missing - woken, limit - 1);
    return woken;
}

/* NULL: more loops are open than there are slots. */
static slot_t* open_loop(tfast_team* team) {
    for (int i = 0; i < MAX_LOOPS; i++) {
        slot_t* slot = &slots[i];
        uint32_t free_slot = 0;
        if (__atomic_load_n(&slot->state, __ATOMIC_RELAXED) != 0 ||
            !__atomic_compare_exchange_n(&slot->state, &free_slot, RESERVED, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            continue;
        int n = __atomic_load_n(&n_slots, __ATOMIC_RELAXED);
        while (n <= i && !__atomic_compare_exchange_n(&n_slots, &n, i + 1, 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
        }
        slot->team = team;
        __atomic_store_n(&slot->limit, team->limit, __ATOMIC_RELAXED);
        __atomic_store_n(&slot->state, OPEN | (uint32_t)(team->n_threads - 1), __ATOMIC_RELEASE);
        return slot;
    }
    return NULL;
}

/* Spins as long as a helper does, then sleeps: the helper's processor may be another program's for some time. */
static void wait_for_helpers(slot_t* slot, uint32_t s) {
    const int64_t begin = tfast_os_now();
    for (unsigned turn = 1; s & INSIDE; turn++) {
        if (turn % TURNS_PER_LOOK == 0 && (crowded() || tfast_os_now() - begin > SPIN_NS)) {
            s = __atomic_or_fetch(&slot->state, WAITED, __ATOMIC_ACQUIRE);
            if (s & INSIDE) tfast_os_wait(&slot->state, s);
        }
        tfast_cpu_relax();
        s = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
    }
}

static void close_loop(slot_t* slot) {
    const uint32_t s = __atomic_and_fetch(&slot->state, ~OPEN, __ATOMIC_ACQ_REL);
    if (s & INSIDE) wait_for_helpers(slot, s);
    __atomic_store_n(&slot->state, 0, __ATOMIC_RELEASE);
}

/* A helper may have fallen asleep for the other callers that there were, and they may be gone. */
static int call_for_the_rest(const tfast_team* team, const slot_t* slot) {
    const uint64_t p = pool_now();
    if (spinning(p) || !sleeping(p)) return 0;
    const int tickets = (int)(__atomic_load_n(&slot->state, __ATOMIC_RELAXED) & TICKETS);
    return tickets ? call_helpers(p, tickets, team->limit) : 0;
}

static void run_open(tfast_team* team, slot_t* slot) {
    double since_call = 0;
    while (tfast_team_step(team, 0)) {
        since_call += team->loop->task_ns;
        const int64_t left = team->loop->n_tasks - __atomic_load_n(&team->next, __ATOMIC_RELAXED);
        if (since_call < WORTH_WAKING_NS || (double)left * team->loop->task_ns < WORTH_WAKING_NS) continue;
        since_call = 0;
        call_for_the_rest(team, slot);
    }
}

static int begin(int n) {
    return inside ? 1 : n;
}

static void run(tfast_team* team) {
    if (inside) {
        tfast_serial.run(team);
        return;
    }
    if (!__atomic_load_n(&processors, __ATOMIC_RELAXED))
        __atomic_store_n(&processors, tfast_os_usable_processors(), __ATOMIC_RELAXED);
    inside = 1;
    tfast_team_take_place(team);
    __atomic_store_n(&place_of_caller, tfast_os_current_processor(), __ATOMIC_RELAXED);
    slot_t* slot = team->n_threads > 1 ? open_loop(team) : NULL;
    const uint64_t now = __atomic_add_fetch(&pool, CALLER, __ATOMIC_ACQ_REL);
    note_callers(callers(now));
    if (slot) {
        const int woken = call_helpers(now, team->n_threads - 1, team->limit);
        run_open(team, slot);
        close_loop(slot);
        /* It may be waiting for this very processor, on which Linux has woken it: it has to run there once to leave. */
        if (woken && sleeping(pool_now())) tfast_os_yield();
    } else {
        tfast_serial.run(team);
    }
    __atomic_fetch_sub(&pool, CALLER, __ATOMIC_RELEASE);
    inside = 0;
}

static void end(int n) {
    (void)n;
}

static void after_fork_in_child(void) {
    memset(slots, 0, sizeof slots);
    __atomic_store_n(&pool, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&crowd, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&n_helpers, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&refused, 0, __ATOMIC_RELAXED);
    __atomic_clear(&starting, __ATOMIC_RELAXED);
}

const tfast_backend tfast_native = {"native", begin, run, end, after_fork_in_child};
