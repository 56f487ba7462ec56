/* The probe: attempts, from inside a container, what isolation is to prevent.
 *
 * Every attempt is harmless where it succeeds: files are made in the container's own
 * file system and removed at once, nothing is written to a setting of the kernel, and
 * no signal goes to a process that is not the probe's own child.
 */
#ifndef PROBE_H
#define PROBE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* What an attempt has found; shared between the child that makes it and the parent. */
struct result {
    bool finished;          /* the child came to its end */
    bool succeeded;         /* the violation happened */
    int sent;               /* -1: nothing was to be sent */
    unsigned long long inode;
    double ms;              /* how long it took */
    char observed[480];
};

typedef void attempt_function(struct result *result, const char *argument);

/* Put an attempt on the list, if its check is wanted. Its text is the key by which the
 * same attempts in two containers are paired: nothing that differs may be in it. */
void attempt(const char *check, int limit_ms, attempt_function *run, const char *argument,
             const char *text, ...) __attribute__((format(printf, 5, 6)));
/* The same for attempts that mostly wait; they are made at the same time. */
void attempt_together(const char *check, int limit_ms, attempt_function *run, const char *argument,
                      const char *text, ...) __attribute__((format(printf, 5, 6)));
/* Adds to a text as far as there is room. */
void append(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
void observe(struct result *result, const char *text, ...) __attribute__((format(printf, 2, 3)));
void observe_errno(struct result *result, const char *call); /* call may be NULL */

/* Values from the command line; NULL or 0 where there is none. */
const char *setting(const char *key);
long setting_number(const char *key, long most);
double setting_fraction(const char *key, double most);
void each_in_list(const char *key, void (*take)(const char *item, const void *context), const void *context);
void usage_error(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* "192.0.2.1:80" or "[2001:db8::1]:80"; a port of 0 where none is given. */
bool parse_address(const char *text, struct sockaddr_storage *address, socklen_t *length);
void print_json_string(const char *text, size_t length);
double now_ms(void);

/* Runs PATH with one argument; its output, or an errno. */
int run_program(const char *path, const char *argument, char *output, size_t size);
/* A number of a line of /proc/self/status, such as "CapEff:". */
bool status_hex(const char *name, unsigned long long *value);

void list_network_attempts(void);
void list_file_attempts(void);
void list_process_attempts(void);
void list_limit_attempts(void);
void connect_unix(struct result *result, const char *path);
int serve(void);
int whoami(void);

#endif
