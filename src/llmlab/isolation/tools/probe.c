/* The probe's command line, its list of attempts, and how each of them is run. */
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof(*(array)))

struct entry {
    const char *check;
    attempt_function *run;
    char *argument;
    int limit_ms;
    bool together;
    char text[400];
    pid_t pid;
    double started;
};

static struct entry entries[300];
static size_t entry_count;

static const char *const check_names[] = {
    "N1", "N2", "N3", "N4", "N5", "N6", "N7", "N8", "F1", "F2", "F3", "F4", "F5", "F6", "P1",
    "P2", "P3", "P4", "P5", "P6", "R1", "R2", "R3", "R4", "G1",
};

struct key {
    const char *modes; /* a: attempt, s: serve, c: connect */
    const char *name;
    const char *value;
};

static struct key keys[] = {
    {"a", "checks", NULL},   {"as", "nonce", NULL},      {"a", "lan", NULL},          {"a", "gateway", NULL},
    {"a", "loopback", NULL}, {"a", "metadata", NULL},    {"as", "dns", NULL},         {"a", "name", NULL},
    {"as", "udp", NULL},     {"a", "sibling", NULL},     {"a", "marker", NULL},       {"a", "model", NULL},
    {"a", "scratch", NULL},  {"a", "fill_mib", NULL},    {"a", "fds", NULL},          {"a", "forks", NULL},
    {"a", "alloc_mib", NULL}, {"a", "burn_s", NULL},     {"a", "cpu_limit", NULL},    {"a", "docker_socks", NULL},
    {"a", "host_paths", NULL}, {"a", "mounts", NULL},    {"a", "socket_dir", NULL},   {"s", "tcp", NULL},
    {"s", "seconds", NULL},  {"c", "path", NULL},
};

/* Settings */

void usage_error(const char *format, ...) {
    va_list arguments;
    fputs("probe: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

static void read_settings(char mode, char **words) {
    for (; *words; words++) {
        char *equals = strchr(*words, '=');
        struct key *found = NULL;
        for (size_t i = 0; equals && i < LENGTH(keys); i++) {
            size_t length = (size_t)(equals - *words);
            if (strchr(keys[i].modes, mode) && strlen(keys[i].name) == length &&
                !strncmp(keys[i].name, *words, length)) {
                found = &keys[i];
            }
        }
        if (!found) usage_error("unknown argument: %s", *words);
        found->value = equals[1] ? equals + 1 : NULL;
    }
}

const char *setting(const char *key) {
    for (size_t i = 0; i < LENGTH(keys); i++) {
        if (!strcmp(keys[i].name, key)) return keys[i].value;
    }
    return NULL;
}

double setting_fraction(const char *key, double most) {
    const char *text = setting(key);
    if (!text) return 0;
    char *end;
    double value = strtod(text, &end);
    if (*end || !(value > 0 && value <= most)) usage_error("%s has to be a number up to %g: %s", key, most, text);
    return value;
}

long setting_number(const char *key, long most) {
    double value = setting_fraction(key, (double)most);
    if (value != (double)(long)value) usage_error("%s has to be a whole number: %s", key, setting(key));
    return (long)value;
}

void each_in_list(const char *key, void (*take)(const char *item, const void *context), const void *context) {
    const char *value = setting(key);
    if (!value) return;
    char *copy = strdup(value), *state = NULL;
    if (!copy) abort();
    for (char *item = strtok_r(copy, ",", &state); item; item = strtok_r(NULL, ",", &state)) take(item, context);
    free(copy);
}

bool parse_address(const char *text, struct sockaddr_storage *address, socklen_t *length) {
    char host[64];
    const char *port = NULL;
    size_t host_length;
    if (*text == '[') {
        const char *end = strchr(++text, ']');
        if (!end || (end[1] && end[1] != ':')) return false;
        host_length = (size_t)(end - text);
        if (end[1]) port = end + 2;
    } else {
        const char *colon = strchr(text, ':');
        bool bare = colon && strchr(colon + 1, ':'); /* IPv6 without brackets has no port */
        host_length = colon && !bare ? (size_t)(colon - text) : strlen(text);
        if (colon && !bare) port = colon + 1;
    }
    if (host_length >= sizeof host) return false;
    memcpy(host, text, host_length);
    host[host_length] = 0;
    char *end = NULL;
    long number = port ? strtol(port, &end, 10) : 0;
    if (port && (end == port || *end || number < 1 || number > 65535)) return false;
    memset(address, 0, sizeof *address);
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)number);
        *length = sizeof *four;
        return true;
    }
    if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)number);
        *length = sizeof *six;
        return true;
    }
    return false;
}

/* What is observed, and JSON */

