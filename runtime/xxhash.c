/* xxhash.c: xxHash64 from its public description (Yann Collet,
 * github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md). The runtime has its own so that it depends on
 * nothing else; a unit test holds it equal to the compiler's. */
#include "runtime/runtime.h"

#include <string.h>

static const uint64_t prime[5] = {UINT64_C(0x9E3779B185EBCA87), UINT64_C(0xC2B2AE3D27D4EB4F),
                                  UINT64_C(0x165667B19E3779F9), UINT64_C(0x85EBCA77C2B2AE63),
                                  UINT64_C(0x27D4EB2F165667C5)};

static uint64_t rotate(uint64_t x, unsigned bits) { return x << bits | x >> (64 - bits); }

static uint64_t word_64(const uint8_t *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static uint64_t word_32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static uint64_t mix(uint64_t lane, uint64_t input) { return rotate(lane + input * prime[1], 31) * prime[0]; }

uint64_t xxhash64(const void *data, size_t bytes, uint64_t seed) {
    const uint8_t *p = data;
    size_t left = bytes;
    uint64_t h = seed + prime[4];
    if (bytes >= 32) {
        uint64_t lane[4] = {seed + prime[0] + prime[1], seed + prime[1], seed, seed - prime[0]};
        for (; left >= 32; left -= 32, p += 32)
            for (unsigned i = 0; i < 4; i++) lane[i] = mix(lane[i], word_64(p + 8 * i));
        h = rotate(lane[0], 1) + rotate(lane[1], 7) + rotate(lane[2], 12) + rotate(lane[3], 18);
        for (unsigned i = 0; i < 4; i++) h = (h ^ mix(0, lane[i])) * prime[0] + prime[3];
    }
    h += bytes;
    for (; left >= 8; left -= 8, p += 8) h = rotate(h ^ mix(0, word_64(p)), 27) * prime[0] + prime[3];
    for (; left >= 4; left -= 4, p += 4) h = rotate(h ^ word_32(p) * prime[0], 23) * prime[1] + prime[2];
    for (; left > 0; left--, p++) h = rotate(h ^ *p * prime[4], 11) * prime[0];
    h = (h ^ h >> 33) * prime[1];
    h = (h ^ h >> 29) * prime[2];
    return h ^ h >> 32;
}
