/* sizes.h: blocking that fixes how much scratch the kernels need, the same at every level. */
#ifndef RUNTIME_CPU_SIZES_H
#define RUNTIME_CPU_SIZES_H

#define CPU_CHUNK_ROWS 264 /* rows that linear packs at once */
#define CPU_TILE_KEYS 64   /* keys that attention takes at once */
#define CPU_SPLIT_KEYS 512 /* a decoding row with more keys than twice this shares them out, */
#define CPU_MAX_SPLITS 16  /* to at most so many parts, */
#define CPU_SPLIT_ROWS 8   /* when there are at most so many rows */

#endif
