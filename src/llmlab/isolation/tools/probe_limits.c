/* What a process may use up: R1 to R4. */
#include "probe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_MS = 2000, MIB = 1024 * 1024 };

/* R1 */
static void die_first(void) {
    FILE *file = fopen("/proc/self/oom_score_adj", "we");
    if (!file) return;
    fputs("1000", file);
    fclose(file);
}

static void allocate(struct result *result, const char *unused) {
    long most = setting_number("alloc_mib", 1 << 20);
    long page = sysconf(_SC_PAGESIZE);
    (void)unused;
    die_first();
    for (long done = 0; done < most; done++) {
        char *block = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) return observe_errno(result, "mmap");
        for (long at = 0; at < MIB; at += page) block[at] = 1;
        observe(result, "allocated %ld MiB", done + 1);
    }
    result->succeeded = true;
}

/* R2 */
static pid_t fork_idle(void) {
    pid_t parent = getpid(), pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* 0 is a parent outside of this process's pid namespace. */
    while (getppid() == parent || getppid() == 0) pause();
    _exit(0);
}

static void fork_many(struct result *result, const char *unused) {
    long most = setting_number("forks", 100000), made = 0;
    pid_t *children = calloc((size_t)most, sizeof *children);
    (void)unused;
    if (!children) return observe_errno(result, "calloc");
    /* Where it may: a pid namespace is cleared by the kernel. In one that is shared with the machine, hundreds of
     * processes whose parent is killed fall to the engine's shim at once, and old ones then wait for ever. */
    unshare(CLONE_NEWPID);
    while (made < most && (children[made] = fork_idle()) > 0) made++;
    if (made < most) {
        char after[60];
        snprintf(after, sizeof after, "after %ld of %ld", made, most);
        observe_errno(result, after);
    } else {
        result->succeeded = true;
        observe(result, "made %ld", made);
    }
    for (long i = 0; i < made; i++) kill(children[i], SIGKILL);
    /* The first may be the init of the others, which ends after them. */
    for (long i = made - 1; i >= 0; i--) waitpid(children[i], NULL, 0);
    free(children);
}

/* R3 */
static long long throttled(void) {
    static const char *const places[] = {"/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat",
                                         "/sys/fs/cgroup/cpu,cpuacct/cpu.stat"};
    char line[200];
    long long count = -1;
    for (size_t i = 0; count < 0 && i < sizeof places / sizeof *places; i++) {
        FILE *file = fopen(places[i], "re");
        while (file && count < 0 && fgets(line, sizeof line, file)) sscanf(line, "nr_throttled %lld", &count);
        if (file) fclose(file);
    }
    return count;
}

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void burn(struct result *result, const char *unused) {
    double duration = setting_fraction("burn_s", 30), limit = setting_fraction("cpu_limit", 100000);
    cpu_set_t allowed;
    struct rusage used;
    char stat[60] = "";
    (void)unused;
    int cpus = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    long long before = throttled();
    double start = seconds_of(CLOCK_MONOTONIC);
    for (int i = 0; i < cpus + 1; i++) {
        if (fork() == 0) {
            while (seconds_of(CLOCK_MONOTONIC) < start + duration) {}
            _exit(0);
        }
    }
    while (wait(NULL) > 0 || errno == EINTR) {}
    double wall = seconds_of(CLOCK_MONOTONIC) - start;
    getrusage(RUSAGE_CHILDREN, &used);
    double spent = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                   (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    result->succeeded = spent / wall > 1.5 * limit;
    if (before >= 0) snprintf(stat, sizeof stat, ", throttled %lld times", throttled() - before);
    observe(result, "%.2f CPU s in %.2f s: %.2f CPUs, limit %g%s", spent, wall, spent / wall, limit, stat);
}

/* R4 */
static void open_many(struct result *result, const char *unused) {
    long most = setting_number("fds", 10000000), made = 0;
    struct rlimit limit;
    (void)unused;
    /* As many as the hard limit allows, or more, if it may raise that. */
    getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t needed = (rlim_t)most + 64;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < needed) {
        struct rlimit raised = {needed, needed};
        if (setrlimit(RLIMIT_NOFILE, &raised) < 0) needed = limit.rlim_max;
    }
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < needed) {
        limit.rlim_cur = needed;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    while (made < most && dup(STDOUT_FILENO) >= 0) made++;
    if (made < most) {
        char after[60];
        snprintf(after, sizeof after, "after %ld of %ld", made, most);
        return observe_errno(result, after);
    }
    result->succeeded = true;
    observe(result, "opened %ld", made);
}

void list_limit_attempts(void) {
    if (setting("alloc_mib")) {
        long most = setting_number("alloc_mib", 1 << 20);
        attempt("R1", LIMIT_MS + (int)most * 4, allocate, NULL, "allocate %ld MiB", most);
    }
    if (setting("forks")) {
        long most = setting_number("forks", 100000);
        attempt("R2", LIMIT_MS + (int)most, fork_many, NULL, "make %ld processes", most);
    }
    if (setting("burn_s") && setting("cpu_limit")) {
        int burn_ms = (int)(setting_fraction("burn_s", 30) * 1000);
        double limit = setting_fraction("cpu_limit", 100000);
        attempt("R3", LIMIT_MS + 2 * burn_ms, burn, NULL, "use more than %g CPUs", limit);
    }
    if (setting("fds")) {
        long most = setting_number("fds", 10000000);
        attempt("R4", LIMIT_MS + (int)(most / 1000), open_many, NULL, "open %ld files", most);
    }
}
