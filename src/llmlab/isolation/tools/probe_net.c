/* What the network lets through: N1 to N8. */
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425 /* the same on every architecture */
#endif

enum { ANSWER_MS = 500, LIMIT_MS = 1500, DNS_PORT = 53, DNS_SERVERS = 3, QUERY_SIZE = 300 };

static int open_socket(const struct sockaddr_storage *address, int type) {
    return socket(address->ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Waits until a socket can be read or written; false with a remark if nothing happens. */
static bool await_socket(int fd, short events, double deadline, struct result *result) {
    struct pollfd waiting = {.fd = fd, .events = events};
    double left = deadline - now_ms();
    int ready = poll(&waiting, 1, left > 0 ? (int)left : 0);
    if (ready == 0) observe(result, "no answer within %g s", ANSWER_MS / 1000.0);
    if (ready < 0) observe_errno(result, "poll");
    return ready > 0;
}

/* N1, N2, N7: a connection proves nothing, somebody else may have answered; the nonce does. */
static void read_nonce(struct result *result, const char *argument) {
    struct sockaddr_storage address;
    socklen_t length;
    const char *nonce = setting("nonce");
    char text[200];
    size_t got = 0;
    parse_address(argument, &address, &length);
    double deadline = now_ms() + ANSWER_MS;
    int fd = open_socket(&address, SOCK_STREAM), error = 0;
    if (fd < 0) return observe_errno(result, "socket");
    if (connect(fd, (struct sockaddr *)&address, length) < 0) {
        if (errno != EINPROGRESS) return observe_errno(result, NULL);
        if (!await_socket(fd, POLLOUT, deadline, result)) return;
        socklen_t size = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if ((errno = error)) return observe_errno(result, NULL);
    }
    while (got < strlen(nonce) && got < sizeof text) {
        if (!await_socket(fd, POLLIN, deadline, result)) return;
        ssize_t more = read(fd, text + got, sizeof text - got);
        if (more < 0) return observe_errno(result, "read");
        if (more == 0) break;
        got += (size_t)more;
    }
    result->succeeded = got >= strlen(nonce) && !memcmp(text, nonce, strlen(nonce));
    observe(result, result->succeeded ? "read the nonce" : "connected, and read something else");
}

/* N3: connecting a datagram socket asks for a route and sends nothing. */
static void find_route(struct result *result, const char *argument) {
    struct sockaddr_storage address;
    socklen_t length;
    char source[INET6_ADDRSTRLEN] = "?";
    parse_address(argument, &address, &length);
    int fd = open_socket(&address, SOCK_DGRAM);
    if (fd < 0) return observe_errno(result, "socket");
    ((struct sockaddr_in *)&address)->sin_port = htons(80); /* the same place for IPv6 */
    if (connect(fd, (struct sockaddr *)&address, length) < 0) return observe_errno(result, NULL);
    length = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &length);
    const void *host = address.ss_family == AF_INET ? (void *)&((struct sockaddr_in *)&address)->sin_addr
                                                    : (void *)&((struct sockaddr_in6 *)&address)->sin6_addr;
    inet_ntop(address.ss_family, host, source, sizeof source);
    result->succeeded = true;
    observe(result, "a route from %s", source);
}

/* N4 */
static size_t make_query(unsigned char *query, const char *name, uint16_t id) {
    const unsigned char header[12] = {(unsigned char)(id >> 8), (unsigned char)id, 1, 0, 0, 1};
    size_t at = sizeof header;
    memcpy(query, header, sizeof header);
    while (*name) {
        size_t label = strcspn(name, ".");
        if (label == 0 || label > 63 || at + label + 6 > QUERY_SIZE) return 0;
        query[at++] = (unsigned char)label;
        memcpy(query + at, name, label);
        at += label;
        name += label;
        name += *name == '.';
    }
    memcpy(query + at, "\0\0\1\0\1", 5); /* the root; an address, of the Internet */
    return at + 5;
}

static void ask_servers(struct result *result, char servers[][64], int count) {
    struct pollfd waiting[DNS_SERVERS];
    unsigned char query[QUERY_SIZE], answer[QUERY_SIZE];
    uint16_t id = (uint16_t)(getpid() ^ (long long)(now_ms() * 1000));
    size_t size = make_query(query, setting("name"), id);
    int open = 0;
    result->sent = 0;
    for (int i = 0; i < count; i++) {
        struct sockaddr_storage address;
        socklen_t length;
        if (!parse_address(servers[i], &address, &length)) continue;
        struct sockaddr_in *four = (struct sockaddr_in *)&address;
        if (!four->sin_port) four->sin_port = htons(DNS_PORT);
        int fd = open_socket(&address, SOCK_DGRAM);
        if (fd < 0) {
            observe_errno(result, "socket");
        } else if (connect(fd, (struct sockaddr *)&address, length) < 0 || send(fd, query, size, 0) < 0) {
            observe_errno(result, servers[i]);
            close(fd);
        } else {
            result->sent = 1;
            waiting[open++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
    if (result->sent) observe(result, "sent, no answer within %g s", ANSWER_MS / 1000.0);
    double deadline = now_ms() + ANSWER_MS;
    for (int left = open; left > 0 && now_ms() < deadline;) {
        if (poll(waiting, (nfds_t)open, (int)(deadline - now_ms())) <= 0) break;
        for (int i = 0; i < open; i++) {
            if (!waiting[i].revents) continue;
            ssize_t got = recv(waiting[i].fd, answer, sizeof answer, 0);
            if (got < 0) observe_errno(result, "sent, no answer");
            if (got >= 12 && answer[0] == query[0] && answer[1] == query[1]) {
                int code = answer[3] & 15;
                /* 0 an address, 3 no such name: somebody has looked it up. */
                result->succeeded = code == 0 || code == 3;
                observe(result, "sent, answered with code %d", code);
                if (result->succeeded) return;
            }
            waiting[i].fd = -1;
            left--;
        }
    }
}

static void ask_server(struct result *result, const char *argument) {
    char server[1][64];
    snprintf(server[0], sizeof server[0], "%s", argument);
    ask_servers(result, server, 1);
}

static void ask_resolvers(struct result *result, const char *unused) {
    char servers[DNS_SERVERS][64], line[300];
    int count = 0;
    (void)unused;
    result->sent = 0;
    FILE *file = fopen("/etc/resolv.conf", "re");
    if (!file) return observe_errno(result, "/etc/resolv.conf");
    while (count < DNS_SERVERS && fgets(line, sizeof line, file)) {
        if (sscanf(line, "nameserver %63s", servers[count]) == 1) count++;
    }
    fclose(file);
    if (!count) return observe(result, "no name server in /etc/resolv.conf");
    ask_servers(result, servers, count);
}

/* N5 */
static void send_datagram(struct result *result, const char *argument) {
    struct sockaddr_storage address;
    socklen_t length;
    char text[400];
    /* The name tells the receiver which of several containers it comes from. */
    snprintf(text, sizeof text, "%s %s", setting("nonce"), setting("name") ? setting("name") : "");
    parse_address(argument, &address, &length);
    result->sent = 0;
    int fd = open_socket(&address, SOCK_DGRAM);
    if (fd < 0) return observe_errno(result, "socket");
    if (sendto(fd, text, strlen(text), 0, (struct sockaddr *)&address, length) < 0) {
        return observe_errno(result, NULL);
    }
    result->sent = 1;
    observe(result, "sent");
}

/* N6: some kernels put tunnels that are down into every namespace; down they carry nothing. */
static void find_interfaces(struct result *result, const char *unused) {
    char line[400], up[200] = "", down[200] = "", name[IFNAMSIZ];
    (void)unused;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    FILE *file = fopen("/proc/self/net/dev", "re");
    if (!file) return observe_errno(result, "/proc/self/net/dev");
    while (fgets(line, sizeof line, file)) {
        struct ifreq asked = {0};
        if (!strchr(line, ':') || sscanf(line, " %15[^:]", name) != 1 || !strcmp(name, "lo")) continue;
        memcpy(asked.ifr_name, name, sizeof name);
        bool is_up = ioctl(fd, SIOCGIFFLAGS, &asked) < 0 || asked.ifr_flags & IFF_UP;
        append(is_up ? up : down, sizeof up, " %s", name);
        result->succeeded |= is_up;
    }
    fclose(file);
    observe(result, "lo%s%s%s", up, *down ? "; down:" : "", down);
}

/* N8 */
static const struct family {
    const char *name;
    int family, type;
} families[] = {
    {"AF_INET", AF_INET, SOCK_STREAM},     {"AF_INET6", AF_INET6, SOCK_STREAM}, {"AF_PACKET", AF_PACKET, SOCK_RAW},
    {"AF_NETLINK", AF_NETLINK, SOCK_RAW},  {"AF_VSOCK", AF_VSOCK, SOCK_STREAM}, {"AF_ALG", AF_ALG, SOCK_SEQPACKET},
};

static void make_socket(struct result *result, const char *name) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (strcmp(families[i].name, name) != 0) continue;
        if (socket(families[i].family, families[i].type | SOCK_CLOEXEC, 0) < 0) return observe_errno(result, NULL);
        result->succeeded = true;
        observe(result, "made");
    }
}

static void make_ring(struct result *result, const char *unused) {
    uint64_t parameters[15] = {0}; /* struct io_uring_params */
    (void)unused;
    if (syscall(SYS_io_uring_setup, 1, parameters) < 0) return observe_errno(result, NULL);
    result->succeeded = true;
    observe(result, "made");
}

void connect_unix(struct result *result, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return observe(result, "the path is too long for a socket");
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return observe_errno(result, "socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        observe_errno(result, NULL);
    } else {
        result->succeeded = true;
        observe(result, "connected");
    }
    close(fd);
}

static void checked_address(const char *text, bool needs_port) {
    struct sockaddr_storage address;
    socklen_t length;
    bool good = parse_address(text, &address, &length);
    if (!good || (needs_port && !((struct sockaddr_in *)&address)->sin_port)) {
        usage_error("not an address%s: %s", needs_port ? " with a port" : "", text);
    }
}

static void add_connection(const char *address, const void *check) {
    checked_address(address, true);
    attempt_together(check, LIMIT_MS, read_nonce, address, "connect to %s and read", address);
}

static void add_datagram(const char *address, const void *unused) {
    (void)unused;
    checked_address(address, true);
    attempt_together("N5", LIMIT_MS, send_datagram, address, "send a datagram to %s", address);
}

static void add_server(const char *address, const void *unused) {
    (void)unused;
    checked_address(address, false);
    attempt_together("N4", LIMIT_MS, ask_server, address, "ask the name server %s", address);
}

static void add_route(const char *address, const void *unused) {
    (void)unused;
    checked_address(address, false);
    attempt_together("N3", LIMIT_MS, find_route, address, "find a route to %s", address);
}

void list_network_attempts(void) {
    unsigned char query[QUERY_SIZE];
    if (setting("nonce")) {
        each_in_list("lan", add_connection, "N1");
        each_in_list("gateway", add_connection, "N2");
        each_in_list("loopback", add_connection, "N2");
        each_in_list("sibling", add_connection, "N7");
        each_in_list("udp", add_datagram, NULL);
    }
    each_in_list("metadata", add_route, NULL);
    if (setting("name")) {
        if (!make_query(query, setting("name"), 0)) usage_error("not a host name: %s", setting("name"));
        attempt_together("N4", LIMIT_MS, ask_resolvers, NULL, "ask the name servers of /etc/resolv.conf");
        each_in_list("dns", add_server, NULL);
    }
    attempt("N6", LIMIT_MS, find_interfaces, NULL, "find an interface other than lo");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        attempt("N8", LIMIT_MS, make_socket, families[i].name, "make a socket of %s", families[i].name);
    }
    attempt("N8", LIMIT_MS, make_ring, NULL, "make an io_uring");
}
