/* What the parts of the balancing relay share: one thread, fixed tables, no memory taken in the loop. */
#ifndef RELAY_BALANCE_H
#define RELAY_BALANCE_H

#include <stddef.h>
#include <stdint.h>

#define FLOWS_MAX 1024
/* As many as `flow.tried` has bits. */
#define TARGETS_MAX 64
#define ID_MAX 64
#define ADDRESS_MAX 32
#define ERROR_MAX 128

/* relay_answer.c: how far the answers on a connection have got. */
typedef struct {
    enum { STATUS_LINE, HEADERS, BODY, CHUNK_SIZE, CHUNK, TRAILER, TO_THE_END } part;
    int begun;     /* something of the answer that is due has come */
    int closes;    /* it is the last one on its connection */
    int bodiless;  /* it answers a HEAD request */
    int status, chunked;
    long long left;
    size_t size;
    char line[96];
} answer;

void answer_expect(answer *one, int bodiless);
/* Returns how many answers have become whole. */
int answer_read(answer *one, const char *data, size_t size);

/* relay_targets.c */
enum health { LOADING, READY, LOST };
typedef struct {
    int used, gone; /* gone: no more in the file, its last connections are still open */
    char id[ID_MAX + 1], address[ADDRESS_MAX];
    int weight, drain;
    enum health health;
    int failures;  /* of asking for its health, in a row */
    int unreached; /* the same, where there was not even a connection */
    const char *shown;
    long long since_ms; /* of the clock: since when it is shown so */
    long heard, shunned;
    unsigned turn;
    int open;
    unsigned long served, failed;
    char error[ERROR_MAX];
    /* Asking for its health. */
    int probe;
    int connected;
    long began, next;
    size_t got;
    char head[16];
} target;

extern target targets[TARGETS_MAX];
extern char file_error[ERROR_MAX];
extern long long file_read_ms;

long long clock_ms(void);
/* Read the file if it is another one than the last time. */
void targets_read(const char *path);
/* The one with the fewest connections for its weight, -1 if there is none. */
int target_choose(uint64_t without, long now);
void target_error(target *one, const char *what, const char *why);
void target_restate(target *one, enum health health);
void target_release(target *one);

/* relay_health.c */
void health_path(const char *path);
void health_event(target *one, unsigned seen);
void health_tick(long now);

/* relay_flow.c: a client's connection. */
typedef struct {
    enum { FREE, SILENT, WAIT, CONNECT, FLOW, ANSWER, LINGER } state;
    int client, server;           /* descriptors; server -1 for none */
    int client_wants, server_wants; /* what epoll watches, -1 if it does not know the descriptor */
    target *to;
    unsigned turn;                /* of `server`: tells late events of an earlier one */
    uint64_t tried;
    int sent;                     /* something was sent to `to`: no other one gets it */
    int asked;                    /* and there is an answer due */
    int deaf;                     /* the server takes no more */
    int client_ended;
    int stuck;                    /* seconds without a sign of the server's machine */
    long until, patience;
    answer answer;
    size_t up_at, up_size, down_at, down_size;
    char up[16384], down[16384];
} flow;

extern flow flows[FLOWS_MAX];
extern int open_flows, waiting_flows;
extern unsigned long refused_requests;

/* Makes room for one more, where there is none: those who have said nothing give way. */
int flow_room(int most);
void flow_open(int client);
void flow_client(flow *one, unsigned seen);
void flow_server(flow *one, unsigned seen);
void flow_tick(flow *one, long now, int each_second, int stopping);
/* Closed with a reset. */
void flow_break(flow *one);

/* relay_status.c */
size_t status_text(char *into, size_t size, int stopping);

/* relay_balance.c: epoll. A wish of -1 is for a descriptor that is not watched. */
enum kind { LISTENER, STATUS, CLIENT, SERVER, PROBE };
void watch(int fd, int *had, int wanted, enum kind kind, int index, unsigned turn);

#endif
