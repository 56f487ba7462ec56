/* The balancing relay: one address in front of several servers that serve the same.
 *
 * Each connection goes to the server that is ready and has the fewest for its weight.
 * Which servers there are is read from a file that its owner replaces; whoever connects
 * to the status socket is told how they are.
 */
#define _GNU_SOURCE
#include "relay_balance.h"
#include "relay.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS 256
#define BACKLOG 1024
/* Descriptors beside those of the flows and of the questions for health. */
#define SPARE 32
#define TOLD_MAX 16
#define TOLD_MS 2000
#define TICK_MS 50
#define IDLE_TICK_MS 100
#define STOP_MS 10000

static int events_fd;
static volatile sig_atomic_t signals;

void watch(int fd, int *had, int wanted, enum kind kind, int index, unsigned turn)
{
    if (*had == wanted)
        return;
    struct epoll_event event = {
        .events = (unsigned)wanted,
        .data.u64 = (uint64_t)turn << 32 | (uint64_t)kind << 16 | (uint64_t)index,
    };
    int what = *had < 0 ? EPOLL_CTL_ADD : wanted < 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    epoll_ctl(events_fd, what, fd, &event);
    *had = wanted;
}

static void stop(int number)
{
    (void)number;
    signals++;
}

/* As listen_at, also where one that was killed has left its socket. */
static int listen_anew(const char *place)
{
    int port;
    struct stat info;
    int fd = listen_at(place, &port);
    if (fd < 0 && errno == EADDRINUSE && place[0] == '/' && !lstat(place, &info) && S_ISSOCK(info.st_mode)) {
        int other = connect_to(place);
        int dead = other < 0 && errno == ECONNREFUSED;
        if (other >= 0)
            close(other);
        errno = EADDRINUSE;
        fd = dead && !unlink(place) ? listen_at(place, &port) : -1;
    }
    if (fd < 0) {
        printf("cannot listen at %s: %s\n", place, strerror(errno));
        return -1;
    }
    listen(fd, BACKLOG);
    printf("listening at %s, port %d\n", place, port);
    fflush(stdout);
    return fd;
}

/* As many connections as there are descriptors for. */
static int capacity(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 64;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    long most = ((long)(limit.rlim_cur > 65536 ? 65536 : limit.rlim_cur) - SPARE - TARGETS_MAX) / 2;
    return most < 1 ? 1 : most > FLOWS_MAX ? FLOWS_MAX : (int)most;
}

/* Those who have been told the status. To close with bytes unread, or while they still write,
 * would be an error for them. */
static struct {
    int open, fd;
    long until;
} told[TOLD_MAX];

static void tell_status(int listener, const char *file, int stopping)
{
    static char text[65536];
    static int next;
    int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0)
        return;
    targets_read(file);
    send(client, text, status_text(text, sizeof text, stopping), MSG_NOSIGNAL);
    shutdown(client, SHUT_WR);
    if (told[next].open)
        close(told[next].fd);
    told[next].open = 1;
    told[next].fd = client;
    told[next].until = now_ms() + TOLD_MS;
    next = (next + 1) % TOLD_MAX;
}

static void close_told(long now)
{
    static char rest[4096];
    for (int at = 0; at < TOLD_MAX; at++) {
        if (!told[at].open)
            continue;
        ssize_t got = recv(told[at].fd, rest, sizeof rest, 0);
        if (now > told[at].until || got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            close(told[at].fd);
            told[at].open = 0;
        }
    }
}

/* Whether more can be let in. */
static int welcome(int listener, const char *file, int most)
{
    for (int times = 0; times < 64; times++) {
        /* There is one to take the place of for the first one only. */
        if (open_flows >= most && (times || !flow_room(most)))
            return times > 0;
        int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0)
            return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
        if (!times)
            targets_read(file);
        flow_open(client);
    }
    return 1;
}

static void dispatch(const struct epoll_event *event)
{
    int index = (int)(event->data.u64 & 0xffff);
    unsigned turn = (unsigned)(event->data.u64 >> 32);
    switch ((enum kind)(event->data.u64 >> 16 & 0xff)) {
    case CLIENT:
        flow_client(flows + index, event->events);
        break;
    case SERVER:
        if (flows[index].server >= 0 && flows[index].turn == turn)
            flow_server(flows + index, event->events);
        break;
    case PROBE:
        health_event(targets + index, event->events);
        break;
    default:
        break;
    }
}

static void tick(const char *file, int stopping)
{
    static long second;
    long now = now_ms();
    int each_second = now - second >= 1000;
    if (each_second) {
        second = now;
        targets_read(file);
    }
    health_tick(now);
    close_told(now);
    for (int at = 0; at < FLOWS_MAX; at++)
        if (flows[at].state != FREE)
            flow_tick(flows + at, now, each_second, stopping);
}

static int loop(int listener, int status, const char *place, const char *file, int most)
{
    static struct epoll_event events[EVENTS];
    int listens = -1, tells = -1;
    long stopped_at = 0, ticked = 0, paused = 0;
    watch(status, &tells, EPOLLIN, STATUS, 0, 0);
    for (;;) {
        long now = now_ms();
        if (signals && !stopped_at) {
            stopped_at = now;
            close(listener);
            if (place[0] == '/')
                unlink(place);
        }
        if (stopped_at && (!open_flows || signals > 1 || now - stopped_at > STOP_MS))
            return 0;
        if (!stopped_at)
            watch(listener, &listens, now < paused ? 0 : EPOLLIN, LISTENER, 0, 0);
        int count = epoll_wait(events_fd, events, EVENTS, open_flows ? TICK_MS : IDLE_TICK_MS);
        if (count < 0 && errno != EINTR)
            return 1;
        int callers = 0;
        for (int at = 0; at < count; at++) {
            if (events[at].data.u64 == (uint64_t)STATUS << 16)
                tell_status(status, file, stopped_at != 0);
            else if (events[at].data.u64 == (uint64_t)LISTENER << 16)
                callers = 1;
            else
                dispatch(events + at);
        }
        now = now_ms();
        if (now - ticked >= TICK_MS || waiting_flows) {
            ticked = now;
            tick(file, stopped_at != 0);
        }
        /* Last: nothing that was seen before belongs to those who come now. */
        if (callers && !stopped_at && !welcome(listener, file, most))
            paused = now_ms() + TICK_MS;
    }
}

int balance(const char *place, const char *file, const char *status_place, const char *asked_path)
{
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    health_path(asked_path);
    events_fd = epoll_create1(EPOLL_CLOEXEC);
    int status = listen_anew(status_place);
    int listener = status < 0 ? -1 : listen_anew(place);
    if (events_fd < 0 || listener < 0)
        return 3;
    int most = capacity();
    tick(file, 0);
    int failed = loop(listener, status, place, file, most);
    for (int at = 0; at < FLOWS_MAX; at++)
        if (flows[at].state != FREE)
            flow_break(flows + at);
    if (status_place[0] == '/')
        unlink(status_place);
    return failed;
}
