/* vectors.h: VECTORS before a function compiles it twice, for AVX2 and for any x86-64, and the loader chooses. Neither
 * has fused products, so that every machine rounds alike. Not under sanitizers, whose start comes after the loader's
 * choice, and not with clang, which (until 18) gives such functions a name that other files do not find. */
#ifndef GPTC_VECTORS_H
#define GPTC_VECTORS_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) &&      \
    !defined(__SANITIZE_ADDRESS__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

#endif
