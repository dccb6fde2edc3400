/* hash.c: xxHash64 from its public description (Yann Collet, "xxHash fast digest algorithm",
 * github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md). Bytes are read little-endian. */
#include <string.h>

#include "ir/base/base.h"

#define P1 UINT64_C(0x9E3779B185EBCA87)
#define P2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define P3 UINT64_C(0x165667B19E3779F9)
#define P4 UINT64_C(0x85EBCA77C2B2AE63)
#define P5 UINT64_C(0x27D4EB2F165667C5)

static uint64_t rotate_left(uint64_t x, unsigned bits) { return x << bits | x >> (64 - bits); }

static uint64_t read_64(const uint8_t *p) {
    uint64_t x;
    memcpy(&x, p, sizeof(x));
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    return x;
}

static uint32_t read_32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t lane_round(uint64_t lane, uint64_t input) { return rotate_left(lane + input * P2, 31) * P1; }

static uint64_t lane_merge(uint64_t hash, uint64_t lane) { return (hash ^ lane_round(0, lane)) * P1 + P4; }

void hash_init(HashState *h, uint64_t seed) {
    *h = (HashState){.lane = {seed + P1 + P2, seed + P2, seed, seed - P1}, .seed = seed};
}

static void hash_stripes(HashState *h, const uint8_t *p, size_t stripes) {
    uint64_t a = h->lane[0], b = h->lane[1], c = h->lane[2], d = h->lane[3];
    for (; stripes > 0; p += 32, stripes--) {
        a = lane_round(a, read_64(p));
        b = lane_round(b, read_64(p + 8));
        c = lane_round(c, read_64(p + 16));
        d = lane_round(d, read_64(p + 24));
    }
    h->lane[0] = a, h->lane[1] = b, h->lane[2] = c, h->lane[3] = d;
}

void hash_update(HashState *h, const void *data, size_t bytes) {
    const uint8_t *p = data;
    size_t held = (size_t)(h->total % 32);
    h->total += bytes;
    if (held > 0) {
        size_t take = bytes < 32 - held ? bytes : 32 - held;
        if (take > 0) memcpy(h->rest + held, p, take);
        if (held + take < 32) return;
        hash_stripes(h, h->rest, 1);
        p += take;
        bytes -= take;
    }
    hash_stripes(h, p, bytes / 32);
    if (bytes % 32 > 0) memcpy(h->rest, p + bytes / 32 * 32, bytes % 32);
}

uint64_t hash_final(const HashState *h) {
    const uint64_t *lane = h->lane;
    const uint8_t *p = h->rest;
    size_t left = (size_t)(h->total % 32);
    uint64_t hash = h->seed + P5;
    if (h->total >= 32) {
        hash = rotate_left(lane[0], 1) + rotate_left(lane[1], 7) + rotate_left(lane[2], 12) +
               rotate_left(lane[3], 18);
        for (int i = 0; i < 4; i++) hash = lane_merge(hash, lane[i]);
    }
    hash += h->total;
    for (; left >= 8; p += 8, left -= 8) hash = rotate_left(hash ^ lane_round(0, read_64(p)), 27) * P1 + P4;
    if (left >= 4) {
        hash = rotate_left(hash ^ (uint64_t)read_32(p) * P1, 23) * P2 + P3;
        p += 4;
        left -= 4;
    }
    for (; left > 0; p++, left--) hash = rotate_left(hash ^ (uint64_t)*p * P5, 11) * P1;
    hash ^= hash >> 33;
    hash *= P2;
    hash ^= hash >> 29;
    hash *= P3;
    return hash ^ hash >> 32;
}

uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed) {
    HashState h;
    hash_init(&h, seed);
    hash_update(&h, data, bytes);
    return hash_final(&h);
}
