/* prelude_cuda_matrix.h: matrix units. */
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
/* Pairs of bf16 in a word: made of floats, and a * b + c. */
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
#endif
