/* group.h: matrix units of four warps: the words of prelude_cuda_matrix.h.
 *
 * A product is computed when all 128 threads came to it, from what its operands hold then; nobody may write over them, and
 * nobody may touch the sums, before it is waited for. What ordinary stores wrote must have been fenced (proxy_fence) by
 * its writer. */
#ifndef HOST_GROUP
#define HOST_GROUP

#include "codegen/cuda/kernels/host/matrix.h"

DEVICE u32 swizzled(u32 byte) { return byte ^ (byte >> 3 & 0x70); }

template <u32 n> struct Sums {
    float value[n], next[n];
    host::SumsState state = {value, next, n, 0, 0};
    Sums() {
        for (u32 i = 0; i < n; i++) value[i] = NAN;
    }
    Sums(const Sums &) = delete;
    struct Index {
        u32 i;
        host::Site s;
        template <class I> Index(I i, HOST_SITE) : i((u32)i), s(HOST_HERE) {}
    };
    float &operator[](Index at) {
        if (state.products)
            host::fault(at.s, "sums of a matrix unit are touched, their product is not waited for");
        if (at.i >= n) host::fault(at.s, "sum %u of %u", at.i, n);
        state.touched = ++host::grid->now;
        return value[at.i];
    }
};
struct MatrixTile {
    const u8 *at;
    u32 stride; /* by n; 0: by k */
};
enum { has_matrix_groups = 1, lacks_matrix_groups = 1 }; /* whichever kernel a test wants */

