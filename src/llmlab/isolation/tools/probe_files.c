/* What the file system lets through: F1 to F6, and G1. */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIMIT_MS = 2000, MIB = 1024 * 1024 };

static void path_in(const char *folder, const char *purpose, char *path, size_t size) {
    snprintf(path, size, "%s/.llmlab-probe-%s-%d", strcmp(folder, "/") ? folder : "", purpose, (int)getpid());
}

/* F1, F2, F5: the file is gone again before anything else happens. */
static void create_file(struct result *result, const char *folder) {
    char path[4200];
    path_in(folder, "new", path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return observe_errno(result, NULL);
    unlink(path);
    close(fd);
    result->succeeded = true;
    observe(result, "created");
}

/* F2: beside a file, or in it if it is a directory. */
static void create_beside(struct result *result, const char *model) {
    char folder[4096];
    struct stat info;
    snprintf(folder, sizeof folder, "%s", model);
    char *slash = strrchr(folder, '/');
    if (stat(model, &info) < 0 || !S_ISDIR(info.st_mode)) slash[slash == folder] = 0;
    create_file(result, folder);
}

static void open_for_writing(struct result *result, const char *path) {
    /* Without O_TRUNC, and nothing is written. */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return observe_errno(result, NULL);
    close(fd);
    result->succeeded = true;
    observe(result, "opened");
}

/* F2: whether the mount itself is read-only, where the file's owner and mode forbid writing anyway.
 * chown(2) asks the mount first and the file second, so the error tells which of them refused. It is
 * only called where the file refused to be opened, and with the owner that the file has. */
static void write_through_mount(struct result *result, const char *path) {
    struct stat info;
    int fd = open(path, O_RDWR | O_CLOEXEC), error = errno;
    if (fd >= 0) close(fd);
    result->succeeded = fd >= 0;
    if (fd < 0 && error == EACCES && stat(path, &info) == 0) {
        error = chown(path, info.st_uid, (gid_t)-1) == 0 ? 0 : errno;
        result->succeeded = error == 0 || error == EPERM;
    }
    if (result->succeeded) return observe(result, "the mount can be written");
    errno = error;
    observe_errno(result, NULL);
}

/* F3 */
static int copy_itself(const char *path) {
    char block[65536];
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), error = 0;
    int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
    ssize_t got = 0;
    if (from < 0 || to < 0) error = errno;
    while (!error && (got = read(from, block, sizeof block)) > 0) {
        if (write(to, block, (size_t)got) != got) error = errno ? errno : ENOSPC;
    }
    if (got < 0) error = errno;
    if (from >= 0) close(from);
    if (to >= 0) close(to);
    return error;
}

static void run_copy(struct result *result, const char *folder) {
    char path[4200], output[200];
    path_in(folder, "copy", path, sizeof path);
    if ((errno = copy_itself(path))) {
        observe_errno(result, "copy");
    } else if ((errno = run_program(path, "whoami", output, sizeof output))) {
        observe_errno(result, NULL);
    } else {
        result->succeeded = strstr(output, "euid") != NULL;
        observe(result, result->succeeded ? "it ran" : "it said nothing");
    }
    unlink(path);
}

/* F4: the file has no name while it grows, so nothing is left if this process is killed. */
static void fill(struct result *result, const char *folder) {
    char path[4200];
    static char block[MIB];
    long most = setting_number("fill_mib", 1 << 20);
    path_in(folder, "fill", path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return observe_errno(result, NULL);
    unlink(path);
    memset(block, 'x', sizeof block);
    for (long done = 0; done < most; done++) {
        ssize_t wrote = write(fd, block, sizeof block);
        if (wrote != MIB) {
            char after[60];
            if (wrote >= 0) errno = ENOSPC;
            snprintf(after, sizeof after, "after %ld of %ld MiB", done, most);
            return observe_errno(result, after);
        }
        observe(result, "wrote %ld MiB", done + 1);
    }
    result->succeeded = true;
}

/* F5 */
static void open_path(struct result *result, const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return observe_errno(result, NULL);
    close(fd);
    result->succeeded = true;
    observe(result, "opened");
}

static void create_after_chmod(struct result *result, const char *folder) {
    struct stat before;
    if (stat(folder, &before) < 0) return observe_errno(result, "stat");
    if (chmod(folder, 0700) < 0) return observe_errno(result, "chmod");
    create_file(result, folder);
    chmod(folder, before.st_mode & 07777);
}

static bool is_one_of(const char *text, const char *const *list) {
    for (; *list; list++) {
        if (!strcmp(text, *list)) return true;
    }
    return false;
}

static bool is_below(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == 0 || path[length] == '/');
}

/* What every container engine mounts into a container. */
static bool is_usual(const char *path, const char *type) {
    static const char *const types[] = {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", NULL};
    static const char *const files[] = {
        "/", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/sbin/docker-init", "/dev/init",
        "/run/podman-init", "/run/.containerenv", "/dev/console",
        /* Rootless engines cannot make these nodes and mount the host's. */
        "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", NULL};
    static const char *const memory[] = {"/dev", "/dev/shm", NULL};
    if (is_one_of(path, files) || is_one_of(type, types)) return true;
    if (!strcmp(type, "tmpfs")) return is_one_of(path, memory) || is_below(path, "/sys") || is_below(path, "/proc");
    return is_below(path, "/proc");
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), of_end = strlen(end);
    return length >= of_end && !strcmp(text + length - of_end, end);
}

/* Nothing of the machine shows in them: Podman's account file of the container's own, an empty directory
 * of the runtime crun over what is to be hidden, a read-only file system in memory over what is to be closed.
 * By its size, which nothing else has: one of the machine's that is mounted here may be read-only, too. */
