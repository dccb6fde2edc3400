/* prelude_cuda_matrix.h: matrix units, of a warp (mma.sync) and of four warps together (wgmma, sm_90a). */
#ifndef GPTC_PRELUDE_MATRIX
#define GPTC_PRELUDE_MATRIX

/* ---- matrix fragments, one warp: c[16][8] += a[16][16] b[16][8], sums in float ----
 * Lane l holds, with g = l / 4 and t = l % 4: a[0] = rows g, columns 2t..; a[1] = row g + 8; a[2], a[3] the
 * same at columns 2t + 8; b[0] = rows 2t.. of column g, b[1] the same at rows 2t + 8; c[0..1] = row g,
 * columns 2t.., c[2..3] = row g + 8. Two values a word, the lower one first. */
DEVICE void fragment_multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], half) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void fragment_multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Pairs in a word: made of floats, and a * b + c. */
DEVICE u32 pair_of(float low, float high, half) {
    u32 w;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
}
DEVICE u32 pair_of(float low, float high, bf16) {
    u32 w;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
}
DEVICE u32 pair_fma(u32 a, u32 b, u32 c, bf16) {
    u32 w;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(w) : "r"(a), "r"(b), "r"(c));
    return w;
}
/* Four 8 x 8 tiles of 16-bit values; lane l names row l % 8 of tile l / 8 (8 values, 16 bytes). */
template <class T> DEVICE void fragment_load(u32 (&out)[4], const T *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row)));
}
/* The same with rows and columns of each tile exchanged: lane l gets column l / 4 of rows 2 (l % 4) and the next. */
template <class T> DEVICE void fragment_load_turned(u32 (&out)[4], const T *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row)));
}

/* ---- four warps: c[64][n] += a[64][16] b[16][n], sums in float, operands in shared memory ----
 * Operands lie in atoms of 1024 bytes that begin at a multiple of 1024: 8 lines of 128 bytes, whose pieces of 16 bytes are
 * permuted (swizzled below).
 * a, by k: an atom is 8 rows of 64 values of k; the atoms of further rows follow each other.
 * b, by n: an atom is 8 values of k, each 64 outputs; those of the next k follow, those of the next outputs are `stride`
 * bytes further.
 * A thread of warp w (of the four) holds sums [4 j + 2 h + i] of row 16 w + lane / 4 + 8 h, column 8 j + lane % 4 * 2 + i.
 *
 * Order: matrix_fence() after sums were touched; products; matrix_commit(); matrix_wait<left>() before sums are touched or
 * operands are written over. Only on chips with has_matrix_groups. */
DEVICE u32 swizzled(u32 byte) { return byte ^ (byte >> 3 & 0x70); }

template <u32 n> struct Sums {
    float value[n];
    __device__ __forceinline__ float &operator[](u32 i) { return value[i]; }
};
struct MatrixTile {
    u64 descriptor;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
enum { has_matrix_groups = 1, lacks_matrix_groups = 0 };
/* at: of rows 0.. and k 0.. of the tile; step: 16 values of k each. */
template <class T> DEVICE MatrixTile tile_by_k(T *at, u32 step) {
    const u32 address = shared_address(at) + step * 32;
    return MatrixTile{(u64)(address >> 4 & 0x3fff) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62};
}
template <class T> DEVICE MatrixTile tile_by_n(T *at, u32 stride, u32 step) {
    const u32 address = shared_address(at) + step * 2048;
    return MatrixTile{(u64)(address >> 4 & 0x3fff) | (u64)(stride >> 4) << 16 | (u64)(1024 >> 4) << 32 |
                      1ull << 62};
}
DEVICE void matrix_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void matrix_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int left> DEVICE void matrix_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}
/* How many registers each thread of these four warps has from here on: more, fewer. */
template <u32 n> DEVICE void registers_raise() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}
template <u32 n> DEVICE void registers_lower() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

/* clang-format off */
#define SUMS_8(i) "+f"(c.value[i]), "+f"(c.value[i + 1]), "+f"(c.value[i + 2]), "+f"(c.value[i + 3]), \
    "+f"(c.value[i + 4]), "+f"(c.value[i + 5]), "+f"(c.value[i + 6]), "+f"(c.value[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)
#define SUMS_128(i) SUMS_64(i), SUMS_64(i + 64)
#define NAMES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64 NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_128 NAMES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
/* operands %0..: sums, then descriptors and whether the sums are kept */
#define GROUP_PRODUCT(type, ptx, n, sums, a, b, k)                                                                              \
    DEVICE void matrix_multiply(Sums<sums> &c, MatrixTile x, MatrixTile y, bool keep, type) {                                \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #k ", 0;\n"                                                       \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." ptx "." ptx " "                                           \
                     "{" NAMES_##sums "}, %" #a ", %" #b ", p, 1, 1, 0, 1;\n}"                                               \
                     : SUMS_##sums(0)                                                                                        \
                     : "l"(x.descriptor), "l"(y.descriptor), "r"((u32)keep));                                                \
    }
GROUP_PRODUCT(half, "f16", 64, 32, 32, 33, 34)
GROUP_PRODUCT(half, "f16", 128, 64, 64, 65, 66)
GROUP_PRODUCT(half, "f16", 256, 128, 128, 129, 130)
GROUP_PRODUCT(bf16, "bf16", 64, 32, 32, 33, 34)
GROUP_PRODUCT(bf16, "bf16", 128, 64, 64, 65, 66)
GROUP_PRODUCT(bf16, "bf16", 256, 128, 128, 129, 130)
/* clang-format on */
#else /* kernels with these words are there and never launched */
enum { has_matrix_groups = 0, lacks_matrix_groups = 1 };
template <class T> DEVICE MatrixTile tile_by_k(T *, u32) { return MatrixTile{}; }
template <class T> DEVICE MatrixTile tile_by_n(T *, u32, u32) { return MatrixTile{}; }
DEVICE void matrix_fence() {}
DEVICE void matrix_commit() {}
template <int left> DEVICE void matrix_wait() {}
template <u32 n> DEVICE void registers_raise() {}
template <u32 n> DEVICE void registers_lower() {}
template <u32 n, class T> DEVICE void matrix_multiply(Sums<n> &, MatrixTile, MatrixTile, bool, T) {}
#endif
#endif
