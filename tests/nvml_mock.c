/* A libnvidia-ml of our own, for tests: the genuine pynvml loads it in place of the driver's.
 *
 * Its values come from the text file that LLMLAB_NVML_MOCK names, read anew whenever another
 * file has that name; nvml_mock.py says what stands in it. It is stricter than the driver's: a handle is void
 * once NVML was shut down, a GPU that was lost once stays lost until then, and a shutdown
 * while somebody else is in a call ends the process.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define GPUS 8
#define PARTS 8
#define WHOLE (-1)
#define LINE 512

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
};

typedef struct {
    int gpu, part, start;
} device;

typedef struct {
    unsigned field, scope;
    int64_t timestamp, latency;
    unsigned type;
    int error;
    union {
        double d;
        unsigned u;
        unsigned long long ull;
    } value;
} field_value;

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process;

static int references, starts, present[GPUS], lost[GPUS];
static atomic_int calls;
static int troubled;

/* What the file holds. A call asks for several values, and reading it each time would cost more
 * than all that a benchmark measures. With the guard. */
static const char *values(void)
{
    static struct stat known;
    static char *held;
    struct stat now;
    const char *path = getenv("LLMLAB_NVML_MOCK");
    FILE *file;
    if (!path || stat(path, &now))
        return "";
    if (held && known.st_ino == now.st_ino && known.st_size == now.st_size
        && known.st_mtim.tv_sec == now.st_mtim.tv_sec && known.st_mtim.tv_nsec == now.st_mtim.tv_nsec)
        return held;
    file = fopen(path, "r");
    if (!file || fstat(fileno(file), &now))
        return "";
    held = realloc(held, (size_t)now.st_size + 1);
    held[fread(held, 1, (size_t)now.st_size, file)] = 0;
    fclose(file);
    known = now;
    troubled = strstr(held, "error.") || strstr(held, "sleep.");
    return held;
}

/* The value of a key; 0 if the file has no such key. */
static int text(const char *key, char *into)
{
    static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
    size_t length = strlen(key);
    const char *line;
    int found = 0;
    pthread_mutex_lock(&guard);
    line = values();
    if (!troubled && (strstr(key, "error.") || strstr(key, "sleep.")))
        line = "";
    for (const char *next; *line && !found; line = next) {
        next = strchrnul(line, '\n');
        next += *next == '\n';
        if (*line == *key && !strncmp(line, key, length) && line[length] == ' ') {
            size_t size = strcspn(line, "\n") - length - 1;
            size = size < LINE ? size : LINE - 1;
            memcpy(into, line + length + 1, size);
            into[size] = 0;
            found = 1;
        }
    }
    pthread_mutex_unlock(&guard);
    return found;
}

static double number(const char *key, double otherwise)
{
    char value[LINE];
    return text(key, value) ? strtod(value, NULL) : otherwise;
}

/* A device's key: "0.power" of a GPU, "0.1.power" of its MIG device 1. */
static const char *of(int gpu, int part, const char *what, char *into)
{
    if (part == WHOLE)
        snprintf(into, LINE, "%d.%s", gpu, what);
    else
        snprintf(into, LINE, "%d.%d.%s", gpu, part, what);
    return into;
}

static int answers(int gpu)
{
    char key[LINE];
    return (int)number(of(gpu, WHOLE, "error.*", key), SUCCESS) != GPU_IS_LOST;
}

static int gpus(void)
{
    int count = (int)number("gpus", 0);
    return count < GPUS ? count : GPUS;
}

static void pause_for(double seconds)
{
    struct timespec left = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
    if (seconds > 0)
        nanosleep(&left, NULL);
}

