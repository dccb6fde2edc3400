/* matrix.h: matrix units of a warp: the words of prelude_cuda_matrix.h. */
#ifndef HOST_MATRIX
#define HOST_MATRIX

#include "codegen/cuda/kernels/host/async.h"

namespace host {
template <class T> float lower(u32 w) { return to_float(T{(u16)w}); }
template <class T> float upper(u32 w) { return to_float(T{(u16)(w >> 16)}); }
template <class T> struct WarpProduct {
    float *c;
    const u32 *a, *b;
};
template <class T> void multiply(void **args) {
    float a[16][16], b[16][8];
    for (u32 l = 0; l < WARP; l++) {
        const WarpProduct<T> *p = (const WarpProduct<T> *)args[l];
        u32 g = l / 4, t = l % 4 * 2;
        for (u32 i = 0; i < 4; i++) {
            u32 row = g + i % 2 * 8, column = t + i / 2 * 8;
            a[row][column] = lower<T>(p->a[i]), a[row][column + 1] = upper<T>(p->a[i]);
        }
        for (u32 i = 0; i < 2; i++)
            b[t + 8 * i][g] = lower<T>(p->b[i]), b[t + 8 * i + 1][g] = upper<T>(p->b[i]);
    }
    for (u32 l = 0; l < WARP; l++)
        for (u32 i = 0; i < 4; i++) {
            u32 row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
            float sum = 0;
            for (u32 k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            ((WarpProduct<T> *)args[l])->c[i] += sum;
        }
}
} // namespace host
template <class T> void fragment_multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], T, HOST_SITE) {
    host::WarpProduct<T> p = {c, a, b};
    host::collective(HOST_HERE, "fragment_multiply", &p, host::multiply<T>);
}
namespace host {
struct FragmentRows {
    const u16 *row;
    u32 *out;
};
template <class T>
void fragment_rows(u32 (&out)[4], shared<T> row, const char *what, void (*finish)(void **), Site s) {
    FragmentRows mine = {(const u16 *)row.p, out};
    if ((uintptr_t)row.p % 16) fault(s, "shared memory: a misaligned access");
    shared_access(row.p, 16, false, s);
    collective(s, what, &mine, finish);
}
} // namespace host
template <class T> void fragment_load(u32 (&out)[4], shared<T> row, HOST_SITE) {
    host::fragment_rows(
        out, row, "fragment_load",
        [](void **args) {
            host::FragmentRows **of = (host::FragmentRows **)args;
            for (u32 l = 0; l < host::WARP; l++)
                for (u32 tile = 0; tile < 4; tile++)
                    memcpy(&of[l]->out[tile], of[tile * 8 + l / 4]->row + l % 4 * 2, 4);
        },
        HOST_HERE);
}
template <class T> void fragment_load_turned(u32 (&out)[4], shared<T> row, HOST_SITE) {
    host::fragment_rows(
        out, row, "fragment_load_turned",
        [](void **args) {
            host::FragmentRows **of = (host::FragmentRows **)args;
            for (u32 l = 0; l < host::WARP; l++)
                for (u32 tile = 0; tile < 4; tile++) {
                    const u32 first = tile * 8 + l % 4 * 2, column = l / 4;
                    of[l]->out[tile] = of[first]->row[column] | (u32)of[first + 1]->row[column] << 16;
                }
        },
        HOST_HERE);
}
template <class T> u32 pair_of(float low, float high, T to) {
    T upper;
    from_float(low, to), from_float(high, upper);
    return to.bits | (u32)upper.bits << 16;
}
DEVICE u32 pair_fma(u32 a, u32 b, u32 c, bf16 to) {
    return pair_of(host::lower<bf16>(a) * host::lower<bf16>(b) + host::lower<bf16>(c),
                   host::upper<bf16>(a) * host::upper<bf16>(b) + host::upper<bf16>(c), to);
}

#endif
