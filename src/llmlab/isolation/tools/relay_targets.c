/* The targets: what the file says of them, and which one is next. */
#define _GNU_SOURCE
#include "relay_balance.h"
#include "relay.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_MAX 16384
#define WEIGHT_MAX 4096

target targets[TARGETS_MAX];
char file_error[ERROR_MAX] = "it has not been read yet";
long long file_read_ms;

typedef struct {
    char id[ID_MAX + 1], address[ADDRESS_MAX];
    int weight, drain;
} entry;

long long clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void target_error(target *one, const char *what, const char *why)
{
    snprintf(one->error, sizeof one->error, "%s%s%s", what, why ? ": " : "", why ? why : "");
}

void target_restate(target *one, enum health health)
{
    static const char *const names[] = {"loading", "ready", "lost"};
    const char *shown = one->drain || one->gone ? "draining" : names[health];
    one->health = health;
    if (shown != one->shown && (!one->shown || strcmp(shown, one->shown))) {
        one->shown = shown;
        one->since_ms = clock_ms();
    }
}

void target_release(target *one)
{
    if (!one->gone || one->open)
        return;
    if (one->probe >= 0)
        close(one->probe);
    one->used = 0;
}

int target_choose(uint64_t without, long now)
{
    int best = -1, best_shunned = 0;
    for (int at = 0; at < TARGETS_MAX; at++) {
        const target *one = targets + at, *other = targets + best;
        if (!one->used || one->gone || one->drain || one->health != READY || without >> at & 1)
            continue;
        int shunned = one->shunned > now;
        long long mine = 0, its = 0;
        if (best >= 0) {
            mine = (long long)one->open * other->weight;
            its = (long long)other->open * one->weight;
        }
        if (best < 0 || shunned < best_shunned ||
            (shunned == best_shunned && (mine < its || (mine == its && one->turn < other->turn)))) {
            best = at;
            best_shunned = shunned;
        }
    }
    return best;
}

/* A number of digits only; -1 if it is none or out of bounds. */
static int number(const char *text, int most)
{
    if (!*text || strlen(text) > 5 || strspn(text, "0123456789") != strlen(text))
        return -1;
    int found = atoi(text);
    return found < 1 || found > most ? -1 : found;
}

static const char *parse_address(const char *text, char *into)
{
    struct in_addr ip;
    const char *colon = strchr(text, ':');
    if (!colon || strlen(text) >= ADDRESS_MAX)
        return "an address is IPv4:PORT";
    strcpy(into, text);
    into[colon - text] = '\0';
    if (inet_pton(AF_INET, into, &ip) != 1 || number(colon + 1, 65535) < 0)
        return "an address is IPv4:PORT";
    into[colon - text] = ':';
    return NULL;
}

/* ID IPv4:PORT WEIGHT [drain]; returns what is wrong. */
static const char *parse_line(char *line, entry *into)
{
    char *rest = NULL;
    char *id = strtok_r(line, " \t", &rest), *address = strtok_r(NULL, " \t", &rest);
    char *weight = strtok_r(NULL, " \t", &rest), *drain = strtok_r(NULL, " \t", &rest);
    if (!weight || strtok_r(NULL, " \t", &rest))
        return "a line is ID IPv4:PORT WEIGHT [drain]";
    for (const char *c = id; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            return "an ID is made of letters, digits, '.', '_' and '-'";
    if (strlen(id) > ID_MAX)
        return "an ID is too long";
    strcpy(into->id, id);
    into->weight = number(weight, WEIGHT_MAX);
    if (into->weight < 0)
        return "a weight is a number from 1 to 4096";
    into->drain = drain != NULL;
    if (drain && strcmp(drain, "drain"))
        return "only 'drain' may stand behind the weight";
    return parse_address(address, into->address);
}

static int parse(char *text, entry *entries)
{
    int count = 0, at = 0;
    for (char *line = text, *end; *line; line = end + 1) {
        at++;
        end = strchr(line, '\n');
        const char *wrong = end ? NULL : "its end is missing";
        if (end) {
            *end = '\0';
            line[strcspn(line, "#")] = '\0';
            if (line[strspn(line, " \t")] == '\0')
                continue;
            wrong = count == TARGETS_MAX ? "there are too many targets" : parse_line(line, entries + count);
        }
        for (int other = 0; !wrong && other < count; other++)
            if (!strcmp(entries[other].id, entries[count].id))
                wrong = "this ID stands there twice";
        if (wrong) {
            snprintf(file_error, sizeof file_error, "line %d: %s", at, wrong);
            return -1;
        }
        count++;
    }
    return count;
}

static target *find(const entry *wanted)
{
    for (target *one = targets; one < targets + TARGETS_MAX; one++)
        if (one->used && !strcmp(one->id, wanted->id) && !strcmp(one->address, wanted->address))
            return one;
    return NULL;
}

static int is_named(const target *one, const entry *entries, int count)
{
    for (int at = 0; at < count; at++)
        if (find(entries + at) == one)
            return 1;
    return 0;
}

static target *make(const entry *wanted)
{
    target *one = targets;
    while (one->used)
        one++;
    memset(one, 0, sizeof *one);
    one->used = 1;
    one->probe = -1;
    strcpy(one->id, wanted->id);
    strcpy(one->address, wanted->address);
    return one;
}

static void apply(const entry *entries, int count)
{
    int staying = 0;
    for (const target *one = targets; one < targets + TARGETS_MAX; one++)
        staying += one->used && one->open && !is_named(one, entries, count);
    if (staying + count > TARGETS_MAX) {
        snprintf(file_error, sizeof file_error, "there are too many targets beside those that still finish");
        return;
    }
    for (target *one = targets; one < targets + TARGETS_MAX; one++) {
        if (!one->used)
            continue;
        one->gone = !is_named(one, entries, count);
        target_restate(one, one->health);
        target_release(one);
    }
    for (int at = 0; at < count; at++) {
        target *one = find(entries + at);
        if (!one)
            one = make(entries + at);
        one->weight = entries[at].weight;
        one->drain = entries[at].drain;
        target_restate(one, one->health);
    }
    file_error[0] = '\0';
    file_read_ms = clock_ms();
}

/* Its size, -1 with the reason written down. */
static ssize_t load(const char *path, char *into)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t size = -1;
    if (fd >= 0 && !fstat(fd, &info) && !S_ISREG(info.st_mode))
        errno = EINVAL;
    else if (fd >= 0)
        size = read(fd, into, FILE_MAX);
    if (size < 0)
        snprintf(file_error, sizeof file_error, "it cannot be read: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    into[size < 0 ? 0 : size] = '\0';
    return size;
}

static int same_time(struct timespec one, struct timespec other)
{
    return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

void targets_read(const char *path)
{
    static struct stat last;
    static char text[FILE_MAX + 1];
    static entry entries[TARGETS_MAX + 1];
    struct stat info;
    if (stat(path, &info))
        memset(&info, 0, sizeof info);
    else if (info.st_ino == last.st_ino && info.st_size == last.st_size &&
             same_time(info.st_mtim, last.st_mtim) && same_time(info.st_ctim, last.st_ctim))
        return;
    last = info;
    ssize_t size = load(path, text);
    if (size < 0)
        return;
    if (size == 0 || size == FILE_MAX || strlen(text) != (size_t)size) {
        snprintf(file_error, sizeof file_error, "%s", size == 0          ? "it is empty"
                                                      : size == FILE_MAX ? "it is too large"
                                                                         : "it is not a text");
        return;
    }
    int count = parse(text, entries);
    if (count >= 0)
        apply(entries, count);
}
