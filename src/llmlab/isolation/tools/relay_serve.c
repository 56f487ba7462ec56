/* Many connections at a time in one process: each is passed on to the target as it comes.
 *
 * With a key, a connection is a gate's: its first bytes must be the head of a request
 * that is let through, exactly one request is passed on, and no more. Those who have not
 * shown the key yet give way to those who come after them; what they may use is bounded.
 */
#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 256
/* Passed on at the same time; the others wait for their turn. */
#define FLOWS 64
#define RETRY_MS 50
#define CONNECT_MS 10000
#define BODY_MS 60000
#define LINGER_MS 2000
#define REST_MAX 1048576

/* FREE, reading the head, waiting for a turn, passing on, ending an answer, waiting for the end. */
enum state { FREE, HEAD, WAIT, FLOW, ANSWER, LINGER };

typedef struct {
    enum state state;
    int client, engine;
    int answered;        /* something of the engine's has come */
    int ended;           /* the engine has ended its answer */
    long since, until;   /* began at; given up at, 0 for never */
    long long body;      /* bytes of the request that are still to come; -1 for no end */
    long long rest;      /* bytes that were thrown away */
    size_t up_at, up_size, down_at, down_size;
    char up[2 * HEAD_MAX + 256];
    char down[HEAD_MAX];
} connection;

static connection all[CONNECTIONS];
static const char *target, *key;
static long head_ms;
static int flows;

static void drop(connection *one)
{
    if (one->state == FLOW)
        flows--;
    if (one->engine >= 0)
        close(one->engine);
    close(one->client);
    one->state = FREE;
}

/* Nothing more is passed on; what is in `down` is still sent. */
static void finish(connection *one)
{
    if (one->state == FLOW)
        flows--;
    if (one->engine >= 0)
        close(one->engine);
    one->engine = -1;
    one->state = ANSWER;
    one->until = now_ms() + BODY_MS;
}

static void answer(connection *one, int status, const char *why)
{
    char body[256];
    int size = snprintf(body, sizeof body, "{\"error\":{\"code\":%d,\"message\":\"%s\",\"type\":\"gate\"}}\n", status, why);
    one->down_at = 0;
    one->down_size = (size_t)snprintf(
        one->down, sizeof one->down,
        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s",
        status, status == 401 ? "Unauthorized" : status == 403 ? "Forbidden" : "Refused",
        status == 401 ? "WWW-Authenticate: Bearer\r\n" : "", size, body);
    finish(one);
}

/* The oldest that has not shown the key, or has had its answer. */
static connection *least(void)
{
    connection *found = NULL;
    for (connection *one = all; one < all + CONNECTIONS; one++) {
        if (one->state == FREE)
            return one;
        if (one->state != WAIT && one->state != FLOW && (!found || one->since < found->since))
            found = one;
    }
    if (found)
        drop(found);
    return found;
}

static void welcome(int listener)
{
    int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0)
        return;
    connection *one = least();
    if (!one) {
        close(client);
        return;
    }
    memset(one, 0, offsetof(connection, up));
    one->client = client;
    one->engine = -1;
    one->since = now_ms();
    one->state = key ? HEAD : WAIT;
    one->until = one->since + (key ? head_ms : CONNECT_MS);
    one->body = -1;
}

/* The head of a request is complete, or will never be. */
static void judge(connection *one)
{
    static char made[sizeof one->up];
    size_t made_size;
    int expects = 0;
    const char *why = "not a request that is understood here";
    long length = head_length(one->up, one->up_size);
    if (length == 0 && one->up_size < HEAD_MAX)
        return;
    int status = 400;
    if (length == 0 || length > HEAD_MAX) {
        status = 431;
        why = "the head of the request is too long";
    } else if (length > 0) {
        status = gate_check(one->up, (size_t)length, key, made, sizeof made - HEAD_MAX, &made_size,
                            &one->body, &expects, &why);
    }
    if (status) {
        answer(one, status, why);
        return;
    }
    size_t extra = one->up_size - (size_t)length;
    if ((long long)extra > one->body)
        extra = (size_t)one->body;
    memcpy(made + made_size, one->up + length, extra);
    memcpy(one->up, made, made_size + extra);
    one->up_size = made_size + extra;
    one->body -= (long long)extra;
    if (expects && one->body) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        memcpy(one->down, go_on, sizeof go_on - 1);
        one->down_size = sizeof go_on - 1;
    }
    one->state = WAIT;
    one->until = 0;
}

static void start(connection *one)
{
    one->engine = connect_to(target);
    /* Its queue is full: once more, a little later. */
    if (one->engine < 0 && errno == EAGAIN)
        return;
    if (one->engine < 0) {
        if (key)
            answer(one, 502, "the server does not answer");
        else
            drop(one);
        return;
    }
    one->state = FLOW;
    one->until = one->body > 0 ? now_ms() + BODY_MS : 0;
    flows++;
}

