/* format.c: the table of formats, and a matrix in one of them. */
#include "passes/lossy/lossy.h"

#include <math.h>
#include <string.h>

const Format format_table[] = {
#define FORMAT(name, bits, group, zero, scale, grid, vector, doc)                                            \
    {name, doc, bits, group, zero, scale, grid, vector},
#include "passes/lossy/formats.def"
#undef FORMAT
    {0},
};

const Format *format_find(const char *name) {
    for (const Format *f = format_table; f->name; f++)
        if (strcmp(f->name, name) == 0) return f;
    return NULL;
}

/* Columns of a unit of codes: rows of 16 bytes, one an output, that are full. */
static int64_t unit_columns(const Format *f) {
    switch (f->bits) {
    case 3:
    case 5: return 8;
    case 6: return 4;
    default: return 8 / f->bits * f->vector;
    }
}

static uint64_t group_columns(const Format *f, int64_t cols) {
    int64_t unit = unit_columns(f);
    return (uint64_t)(f->group ? f->group : (cols + unit - 1) / unit * unit);
}

uint64_t format_stored_bits(const Format *f, int64_t rows, int64_t cols) {
    uint64_t group = group_columns(f, cols), groups = ((uint64_t)cols + group - 1) / group;
    uint64_t panels = ((uint64_t)rows + 15) / 16, entries = UINT64_C(1) << f->bits;
    bool coded = f->scale_bits < 16, zero_byte = f->zero && f->scale_bits != 6;
    uint64_t block = 16 * ((coded ? 1u : 2u) + zero_byte + group * f->bits / 8 / f->vector);
    uint64_t grid = f->grid != GRID_LEARNED ? 0 : f->vector > 1 ? entries * f->vector * 2 : entries;
    return 8 * ((grid + 63) / 64 * 64 + panels * ((coded ? 32 : 0) + groups * block));
}

static void grid_fill(const Format *f, float *grid) {
    uint32_t entries = 1u << f->bits;
    for (uint32_t i = 0; i < entries && f->vector == 1; i++)
        grid[i] = f->grid == GRID_F8 ? f8_to_float(DT_F8E4M3FN, (uint8_t)i)
                                     : (float)i - (float)(entries / 2); /* a learned one starts so */
}

bool quant_new(const Format *f, int64_t rows, int64_t cols, Arena *a, QuantMatrix *out) {
    *out = (QuantMatrix){.format = f, .rows = rows, .cols = cols};
    if (rows < 1 || cols < 1 || cols % f->vector) return false;
    out->groups = f->group ? (cols + f->group - 1) / f->group : 1;
    size_t r = (size_t)rows, g = r * (size_t)out->groups;
    out->codes = arena_array_of(a, r * (size_t)(cols / f->vector), uint8_t);
    out->scale = arena_array_of(a, g, float);
    out->grid = arena_array_of(a, (size_t)f->vector << f->bits, float);
    if (f->scale_bits < 16) {
        out->scale_code = arena_array_of(a, g, uint8_t);
        out->row_scale = arena_array_of(a, r, float);
    }
    if (f->zero) out->zero = arena_array_of(a, g, uint8_t);
    grid_fill(f, out->grid);
    return true;
}

void quant_dense(const QuantMatrix *q, float *to) {
    const Format *f = q->format;
    int64_t v = f->vector, group = f->group ? f->group : q->cols;
    for (int64_t r = 0; r < q->rows; r++) {
        const uint8_t *codes = q->codes + r * (q->cols / v);
        for (int64_t c = 0; c < q->cols; c++) {
            int64_t g = r * q->groups + c / group;
            float x = q->grid[codes[c / v] * v + c % v];
            *to++ = (q->zero ? x - q->grid[q->zero[g]] : x) * q->scale[g];
        }
    }
}
