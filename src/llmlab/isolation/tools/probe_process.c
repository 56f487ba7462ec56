/* What a process may become and see: P1 to P6. */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_MS = 2000, NOBODY = 65534 };

static void succeed(struct result *result, const char *observed) {
    result->succeeded = true;
    observe(result, "%s", observed);
}

bool status_hex(const char *name, unsigned long long *value) {
    char line[300];
    bool found = false;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        found = !strncmp(line, name, strlen(name)) && sscanf(line + strlen(name), " %llx", value) == 1;
    }
    if (file) fclose(file);
    return found;
}

int whoami(void) {
    unsigned long long effective = 0;
    status_hex("CapEff:", &effective);
    printf("{\"euid\":%u,\"cap_eff\":\"%016llx\"}\n", (unsigned)geteuid(), effective);
    return fflush(stdout) ? 1 : 0;
}

int run_program(const char *path, const char *argument, char *output, size_t size) {
    int text[2], trouble[2], error = 0;
    size_t length = 0;
    ssize_t got;
    *output = 0;
    if (pipe2(text, O_CLOEXEC) < 0 || pipe2(trouble, O_CLOEXEC) < 0) return errno;
    pid_t pid = fork();
    if (pid < 0) return errno;
    if (pid == 0) {
        dup2(text[1], STDOUT_FILENO);
        execl(path, path, argument, (char *)NULL);
        error = errno;
        /* Running a program closes this pipe; a byte in it says that it was not run. */
        _exit(write(trouble[1], &error, sizeof error) != sizeof error);
    }
    close(text[1]);
    close(trouble[1]);
    if (read(trouble[0], &error, sizeof error) != sizeof error) error = 0;
    while (length + 1 < size && (got = read(text[0], output + length, size - 1 - length)) > 0) length += (size_t)got;
    output[length] = 0;
    waitpid(pid, NULL, 0);
    close(text[0]);
    close(trouble[0]);
    return error;
}

/* P1 */
static void find_capabilities(struct result *result, const char *name) {
    unsigned long long value = 0;
    if (!status_hex(name, &value)) return observe(result, "no %s in /proc/self/status", name);
    result->succeeded = value != 0;
    observe(result, "%s %016llx", name, value);
}

static void change_owner(struct result *result, const char *folder) {
    char path[4200];
    snprintf(path, sizeof path, "%s/.llmlab-probe-owner-%d", folder, (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return observe_errno(result, "create");
    unlink(path);
    if (fchown(fd, 12345, (gid_t)-1) < 0) return observe_errno(result, NULL);
    succeed(result, "changed");
}

static void make_node(struct result *result, const char *folder) {
    char path[4200];
    snprintf(path, sizeof path, "%s/.llmlab-probe-node-%d", folder, (int)getpid());
    if (mknod(path, S_IFCHR | 0600, makedev(1, 3)) < 0) return observe_errno(result, NULL);
    unlink(path);
    succeed(result, "made");
}

static void change_root(struct result *result, const char *folder) {
    if (chroot(folder) < 0) return observe_errno(result, NULL);
    succeed(result, "changed");
}

/* P2: root has nothing to gain, so it becomes nobody first, where it may. */
static void run_setuid(struct result *result, const char *path) {
    char output[200];
    unsigned euid;
    unsigned long long before = 0, after;
    if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0)) {
        observe_errno(result, "leaving uid 0");
    }
    status_hex("CapEff:", &before);
    if ((errno = run_program(path, "whoami", output, sizeof output))) return observe_errno(result, NULL);
    if (sscanf(output, "{\"euid\":%u,\"cap_eff\":\"%llx\"", &euid, &after) != 2) return observe(result, "it said nothing");
    result->succeeded = (euid == 0 && geteuid() != 0) || (after & ~before) != 0;
    observe(result, "uid %u became %u, capabilities %llx became %llx", (unsigned)geteuid(), euid, before, after);
}

/* P3: whose uid 0 is outside this user namespace; a rootless engine's is an ordinary user. */
static long long root_outside(void) {
    unsigned long long inside, outside, count;
    long long found = -1;
    FILE *file = fopen("/proc/self/uid_map", "re");
    while (file && found < 0 && fscanf(file, "%llu %llu %llu", &inside, &outside, &count) == 3) {
        if (inside == 0 && count > 0) found = (long long)outside;
    }
    if (file) fclose(file);
    return found;
}

static void observe_uid(struct result *result) {
    long long outside = root_outside();
    result->succeeded = geteuid() == 0 && outside == 0;
    if (geteuid() == 0) observe(result, "uid 0, which is %lld outside", outside);
    else observe(result, "uid %u", (unsigned)geteuid());
}

static void be_root(struct result *result, const char *unused) {
    (void)unused;
    observe_uid(result);
}

static void become_root(struct result *result, const char *unused) {
    (void)unused;
    if (setuid(0) < 0) return observe_errno(result, NULL);
    observe_uid(result);
}

