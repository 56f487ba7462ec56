/* The balancing relay's account of itself: one JSON document. */
#define _GNU_SOURCE
#include "relay_balance.h"

#include <stdarg.h>
#include <stdio.h>

typedef struct {
    char *at, *end;
} writer;

static void put(writer *out, const char *format, ...)
{
    va_list words;
    va_start(words, format);
    int size = vsnprintf(out->at, (size_t)(out->end - out->at), format, words);
    va_end(words);
    if (size > 0)
        out->at += size < out->end - out->at ? size : out->end - out->at - 1;
}

static void put_text(writer *out, const char *text)
{
    if (!*text) {
        put(out, "null");
        return;
    }
    put(out, "\"");
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            put(out, "\\%c", *text);
        else if ((unsigned char)*text >= ' ' && (unsigned char)*text < 0x7f)
            put(out, "%c", *text);
    put(out, "\"");
}

static void put_time(writer *out, long long ms)
{
    if (ms)
        put(out, "%lld.%03lld", ms / 1000, ms % 1000);
    else
        put(out, "null");
}

size_t status_text(char *into, size_t size, int stopping)
{
    writer out = {into, into + size};
    const char *comma = "";
    put(&out, "{\"version\": 1, \"stopping\": %s, \"open\": %d, \"waiting\": %d, \"refused\": %lu, \"file\": {\"error\": ",
        stopping ? "true" : "false", open_flows, waiting_flows, refused_requests);
    put_text(&out, file_error);
    put(&out, ", \"read\": ");
    put_time(&out, file_read_ms);
    put(&out, "}, \"targets\": [");
    for (const target *one = targets; one < targets + TARGETS_MAX; one++) {
        if (!one->used)
            continue;
        put(&out, "%s{\"id\": \"%s\", \"address\": \"%s\", \"weight\": %d, \"state\": \"%s\", ", comma, one->id,
            one->address, one->weight, one->shown);
        put(&out, "\"open\": %d, \"served\": %lu, \"failed\": %lu, \"error\": ", one->open, one->served, one->failed);
        put_text(&out, one->error);
        put(&out, ", \"since\": ");
        put_time(&out, one->since_ms);
        put(&out, "}");
        comma = ", ";
    }
    put(&out, "]}\n");
    return (size_t)(out.at - into);
}
