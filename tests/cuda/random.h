/* random.h: numbers for tests of kernels (Knuth's MMIX generator); after the host prelude. */
#ifndef TESTS_CUDA_RANDOM_H
#define TESTS_CUDA_RANDOM_H

static u64 seed = 1;
static u32 random_bits() { /* 31 */
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (u32)(seed >> 33);
}
static float random_unit() { return (float)(random_bits() / 1073741824.0 - 1.0); } /* -1 .. 1 */

#endif
