/* artifact_groups.h: where things lie in a GROUP16 tensor (artifact.h, docs/artifact.md), for who writes and who reads
 * one. Part of artifact.h. */
#ifndef RUNTIME_ARTIFACT_GROUPS_H
#define RUNTIME_ARTIFACT_GROUPS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint32_t bits;        /* of a code; 0: dtype, flags or group make no sense, and all else is 0 */
    uint32_t vector;      /* columns that a code stands for */
    uint32_t grid;        /* ART_GRID_ */
    uint32_t scale;       /* dtype; ART_U8 and ART_U6: codes */
    uint32_t zeros, zero; /* ART_ZERO_; the zero point of all */
    uint32_t unit, rows;  /* columns of a unit of codes, and its rows of 16 bytes */
    uint32_t head;        /* bytes before the first panel: the grid */
    uint32_t panel_head;  /* bytes of a panel before its blocks: scales of rows */
    uint64_t block;       /* bytes */
} ArtGroups;

static inline uint32_t art_code_bits(uint32_t dtype) {
    switch (dtype) {
    case ART_U2: return 2;
    case ART_U3: return 3;
    case ART_U4: return 4;
    case ART_U5: return 5;
    case ART_U6: return 6;
    case ART_U8:
    case ART_F8E4M3FN: return 8;
    default: return 0;
    }
}

static inline bool art_scale_coded(uint32_t scale) { return scale == ART_U8 || scale == ART_U6; }

/* Zero points are those of linear codes; a grid of scalars is one of at most 32 int8, vectors have 256 entries. */
static inline bool art_groups_fit(const ArtGroups *g) {
    bool floats = g->scale >= ART_F32 && g->scale <= ART_BF16,
         whole = g->bits == 8 || g->bits == 4 || g->bits == 2;
    if (!g->bits || (!floats && !art_scale_coded(g->scale)) || g->zeros >= ART_ZERO_COUNT) return false;
    if (g->zero > (g->zeros == ART_ZERO_SAME ? 255u : 0u)) return false;
    if (g->zeros == ART_ZERO_FLOAT && !whole) return false;
    if (g->zeros == ART_ZERO_HIGH && (g->scale != ART_U6 || g->bits != 2)) return false;
    if (g->grid != ART_GRID_LINEAR && (g->zeros != ART_ZERO_SAME || g->zero)) return false;
    if (g->grid == ART_GRID_INT8) return g->bits <= 5;
    return g->grid == ART_GRID_LINEAR ||
           (g->bits == 8 &&
            (g->grid == ART_GRID_PAIRS || g->grid == ART_GRID_QUADS || g->grid == ART_GRID_F8));
}

static inline ArtGroups art_groups(uint32_t dtype, uint32_t flags, uint32_t group) {
    ArtGroups g = {.bits = art_code_bits(dtype),
                   .vector = 1,
                   .grid = flags >> 24,
                   .scale = flags & 0xff,
                   .zeros = flags >> 8 & 0xff,
                   .zero = flags >> 16 & 0xff};
    const ArtGroups none = {0};
    if ((dtype == ART_F8E4M3FN) != (g.grid == ART_GRID_F8) || !art_groups_fit(&g)) return none;
    if (g.grid == ART_GRID_PAIRS || g.grid == ART_GRID_QUADS) g.vector = g.grid;
    g.unit = (g.bits & 1 ? 8 : g.bits == 6 ? 4 : 8 / g.bits) * g.vector;
    g.rows = g.bits * g.unit / 8 / g.vector;
    if (!group || group % g.unit || group > 1u << 24) return none;
    g.head = g.grid == ART_GRID_INT8 ? 64 : g.vector > 1 ? 512 * g.vector : 0;
    g.panel_head = art_scale_coded(g.scale) ? 32 : 0;
    uint32_t scale = art_scale_coded(g.scale) ? 1 : g.scale == ART_F32 ? 4 : 2;
    uint32_t zero = g.zeros == ART_ZERO_BYTE ? 1 : g.zeros == ART_ZERO_FLOAT ? 4 : 0;
    g.block = 16 * ((uint64_t)scale + zero + (uint64_t)(group / g.unit) * g.rows);
    return g;
}

/* Bytes of a tensor, 0 when dtype, flags, group or sizes make no sense. */
static inline uint64_t art_groups_bytes(const ArtTensor *t) {
    ArtGroups g = art_groups(t->dtype, t->flags, t->group);
    uint64_t rows = t->dim[0], cols = t->dim[1];
    if (!g.bits || t->rank != 2 || !rows || !cols || rows > (uint64_t)1 << 28 || cols > (uint64_t)1 << 24)
        return 0;
    if (cols % g.vector) return 0;
    uint64_t panels = (rows + 15) / 16, blocks = (cols + t->group - 1) / t->group;
    if (blocks > ((uint64_t)1 << 54) / g.block / panels) return 0;
    return g.head + panels * (g.panel_head + blocks * g.block);
}

#endif