static const char *errno_name(int number) {
    static const struct { int number; const char *name; } names[] = {
        {EPERM, "EPERM"}, {ENOENT, "ENOENT"}, {EIO, "EIO"}, {ENXIO, "ENXIO"}, {E2BIG, "E2BIG"},
        {ENOEXEC, "ENOEXEC"}, {EBADF, "EBADF"}, {EAGAIN, "EAGAIN"}, {ENOMEM, "ENOMEM"}, {EACCES, "EACCES"},
        {EFAULT, "EFAULT"}, {EBUSY, "EBUSY"}, {EEXIST, "EEXIST"}, {ENODEV, "ENODEV"}, {ENOTDIR, "ENOTDIR"},
        {EISDIR, "EISDIR"}, {EINVAL, "EINVAL"}, {ENFILE, "ENFILE"}, {EMFILE, "EMFILE"}, {ETXTBSY, "ETXTBSY"},
        {EFBIG, "EFBIG"}, {ENOSPC, "ENOSPC"}, {EROFS, "EROFS"}, {EPIPE, "EPIPE"}, {ENOSYS, "ENOSYS"},
        {ELOOP, "ELOOP"}, {ENODATA, "ENODATA"}, {EDQUOT, "EDQUOT"}, {EUSERS, "EUSERS"},
        {ENAMETOOLONG, "ENAMETOOLONG"}, {EPROTONOSUPPORT, "EPROTONOSUPPORT"}, {EOPNOTSUPP, "EOPNOTSUPP"},
        {ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"}, {EAFNOSUPPORT, "EAFNOSUPPORT"}, {EADDRINUSE, "EADDRINUSE"},
        {EADDRNOTAVAIL, "EADDRNOTAVAIL"}, {ENETDOWN, "ENETDOWN"}, {ENETUNREACH, "ENETUNREACH"},
        {ECONNRESET, "ECONNRESET"}, {ETIMEDOUT, "ETIMEDOUT"}, {ECONNREFUSED, "ECONNREFUSED"},
        {EHOSTUNREACH, "EHOSTUNREACH"}, {EHOSTDOWN, "EHOSTDOWN"},
    };
    for (size_t i = 0; i < LENGTH(names); i++) {
        if (names[i].number == number) return names[i].name;
    }
    return NULL;
}

void append(char *text, size_t size, const char *format, ...) {
    size_t length = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + length, size - length, format, arguments);
    va_end(arguments);
}

void observe(struct result *result, const char *text, ...) {
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(result->observed, sizeof result->observed, text, arguments);
    va_end(arguments);
}

void observe_errno(struct result *result, const char *call) {
    int number = errno;
    const char *name = errno_name(number);
    char other[24];
    snprintf(other, sizeof other, "errno %d", number);
    observe(result, "%s: %s%s%s%s", name ? name : other, strerror(number), call ? " (" : "", call ? call : "",
            call ? ")" : "");
}

/* How many bytes at `text` are one valid UTF-8 character; 0 if they are none. */
static size_t utf8_length(const unsigned char *text, size_t left) {
    size_t length = *text < 0x80 ? 1 : *text < 0xC2 ? 0 : *text < 0xE0 ? 2 : *text < 0xF0 ? 3 : *text < 0xF5 ? 4 : 0;
    if (length > left) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80) return 0;
    }
    if (length == 3 && ((*text == 0xE0 && text[1] < 0xA0) || (*text == 0xED && text[1] > 0x9F))) return 0;
    if (length == 4 && ((*text == 0xF0 && text[1] < 0x90) || (*text == 0xF4 && text[1] > 0x8F))) return 0;
    return length;
}

void print_json_string(const char *text, size_t length) {
    const unsigned char *at = (const unsigned char *)text, *end = at + length;
    putchar('"');
    while (at < end) {
        size_t bytes = utf8_length(at, (size_t)(end - at));
        if (!bytes) {
            fputs("\\ufffd", stdout);
            bytes = 1;
        } else if (*at == '"' || *at == '\\') {
            printf("\\%c", *at);
        } else if (*at < 0x20 || *at == 0x7F) {
            printf("\\u%04x", *at);
        } else {
            fwrite(at, 1, bytes, stdout);
        }
        at += bytes;
    }
    putchar('"');
}

static void print_attempt(const char *check, const char *text, const struct result *result) {
    printf("{\"check\":\"%s\",\"attempt\":", check);
    print_json_string(text, strlen(text));
    printf(",\"succeeded\":%s,\"observed\":", result->succeeded ? "true" : "false");
    print_json_string(result->observed, strlen(result->observed));
    if (result->sent >= 0) printf(",\"sent\":%s", result->sent ? "true" : "false");
    if (result->ms > 0) printf(",\"ms\":%.1f", result->ms);
    if (result->inode) printf(",\"inode\":%llu", result->inode);
    puts("}");
    fflush(stdout);
}

/* Running the attempts */

double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static bool wanted(const char *check) {
    const char *list = setting("checks");
    size_t length = strlen(check);
    for (const char *at = list; at && *at; at += strcspn(at, ","), at += *at == ',') {
        if (strcspn(at, ",") == length && !strncmp(at, check, length)) return true;
    }
    return !list;
}