/* What every function does first: sleep and fail, if it is told to. */
static int enter(const char *function, const device *d)
{
    char what[LINE], key[LINE];
    int error, gone = 0;
    atomic_fetch_add(&calls, 1);
    snprintf(what, sizeof what, "sleep.%s", function);
    pause_for(number(what, 0) + (d ? number(of(d->gpu, d->part, what, key), 0) : 0));
    snprintf(what, sizeof what, "error.%s", function);
    error = (int)number(what, (double)(int)number("error.*", SUCCESS));
    if (!error && !references)
        error = UNINITIALIZED;
    if (!error && d) {
        if (d->start != starts)
            error = INVALID_ARGUMENT;
        else {
            lost[d->gpu] |= !answers(d->gpu);
            gone = (int)number(of(d->gpu, WHOLE, "error.*", key), SUCCESS);
            error = lost[d->gpu] ? GPU_IS_LOST : gone;
        }
    }
    if (!error && d)
        error = (int)number(of(d->gpu, d->part, what, key), SUCCESS);
    return error;
}

static int leave(int error)
{
    atomic_fetch_sub(&calls, 1);
    return error;
}

/* A number of a device; one that the file does not have is not supported. */
static int tell(const char *function, const device *d, const char *what, double *into)
{
    char key[LINE], value[LINE];
    int error = enter(function, d);
    if (!error && !text(of(d->gpu, d->part, what, key), value))
        error = NOT_SUPPORTED;
    if (!error)
        *into = strtod(value, NULL);
    return leave(error);
}

static int tell_unsigned(const char *function, const device *d, const char *what, unsigned *into)
{
    double value;
    int error = tell(function, d, what, &value);
    if (!error)
        *into = (unsigned)value;
    return error;
}

/* Never freed: what was given out once may be asked again. */
static device *handle(int gpu, int part)
{
    device *made = malloc(sizeof *made);
    *made = (device){ gpu, part, starts };
    return made;
}

int nvml_mock_references(void)
{
    return references;
}

int nvml_mock_starts(void)
{
    return starts;
}

int nvmlInitWithFlags(unsigned flags)
{
    int error;
    (void)flags;
    pause_for(number("sleep.nvmlInitWithFlags", 0));
    error = (int)number("error.nvmlInitWithFlags", SUCCESS);
    if (error)
        return error;
    if (!references++) {
        starts++;
        for (int gpu = 0; gpu < GPUS; gpu++) {
            present[gpu] = gpu < gpus() && answers(gpu);
            lost[gpu] = 0;
        }
    }
    return SUCCESS;
}

int nvmlShutdown(void)
{
    if (atomic_load(&calls)) {
        fprintf(stderr, "nvml_mock: shut down while somebody is in a call\n");
        abort();
    }
    if (!references)
        return UNINITIALIZED;
    references--;
    return SUCCESS;
}

const char *nvmlErrorString(int error)
{
    (void)error;
    return "an error of the mock";
}

int nvmlSystemGetDriverVersion(char *into, unsigned size)
{
    int error = enter("nvmlSystemGetDriverVersion", NULL);
    char value[LINE];
    if (!error && !text("driver", value))
        error = NOT_SUPPORTED;
    if (!error)
        snprintf(into, size, "%s", value);
    return leave(error);
}

int nvmlSystemGetCudaDriverVersion(int *into)
{
    int error = enter("nvmlSystemGetCudaDriverVersion", NULL);
    char value[LINE];
    if (!error && !text("cuda", value))
        error = NOT_SUPPORTED;
    if (!error)
        *into = atoi(value);
    return leave(error);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int error = enter("nvmlDeviceGetCount", NULL);
    *count = 0;
    for (int gpu = 0; gpu < GPUS; gpu++)
        *count += (unsigned)present[gpu];
    return leave(error);
}