/* What the client has to say; 0 if it has gone. */
static int hear(connection *one)
{
    static char rest[HEAD_MAX];
    int wanted = one->state == HEAD || (one->state == FLOW && one->body);
    size_t room = sizeof rest;
    char *into = rest;
    if (one->state == HEAD) {
        into = one->up + one->up_size;
        room = HEAD_MAX - one->up_size;
    } else if (wanted) {
        into = one->up;
        room = HEAD_MAX;
        if (one->body > 0 && (long long)room > one->body)
            room = (size_t)one->body;
    }
    ssize_t got = recv(one->client, into, room, 0);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got == 0)
        return 0;
    if (one->state == HEAD) {
        one->up_size += (size_t)got;
        judge(one);
    } else if (wanted) {
        one->up_at = 0;
        one->up_size = (size_t)got;
        if (one->body > 0) {
            one->body -= got;
            one->until = one->body ? now_ms() + BODY_MS : 0;
        }
    } else {
        one->rest += got;
    }
    return one->rest < REST_MAX;
}

/* The engine's end of a connection. */
static void exchange(connection *one, short seen)
{
    if (seen & POLLOUT && one->up_size > one->up_at) {
        ssize_t put = send(one->engine, one->up + one->up_at, one->up_size - one->up_at, MSG_NOSIGNAL);
        if (put > 0)
            one->up_at += (size_t)put;
        else if (put < 0 && errno != EAGAIN && errno != EINTR)
            one->up_at = one->up_size;
        if (one->up_at == one->up_size)
            one->up_at = one->up_size = 0;
    }
    if (seen & (POLLIN | POLLHUP | POLLERR) && one->down_size == 0) {
        ssize_t got = recv(one->engine, one->down, sizeof one->down, 0);
        if (got > 0) {
            one->down_at = 0;
            one->down_size = (size_t)got;
            one->answered = 1;
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            if (key && !one->answered)
                answer(one, 502, "the server does not answer");
            else
                finish(one);
        }
    }
}

static int tell(connection *one)
{
    ssize_t put = send(one->client, one->down + one->down_at, one->down_size - one->down_at, MSG_NOSIGNAL);
    if (put < 0)
        return errno == EAGAIN || errno == EINTR;
    one->down_at += (size_t)put;
    if (one->down_at == one->down_size)
        one->down_at = one->down_size = 0;
    return 1;
}

static void settle(connection *one, long now)
{
    if (one->state == ANSWER && !one->down_size) {
        /* To close with bytes unread would take the answer back from the client. */
        shutdown(one->client, SHUT_WR);
        one->state = LINGER;
        one->until = now + LINGER_MS;
    }
    if (one->state == WAIT && flows < FLOWS)
        start(one);
    if (one->state != FREE && one->until && now > one->until)
        drop(one);
}

int serve(const char *place, const char *where, const char *secret, long head_limit_ms)
{
    static struct pollfd polled[2 * CONNECTIONS + 1];
    int port;
    int listener = listen_at(place, &port);
    if (listener < 0) {
        printf("cannot listen at %s: %s\n", place, strerror(errno));
        return 3;
    }
    target = where;
    key = secret;
    head_ms = head_limit_ms;
    printf("listening at %s, port %d\n", place, port);
    fflush(stdout);
    for (;;) {
        int waiting = 0;
        polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        for (int at = 0; at < CONNECTIONS; at++) {
            connection *one = all + at;
            struct pollfd *client = polled + 1 + 2 * at, *engine = client + 1;
            settle(one, now_ms());
            waiting += one->state == WAIT;
            int hears = one->state == HEAD || one->state == LINGER || (one->state == FLOW && !one->up_size);
            *client = (struct pollfd){
                .fd = one->state == FREE ? -1 : one->client,
                .events = (short)((hears ? POLLIN : 0) | POLLRDHUP | (one->down_size ? POLLOUT : 0)),
            };
            short wanted = (short)((one->up_size ? POLLOUT : 0) | (one->down_size ? 0 : POLLIN));
            *engine = (struct pollfd){.fd = one->state == FLOW && wanted ? one->engine : -1, .events = wanted};
        }
        if (poll(polled, 2 * CONNECTIONS + 1, waiting && flows < FLOWS ? RETRY_MS : 1000) < 0 && errno != EINTR)
            return 1;
        for (int at = 0; at < CONNECTIONS; at++) {
            connection *one = all + at;
            short seen = polled[1 + 2 * at].revents;
            int here = one->state != FREE;
            if (here && seen & (POLLERR | POLLHUP | POLLNVAL | POLLRDHUP) && !(seen & POLLIN))
                here = 0;
            if (here && seen & POLLIN)
                here = hear(one);
            if (here && seen & POLLOUT && one->down_size)
                here = tell(one);
            if (here && one->state == FLOW && polled[2 + 2 * at].revents)
                exchange(one, polled[2 + 2 * at].revents);
            if (!here && one->state != FREE)
                drop(one);
        }
        if (polled[0].revents & POLLIN)
            welcome(listener);
    }
}
