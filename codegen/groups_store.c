/* groups_store.c: a GROUP16 matrix in its stored form (runtime/artifact_groups.h): the grid, what stands before a
 * panel's blocks, and blocks of scales, zero points and units of codes. */
#include "codegen/codegen.h"

#include <string.h>

static ArtGroups layout_of(const ProgramTensor *t) {
    return art_groups(t->art.dtype, t->art.flags, t->art.group);
}

static uint8_t *put_float(uint8_t *to, uint32_t dtype, double x) {
    float f = (float)x;
    uint16_t h = dtype == ART_F16 ? float_to_half(f) : float_to_bf16(f);
    if (dtype == ART_F32)
        memcpy(to, &f, sizeof f);
    else
        memcpy(to, &h, sizeof h);
    return to + (dtype == ART_F32 ? 4 : 2);
}

void group_head(const ProgramTensor *t, uint8_t *to) {
    ArtGroups l = layout_of(t);
    memset(to, 0, l.head);
    for (int64_t i[2] = {0, 0}; l.head > 0 && i[0] < INT64_C(1) << l.bits; i[0]++)
        for (i[1] = 0; i[1] < l.vector; i[1]++) {
            double x = weight_get(&t->groups->grid, i);
            if (l.grid == ART_GRID_INT8)
                *to++ = (uint8_t)(int8_t)x;
            else
                to = put_float(to, ART_F16, x);
        }
}

void group_panel_head(const ProgramTensor *t, int64_t row0, uint8_t *to) {
    int64_t rows = t->groups->codes.dim[0] - row0;
    for (int64_t r = 0; layout_of(t).panel_head > 0 && r < 16; r++)
        to = put_float(to, ART_F16, r < rows ? group_entry(&t->groups->row_scale, row0 + r, 0) : 0);
}

static uint32_t code_at(const GroupView *v, int64_t row, int64_t col) {
    uint64_t at = (uint64_t)(v->codes.offset + row * v->codes.stride[0] + col * v->codes.stride[1]);
    uint8_t code;
    const_unpack(v->codes.dtype, v->codes.data, at, 1, &code);
    return (code + (uint32_t)v->shift) & ((1u << dtype_bits(v->codes.dtype)) - 1); /* signed ones from 0 on */
}

/* Code `c` of a unit for one row: 3, 5 and 6 bits are split into planes. */
static void put_code(const ArtGroups *l, uint8_t *unit, int64_t c, int64_t row, uint32_t code) {
    int64_t low = l->bits == 3                   ? 2
                  : l->bits == 5 || l->bits == 6 ? 4
                                                 : l->bits,
            high = l->bits - low, per = 8 / low;
    unit[c / per * 16 + row] |= (uint8_t)((code & ((1u << low) - 1)) << c % per * low);
    if (high > 0) unit[((int64_t)l->rows - 1) * 16 + row] |= (uint8_t)(code >> low << c * high);
}

static void put_codes(const ProgramTensor *t, int64_t row0, int64_t col0, uint8_t *to) {
    const GroupView *v = t->groups;
    ArtGroups l = layout_of(t);
    int64_t rows = v->codes.dim[0] - row0, first = col0 / l.vector, per = l.unit / l.vector;
    int64_t count = v->codes.dim[1] - first, most = v->group / l.vector;
    if (rows > 16) rows = 16;
    if (count > most) count = most;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < count; c++)
            put_code(&l, to + c / per * l.rows * 16, c % per, r, code_at(v, row0 + r, first + c));
}

static uint8_t *put_scale(const ArtGroups *l, uint8_t *to, double x, uint32_t high) {
    if (!art_scale_coded(l->scale)) return put_float(to, l->scale, x);
    *to = (uint8_t)((uint32_t)x | high << 6);
    return to + 1;
}

void group_block(const ProgramTensor *t, int64_t row0, int64_t col0, uint8_t *to) {
    const GroupView *v = t->groups;
    ArtGroups l = layout_of(t);
    int64_t rows = v->codes.dim[0] - row0;
    memset(to, 0, l.block);
    for (int64_t r = 0; r < 16; r++) {
        uint32_t high = l.zeros == ART_ZERO_HIGH && r < rows ? (uint32_t)group_zero(v, row0 + r, col0) : 0;
        to = put_scale(&l, to, r < rows ? group_entry(&v->scale, row0 + r, col0) : 0, high);
    }
    for (int64_t r = 0; (l.zeros == ART_ZERO_FLOAT || l.zeros == ART_ZERO_BYTE) && r < 16; r++) {
        double zero = r < rows ? group_zero(v, row0 + r, col0) : 0;
        if (l.zeros == ART_ZERO_FLOAT)
            to = put_float(to, ART_F32, zero);
        else
            *to++ = (uint8_t)zero;
    }
    put_codes(t, row0, col0, to);
}