/* The driver counts a GPU that it cannot open: "Unable to determine the device handle". */
static int opens(int gpu, const char *what)
{
    char key[LINE];
    return (int)number(of(gpu, WHOLE, what, key), SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **into)
{
    int error = enter("nvmlDeviceGetHandleByIndex", NULL), gpu = 0;
    /* As with the driver's, GPUs that are not there have no number. */
    while (gpu < GPUS && !(present[gpu] && index-- == 0))
        gpu++;
    if (!error && gpu == GPUS)
        error = INVALID_ARGUMENT;
    if (!error)
        error = opens(gpu, "error.nvmlDeviceGetHandleByIndex");
    if (!error)
        *into = handle(gpu, WHOLE);
    return leave(error);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device **into)
{
    int error = enter("nvmlDeviceGetHandleByUUID", NULL), gpu = -1, part = WHOLE;
    if (!error && sscanf(uuid, "MIG-mock-%d-%d", &gpu, &part) != 2
        && sscanf(uuid, "GPU-mock-%d", &gpu) != 1)
        error = INVALID_ARGUMENT;
    if (!error && (gpu < 0 || gpu >= GPUS || !present[gpu]))
        error = NOT_FOUND;
    if (!error)
        error = opens(gpu, "error.nvmlDeviceGetHandleByUUID");
    if (!error)
        *into = handle(gpu, part);
    return leave(error);
}

int nvmlDeviceGetUUID(device *d, char *into, unsigned size)
{
    int error = enter("nvmlDeviceGetUUID", d);
    if (!error && d->part == WHOLE)
        snprintf(into, size, "GPU-mock-%d", d->gpu);
    else if (!error)
        snprintf(into, size, "MIG-mock-%d-%d", d->gpu, d->part);
    return leave(error);
}

int nvmlDeviceGetName(device *d, char *into, unsigned size)
{
    char key[LINE], value[LINE];
    int error = enter("nvmlDeviceGetName", d);
    if (!error && !text(of(d->gpu, d->part, "name", key), value))
        error = NOT_SUPPORTED;
    if (!error)
        snprintf(into, size, "%s", value);
    return leave(error);
}

int nvmlDeviceGetMemoryInfo(device *d, unsigned long long into[3])
{
    double total, used = 0;
    char key[LINE];
    int error = tell("nvmlDeviceGetMemoryInfo", d, "memory.total", &total);
    if (!error) {
        used = number(of(d->gpu, d->part, "memory.used", key), 0);
        into[0] = (unsigned long long)total << 20;
        into[1] = (unsigned long long)(total - used) << 20;
        into[2] = (unsigned long long)used << 20;
    }
    return error;
}

int nvmlDeviceGetUtilizationRates(device *d, unsigned into[2])
{
    into[1] = 0;
    return tell_unsigned("nvmlDeviceGetUtilizationRates", d, "utilisation", into);
}

int nvmlDeviceGetFieldValues(device *d, int count, field_value *values)
{
    char what[LINE], key[LINE], value[LINE];
    int error = enter("nvmlDeviceGetFieldValues", d);
    for (int i = 0; !error && i < count; i++) {
        snprintf(what, sizeof what, "field.%u", values[i].field);
        values[i].error = text(of(d->gpu, d->part, what, key), value) ? SUCCESS : NOT_SUPPORTED;
        snprintf(what, sizeof what, "field.%u.error", values[i].field);
        values[i].error = (int)number(of(d->gpu, d->part, what, key), values[i].error);
        values[i].type = 1;
        if (!values[i].error)
            values[i].value.u = (unsigned)strtoul(value, NULL, 10);
    }
    return leave(error);
}

int nvmlDeviceGetPowerUsage(device *d, unsigned *into)
{
    return tell_unsigned("nvmlDeviceGetPowerUsage", d, "power", into);
}

int nvmlDeviceGetTotalEnergyConsumption(device *d, unsigned long long *into)
{
    double value;
    int error = tell("nvmlDeviceGetTotalEnergyConsumption", d, "energy", &value);
    if (!error)
        *into = (unsigned long long)value;
    return error;
}

int nvmlDeviceGetCudaComputeCapability(device *d, int *major, int *minor)
{
    double value;
    int error = tell("nvmlDeviceGetCudaComputeCapability", d, "capability", &value);
    if (!error) {
        *major = (int)(value + 0.05);
        *minor = (int)((value - *major) * 10 + 0.5);
    }
    return error;
}

int nvmlDeviceGetClockInfo(device *d, unsigned clock, unsigned *into)
{
    return tell_unsigned("nvmlDeviceGetClockInfo", d, clock == 1 ? "clock.sm" : "clock.memory", into);
}

int nvmlDeviceGetMaxClockInfo(device *d, unsigned clock, unsigned *into)
{
    const char *what = clock == 1 ? "clock.sm.most" : "clock.memory.most";
    return tell_unsigned("nvmlDeviceGetMaxClockInfo", d, what, into);
}

int nvmlDeviceGetMemoryBusWidth(device *d, unsigned *into)
{
    return tell_unsigned("nvmlDeviceGetMemoryBusWidth", d, "bus.width", into);
}

int nvmlDeviceGetTemperatureV(device *d, int into[3])
{
    double value;
    int error = tell("nvmlDeviceGetTemperatureV", d, "temperature", &value);
    if (!error)
        into[2] = (int)value;
    return error;
}

int nvmlDeviceGetTemperature(device *d, unsigned sensor, unsigned *into)
{
    (void)sensor;
    return tell_unsigned("nvmlDeviceGetTemperature", d, "temperature", into);
}

/* Not told unless the file does: both are asked for by others' programs, before anything else. */
int nvmlDeviceGetMaxPcieLinkGeneration(device *d, unsigned *into)
{
    return tell_unsigned("nvmlDeviceGetMaxPcieLinkGeneration", d, "pcie.generation", into);
}

int nvmlDeviceGetNvLinkVersion(device *d, unsigned link, unsigned *into)
{
    (void)link;
    return tell_unsigned("nvmlDeviceGetNvLinkVersion", d, "nvlink.version", into);
}

static int tell_reasons(const char *function, const device *d, unsigned long long *into)
{
    double value;
    int error = tell(function, d, "reasons", &value);
    if (!error)
        *into = (unsigned long long)value;
    return error;
}

int nvmlDeviceGetCurrentClocksEventReasons(device *d, unsigned long long *into)
{
    return tell_reasons("nvmlDeviceGetCurrentClocksEventReasons", d, into);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device *d, unsigned long long *into)
{
    return tell_reasons("nvmlDeviceGetCurrentClocksThrottleReasons", d, into);
}

int nvmlDeviceGetMigMode(device *d, unsigned *current, unsigned *pending)
{
    char key[LINE];
    int error = enter("nvmlDeviceGetMigMode", d);
    if (!error)
        *current = *pending = number(of(d->gpu, d->part, "mig", key), 0) > 0;
    return leave(error);
}

int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *count)
{
    return tell_unsigned("nvmlDeviceGetMaxMigDeviceCount", d, "mig", count);
}