namespace host {
inline void tile_check(const void *at, Site s) {
    if ((uintptr_t)at % 1024)
        fault(s, "a tile begins at %u behind a multiple of 1024", (u32)((uintptr_t)at % 1024));
}

struct GroupProduct {
    SumsState *sums;
    MatrixTile a, b;
    bool keep;
    Site site;
};

/* The 16 bytes that hold 8 values: rows r, k 8 j.. by k; k r, outputs 8 j.. by n. */
inline const u8 *tile_piece(const MatrixTile &t, u32 r, u32 j) {
    uintptr_t at = (uintptr_t)t.at + r / 8 * 1024 + r % 8 * 128;
    at += t.stride ? j / 8 * t.stride + j % 8 * 16 : j * 16;
    return (const u8 *)(at ^ (at >> 3 & 0x70));
}

/* What matrix units read must be there, known to who asks, and fenced by who wrote it. */
inline void piece_begin(const u8 *piece, Product &p, Site s) {
    SharedBlock *m = shared_of(piece, 16, s);
    for (size_t i = (size_t)(piece - m->data) / 4, end = i + 4; i < end; i++) {
        Word &w = m->words[i];
        if (!w.written) fault(s, "shared memory: a matrix unit reads byte %zu, nobody wrote it", 4 * i);
        if (w.in_flight)
            fault(s, "a matrix unit reads what the copy of line %d is still bringing", w.where.line);
        if (!ordered(w))
            fault(s, "race: a matrix unit reads what line %d wrote, with no barrier between", w.where.line);
        if (w.writer != ENGINE && block().fibers[w.writer].proxy_fence < w.when)
            fault(s, "a matrix unit reads what thread %u wrote at line %d, which no proxy_fence made known",
                  w.writer, w.where.line);
        w.products++;
    }
    p.reads.push_back(piece);
}

inline void product_end(const Product &p) {
    for (const u8 *piece : p.reads) {
        SharedBlock *m = shared_of(piece, 16, {"", 0});
        u32 warps = (u32)block().warps.size(), first = self().index / (4 * WARP) * 4;
        for (size_t i = (size_t)(piece - m->data) / 4, end = i + 4; i < end; i++) {
            m->words[i].products--;
            for (u32 w = first; w < first + 4; w++)
                m->reads[i * warps + w] = {block().warps[w].clock[w], block().warps[w].meetings, 0xffffffff};
        }
    }
    for (SumsState *s : p.sums)
        if (!--s->products) memcpy(s->value, s->next, s->count * sizeof(float));
}

template <class T, u32 n> void group_multiply(void **args) {
    const GroupProduct *first = (const GroupProduct *)args[0];
    static thread_local float a[64][16], b[16][n];
    Product p;
    for (u32 i = 0; i < 4 * WARP; i++) {
        const GroupProduct *g = (const GroupProduct *)args[i];
        if (g->a.at != first->a.at || g->b.at != first->b.at || g->keep != first->keep)
            fault(g->site, "the threads of four warps name different tiles");
        if (g->sums->touched > block().fibers[self().index / 128 * 128 + i].matrix_fence)
            fault(g->site, "matrix_fence is missing between sums that were touched and a product");
        p.sums[i] = g->sums;
    }
    for (u32 r = 0; r < 64; r++)
        for (u32 j = 0; j < 2; j++) {
            const u8 *piece = tile_piece(first->a, r, j);
            piece_begin(piece, p, first->site);
            for (u32 i = 0; i < 8; i++) a[r][8 * j + i] = to_float(((const T *)piece)[i]);
        }
    for (u32 k = 0; k < 16; k++)
        for (u32 j = 0; j < n / 8; j++) {
            const u8 *piece = tile_piece(first->b, k, j);
            piece_begin(piece, p, first->site);
            for (u32 i = 0; i < 8; i++) b[k][8 * j + i] = to_float(((const T *)piece)[i]);
        }
    for (u32 t = 0; t < 4 * WARP; t++) {
        SumsState *s = p.sums[t];
        for (u32 i = 0; i < n / 2; i++) {
            u32 row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + t % 4 * 2 + i % 2;
            float sum = !first->keep ? 0 : s->products ? s->next[i] : s->value[i];
            for (u32 k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            s->next[i] = sum;
        }
        if (!s->products++)
            for (u32 i = 0; i < n / 2; i++) s->value[i] = NAN;
    }
    block().groups[self().index / 128].products.back().push_back(p);
}

/* All 128 threads of a group. */
inline void group_step(Site s, const char *what, void *arg, void (*finish)(void **)) {
    u32 g = self().index / (4 * WARP);
    if (g >= block().groups.size()) fault(s, "%s needs four whole warps", what);
    together(block().groups[g].step, g * 4 * WARP, 4 * WARP, IN_GROUP, s, what, arg, finish);
}
} // namespace host

template <class T> MatrixTile tile_by_k(shared<T> at, u32 step, HOST_SITE) {
    host::tile_check(at.p, HOST_HERE);
    return MatrixTile{(const u8 *)at.p + step * 32, 0};
}
template <class T> MatrixTile tile_by_n(shared<T> at, u32 stride, u32 step, HOST_SITE) {
    host::tile_check(at.p, HOST_HERE);
    return MatrixTile{(const u8 *)at.p + step * 2048, stride};
}
DEVICE void matrix_fence() { host::self().matrix_fence = ++host::grid->now; }
template <u32 n, class T>
void matrix_multiply(Sums<n> &c, MatrixTile a, MatrixTile b, bool keep, T, HOST_SITE) {
    host::GroupProduct p = {&c.state, a, b, keep, HOST_HERE};
    host::group_step(HOST_HERE, "matrix_multiply", &p, host::group_multiply<T, n * 2>);
}
DEVICE void matrix_commit(HOST_SITE) {
    host::group_step(HOST_HERE, "matrix_commit", nullptr,
                     [](void **) { host::block().groups[host::self().index / 128].products.push_back({}); });
}
template <int left> void matrix_wait(HOST_SITE) {
    host::group_step(HOST_HERE, "matrix_wait", nullptr, [](void **) {
        auto &groups = host::block().groups[host::self().index / 128].products;
        while (groups.size() > (size_t)left + 1) {
            for (const host::Product &p : groups.front()) host::product_end(p);
            groups.erase(groups.begin());
        }
    });
}
template <u32 n> void registers_raise() { static_assert(n % 8 == 0 && n >= 24 && n <= 256, "registers"); }
template <u32 n> void registers_lower() { static_assert(n % 8 == 0 && n >= 24 && n <= 256, "registers"); }

#endif
