/* The relay: one static program, for containers in which there is nothing else.
 *
 *   relay stdio TARGET            standard input and output ↔ the target; connects at the first byte
 *   relay forward PLACE TARGET    every connection to the place ↔ the target
 *   relay gate PLACE TARGET KEY   the same for HTTP with the key in that file, see relay_gate.c
 *   relay balance PLACE FILE STATUS [health=PATH]
 *                                 every connection ↔ one of the targets in the file, see relay_balance.c
 *
 * A place or a target is the path of a unix socket, or a numeric address:port.
 */
#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY_MIN 16
#define KEY_MAX 256
/* Nobody waits for longer with a relay that has not been used: whoever opened it is gone. */
#define IDLE_MS 150000
#define HEAD_MS 10000
#define HEALTH "health="
#define HEALTH_MAX 256

typedef struct {
    char data[65536];
    size_t at, length;
} buffer;

static int refuse(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    return 1;
}

/* Read into an empty buffer; 0 at the end of the stream. */
static int fill(int fd, buffer *into)
{
    ssize_t got = read(fd, into->data, sizeof into->data);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    into->at = 0;
    into->length = (size_t)got;
    return got > 0;
}

/* Write what the buffer holds; 0 if nobody takes it. */
static int drain(int fd, buffer *from)
{
    ssize_t put = write(fd, from->data + from->at, from->length - from->at);
    if (put < 0)
        return errno == EAGAIN || errno == EINTR;
    from->at += (size_t)put;
    if (from->at == from->length)
        from->at = from->length = 0;
    return 1;
}

static int stdio(const char *target)
{
    static buffer up, down;
    struct pollfd first = {.fd = 0, .events = POLLIN};
    set_nonblocking(0);
    set_nonblocking(1);
    if (poll(&first, 1, IDLE_MS) <= 0 || !fill(0, &up))
        return 0;
    /* Only now: a waiting relay takes none of the engine's slots. */
    int engine = connect_to(target);
    if (engine < 0)
        return refuse(target);
    int ended = 0;
    while (!ended || down.length) {
        struct pollfd all[3] = {
            {.fd = 0, .events = (short)(up.length ? 0 : POLLIN)},
            {.fd = 1, .events = (short)(down.length ? POLLOUT : 0)},
            {.fd = ended || (down.length && !up.length) ? -1 : engine,
             .events = (short)((up.length ? POLLOUT : 0) | (down.length ? 0 : POLLIN))},
        };
        if (poll(all, 3, -1) < 0 && errno != EINTR)
            return refuse("poll");
        /* Whoever asks has hung up: closing the socket is what stops the engine. */
        if (all[1].revents & (POLLERR | POLLHUP | POLLNVAL) || (all[0].revents && !(all[0].revents & POLLIN)))
            return 0;
        if (all[0].revents && !up.length && !fill(0, &up))
            return 0;
        if (all[1].revents & POLLOUT && !drain(1, &down))
            return 0;
        if (all[2].revents & POLLOUT && up.length && !drain(engine, &up))
            up.length = up.at = 0;
        if (all[2].revents & (POLLIN | POLLHUP | POLLERR) && !down.length && !fill(engine, &down))
            ended = 1;
    }
    return 0;
}

/* The key in a file, without the line's end. */
static char *read_key(const char *path)
{
    static char key[KEY_MAX + 2];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, key, KEY_MAX + 1);
    if (size < 0)
        return NULL;
    close(fd);
    key[size] = '\0';
    key[strcspn(key, "\r\n")] = '\0';
    errno = EINVAL;
    return strlen(key) < KEY_MIN || strlen(key) > KEY_MAX ? NULL : key;
}

/* The path that is asked for, as a word of a request's first line. */
static int is_health(const char *word)
{
    size_t length = strlen(word);
    if (strncmp(word, HEALTH "/", sizeof HEALTH) || length > HEALTH_MAX)
        return 0;
    for (const char *c = word; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            return 0;
    return 1;
}

static void end(int number)
{
    (void)number;
    _exit(0);
}

int main(int count, char **words)
{
    /* As the first process of a container it would not end by itself. */
    signal(SIGTERM, end);
    signal(SIGINT, end);
    signal(SIGPIPE, SIG_IGN);
    if (count == 3 && !strcmp(words[1], "stdio"))
        return stdio(words[2]);
    if (count == 4 && !strcmp(words[1], "forward"))
        return serve(words[2], words[3], NULL, HEAD_MS);
    if ((count == 5 || count == 6) && !strcmp(words[1], "gate")) {
        const char *key = read_key(words[4]);
        if (!key)
            return refuse(words[4]);
        return serve(words[2], words[3], key, count == 6 ? atol(words[5]) : HEAD_MS);
    }
    if ((count == 5 || (count == 6 && is_health(words[5]))) && !strcmp(words[1], "balance"))
        return balance(words[2], words[3], words[4], count == 6 ? words[5] + strlen(HEALTH) : "/health");
    fprintf(stderr, "usage: relay stdio TARGET | forward PLACE TARGET | gate PLACE TARGET KEYFILE [HEAD_MS]"
                    " | balance PLACE FILE STATUS [health=PATH]\n");
    return 2;
}
