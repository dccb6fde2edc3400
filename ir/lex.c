/* lex.c: tokens of the text form: words, numbers, strings, elements, dimensions and types.
 *
 * The text is any bytes of known length, with no NUL at the end. Every read is checked against the
 * end, nothing recurses, and all loops advance. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

#define NUMBER_MAX 64 /* characters of a decimal number */
#define DIM_TERMS_MAX 64
#define DIM_FACTORS_MAX 16

Lex lex_new(const char *text, size_t bytes, const char *path, Arena *a, Diag *d) {
    Lex x = {text, text + bytes, text, 1, path, a, d, false};
    return x;
}

Loc lex_loc(const Lex *x, const char *at) {
    ptrdiff_t column = at - x->line_start + 1;
    uint32_t shown = column > 0 && column < INT32_MAX ? (uint32_t)column : 1;
    return (Loc){LOC_TEXT, x->line, shown, x->path};
}

bool lex_error(Lex *x, const char *at, const char *fmt, ...) {
    if (x->failed) return false;
    x->failed = true;
    Text t = text_new(x->arena);
    va_list ap;
    va_start(ap, fmt);
    text_vprintf(&t, fmt, ap);
    va_end(ap);
    return diag_error(x->diag, lex_loc(x, at), "%s", t.data);
}

static void lex_space(Lex *x) {
    while (x->at < x->end && (*x->at == ' ' || *x->at == '\t' || *x->at == '\r')) x->at++;
    if (x->at < x->end && *x->at == ';')
        while (x->at < x->end && *x->at != '\n') x->at++;
}

const char *lex_here(Lex *x) {
    lex_space(x);
    return x->at;
}

bool lex_next_line(Lex *x) {
    for (;;) {
        lex_space(x);
        if (x->at >= x->end || x->failed) return false;
        if (*x->at != '\n') return true;
        x->at++;
        x->line++;
        x->line_start = x->at;
    }
}

bool lex_end_line(Lex *x) {
    lex_space(x);
    if (x->failed) return false;
    if (x->at >= x->end || *x->at == '\n') return true;
    return lex_error(x, x->at, "unexpected text after the end of this statement");
}

bool lex_peek(Lex *x, char c) {
    lex_space(x);
    return !x->failed && x->at < x->end && *x->at == c;
}

bool lex_take(Lex *x, char c) {
    if (!lex_peek(x, c)) return false;
    x->at++;
    return true;
}

bool lex_expect(Lex *x, char c) { return lex_take(x, c) || lex_error(x, x->at, "expected '%c' here", c); }

bool lex_word(Lex *x, const char **word, size_t *n) {
    lex_space(x);
    if (x->failed) return false;
    const char *start = x->at;
    while (x->at < x->end && is_word_char(*x->at, x->at == start)) x->at++;
    *word = start;
    *n = (size_t)(x->at - start);
    return *n > 0 || lex_error(x, start, "expected a word here");
}

bool lex_is(const char *word, size_t n, const char *expected) {
    return strlen(expected) == n && memcmp(word, expected, n) == 0;
}

static bool is_digit(const Lex *x) { return x->at < x->end && *x->at >= '0' && *x->at <= '9'; }

static bool lex_digits(Lex *x, uint64_t *value, bool *fits) {
    lex_space(x);
    if (x->failed) return false;
    const char *start = x->at;
    *value = 0;
    *fits = true;
    for (; is_digit(x); x->at++) {
        uint64_t digit = (uint64_t)(*x->at - '0');
        if (*value > (UINT64_MAX - digit) / 10)
            *fits = false;
        else
            *value = *value * 10 + digit;
    }
    return x->at > start || lex_error(x, start, "expected a whole number here");
}

bool lex_u64(Lex *x, uint64_t max, uint64_t *out) {
    const char *start = lex_here(x);
    bool fits = true;
    if (!lex_digits(x, out, &fits)) return false;
    if (fits && *out <= max) return true;
    return lex_error(x, start, "this number is too large; the largest here is %llu", (unsigned long long)max);
}