static void known_check(const char *name, const void *unused) {
    (void)unused;
    for (size_t i = 0; i < LENGTH(check_names); i++) {
        if (!strcmp(name, check_names[i])) return;
    }
    usage_error("unknown check: %s", name);
}

static void add(const char *check, int limit_ms, attempt_function *run, const char *argument, bool together,
                const char *text, va_list arguments) {
    if (!wanted(check)) return;
    if (entry_count == LENGTH(entries)) usage_error("too many attempts");
    struct entry *entry = &entries[entry_count++];
    *entry = (struct entry){.check = check, .run = run, .limit_ms = limit_ms, .together = together};
    entry->argument = argument ? strdup(argument) : NULL;
    vsnprintf(entry->text, sizeof entry->text, text, arguments);
}

void attempt(const char *check, int limit_ms, attempt_function *run, const char *argument, const char *text, ...) {
    va_list arguments;
    va_start(arguments, text);
    add(check, limit_ms, run, argument, false, text, arguments);
    va_end(arguments);
}

void attempt_together(const char *check, int limit_ms, attempt_function *run, const char *argument,
                      const char *text, ...) {
    va_list arguments;
    va_start(arguments, text);
    add(check, limit_ms, run, argument, true, text, arguments);
    va_end(arguments);
}

static void start_attempt(struct entry *entry, struct result *result) {
    result->sent = -1;
    entry->started = now_ms();
    entry->pid = fork();
    if (entry->pid == 0) {
        setpgid(0, 0);
        entry->run(result, entry->argument);
        result->ms = now_ms() - entry->started;
        result->finished = true;
        _exit(0);
    }
    if (entry->pid < 0) {
        observe_errno(result, "fork");
        return;
    }
    setpgid(entry->pid, entry->pid); /* whichever of the two comes first */
}

static void finish_attempt(struct entry *entry, struct result *result) {
    if (entry->pid < 0) return;
    siginfo_t info;
    bool late = false;
    for (;;) {
        info.si_pid = 0;
        /* It is left as a zombie until its group is gone: until then nobody else can get its pid. */
        if (waitid(P_PID, (id_t)entry->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid) break;
        if (now_ms() - entry->started > entry->limit_ms) {
            late = true;
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    kill(-entry->pid, SIGKILL);
    int status = 0;
    while (waitpid(entry->pid, &status, 0) < 0 && errno == EINTR) {}
    if (result->finished) return;
    result->ms = now_ms() - entry->started;
    char before[sizeof result->observed];
    memcpy(before, result->observed, sizeof before);
    const char *comma = *before ? ", after: " : "";
    result->succeeded = false;
    if (late) {
        observe(result, "no end within %g s%s%.400s", entry->limit_ms / 1000.0, comma, before);
    } else if (WIFSIGNALED(status)) {
        int number = WTERMSIG(status);
        const char *name = number == SIGKILL ? " (SIGKILL)" : number == SIGSYS ? " (SIGSYS)" : "";
        observe(result, "killed by signal %d%s%s%.400s", number, name, comma, before);
    } else {
        observe(result, "ended without a result%s%.400s", comma, before);
    }
}

static int run_attempts(void) {
    each_in_list("checks", known_check, NULL);
    list_network_attempts();
    list_file_attempts();
    list_process_attempts();
    list_limit_attempts();
    struct result *results = mmap(NULL, sizeof *results * (entry_count + 1), PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (results == MAP_FAILED) {
        perror("probe: mmap");
        return 1;
    }
    for (size_t i = 0; i < entry_count; i++) {
        size_t end = i + 1;
        while (entries[i].together && end < entry_count && entries[end].together && end - i < 32) end++;
        for (size_t j = i; j < end; j++) start_attempt(&entries[j], &results[j]);
        for (size_t j = i; j < end; j++) {
            finish_attempt(&entries[j], &results[j]);
            print_attempt(entries[j].check, entries[j].text, &results[j]);
        }
        i = end - 1;
    }
    puts("{\"done\":true}");
    return fflush(stdout) ? 1 : 0;
}

static int run_connect(void) {
    const char *path = setting("path");
    if (!path) usage_error("connect needs path=");
    struct result result = {.sent = -1};
    char text[400];
    snprintf(text, sizeof text, "connect to %s", path);
    connect_unix(&result, path);
    print_attempt("A1", text, &result);
    return 0;
}

int main(int count, char **words) {
    const char *mode = count > 1 ? words[1] : "";
    if (!strcmp(mode, "whoami")) return whoami();
    /* A copy of the image holds this program as setuid root: there it says who it is, and no more. */
    if (geteuid() != getuid() || getegid() != getgid()) usage_error("as a setuid program only: probe whoami");
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(mode, "attempt") || !strcmp(mode, "serve") || !strcmp(mode, "connect")) {
        read_settings(*mode, words + 2);
        return *mode == 'a' ? run_attempts() : *mode == 's' ? serve() : run_connect();
    }
    usage_error("one of: attempt, serve, connect, whoami; then key=value ...");
}