/* P4 */
static void mount_memory(struct result *result, const char *folder) {
    /* In a mount namespace of its own, which ends with this process. */
    if (unshare(CLONE_NEWNS) == 0) mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (mount("none", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=4k") < 0) return observe_errno(result, NULL);
    umount2(folder, MNT_DETACH);
    succeed(result, "mounted");
}

static void unshare_users(struct result *result, const char *unused) {
    (void)unused;
    if (unshare(CLONE_NEWUSER) < 0) return observe_errno(result, NULL);
    succeed(result, "made");
}

static void unshare_mounts(struct result *result, const char *unused) {
    (void)unused;
    if (unshare(CLONE_NEWNS) < 0) return observe_errno(result, NULL);
    succeed(result, "made");
}

static void make_bpf_map(struct result *result, const char *unused) {
    /* The head of union bpf_attr; the rest is zero. */
    struct { uint32_t type, key_size, value_size, entries; uint32_t rest[28]; } map = {2, 4, 4, 1, {0}};
    (void)unused;
    if (syscall(SYS_bpf, 0, &map, sizeof map) < 0) return observe_errno(result, NULL);
    succeed(result, "made");
}

static void join_keyring(struct result *result, const char *unused) {
    (void)unused;
    /* A new one, for this process only. */
    if (syscall(SYS_keyctl, 1, NULL) < 0) return observe_errno(result, NULL);
    succeed(result, "joined");
}

static void count_events(struct result *result, const char *unused) {
    /* The first version of struct perf_event_attr: this process's time in user mode. */
    struct { uint32_t type, size; uint64_t config[4], flags, rest[2]; } event = {
        .type = 1, .size = sizeof event, .flags = 1 | 1 << 5 | 1 << 6};
    (void)unused;
    if (syscall(SYS_perf_event_open, &event, 0, -1, -1, 0) < 0) return observe_errno(result, NULL);
    succeed(result, "opened");
}

static void handle_faults(struct result *result, const char *unused) {
    (void)unused;
    if (syscall(SYS_userfaultfd, O_CLOEXEC) < 0) return observe_errno(result, NULL);
    succeed(result, "opened");
}

/* P5: an argument "marker=..." belongs to a probe, this one's or another's. */
static bool has_marker(const char *command, size_t length, const char *marker) {
    for (size_t at = 0; at < length; at += strlen(command + at) + 1) {
        if (strncmp(command + at, "marker=", 7) != 0 && strstr(command + at, marker)) return true;
    }
    return false;
}

static void find_marker(struct result *result, const char *marker) {
    static char command[65536];
    struct dirent *entry;
    int seen = 0;
    DIR *folder = opendir("/proc");
    if (!folder) return observe_errno(result, "/proc");
    while ((entry = readdir(folder))) {
        char path[300];
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        ssize_t length = read(fd, command, sizeof command - 1);
        close(fd);
        seen++;
        if (length <= 0) continue;
        command[length] = 0;
        if (has_marker(command, (size_t)length, marker)) {
            result->succeeded = true;
            observe(result, "found, as process %s", entry->d_name);
            break;
        }
    }
    closedir(folder);
    if (!result->succeeded) observe(result, "not among %d processes", seen);
}

/* P6: which of the host's it shares is for the reader to say, who can see both. */
static void find_namespace(struct result *result, const char *path) {
    struct stat info;
    if (stat(path, &info) < 0) return observe_errno(result, path);
    result->inode = (unsigned long long)info.st_ino;
    observe(result, "inode %llu", result->inode);
}

void list_process_attempts(void) {
    const char *scratch = setting("scratch"), *marker = setting("marker");
    attempt("P1", LIMIT_MS, find_capabilities, "CapEff:", "effective capabilities");
    attempt("P1", LIMIT_MS, find_capabilities, "CapBnd:", "capabilities to be had");
    if (scratch) attempt("P1", LIMIT_MS, change_owner, scratch, "give a file to another user");
    if (scratch) attempt("P1", LIMIT_MS, make_node, scratch, "make a device node");
    attempt("P1", LIMIT_MS, change_root, scratch ? scratch : "/", "change the root directory");
    attempt("P2", LIMIT_MS, run_setuid, "/probe-suid", "gain from a setuid program");
    attempt("P3", LIMIT_MS, be_root, NULL, "be root of the host");
    attempt("P3", LIMIT_MS, become_root, NULL, "setuid(0)");
    attempt("P4", LIMIT_MS, mount_memory, scratch ? scratch : "/", "mount a tmpfs");
    attempt("P4", LIMIT_MS, unshare_users, NULL, "make a user namespace");
    attempt("P4", LIMIT_MS, unshare_mounts, NULL, "make a mount namespace");
    attempt("P4", LIMIT_MS, make_bpf_map, NULL, "make a bpf map");
    attempt("P4", LIMIT_MS, join_keyring, NULL, "join a new session keyring");
    attempt("P4", LIMIT_MS, count_events, NULL, "open a performance counter");
    attempt("P4", LIMIT_MS, handle_faults, NULL, "handle page faults");
    if (marker) attempt("P5", LIMIT_MS, find_marker, marker, "find a process of the host");
    attempt("P6", LIMIT_MS, find_namespace, "/proc/self/ns/ipc", "ipc namespace");
    attempt("P6", LIMIT_MS, find_namespace, "/proc/self/ns/uts", "uts namespace");
    attempt("P6", LIMIT_MS, find_namespace, "/proc/self/ns/pid", "pid namespace");
    attempt("P6", LIMIT_MS, find_namespace, "/proc/self/ns/net", "network namespace");
    attempt("P6", LIMIT_MS, find_namespace, "/proc/self/ns/cgroup", "cgroup namespace");
}