bool lex_i64(Lex *x, int64_t min, int64_t max, int64_t *out) {
    const char *start = lex_here(x);
    bool negative = lex_take(x, '-');
    uint64_t value = 0;
    bool fits = true;
    if (!lex_digits(x, &value, &fits)) return false;
    fits = fits && value <= (uint64_t)INT64_MAX + negative;
    int64_t number = 0;
    if (fits && negative)
        number = value == 0 ? 0 : -(int64_t)(value - 1) - 1;
    else if (fits)
        number = (int64_t)value;
    if (!fits || number < min || number > max)
        return lex_error(x, start, "this number must be from %lld to %lld", (long long)min, (long long)max);
    *out = number;
    return true;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The character after a backslash; x->at is on it. */
static bool lex_escape(Lex *x, char *out) {
    const char *start = x->at;
    char c = x->at < x->end ? *x->at++ : '\0';
    switch (c) {
    case '"':
    case '\\': *out = c; return true;
    case 'n': *out = '\n'; return true;
    case 't': *out = '\t'; return true;
    case 'x': break;
    default: return lex_error(x, start, "unknown escape; hint: \\\" \\\\ \\n \\t and \\xHH exist");
    }
    int high = x->end - x->at >= 2 ? hex_digit(x->at[0]) : -1;
    int low = high >= 0 ? hex_digit(x->at[1]) : -1;
    if (low < 0 || (high == 0 && low == 0))
        return lex_error(x, start, "\\x needs two hexadecimal digits that are not 00");
    x->at += 2;
    *out = (char)(unsigned char)(high * 16 + low);
    return true;
}

bool lex_string(Lex *x, const char **out) {
    const char *start = lex_here(x);
    if (!lex_expect(x, '"')) return false;
    size_t room = 0;
    for (const char *c = x->at; c < x->end && *c != '"' && *c != '\n'; c++) {
        room++;
        if (*c == '\\' && x->end - c > 1) c++, room++;
    }
    char *s = arena_alloc(x->arena, room + 1);
    size_t n = 0;
    for (;;) {
        if (x->at >= x->end || *x->at == '\n') return lex_error(x, start, "this string has no closing quote");
        char c = *x->at++;
        if (c == '"') break;
        if (c == '\0') return lex_error(x, x->at - 1, "a string cannot hold a zero byte");
        if (c == '\\' && !lex_escape(x, &c)) return false;
        s[n++] = c;
    }
    *out = s;
    return true;
}

bool lex_hex(Lex *x, uint8_t *out, size_t bytes) {
    const char *start = lex_here(x);
    if (!lex_expect(x, '"')) return false;
    for (size_t i = 0; i < bytes; i++) {
        int high = x->end - x->at >= 2 ? hex_digit(x->at[0]) : -1;
        int low = high >= 0 ? hex_digit(x->at[1]) : -1;
        if (low < 0)
            return lex_error(x, start, "expected %zu bytes as hexadecimal digits, found %zu", bytes, i);
        out[i] = (uint8_t)(high * 16 + low);
        x->at += 2;
    }
    if (x->at < x->end && *x->at == '"') {
        x->at++;
        return true;
    }
    return lex_error(x, start, "expected the closing quote after %zu bytes", bytes);
}

/* ---- elements ---- */

static void skip_digits(Lex *x) {
    while (is_digit(x)) x->at++;
}

/* Copies a decimal number ("-1.5e-07") and ends it with NUL. */
static bool lex_decimal(Lex *x, char buffer[NUMBER_MAX]) {
    const char *start = x->at;
    if (x->at < x->end && *x->at == '-') x->at++;
    const char *digits = x->at;
    skip_digits(x);
    size_t count = (size_t)(x->at - digits);
    if (x->at < x->end && *x->at == '.') {
        x->at++;
        digits = x->at;
        skip_digits(x);
        count += (size_t)(x->at - digits);
    }
    bool ok = count > 0;
    if (ok && x->at < x->end && (*x->at == 'e' || *x->at == 'E')) {
        x->at++;
        if (x->at < x->end && (*x->at == '-' || *x->at == '+')) x->at++;
        digits = x->at;
        skip_digits(x);
        ok = x->at > digits;
    }
    size_t n = (size_t)(x->at - start);
    if (!ok) return lex_error(x, start, "expected a number here");
    if (n >= NUMBER_MAX) return lex_error(x, start, "this number has too many digits");
    memcpy(buffer, start, n);
    buffer[n] = '\0';
    return true;
}

/* "nan" or "nan(0xBITS)"; the bits must be a NaN of this type. */
static bool lex_nan(Lex *x, DType type, uint8_t *out) {
    static const uint64_t quiet[DT_COUNT] = {
        [DT_F8E4M3FN] = 0x7f,  [DT_F8E4M3FNUZ] = 0x80,
        [DT_F8E5M2] = 0x7f,    [DT_F8E5M2FNUZ] = 0x80,
        [DT_F16] = 0x7e00,     [DT_BF16] = 0x7fc0,
        [DT_F32] = 0x7fc00000, [DT_F64] = UINT64_C(0x7ff8000000000000),
    };
    const char *start = x->at;
    uint64_t bits = quiet[type];
    size_t digits = 2 * dtype_size(type);
    if (lex_take(x, '(')) {
        bits = 0;
        if (!lex_expect(x, '0') || !lex_expect(x, 'x')) return false;
        for (size_t i = 0; x->at < x->end && hex_digit(*x->at) >= 0; i++, x->at++) {
            if (i == digits) return lex_error(x, start, "these bits do not fit the type");
            bits = bits << 4 | (uint64_t)hex_digit(*x->at);
        }
        if (!isnan(float_from_bits(type, bits))) return lex_error(x, start, "these bits are no NaN");
        if (!lex_expect(x, ')')) return false;
    }
    for (size_t i = 0; i < dtype_size(type); i++) out[i] = (uint8_t)(bits >> (8 * i));
    return true;
}

static bool lex_float(Lex *x, DType type, uint8_t *out) {
    const char *start = lex_here(x);
    bool negative = false, infinite = false;
    double wide;
    float f;
    const char *word = x->at;
    if (word < x->end && *word == '-') {
        negative = true;
        word++;
    }
    size_t left = (size_t)(x->end - word);
    if (left >= 3 && memcmp(word, "inf", 3) == 0) {
        x->at = word + 3;
        infinite = true;
        wide = negative ? -INFINITY : INFINITY;
        f = (float)wide;
    } else if (!negative && left >= 3 && memcmp(word, "nan", 3) == 0) {
        x->at = word + 3;
        return lex_nan(x, type, out);
    } else {
        char buffer[NUMBER_MAX];
        if (!lex_decimal(x, buffer)) return false;
        wide = strtod(buffer, NULL);
        f = strtof(buffer, NULL);
    }
    uint64_t bits = float_to_bits(type, type == DT_F64 ? wide : (double)f);
    double kept = float_from_bits(type, bits);
    if (!(infinite ? isinf(kept) : isfinite(kept)))
        return lex_error(x, start, "this number is too large for %s", dtype_name(type));
    memcpy(out, &bits, dtype_size(type));
    return true;
}

bool lex_element(Lex *x, DType type, uint8_t *out) {
    const char *start = lex_here(x);
    size_t size = dtype_size(type);
    uint64_t bits = 0;
    switch (dtype_class(type)) {
    case DC_FLOAT: return lex_float(x, type, out);
    case DC_INT: {
        int64_t most = (int64_t)((UINT64_C(1) << (dtype_bits(type) - 1)) - 1), number = 0;
        if (!lex_i64(x, -most - 1, most, &number)) return false;
        bits = (uint64_t)number;
        break;
    }
    case DC_BOOL:
    case DC_UINT:
        if (type == DT_BOOL && !is_digit(x)) {
            const char *word;
            size_t n;
            if (!lex_word(x, &word, &n)) return false;
            bits = lex_is(word, n, "true");
            if (bits == 0 && !lex_is(word, n, "false")) return lex_error(x, start, "expected true or false");
        } else if (!lex_u64(x, UINT64_MAX >> (64 - dtype_bits(type)), &bits)) {
            return false; /* a bool of another byte than 0 or 1 is a number too */
        }
        break;
    case DC_NONE: return lex_error(x, start, "a value without a type has no elements");
    }
    for (size_t i = 0; i < size; i++) out[i] = (uint8_t)(bits >> (8 * i));
    return true;
}

/* ---- dimensions and types ---- */

bool lex_name(Lex *x, const char **name, size_t *n) {
    if (!lex_peek(x, '"')) return lex_word(x, name, n);
    if (!lex_string(x, name)) return false;
    *n = strlen(*name);
    return true;
}

static bool lex_symbol(Lex *x, Graph *g, Dim *out) {
    const char *start = lex_here(x), *name = NULL;
    size_t n = 0;
    if (!lex_name(x, &name, &n)) return false;
    SymId s = symbol_find(g, name, n);
    int shown = n < 60 ? (int)n : 60;
    if (s.id == 0)
        return lex_error(x, start,
                         "unknown symbol \"%.*s\"; hint: declare it with a line "
                         "\"symbol NAME\"",
                         shown, name);
    *out = dim_sym(g, s);
    return true;
}

static bool lex_term(Lex *x, Graph *g, bool negative, Dim *out) {
    Dim product = dim_const(negative ? -1 : 1);
    for (int factors = 0; factors == 0 || lex_take(x, '*'); factors++) {
        Dim factor;
        lex_here(x);
        if (factors == DIM_FACTORS_MAX) return lex_error(x, x->at, "too many factors");
        if (is_digit(x)) {
            int64_t number = 0;
            if (!lex_i64(x, 0, DIM_MAX, &number)) return false;
            factor = dim_const(number);
        } else if (!lex_symbol(x, g, &factor)) {
            return false;
        }
        product = dim_mul(g, product, factor);
    }
    *out = product;
    return true;
}

bool lex_dim(Lex *x, Graph *g, Dim *out) {
    const char *start = lex_here(x);
    if (lex_take(x, '?')) {
        *out = DIM_UNKNOWN;
        return true;
    }
    bool negative = lex_take(x, '-');
    Dim sum = dim_const(0);
    for (int terms = 0;; terms++) {
        Dim term;
        if (terms == DIM_TERMS_MAX) return lex_error(x, x->at, "too many terms");
        if (!lex_term(x, g, negative, &term)) return false;
        sum = terms == 0 ? term : dim_add(g, sum, term);
        if (lex_take(x, '+'))
            negative = false;
        else if (lex_take(x, '-'))
            negative = true;
        else
            break;
    }
    if (!dim_known(sum)) return lex_error(x, start, "this dimension is too large");
    *out = sum;
    return true;
}

bool lex_type(Lex *x, Graph *g, Type *out) {
    const char *start = lex_here(x), *word = NULL;
    size_t n = 0;
    if (!lex_word(x, &word, &n)) return false;
    Type t = {0};
    t.dtype = dtype_parse(word, n);
    if (t.dtype == DT_NONE) return lex_error(x, start, "unknown element type");
    if (!lex_expect(x, '[')) return false;
    if (!lex_take(x, ']')) {
        do {
            const char *at = lex_here(x);
            if (t.rank == MAX_RANK) return lex_error(x, at, "more than %d dimensions", MAX_RANK);
            Dim d;
            if (!lex_dim(x, g, &d)) return false;
            if (dim_is_const(d) && d.v < 0) return lex_error(x, at, "a dimension below 0");
            t.dim[t.rank++] = d;
        } while (lex_take(x, ','));
        if (!lex_expect(x, ']')) return false;
    }
    *out = t;
    return true;
}