int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned part, device **into)
{
    char key[LINE], value[LINE];
    int error = enter("nvmlDeviceGetMigDeviceHandleByIndex", d);
    /* A place that holds none is one whose memory the file does not tell. */
    if (!error && (part >= PARTS || !text(of(d->gpu, (int)part, "memory.total", key), value)))
        error = NOT_FOUND;
    if (!error)
        *into = handle(d->gpu, (int)part);
    return leave(error);
}

/* "12:500,13:na": process ids, and MiB or not available. */
static int list(const char *function, const char *what, const device *d, unsigned *count, process *into)
{
    char key[LINE], value[LINE];
    unsigned found = 0, room = into ? *count : 0;
    int error = enter(function, d);
    if (!error && !text(of(d->gpu, d->part, what, key), value))
        error = NOT_SUPPORTED;
    if (!error)
        for (char *at = value; *at && (at == value || *at == ','); found++) {
            unsigned pid = (unsigned)strtoul(at + (*at == ','), &at, 10);
            unsigned long long used = ~0ULL;
            if (strncmp(at, ":na", 3))
                used = strtoull(at + 1, &at, 10) << 20;
            else
                at += 3;
            if (found < room)
                into[found] = (process){ pid, used, ~0U, ~0U };
        }
    if (!error && found > room)
        error = INSUFFICIENT_SIZE;
    *count = found;
    return leave(error);
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *count, process *into)
{
    return list("nvmlDeviceGetComputeRunningProcesses", "processes.compute", d, count, into);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device *d, unsigned *count, process *into)
{
    return list("nvmlDeviceGetGraphicsRunningProcesses", "processes.graphics", d, count, into);
}
