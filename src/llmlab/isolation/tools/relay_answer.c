/* Whether the answers on a connection are whole.
 *
 * A server that is killed closes its connections as one does that has finished. Only the
 * answer itself tells the two apart: by its length, or by the last of its chunks.
 */
#define _GNU_SOURCE
#include "relay_balance.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void answer_expect(answer *one, int bodiless)
{
    if (!one->begun)
        one->bodiless = bodiless;
}

static int whole(answer *one)
{
    one->part = one->closes ? TO_THE_END : STATUS_LINE;
    one->begun = 0;
    return 1;
}

/* What follows the headers; returns 1 if that is nothing. */
static int after_headers(answer *one)
{
    if (one->status >= 100 && one->status < 200 && one->status != 101) {
        one->part = STATUS_LINE;
        return 0;
    }
    if (one->bodiless || one->status == 204 || one->status == 304)
        return whole(one);
    if (one->status == 101 || (!one->chunked && one->left < 0)) {
        one->part = TO_THE_END;
        return 0;
    }
    one->part = one->chunked ? CHUNK_SIZE : BODY;
    return one->part == BODY && one->left == 0 ? whole(one) : 0;
}

static int has_value(const char *line, const char *name, const char **value)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length))
        return 0;
    *value = line + length + strspn(line + length, " \t");
    return 1;
}

static void header(answer *one)
{
    const char *value;
    if (has_value(one->line, "content-length:", &value))
        one->left = isdigit((unsigned char)*value) ? strtoll(value, NULL, 10) : -1;
    else if (has_value(one->line, "transfer-encoding:", &value))
        one->chunked = strcasestr(value, "chunked") != NULL;
    else if (has_value(one->line, "connection:", &value))
        one->closes = strcasestr(value, "close") != NULL;
}

/* A line without its end; returns 1 if an answer is whole with it. */
static int line(answer *one)
{
    char *end;
    switch (one->part) {
    case STATUS_LINE:
        if (strncmp(one->line, "HTTP/1.", 7) || one->size < 12) {
            /* Whatever this is: it ends with its connection. */
            one->part = TO_THE_END;
            return 0;
        }
        one->status = atoi(one->line + 9);
        one->closes = one->line[7] == '0';
        one->chunked = 0;
        one->left = -1;
        one->part = HEADERS;
        return 0;
    case HEADERS:
        if (!one->size)
            return after_headers(one);
        header(one);
        return 0;
    case CHUNK_SIZE:
        one->left = strtoll(one->line, &end, 16);
        one->part = one->left ? CHUNK : TRAILER;
        if (end == one->line || one->left < 0 || one->left > LLONG_MAX - 2)
            one->part = TO_THE_END;
        else
            one->left += 2; /* the line's end behind it */
        return 0;
    case TRAILER:
        return one->size ? 0 : whole(one);
    default:
        return 0;
    }
}

int answer_read(answer *one, const char *data, size_t size)
{
    int done = 0;
    while (size) {
        one->begun = 1;
        if (one->part == TO_THE_END)
            return done;
        if (one->part == BODY || one->part == CHUNK) {
            size_t part = (long long)size < one->left ? size : (size_t)one->left;
            one->left -= (long long)part;
            data += part;
            size -= part;
            if (!one->left && one->part == BODY)
                done += whole(one);
            else if (!one->left)
                one->part = CHUNK_SIZE;
            continue;
        }
        char c = *data++;
        size--;
        if (c == '\n') {
            one->size -= one->size && one->line[one->size - 1] == '\r';
            one->line[one->size] = '\0';
            done += line(one);
            one->size = 0;
        } else if (one->size < sizeof one->line - 1) {
            one->line[one->size++] = c;
        }
    }
    return done;
}
