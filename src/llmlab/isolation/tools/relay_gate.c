/* The gate: which requests of other tools are let through to the engine, and in what form.
 *
 * The engine itself takes any Host, reflects any Origin and asks for no key. A web
 * page could therefore make a browser talk to it, under a name that leads to
 * this machine (DNS rebinding). What is not plain HTTP/1.1 is refused: what two
 * readers may read in two ways can be used to smuggle a request past the first.
 */
#define _GNU_SOURCE
#include "relay.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define BODY_MAX (256LL * 1024 * 1024)

/* Headers that are of no concern to the engine, or that we write ourselves. */
static const char *const DROPPED[] = {
    "host", "authorization", "proxy-authorization", "origin", "referer", "cookie", "connection",
    "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect", NULL,
};
static const char *const METHODS[] = {"GET", "HEAD", "POST", NULL};

static int is_token(unsigned char c)
{
    return isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int same(const char *text, size_t size, const char *word)
{
    return size == strlen(word) && !strncasecmp(text, word, size);
}

static int in(const char *text, size_t size, const char *const *words)
{
    for (; *words; words++)
        if (same(text, size, *words))
            return 1;
    return 0;
}

/* localhost, 127.0.0.1 or [::1], with or without a port. */
static int is_loopback(const char *text, size_t size)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]", NULL};
    size_t end = size;
    while (end && isdigit((unsigned char)text[end - 1]))
        end--;
    if (end && end < size && size - end <= 5 && text[end - 1] == ':')
        size = end - 1;
    return in(text, size, names);
}

static int is_local_origin(const char *text, size_t size)
{
    static const char *const schemes[] = {"http://", "https://", NULL};
    for (const char *const *scheme = schemes; *scheme; scheme++) {
        size_t length = strlen(*scheme);
        if (size > length && !strncasecmp(text, *scheme, length))
            return is_loopback(text + length, size - length);
    }
    return 0;
}

/* Takes as long for a wrong key as for the right one. */
static int is_key(const char *text, size_t size, const char *key)
{
    size_t length = strlen(key);
    volatile unsigned char differs = size != length;
    for (size_t at = 0; at < length; at++)
        differs |= (unsigned char)((at < size ? text[at] : 0) ^ key[at]);
    return !differs;
}

long head_length(const char *data, size_t size)
{
    for (size_t at = 0; at < size; at++) {
        if (data[at] == '\0' || (data[at] == '\n' && (!at || data[at - 1] != '\r')))
            return -1;
        if (data[at] == '\r' && at + 1 < size && data[at + 1] != '\n')
            return -1;
        if (data[at] == '\n' && at >= 3 && data[at - 2] == '\n')
            return (long)at + 1;
    }
    return 0;
}

/* Space for what is passed on. */
typedef struct {
    char *at, *end;
} writer;

static int put(writer *out, const char *text, size_t size)
{
    if ((size_t)(out->end - out->at) < size)
        return 0;
    memcpy(out->at, text, size);
    out->at += size;
    return 1;
}

/* METHOD SP /path SP HTTP/1.x; the target in this form only, since others name a host. */
static int check_line(const char *line, size_t size, const char **why)
{
    const char *space = memchr(line, ' ', size);
    const char *last = memrchr(line, ' ', size);
    *why = "not a request that is understood here";
    if (!space || space == last || space[1] != '/')
        return 400;
    for (const char *c = space + 1; c < last; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            return 400;
    size_t version = size - (size_t)(last + 1 - line);
    if (!same(last + 1, version, "HTTP/1.1") && !same(last + 1, version, "HTTP/1.0"))
        return 400;
    for (const char *const *method = METHODS; *method; method++)
        if ((size_t)(space - line) == strlen(*method) && !memcmp(line, *method, strlen(*method)))
            return 0;
    *why = "only GET, HEAD and POST are let through";
    return 405;
}

static int parse_size(const char *text, size_t size, long long *body)
{
    *body = 0;
    if (!size || size > 15)
        return 0;
    for (size_t at = 0; at < size; at++) {
        if (!isdigit((unsigned char)text[at]))
            return 0;
        *body = *body * 10 + (text[at] - '0');
    }
    return 1;
}

int gate_check(const char *head, size_t size, const char *key, char *out, size_t out_size,
               size_t *out_length, long long *body, int *expects, const char **why)
{
    static const char own[] = "Host: localhost\r\nConnection: close\r\n\r\n";
    static const char scheme[] = "Bearer ";
    writer into = {out, out + out_size};
    int hosts = 0, origins = 0, keys = 0, sizes = 0;
    int good_host = 0, good_origin = 1, good_key = 0;
    const char *line = head, *end = head + size - 2; /* the empty line */

    *body = 0;
    *expects = 0;
    const char *next = memmem(line, (size_t)(end - line), "\r\n", 2);
    if (!next) {
        *why = "not a request that is understood here";
        return 400;
    }
    int refused = check_line(line, (size_t)(next - line), why);
    if (refused)
        return refused;
    put(&into, line, (size_t)(next + 2 - line));

    for (line = next + 2; line < end; line = next + 2) {
        next = memmem(line, (size_t)(end - line), "\r\n", 2);
        const char *colon = next ? memchr(line, ':', (size_t)(next - line)) : NULL;
        *why = "a header that is not well formed";
        if (!colon || colon == line)
            return 400;
        size_t name = (size_t)(colon - line);
        for (size_t at = 0; at < name; at++)
            if (!is_token((unsigned char)line[at]))
                return 400;
        const char *value = colon + 1, *stop = next;
        while (value < stop && (*value == ' ' || *value == '\t'))
            value++;
        while (stop > value && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        size_t length = (size_t)(stop - value);
        for (size_t at = 0; at < length; at++)
            if (((unsigned char)value[at] < ' ' && value[at] != '\t') || value[at] == 0x7f)
                return 400;

        if (same(line, name, "host")) {
            hosts++;
            good_host = is_loopback(value, length);
        } else if (same(line, name, "origin")) {
            origins++;
            good_origin = is_local_origin(value, length);
        } else if (same(line, name, "authorization")) {
            keys++;
            size_t skip = sizeof scheme - 1;
            good_key = length > skip && !strncasecmp(value, scheme, skip) && is_key(value + skip, length - skip, key);
        } else if (same(line, name, "content-length")) {
            sizes++;
            *why = "a Content-Length that is not a number";
            if (!parse_size(value, length, body))
                return 400;
        } else if (same(line, name, "transfer-encoding")) {
            *why = "send a Content-Length; no Transfer-Encoding is let through";
            return 411;
        } else if (same(line, name, "expect")) {
            *expects = 1;
        }
        if (!in(line, name, DROPPED) && !put(&into, line, (size_t)(next + 2 - line)))
            return 431;
    }
    *why = "a header that may stand there only once stands there more often";
    if (hosts > 1 || origins > 1 || keys > 1 || sizes > 1)
        return 400;
    *why = "it answers to localhost and 127.0.0.1 only";
    if (!good_host)
        return 403;
    *why = "it does not answer web pages of other origins";
    if (!good_origin)
        return 403;
    *why = "it asks for a key: Authorization: Bearer KEY";
    if (!good_key)
        return 401;
    *why = "the request is too large";
    if (*body > BODY_MAX)
        return 413;
    if (!put(&into, own, sizeof own - 1))
        return 431;
    *out_length = (size_t)(into.at - out);
    return 0;
}
