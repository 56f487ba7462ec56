/* The digest: SHA-256 of files, as FIPS 180-4 defines it, where a volume's files are.
 *
 *   digest FILE...   prints each file's hash, its size and its name, on a line of its own
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 64

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes (4.2.2). */
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turned(uint32_t word, int by)
{
    return word >> by | word << (32 - by);
}

/* One block into the state (6.2.2). */
static void mix(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64], s[8];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16
            | (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t a = w[t - 15], b = w[t - 2];
        w[t] = w[t - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[t - 7]
            + (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int t = 0; t < 64; t++) {
        /* The eight words change their names in each round; here their places are counted instead. */
        uint32_t a = s[-t & 7], b = s[(1 - t) & 7], c = s[(2 - t) & 7], e = s[(4 - t) & 7];
        uint32_t one = s[(7 - t) & 7] + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25))
            + ((e & s[(5 - t) & 7]) ^ (~e & s[(6 - t) & 7])) + K[t] + w[t];
        uint32_t two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        s[(3 - t) & 7] += one;
        s[(7 - t) & 7] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

static int digest(const char *path)
{
    static uint8_t data[1 << 20];
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint64_t size = 0;
    size_t held = 0;
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        goto failed;
    while ((got = read(fd, data + held, sizeof data - held - 2 * BLOCK))) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            goto failed;
        size += (uint64_t)got;
        held += (size_t)got;
        size_t whole = held / BLOCK * BLOCK;
        for (size_t at = 0; at < whole; at += BLOCK)
            mix(state, data + at);
        memmove(data, data + whole, held -= whole);
    }
    close(fd);
    /* The padding (5.1.1): a bit, zeros, and the length in bits. */
    size_t end = held < BLOCK - 8 ? BLOCK : 2 * BLOCK;
    memset(data + held, 0, end - held);
    data[held] = 0x80;
    for (int i = 0; i < 8; i++)
        data[end - 1 - (size_t)i] = (uint8_t)(size * 8 >> 8 * i);
    for (size_t at = 0; at < end; at += BLOCK)
        mix(state, data + at);
    for (int i = 0; i < 8; i++)
        printf("%08x", state[i]);
    printf(" %llu %s\n", (unsigned long long)size, path);
    return 0;
failed:
    printf("error %s %s\n", strerror(errno), path);
    return 1;
}

int main(int count, char **words)
{
    int failed = 0;
    for (int i = 1; i < count; i++)
        failed |= digest(words[i]);
    return failed;
}
