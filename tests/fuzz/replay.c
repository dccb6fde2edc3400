/* replay.c: runs a fuzz target without libFuzzer, on seed files and on mutants made of them.
 *
 * usage: fuzz_X [--mutants N] [--seed S] FILE…
 *
 * Mutants are the same on every machine: SplitMix64 picks a seed file and a few edits (bits flipped, bytes
 * set to edge values, varints and sizes changed, pieces cut, copied or swapped with another seed's). */
#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_SEEDS 1024
#define MAX_BYTES ((size_t)1 << 20)

typedef struct {
    uint8_t *data;
    size_t bytes;
} Blob;
typedef struct {
    Blob seeds[MAX_SEEDS];
    size_t n;
    uint64_t rng;
} Replay;

static uint64_t next_random(Replay *r) {
    uint64_t z = (r->rng += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}
static size_t below(Replay *r, size_t n) { return n ? (size_t)(next_random(r) % n) : 0; }

static void add_file(Replay *r, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f || r->n == MAX_SEEDS) {
        if (f) fclose(f);
        return;
    }
    Blob b = {malloc(MAX_BYTES), 0};
    if (b.data) b.bytes = fread(b.data, 1, MAX_BYTES, f);
    fclose(f);
    if (b.data) r->seeds[r->n++] = b;
}

static void add_path(Replay *r, const char *path) {
    struct stat st;
    DIR *dir = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    if (!dir) {
        add_file(r, path);
        return;
    }
    struct dirent **list = NULL;
    int n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char name[4096];
        if (list[i]->d_name[0] != '.') {
            snprintf(name, sizeof name, "%s/%s", path, list[i]->d_name);
            add_file(r, name);
        }
        free(list[i]);
    }
    free(list);
    closedir(dir);
}

static void mutate_once(Replay *r, Blob *b) {
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, 0x20, 0x0a, 0x30};
    size_t at = below(r, b->bytes), len, from;
    const Blob *other;
    if (!b->bytes) return;
    switch (below(r, 8)) {
    case 0: b->data[at] ^= (uint8_t)(1u << below(r, 8)); break;
    case 1: b->data[at] = edges[below(r, sizeof edges)]; break;
    case 2: b->data[at] = (uint8_t)next_random(r); break;
    case 3: b->bytes = at; break;
    case 4: /* cut a piece out */
        len = below(r, 64);
        if (len > b->bytes - at) len = b->bytes - at;
        memmove(b->data + at, b->data + at + len, b->bytes - at - len);
        b->bytes -= len;
        break;
    case 5: /* copy a piece of another seed over this */
        other = &r->seeds[below(r, r->n)];
        from = below(r, other->bytes);
        len = below(r, 256);
        if (len > other->bytes - from) len = other->bytes - from;
        if (len > b->bytes - at) len = b->bytes - at;
        memcpy(b->data + at, other->data + from, len);
        break;
    case 6: /* repeat a piece */
        len = below(r, 64);
        if (len > b->bytes - at) len = b->bytes - at;
        if (b->bytes + len > MAX_BYTES) break;
        memmove(b->data + at + len, b->data + at, b->bytes - at);
        b->bytes += len;
        break;
    default: /* a 32-bit number becomes large or off by one */
        if (b->bytes - at < 4) break;
        if (next_random(r) & 1)
            memset(b->data + at, 0xff, 4);
        else
            b->data[at]++;
        break;
    }
}

int main(int argc, char **argv) {
    static Replay r;
    uint64_t mutants = 0;
    r.rng = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--mutants") && i + 1 < argc)
            mutants = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            r.rng = strtoull(argv[++i], NULL, 10);
        else
            add_path(&r, argv[i]);
    }
    if (!r.n) {
        fprintf(stderr, "%s: no seeds\n", argv[0]);
        return 2;
    }
    for (size_t i = 0; i < r.n; i++) LLVMFuzzerTestOneInput(r.seeds[i].data, r.seeds[i].bytes);
    Blob b = {malloc(2 * MAX_BYTES), 0};
    if (!b.data) return 3;
    for (uint64_t i = 0; i < mutants; i++) {
        const Blob *s = &r.seeds[below(&r, r.n)];
        memcpy(b.data, s->data, s->bytes);
        b.bytes = s->bytes;
        for (size_t edits = 1 + below(&r, 4); edits > 0; edits--) mutate_once(&r, &b);
        /* an exact allocation, so that a read past the end is seen */
        uint8_t *exact = malloc(b.bytes ? b.bytes : 1);
        if (!exact) return 3;
        memcpy(exact, b.data, b.bytes);
        LLVMFuzzerTestOneInput(exact, b.bytes);
        free(exact);
    }
    printf("%zu seeds, %" PRIu64 " mutants\n", r.n, mutants);
    free(b.data);
    for (size_t i = 0; i < r.n; i++) free(r.seeds[i].data);
    return 0;
}
