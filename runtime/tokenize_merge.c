/* tokenize_merge.c: byte-pair merges (Sennrich et al. 2016) in one piece of text.
 *
 * Of all neighbours that have a merge, the one of lowest rank is merged, the leftmost of equals, until
 * none is left. Short pieces scan for it; long ones keep the candidates in a heap beside a linked list of
 * symbols, so that n bytes take O(n log n). Candidates whose symbols have changed are recognised when
 * they surface: the pair there then merges to something else. */
#include "runtime/tokenizer_internal.h"

#include <stdlib.h>

#define SHORT_PIECE 32

static const TokMerge *find_merge(const Tokenizer *t, int32_t left, int32_t right) {
    uint32_t slot = tok_hash_pair((uint32_t)left, (uint32_t)right) & t->merge_mask;
    for (uint32_t probe = 0; probe < TOK_MAX_PROBE; probe++) {
        const TokMerge *m = &t->merges[slot];
        if (m->left == (uint32_t)left && m->right == (uint32_t)right) return m;
        if (m->left == UINT32_MAX) return NULL;
        slot = (slot + 1) & t->merge_mask;
    }
    return NULL;
}

/* The ids of the single bytes. A byte without token becomes the unknown one, or nothing; with
 * TOK_FUSE_UNKNOWN a run of them counts once. */
static size_t byte_ids(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *out, size_t stride) {
    size_t count = 0;
    bool unknown_before = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_ids[s[i]];
        bool unknown = id < 0;
        if (unknown) id = t->unknown;
        if (id < 0) continue;
        if (!unknown || !unknown_before || (t->flags & TOK_FUSE_UNKNOWN) == 0) {
            *(int32_t *)(void *)((char *)out + count * stride) = id;
            count++;
        }
        unknown_before = unknown;
    }
    return count;
}

static void merge_short(const Tokenizer *t, const uint8_t *s, size_t n, EmitFn emit, void *user) {
    int32_t ids[SHORT_PIECE];
    const TokMerge *pairs[SHORT_PIECE]; /* pairs[i]: the merge of ids[i] and ids[i + 1] */
    size_t count = byte_ids(t, s, n, ids, sizeof(int32_t));
    for (size_t i = 0; i + 1 < count; i++) pairs[i] = find_merge(t, ids[i], ids[i + 1]);
    while (count > 1) {
        size_t best = count;
        uint32_t rank = UINT32_MAX;
        for (size_t i = 0; i + 1 < count; i++)
            if (pairs[i] != NULL && pairs[i]->rank < rank) {
                rank = pairs[i]->rank;
                best = i;
            }
        if (best == count) break;
        ids[best] = (int32_t)pairs[best]->result;
        count--;
        for (size_t i = best + 1; i < count; i++) {
            ids[i] = ids[i + 1];
            if (i + 1 < count) pairs[i] = pairs[i + 1];
        }
        if (best > 0) pairs[best - 1] = find_merge(t, ids[best - 1], ids[best]);
        if (best + 1 < count) pairs[best] = find_merge(t, ids[best], ids[best + 1]);
    }
    for (size_t i = 0; i < count; i++) emit(user, ids[i]);
}

static bool comes_before(Candidate a, Candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(MergeSpace *p, Candidate c) {
    size_t i = p->heap_count++;
    while (i > 0 && comes_before(c, p->heap[(i - 1) / 2])) {
        p->heap[i] = p->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    p->heap[i] = c;
}

static Candidate heap_pop(MergeSpace *p) {
    Candidate top = p->heap[0], c = p->heap[--p->heap_count];
    size_t i = 0, n = p->heap_count;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && comes_before(p->heap[child + 1], p->heap[child])) child++;
        if (!comes_before(p->heap[child], c)) break;
        p->heap[i] = p->heap[child];
        i = child;
    }
    p->heap[i] = c;
    return top;
}

static void consider(const Tokenizer *t, MergeSpace *p, int32_t at) {
    int32_t after = at < 0 ? -1 : p->symbols[at].after;
    if (after < 0) return;
    const TokMerge *m = find_merge(t, p->symbols[at].id, p->symbols[after].id);
    if (m != NULL) heap_push(p, (Candidate){m->rank, (uint32_t)at, m->result});
}

/* Every byte is a candidate at most once at the start, and each merge adds two and takes one symbol. */
static bool reserve(MergeSpace *p, size_t n) {
    if (p->symbol_cap < n) {
        size_t cap = n + n / 2;
        Symbol *symbols = realloc(p->symbols, cap * sizeof(Symbol));
        if (symbols == NULL) return false;
        p->symbols = symbols;
        p->symbol_cap = cap;
    }
    if (p->heap_cap < n * 3) {
        size_t cap = n * 3 + n;
        Candidate *heap = realloc(p->heap, cap * sizeof(Candidate));
        if (heap == NULL) return false;
        p->heap = heap;
        p->heap_cap = cap;
    }
    return true;
}

bool merge_piece(const Tokenizer *t, MergeSpace *p, const uint8_t *s, size_t n, EmitFn emit, void *user) {
    int32_t whole = (t->flags & TOK_IGNORE_MERGES) != 0 ? word_find(t, s, n) : TOK_NONE;
    if (whole >= 0) {
        emit(user, whole);
        return true;
    }
    if (n <= SHORT_PIECE) {
        merge_short(t, s, n, emit, user);
        return true;
    }
    if (!reserve(p, n)) return false;
    Symbol *sym = p->symbols;
    size_t count = byte_ids(t, s, n, &sym[0].id, sizeof(Symbol));
    for (size_t i = 0; i < count; i++) {
        sym[i].before = (int32_t)i - 1;
        sym[i].after = i + 1 < count ? (int32_t)i + 1 : -1;
    }
    p->heap_count = 0;
    for (size_t i = 0; i < count; i++) consider(t, p, (int32_t)i);
    while (p->heap_count > 0) {
        Candidate c = heap_pop(p);
        int32_t at = (int32_t)c.at, after = sym[at].after;
        if (sym[at].id < 0 || after < 0) continue;
        const TokMerge *m = find_merge(t, sym[at].id, sym[after].id);
        if (m == NULL || m->result != c.result) continue;
        sym[at].id = (int32_t)c.result;
        sym[at].after = sym[after].after;
        if (sym[after].after >= 0) sym[sym[after].after].before = at;
        sym[after].id = -1;
        consider(t, p, sym[at].before);
        consider(t, p, at);
    }
    for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = sym[i].after) emit(user, sym[i].id);
    return true;
}
