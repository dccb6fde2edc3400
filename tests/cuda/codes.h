/* codes.h: random matrices of codes (GROUP16). What they mean is written here a second time, from docs/artifact.md. After
 * the host prelude and what has random_bits and random_unit. */
#ifndef TESTS_CUDA_CODES_H
#define TESTS_CUDA_CODES_H

#include "runtime/artifact.h"

/* A matrix in the file's form and its values. */
struct Matrix {
    std::vector<u8> bytes;
    std::vector<double> value; /* [n][k] */
};

static u16 half_bits(float f) {
    half h;
    from_float(f, h);
    return h.bits;
}
static double half_value(const u8 *p) {
    half h;
    memcpy(&h.bits, p, 2);
    return to_float(h);
}
static void put_half(u8 *p, float f) {
    u16 bits = half_bits(f);
    memcpy(p, &bits, 2);
}
static void put_float(u8 *p, float f) { memcpy(p, &f, 4); }

static double f8_value(u32 c) {
    double m = c & 7, e = c >> 3 & 15, v = e > 0 ? std::ldexp(8 + m, (int)e - 10) : std::ldexp(m, -9);
    return c & 128 ? -v : v;
}

/* A row of 16 bytes and the bits of a code's part: from the table of units in docs/artifact.md. */
struct Part {
    u32 row, shift, bits, to;
};
static std::vector<Part> parts_of(u32 bits, u32 c) {
    switch (bits) {
    case 3: return {{c / 4, c % 4 * 2, 2, 0}, {2, c, 1, 2}};
    case 5: return {{c / 2, c % 2 * 4, 4, 0}, {4, c, 1, 4}};
    case 6: return {{c / 2, c % 2 * 4, 4, 0}, {2, c * 2, 2, 4}};
    default: return {{0, c * bits, bits, 0}};
    }
}

static double random_scale(const ArtGroups &g, u8 *panel, u8 *block, u32 o) {
    float s = 0.01f + 0.02f * (float)(random_bits() % 100) / 100;
    if (g.scale == ART_U8 || g.scale == ART_U6) {
        u32 code = random_bits() % (g.scale == ART_U6 ? 64 : 256);
        block[o] = (u8)(block[o] | code);
        return code * half_value(panel + 2 * o);
    }
    if (g.scale == ART_F32) return put_float(block + 4 * o, s), (double)s;
    if (g.scale == ART_F16) return put_half(block + 2 * o, s), half_value(block + 2 * o);
    bf16 b;
    from_float(s, b);
    memcpy(block + 2 * o, &b.bits, 2);
    return to_float(b);
}

static double random_zero(const ArtGroups &g, u8 *block, u8 *zeros, u32 o) {
    u32 z = random_bits() % (g.bits == 2 ? 4 : 1u << g.bits);
    switch (g.zeros) {
    case ART_ZERO_BYTE: return zeros[o] = (u8)z;
    case ART_ZERO_FLOAT: return put_float(zeros + 4 * o, (float)z + 0.3f), (double)((float)z + 0.3f);
    case ART_ZERO_HIGH: return block[o] = (u8)(block[o] | z << 6), z;
    default: return g.zero;
    }
}

/* Without bytes: there is no such form. */
static Matrix random_codes(u32 dtype, u32 flags, u32 group, u32 k, u32 n) {
    ArtTensor t = {};
    t.dtype = dtype, t.layout = ART_GROUP16, t.rank = 2, t.flags = flags, t.group = group, t.dim[0] = n,
    t.dim[1] = k;
    const ArtGroups g = art_groups(dtype, flags, group);
    Matrix m;
    m.bytes.assign(art_groups_bytes(&t), 0);
    m.value.assign((size_t)n * k, 0);
    for (u32 i = 0; i < g.head && !m.bytes.empty(); i += 2) {
        if (g.grid == ART_GRID_INT8)
            m.bytes[i] = (u8)random_bits(), m.bytes[i + 1] = (u8)random_bits();
        else
            put_half(&m.bytes[i], random_unit());
    }
    const u32 blocks = (k + group - 1) / group;
    const u64 panel_bytes = g.panel_head + blocks * g.block;
    for (u32 row = 0; row < n; row++) {
        u8 *panel = &m.bytes[g.head + row / 16 * panel_bytes];
        const u32 o = row % 16;
        if (g.panel_head) put_half(panel + 2 * o, 0.0002f + 0.0001f * (float)(random_bits() % 8));
        for (u32 b = 0; b < blocks; b++) {
            u8 *block = panel + g.panel_head + b * g.block,
               *codes = block + g.block - 16 * (u64)(group / g.unit) * g.rows;
            const u32 zero_bytes = g.zeros == ART_ZERO_BYTE ? 16 : g.zeros == ART_ZERO_FLOAT ? 64 : 0;
            const double zero = random_zero(g, block, codes - zero_bytes, o),
                         scale = random_scale(g, panel, block, o);
            u32 code = 0;
            for (u32 c = 0; c < group && b * group + c < k; c++) {
                const u32 in = c % g.unit / g.vector;
                if (c % g.vector == 0) {
                    do code = random_bits() & ((1u << g.bits) - 1);
                    while (g.grid == ART_GRID_F8 && (code & 127) == 127);
                    for (const Part &p : parts_of(g.bits, in))
                        codes[(c / g.unit * g.rows + p.row) * 16 + o] |=
                            (u8)((code >> p.to & ((1u << p.bits) - 1)) << p.shift);
                }
                const double v = g.grid == ART_GRID_LINEAR ? code - zero
                                 : g.grid == ART_GRID_INT8 ? (double)(signed char)m.bytes[code]
                                 : g.grid == ART_GRID_F8
                                     ? f8_value(code)
                                     : half_value(&m.bytes[2 * (code * g.vector + c % g.vector)]);
                m.value[(size_t)row * k + b * group + c] = v * scale;
            }
        }
    }
    return m;
}

#endif
