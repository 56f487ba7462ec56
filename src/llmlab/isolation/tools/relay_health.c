/* Whether the targets are well: each is asked once a second, on a connection of its own. */
#define _GNU_SOURCE
#include "relay_balance.h"
#include "relay.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EACH_MS 1000
#define LIMIT_MS 2000
#define FAILURES 2

static const char *asked_path;

void health_path(const char *path)
{
    asked_path = path;
}

static void end(target *one)
{
    if (one->probe >= 0)
        close(one->probe);
    one->probe = -1;
}

static void failed(target *one, const char *what, const char *why)
{
    one->unreached = one->connected ? 0 : one->unreached + 1;
    one->failures++;
    target_error(one, what, why);
    if (one->failures >= FAILURES)
        target_restate(one, LOST);
    end(one);
}

/* The first line of what it says, as far as it has come. */
static void judge(target *one)
{
    int status = 0;
    one->head[one->got] = '\0';
    if (one->got < 12)
        return;
    if (sscanf(one->head, "HTTP/1.%*1[01] %3d", &status) != 1) {
        failed(one, "what it says of its health is no HTTP", NULL);
        return;
    }
    if (status != 200 && status != 503) {
        char text[16];
        snprintf(text, sizeof text, "%d", status);
        failed(one, "asked for its health, it answers with status", text);
        return;
    }
    one->failures = 0;
    if (status == 503)
        target_error(one, "it is loading", NULL);
    target_restate(one, status == 200 ? READY : LOADING);
    end(one);
}

static void ask(target *one)
{
    char request[512];
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
                        asked_path, one->address);
    int reason = 0, unwatched = 0;
    socklen_t length = sizeof reason;
    getsockopt(one->probe, SOL_SOCKET, SO_ERROR, &reason, &length);
    if (reason) {
        failed(one, "asked for its health", strerror(reason));
        return;
    }
    one->connected = 1;
    one->unreached = 0;
    if (send(one->probe, request, (size_t)size, MSG_NOSIGNAL) != size)
        failed(one, "it takes no question for its health", NULL);
    else
        watch(one->probe, &unwatched, EPOLLIN, PROBE, (int)(one - targets), 0);
}

void health_event(target *one, unsigned seen)
{
    (void)seen;
    if (!one->used || one->probe < 0)
        return;
    if (!one->connected) {
        ask(one);
        return;
    }
    ssize_t got = recv(one->probe, one->head + one->got, sizeof one->head - 1 - one->got, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        failed(one, "asked for its health", got ? strerror(errno) : "it closes the connection");
        return;
    }
    one->got += (size_t)got;
    judge(one);
}

static void begin(target *one, long now)
{
    int unwatched = -1;
    one->began = now;
    one->next = now + EACH_MS;
    one->connected = 0;
    one->got = 0;
    one->probe = connect_to(one->address);
    if (one->probe < 0)
        failed(one, "asked for its health", strerror(errno));
    else
        watch(one->probe, &unwatched, EPOLLOUT, PROBE, (int)(one - targets), 0);
}

void health_tick(long now)
{
    for (target *one = targets; one < targets + TARGETS_MAX; one++) {
        if (!one->used || one->gone)
            continue;
        if (one->probe >= 0 && now - one->began > LIMIT_MS) {
            /* All its threads may be busy: then its answers show that it lives. */
            if (one->connected && one->heard >= one->began) {
                one->failures = 0;
                end(one);
            } else {
                failed(one, one->connected ? "no answer for its health in 2 s" : "no connection in 2 s", NULL);
            }
        }
        if (one->probe < 0 && now >= one->next)
            begin(one, now);
    }
}
