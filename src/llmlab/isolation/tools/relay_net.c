/* The relay's sockets: unix sockets by their path, TCP by a numeric address. */
#define _GNU_SOURCE
#include "relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 128

typedef union {
    struct sockaddr any;
    struct sockaddr_un path;
    struct sockaddr_in ip;
} address;

/* Fill in an address; its size, or 0 with errno if the text is none. */
static socklen_t parse(const char *place, address *found)
{
    memset(found, 0, sizeof *found);
    if (place[0] == '/') {
        if (strlen(place) >= sizeof found->path.sun_path) {
            errno = ENAMETOOLONG;
            return 0;
        }
        found->path.sun_family = AF_UNIX;
        strcpy(found->path.sun_path, place);
        return sizeof found->path;
    }
    char host[64];
    const char *colon = strrchr(place, ':');
    if (!colon || (size_t)(colon - place) >= sizeof host) {
        errno = EINVAL;
        return 0;
    }
    memcpy(host, place, (size_t)(colon - place));
    host[colon - place] = '\0';
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    found->ip.sin_family = AF_INET;
    if (colon[1] == '\0' || *end || port > 65535 || inet_pton(AF_INET, host, &found->ip.sin_addr) != 1) {
        errno = EINVAL;
        return 0;
    }
    found->ip.sin_port = htons((unsigned short)port);
    return sizeof found->ip;
}

long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int listen_at(const char *place, int *port)
{
    address own;
    socklen_t size = parse(place, &own);
    int fd = size ? socket(own.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0)
        return -1;
    if (own.any.sa_family == AF_UNIX) {
        /* For our own user alone. */
        umask(0077);
    } else {
        int on = 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    if (bind(fd, &own.any, size) || listen(fd, BACKLOG)) {
        int reason = errno;
        close(fd);
        errno = reason;
        return -1;
    }
    *port = 0;
    if (own.any.sa_family == AF_INET && getsockname(fd, &own.any, &size) == 0)
        *port = ntohs(own.ip.sin_port);
    return fd;
}

int connect_to(const char *place)
{
    address target;
    socklen_t size = parse(place, &target);
    if (!size)
        return -1;
    if (target.any.sa_family == AF_UNIX) {
        /* A link planted here would lead a prompt to another socket. */
        struct stat info;
        if (lstat(place, &info))
            return -1;
        if (!S_ISSOCK(info.st_mode)) {
            errno = ENOTSOCK;
            return -1;
        }
    }
    int fd = socket(target.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (target.any.sa_family == AF_INET) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (connect(fd, &target.any, size) && errno != EINPROGRESS) {
        int reason = errno;
        close(fd);
        errno = reason;
        return -1;
    }
    return fd;
}
