/* One client's connection through the balancing relay.
 *
 * A target is chosen at the client's first byte. Until something was sent to it another
 * one may take its place; from then on no other one is asked, since a request that is
 * worked on twice is charged twice.
 */
#define _GNU_SOURCE
#include "relay_balance.h"
#include "relay.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SILENT_MS 10000
#define CONNECT_MS 1000
#define SHUNNED_MS 3000
#define PATIENCE_MS 2000
#define ANSWER_MS 10000
#define LINGER_MS 2000
#define STUCK_MS 3000
#define STUCK_TIMES 3

flow flows[FLOWS_MAX];
int open_flows, waiting_flows;
unsigned long refused_requests;

static void enter(flow *one, int state, long until)
{
    waiting_flows += (state == WAIT) - (one->state == WAIT);
    one->state = state;
    one->until = until;
}

/* The target has no more to do with it. */
static void detach(flow *one)
{
    if (one->server < 0)
        return;
    close(one->server);
    one->server = one->server_wants = -1;
    one->turn++;
    one->to->open--;
    target_release(one->to);
}

static void drop(flow *one)
{
    if (one->state == FREE)
        return;
    detach(one);
    close(one->client);
    enter(one, FREE, 0);
    open_flows--;
}

void flow_break(flow *one)
{
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(one->client, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    drop(one);
}

/* What is in `down` is still sent; the rest of the request is thrown away. */
static void finish(flow *one)
{
    detach(one);
    one->up_size = 0;
    enter(one, ANSWER, now_ms() + ANSWER_MS);
}

static void refuse(flow *one, int status, const char *type, const char *message)
{
    char body[1536];
    int size = snprintf(body, sizeof body, "{\"error\": {\"message\": \"%s\", \"type\": \"%s\", \"code\": %d}}\n", message,
                        type, status);
    one->down_at = 0;
    one->down_size = (size_t)snprintf(
        one->down, sizeof one->down,
        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s", status,
        status == 503 ? "Service Unavailable" : "Bad Gateway", status == 503 ? "Retry-After: 1\r\n" : "", size, body);
    finish(one);
}

static void refuse_for_none(flow *one)
{
    char message[1024] = "there is no server", *at = message;
    const char *before = "no server is ready: ";
    for (const target *next = targets; next < targets + TARGETS_MAX; next++) {
        size_t room = sizeof message - (size_t)(at - message);
        if (!next->used || next->gone || room < ID_MAX + 64)
            continue;
        at += snprintf(at, room, "%s%s is %s", before, next->id, next->shown);
        before = ", ";
    }
    refused_requests++;
    refuse(one, 503, "no_target", message);
}

/* Without these a cut link would show after hours. TCP_USER_TIMEOUT would do it, too, but
 * also ends the connection to a server that is well and does not read for a while. */
static void keep_alive(int fd)
{
    int on = 1, idle_s = 2, interval_s = 1, count = 3;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

/* What keepalive leaves out: there are bytes that the target's machine has not taken. */
static int is_cut(flow *one)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    int left = 0;
    memset(&info, 0, sizeof info);
    if (getsockopt(one->server, IPPROTO_TCP, TCP_INFO, &info, &size))
        return 0;
    int quiet = info.tcpi_last_ack_recv >= STUCK_MS && info.tcpi_last_data_recv >= STUCK_MS;
    int waits = !ioctl(one->server, SIOCOUTQ, &left) && left;
    int trying = info.tcpi_retransmits || info.tcpi_probes || (waits && one->to->unreached > 1);
    one->stuck = quiet && trying ? one->stuck + 1 : 0;
    return one->stuck >= STUCK_TIMES;
}

/* To the next target, or wait for one. */
static void route(flow *one)
{
    static unsigned turn;
    long now = now_ms();
    for (int at; (at = target_choose(one->tried, now)) >= 0;) {
        target *to = targets + at;
        one->tried |= (uint64_t)1 << at;
        one->server = connect_to(to->address);
        if (one->server >= 0) {
            keep_alive(one->server);
            one->to = to;
            to->open++;
            to->turn = ++turn;
            one->sent = one->deaf = one->stuck = 0;
            memset(&one->answer, 0, sizeof one->answer);
            enter(one, CONNECT, now + CONNECT_MS);
            return;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            break;
        target_error(to, "a request came and found", strerror(errno));
        target_restate(to, LOST);
    }
    one->tried = 0;
    if (!one->patience)
        one->patience = now + PATIENCE_MS;
    if (now > one->patience)
        refuse_for_none(one);
    else
        enter(one, WAIT, 0);
}

static void next(flow *one)
{
    detach(one);
    route(one);
}

/* The target has ended its connection, or it broke (reason). */
static void over(flow *one, int reason)
{
    target *to = one->to;
    if (!one->sent) {
        next(one);
        return;
    }
    int whole = one->answer.begun && one->answer.part == TO_THE_END && !reason;
    if (!one->asked || whole) {
        to->served += one->asked != 0;
        finish(one);
        return;
    }
    const char *why = reason ? strerror(reason) : "it closed the connection";
    to->failed++;
    if (one->answer.begun || one->down_size) {
        target_error(to, "lost in the middle of an answer", why);
        flow_break(one);
        return;
    }
    char message[512];
    snprintf(message, sizeof message,
             "server %s was lost before it answered (%s); it may have worked on the request, "
             "which therefore was sent to no other one", to->id, why);
    target_error(to, "lost before it answered", why);
    refuse(one, 502, "upstream_lost", message);
}

/* Request → target. */
static void push(flow *one)
{
    if (one->up_size > one->up_at && !one->deaf) {
        ssize_t put = send(one->server, one->up + one->up_at, one->up_size - one->up_at, MSG_NOSIGNAL);
        if (put < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (put < 0 && !one->sent) {
            next(one);
            return;
        }
        /* Takes no more; but it may have answered before. */
        one->deaf = put < 0;
        if (put > 0) {
            if (!one->asked && !one->answer.closes)
                answer_expect(&one->answer, one->up[one->up_at] == 'H');
            one->asked |= !one->answer.closes;
            one->sent = 1;
            one->up_at += (size_t)put;
        }
    }
    if (one->up_at == one->up_size || one->deaf) {
        one->up_at = one->up_size = 0;
        if (one->client_ended)
            shutdown(one->server, SHUT_WR);
    }
}

/* Answer → client; 0 if it has gone. */
static int tell(flow *one)
{
    ssize_t put = send(one->client, one->down + one->down_at, one->down_size - one->down_at, MSG_NOSIGNAL);
    if (put < 0)
        return errno == EAGAIN || errno == EINTR;
    one->down_at += (size_t)put;
    if (one->down_at == one->down_size)
        one->down_at = one->down_size = 0;
    return 1;
}

static void pull(flow *one)
{
    ssize_t got = recv(one->server, one->down, sizeof one->down, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        over(one, got ? errno : 0);
        return;
    }
    one->down_at = 0;
    one->down_size = (size_t)got;
    one->sent = 1; /* also one that speaks unasked has had its turn */
    one->to->heard = now_ms();
    int whole = answer_read(&one->answer, one->down, (size_t)got);
    if (whole) {
        one->to->served += (unsigned long)whole;
        one->asked = 0;
    }
    if (!tell(one))
        drop(one);
}

/* What the client has to say. */
static void hear(flow *one)
{
    static char rest[65536];
    int wanted = one->state < ANSWER;
    if (wanted && one->up_size)
        return;
    ssize_t got = recv(one->client, wanted ? one->up : rest, wanted ? sizeof one->up : sizeof rest, 0);
    if (got < 0) {
        if (errno != EAGAIN && errno != EINTR)
            drop(one);
        return;
    }
    if (got == 0) {
        one->client_ended = 1;
        if (one->state == SILENT || one->state == LINGER)
            drop(one);
        else if (one->state == FLOW)
            push(one);
        return;
    }
    if (!wanted)
        return;
    one->up_at = 0;
    one->up_size = (size_t)got;
    if (one->state == SILENT)
        route(one);
    else if (one->state == FLOW)
        push(one);
}

/* Tell epoll what it waits for now. */
static void settle(flow *one)
{
    if (one->state == ANSWER && !one->down_size) {
        /* To close with bytes unread would take the answer back from the client. */
        shutdown(one->client, SHUT_WR);
        enter(one, LINGER, now_ms() + LINGER_MS);
        if (one->client_ended)
            drop(one);
    }
    if (one->state == FREE)
        return;
    int hears = !one->client_ended && (!one->up_size || one->state >= ANSWER);
    int index = (int)(one - flows);
    watch(one->client, &one->client_wants, (hears ? EPOLLIN : 0) | (one->down_size ? EPOLLOUT : 0), CLIENT, index, 0);
    if (one->server < 0)
        return;
    int wanted = one->state == CONNECT ? EPOLLOUT : (one->up_size ? EPOLLOUT : 0) | (one->down_size ? 0 : EPOLLIN);
    watch(one->server, &one->server_wants, wanted ? wanted : -1, SERVER, index, one->turn);
}

int flow_room(int most)
{
    flow *found = NULL;
    for (flow *one = flows; one < flows + FLOWS_MAX; one++)
        if (one->state == SILENT && (!found || one->until < found->until))
            found = one;
    if (found && open_flows >= most)
        drop(found);
    return open_flows < most;
}

void flow_open(int client)
{
    flow *one = flows;
    while (one->state != FREE)
        one++;
    unsigned turn = one->turn;
    memset(one, 0, offsetof(flow, up));
    one->turn = turn;
    one->client = client;
    one->server = one->client_wants = one->server_wants = -1;
    keep_alive(client);
    open_flows++;
    enter(one, SILENT, now_ms() + SILENT_MS);
    hear(one); /* it has mostly come along */
    settle(one);
}

void flow_client(flow *one, unsigned seen)
{
    if (one->state == FREE)
        return;
    /* It is gone: to close the connection is what stops the target. */
    if (seen & (EPOLLHUP | EPOLLERR)) {
        drop(one);
        return;
    }
    if (seen & EPOLLOUT && one->down_size && !tell(one))
        drop(one);
    if (seen & EPOLLIN && one->state != FREE)
        hear(one);
    settle(one);
}

void flow_server(flow *one, unsigned seen)
{
    if (one->state == CONNECT) {
        int reason = 0;
        socklen_t size = sizeof reason;
        getsockopt(one->server, SOL_SOCKET, SO_ERROR, &reason, &size);
        if (reason) {
            target_error(one->to, "a request came and found", strerror(reason));
            target_restate(one->to, LOST);
            next(one);
        } else {
            enter(one, FLOW, 0);
            push(one);
        }
    } else if (one->state == FLOW) {
        if (seen & EPOLLOUT && one->up_size)
            push(one);
        if (seen & (EPOLLIN | EPOLLHUP | EPOLLERR) && one->state == FLOW && !one->down_size)
            pull(one);
    }
    settle(one);
}

void flow_tick(flow *one, long now, int each_second, int stopping)
{
    if (one->state == WAIT && (now > one->patience || target_choose(0, now) >= 0))
        route(one);
    else if (one->state == CONNECT && now > one->until) {
        target_error(one->to, "no connection in 1 s", NULL);
        one->to->shunned = now + SHUNNED_MS;
        next(one);
    } else if (one->state != FREE && one->until && now > one->until)
        drop(one);
    else if (one->state == FLOW && each_second && is_cut(one))
        over(one, ETIMEDOUT);
    if (stopping && (one->state == SILENT || (one->state == FLOW && !one->asked && !one->up_size && !one->down_size)))
        drop(one);
    settle(one);
}
