/* sample_math.h: what makes a sampled token the same wherever it is drawn. sample.c includes this text and CUDA kernels
 * carry it (codegen/cuda/kernels/sample.cu); who has it before has u32, u64 and DEVICE, what a function begins with.
 *
 * Weights are integers, so sums of them do not depend on their order, and no library's exp is asked. A candidate's key
 * is its weight 2^-y as exponent and 26 bits behind the point; y is rounded to 2^-26. What weighs less than 2^-38 of the
 * largest weighs nothing. Random numbers: Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
 * 1, 2, 3"), a function of seed and number of the draw. */
#ifndef GPTC_SAMPLE_MATH
#define GPTC_SAMPLE_MATH

/* What is asked of a draw, as eight words. */
typedef struct {
    u32 scale;    /* bits of the float log2(e) / temperature; 0: the largest logit, nothing is drawn */
    u32 top_k;    /* 0: off */
    u32 top_p;    /* in 2^-32; 0: off */
    u32 least;    /* the smallest key that min-p leaves; 0: off */
    u32 seed[2];  /* low, high */
    u32 draws[2]; /* made before */
} SampleOptions;

enum { SAMPLE_POINT = 26, SAMPLE_TOP = 39 }; /* the largest's exponent in a key; weights are in 2^-39 */

DEVICE u32 high_product(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }

/* 2^f - 1 in 2^-26, f in 2^-32: a polynomial, its error 3e-9. */
DEVICE u32 sample_fraction(u32 f) {
    u32 v = 0x000e48c9u;
    v = 0x00515bb2u + high_product(v, f);
    v = 0x027a78cfu + high_product(v, f);
    v = 0x0e341866u + high_product(v, f);
    v = 0x3d7fb54eu + high_product(v, f);
    v = 0xb17214f5u + high_product(v, f);
    return high_product(v, f) >> (32 - SAMPLE_POINT);
}

/* The key of 2^((logit - largest) * scale), larger for larger weights; 0: no candidate, NaN too. */
DEVICE u32 sample_key(float logit, float largest, float scale) {
    const float y = (largest - logit) * scale;
    if (!(y < (float)(SAMPLE_TOP - 1))) return 0;
    const u32 one = 1u << SAMPLE_POINT, fixed = (u32)(y * (float)one),
              whole = (fixed + one - 1) >> SAMPLE_POINT;
    const u32 rest = (whole << SAMPLE_POINT) - fixed;
    return (SAMPLE_TOP - whole) << SAMPLE_POINT | sample_fraction(rest << (32 - SAMPLE_POINT));
}

/* At least 1 for a key that is not 0; 2^24 of them stay below 2^64. */
DEVICE u64 sample_weight(u32 key) {
    const u32 one = 1u << SAMPLE_POINT;
    return (u64)(one | (key & (one - 1))) << (SAMPLE_TOP - SAMPLE_POINT) >>
           (SAMPLE_TOP - (key >> SAMPLE_POINT));
}

/* total * part / 2^64, and / 2^32. */
DEVICE u64 sample_share(u64 total, u64 part) {
    const u64 low = 0xffffffffu, a = total >> 32, b = total & low, c = part >> 32, d = part & low;
    const u64 middle = a * d + (b * d >> 32), other = b * c + (middle & low);
    return a * c + (middle >> 32) + (other >> 32);
}
DEVICE u64 sample_part(u64 total, u32 part) {
    return (total >> 32) * part + ((total & 0xffffffffu) * part >> 32);
}

/* 64 random bits, of the `later`th draw from now. */
DEVICE u64 sample_random(const SampleOptions *o, u32 later) {
    const u64 draw = ((u64)o->draws[1] << 32 | o->draws[0]) + later;
    u32 c0 = (u32)draw, c1 = (u32)(draw >> 32), c2 = 0, c3 = 0, k0 = o->seed[0], k1 = o->seed[1];
    for (u32 i = 0; i < 10; i++) {
        const u32 h0 = high_product(0xd2511f53u, c0), h1 = high_product(0xcd9e8d57u, c2);
        const u32 l0 = 0xd2511f53u * c0, l1 = 0xcd9e8d57u * c2;
        c0 = h1 ^ c1 ^ k0, c1 = l1, c2 = h0 ^ c3 ^ k1, c3 = l0;
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    return (u64)c1 << 32 | c0;
}
#endif
