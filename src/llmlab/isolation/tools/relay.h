/* What the parts of the relay share. */
#ifndef RELAY_H
#define RELAY_H

#include <stddef.h>

#define HEAD_MAX 16384

/* relay_net.c: sockets. A place is the path of a unix socket, or address:port. */
int listen_at(const char *place, int *port);
int connect_to(const char *place);
int set_nonblocking(int fd);
long now_ms(void);

/* relay_serve.c: many connections, each passed on to the target; key NULL: as it comes. */
int serve(const char *place, const char *target, const char *key, long head_ms);

/* relay_balance.c: many connections, each to one of the targets that a file names. */
int balance(const char *place, const char *file, const char *status_place, const char *health_path);

/* relay_gate.c: the head of a request.
   head_length: its length, 0 if it is not complete, -1 if it is malformed.
   gate_check: 0 and what is passed on instead, or the HTTP status of the refusal. */
long head_length(const char *data, size_t size);
int gate_check(const char *head, size_t size, const char *key, char *out, size_t out_size,
               size_t *out_length, long long *body, int *expects, const char **why);

#endif