static bool is_of_engine(const char *path, const char *type, const char *root, const char *options, const char *made_with) {
    const char *own = strstr(root, "-containers/");
    if (!strcmp(path, "/etc/passwd") || !strcmp(path, "/etc/group")) {
        return own && strspn(own + 12, "0123456789abcdef") == 64 && !strncmp(own + 76, "/userdata/", 10);
    }
    if (strncmp(options, "ro,", 3)) return false;
    if (is_below(path, "/sys")) return ends_with(root, "/crun/.empty-directory");
    return !strcmp(type, "tmpfs") && strstr(options, ",noexec") && strstr(made_with, "size=64k");
}

static void mark_expected(const char *folder, const void *context) {
    const char *const *path = context;
    if (*path && is_below(*path, folder)) *(const char **)context = NULL;
}

/* mountinfo writes a space as \040. */
static void decode(char *text) {
    char *to = text;
    for (; *text; text++) {
        if (*text == '\\' && text[1] && text[2] && text[3]) {
            *to++ = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + text[3] - '0');
            text += 3;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
}

static void find_mounts(struct result *result, const char *unused) {
    char *line = NULL, path[4200], root[4200], options[300], type[64], found[300] = "";
    size_t size = 0;
    (void)unused;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file) return observe_errno(result, "/proc/self/mountinfo");
    while (getline(&line, &size, file) > 0) {
        const char *after = strstr(line, " - ");
        if (!after || sscanf(line, "%*s %*s %*s %4199s %4199s %299s", root, path, options) != 3 ||
            sscanf(after, " - %63s", type) != 1) continue;
        decode(path);
        const char *unexpected = path;
        each_in_list("mounts", mark_expected, &unexpected);
        if (!unexpected || is_usual(path, type) || is_of_engine(path, type, root, options, after)) continue;
        result->succeeded = true;
        append(found, sizeof found, "%s%s (%s)", *found ? ", " : "", path, type);
    }
    free(line);
    fclose(file);
    observe(result, "%s", *found ? found : "none");
}

/* F6: an engine may hide /proc/kcore behind /dev/null, which opens and is empty. */
static void read_byte(struct result *result, const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return observe_errno(result, NULL);
    ssize_t got = read(fd, &byte, 1);
    if (got < 0) return observe_errno(result, "read");
    result->succeeded = got == 1;
    observe(result, result->succeeded ? "read" : "it is empty");
}

static void open_write_only(struct result *result, const char *path) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return observe_errno(result, NULL);
    close(fd);
    result->succeeded = true;
    observe(result, "opened");
}

/* G1 */
static void open_device(struct result *result, const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return observe_errno(result, NULL);
    close(fd);
    result->succeeded = true;
    observe(result, "opened");
}

static void add_devices(const char *folder, const char *prefix) {
    struct dirent **names;
    int count = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char path[400];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        bool device = !stat(path, &info) && S_ISCHR(info.st_mode);
        if (device && !strncmp(names[i]->d_name, prefix, strlen(prefix))) {
            attempt("G1", LIMIT_MS, open_device, path, "open %s", path);
        }
        free(names[i]);
    }
    if (count >= 0) free(names);
}

static void add_socket(const char *path, const void *unused) {
    (void)unused;
    attempt("F5", LIMIT_MS, connect_unix, path, "connect to %s", path);
}

static void add_path(const char *path, const void *unused) {
    (void)unused;
    attempt("F5", LIMIT_MS, open_path, path, "open %s", path);
}

static void add_model_attempts(const char *model) {
    if (*model != '/' || !strrchr(model, '/')[1]) usage_error("model has to be an absolute path: %s", model);
    attempt("F2", LIMIT_MS, open_for_writing, model, "open %s for writing", model);
    attempt("F2", LIMIT_MS, write_through_mount, model, "write through the mount of %s", model);
    attempt("F2", LIMIT_MS, create_beside, model, "create a file beside %s", model);
}

void list_file_attempts(void) {
    /* The last of these is the image's only directory, apart from mounts, that everybody may write to:
     * there a writable root shows for users other than root, too. */
    static const char *const folders[] = {"/", "/etc", "/var/tmp"};
    const char *scratch = setting("scratch"), *shared = setting("socket_dir");
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        attempt("F1", LIMIT_MS, create_file, folders[i], "create a file in %s", folders[i]);
    }
    if (setting("model")) add_model_attempts(setting("model"));
    if (scratch) attempt("F3", LIMIT_MS, run_copy, scratch, "run a program from %s", scratch);
    if (scratch && setting("fill_mib")) {
        long most = setting_number("fill_mib", 1 << 20);
        attempt("F4", LIMIT_MS + (int)most, fill, scratch, "write %ld MiB into %s", most, scratch);
    }
    each_in_list("docker_socks", add_socket, NULL);
    each_in_list("host_paths", add_path, NULL);
    if (setting("mounts")) attempt("F5", LIMIT_MS, find_mounts, NULL, "other mounts");
    if (shared) {
        attempt("F5", LIMIT_MS, create_file, shared, "create a file in %s", shared);
        attempt("F5", LIMIT_MS, create_after_chmod, shared, "create a file in %s after chmod", shared);
    }
    attempt("F6", LIMIT_MS, read_byte, "/proc/kcore", "read /proc/kcore");
    attempt("F6", LIMIT_MS, open_write_only, "/proc/sysrq-trigger", "open /proc/sysrq-trigger for writing");
    attempt("F6", LIMIT_MS, open_write_only, "/proc/sys/kernel/core_pattern",
            "open /proc/sys/kernel/core_pattern for writing");
    add_devices("/dev", "nvidia");
    add_devices("/dev/nvidia-caps", "");
    add_devices("/dev/dri", "");
    add_devices("/dev", "kfd");
    add_devices("/dev", "dxg");
}
