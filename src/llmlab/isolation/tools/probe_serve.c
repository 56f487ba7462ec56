/* The sibling: a container that listens, and says what has reached it. */
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TCP, UDP, DNS, DOORS };

static const char *const door_names[DOORS] = {"tcp", "udp", "dns"};

static void end(int signal_number) {
    (void)signal_number;
    _exit(0);
}

/* -1 where there is no such key, -2 where it cannot listen. */
static int listen_at(int door) {
    long port = setting_number(door_names[door], 65535);
    if (!port) return -1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, (door == TCP ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (fd >= 0 && !bind(fd, (struct sockaddr *)&address, sizeof address) && (door != TCP || !listen(fd, 64))) {
        return fd;
    }
    fprintf(stderr, "probe: cannot listen at %s=%ld: %s\n", door_names[door], port, strerror(errno));
    return -2;
}

static void greet(int fd) {
    const char *nonce = setting("nonce");
    int caller = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (caller < 0) return;
    dprintf(caller, "%s\n", nonce ? nonce : "");
    close(caller);
}

/* The name that a query asks for, with dots; returns where the question ends, 0 if it is none. */
static size_t read_question(const unsigned char *query, size_t size, char *name) {
    size_t at = 12, length = 0;
    while (at < size && query[at]) {
        size_t label = query[at];
        if (label > 63 || at + 1 + label >= size || length + label + 1 > 255) return 0;
        if (length) name[length++] = '.';
        memcpy(name + length, query + at + 1, label);
        length += label;
        at += label + 1;
    }
    name[length] = 0;
    return at + 5 <= size ? at + 5 : 0;
}

static void receive(int fd, int door) {
    unsigned char data[600];
    char name[256], from[INET_ADDRSTRLEN] = "";
    struct sockaddr_in sender;
    socklen_t length = sizeof sender;
    ssize_t size = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&sender, &length);
    if (size < 0) return;
    inet_ntop(AF_INET, &sender.sin_addr, from, sizeof from);
    const char *text = (char *)data;
    size_t text_length = (size_t)size;
    if (door == DNS) {
        size_t question = size > 12 ? read_question(data, (size_t)size, name) : 0;
        if (!question) return;
        text = name;
        text_length = strlen(name);
        /* The question comes back as an answer: no such name. */
        data[2] = 0x81;
        data[3] = 0x83;
        memset(data + 6, 0, 6);
        sendto(fd, data, question, 0, (struct sockaddr *)&sender, length);
    }
    printf("{\"received\":\"%s\",\"text\":", door_names[door]);
    print_json_string(text, text_length);
    printf(",\"from\":\"%s\"}\n", from);
    fflush(stdout);
}

int serve(void) {
    struct pollfd doors[DOORS];
    double seconds = setting_fraction("seconds", 86400);
    double until = now_ms() + (seconds > 0 ? seconds : 30) * 1000;
    signal(SIGTERM, end);
    signal(SIGINT, end);
    for (int i = 0; i < DOORS; i++) {
        doors[i] = (struct pollfd){.fd = listen_at(i), .events = POLLIN};
        if (doors[i].fd == -2) return 1;
    }
    puts("{\"listening\":true}");
    fflush(stdout);
    for (double left; (left = until - now_ms()) > 0;) {
        if (poll(doors, DOORS, (int)left + 1) < 0 && errno != EINTR) return 1;
        for (int i = 0; i < DOORS; i++) {
            if (!(doors[i].revents & POLLIN)) continue;
            if (i == TCP) greet(doors[i].fd);
            else receive(doors[i].fd, i);
        }
    }
    return 0;
}
