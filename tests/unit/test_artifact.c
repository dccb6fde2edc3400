/* test_artifact.c: the loader against damaged files. A file must be refused with a detail, or run: every
 * truncation, every byte of header, table, META, TENSORS and PLAN changed with the checksums made right
 * again (so that the checks themselves are tried), and named mistakes in the plan, each refused. */
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>

#include "tests/unit/tiny_artifact.h"
#include "tests/unit/unit.h"

static char path[64];
static int file = -1;
static uint8_t *image;
static size_t bytes, front; /* front: bytes before the weights' data */

static int setup(void) {
    Tiny *t = tiny_new(3);
    image = tiny_image(t, &bytes);
    front = bytes - t->weight_bytes;
    tiny_free(t);
    strcpy(path, "/tmp/gptc-test-artifact-XXXXXX");
    file = mkstemp(path);
    return file < 0;
}

static int teardown(void) {
    close(file);
    unlink(path);
    free(image);
    return 0;
}

static bool put_file(const void *data, size_t n) {
    return !ftruncate(file, (off_t)n) && pwrite(file, data, n, 0) == (ssize_t)n;
}

/* The same when only what stands before the weights changed since the last put_file of `bytes` bytes. */
static bool put_front(const void *data) { return pwrite(file, data, front, 0) == (ssize_t)front; }

/* Opens what was put; if it opens, it has to run. */
static gptc_status try_file(gptc_detail *why, int verify) {
    gptc_model *m;
    gptc_open_options o = {.verify = verify, .cpu_level = 1};
    gptc_status st = gptc_open(path, &o, &m, why);
    if (st) return st;
    gptc_session *s;
    gptc_session_options so = {.threads = 1, .context = 4, .sequences = 2, .chunk = 2};
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_model_get_info(m, &info);
    if (info.context < 4) so.context = info.context;
    st = gptc_session_new(m, &so, &s, why);
    if (!st) {
        const int32_t tokens[3] = {0, 0, 0};
        size_t n = so.context < 3 ? (size_t)so.context : 3;
        CU_ASSERT_EQUAL(gptc_prefill(s, 1, tokens, n, GPTC_LOGITS_LAST), GPTC_OK);
        CU_ASSERT_EQUAL(gptc_step(s, tokens, 2), so.context > (int)n ? GPTC_OK : GPTC_E_CONTEXT);
        gptc_session_free(s);
    } else {
        CU_ASSERT_EQUAL(st, GPTC_E_MEMORY);
        st = GPTC_OK;
    }
    gptc_model_meta(m, "no such key");
    gptc_close(m);
    return st;
}

static void test_sound(void) {
    gptc_detail why;
    CU_ASSERT_TRUE(put_file(image, bytes));
    CU_ASSERT_EQUAL(try_file(&why, 1), GPTC_OK);
    CU_ASSERT_STRING_EQUAL(why.text, "");
}

static void test_truncations(void) {
    gptc_detail why;
    int accepted = 0, silent = 0;
    uint8_t *copy = malloc(bytes);
    memcpy(copy, image, bytes);
    for (size_t n = 0; n < bytes; n += n < 2048 ? 1 : 97) {
        uint64_t size = n;
        CU_ASSERT_TRUE_FATAL(put_file(image, n));
        accepted += try_file(&why, 0) == GPTC_OK;
        silent += why.text[0] == 0;
        memcpy(copy + offsetof(ArtHeader, file_bytes), &size, 8); /* the header agrees */
        CU_ASSERT_TRUE_FATAL(put_file(copy, n));
        accepted += try_file(&why, 0) == GPTC_OK;
        silent += why.text[0] == 0;
    }
    free(copy);
    CU_ASSERT_EQUAL(accepted, 0);
    CU_ASSERT_EQUAL(silent, 0);
}

static size_t section_of(uint32_t kind, size_t *n) {
    for (int i = 0; i < 5; i++) {
        ArtSection s;
        memcpy(&s, image + sizeof(ArtHeader) + (size_t)i * sizeof s, sizeof s);
        if (s.kind != kind) continue;
        *n = s.bytes;
        return s.offset;
    }
    *n = 0;
    return 0;
}

/* Changed without new checksums: always noticed (weights only with verify). */
static void test_flips_are_noticed(void) {
    gptc_detail why;
    int missed = 0;
    size_t n;
    CU_ASSERT_TRUE_FATAL(put_file(image, bytes));
    for (size_t i = 0; i < front; i++) {
        size_t end = sizeof(ArtHeader) + 5 * sizeof(ArtSection);
        bool reserved = i >= offsetof(ArtHeader, reserved) && i < sizeof(ArtHeader);
        bool minor = i >= offsetof(ArtHeader, minor) && i < offsetof(ArtHeader, n_sections);
        image[i] ^= 0x10;
        CU_ASSERT_TRUE_FATAL(put_front(image));
        gptc_status st = try_file(&why, 1);
        image[i] ^= 0x10;
        bool covered = i < end;
        for (uint32_t kind = ART_META; kind <= ART_PLAN && !covered; kind++) {
            size_t at = section_of(kind, &n);
            covered = i >= at && i < at + n;
        }
        if (covered && !reserved && !minor) missed += st == GPTC_OK;
    }
    CU_ASSERT_EQUAL(missed, 0);
}

/* Changed with new checksums: refused, or it runs. */
static void flips(size_t from, size_t n, int *accepted) {
    static const uint8_t how[] = {0x01, 0x81, 0x10};
    gptc_detail why;
    uint8_t *copy = malloc(bytes);
    CU_ASSERT_TRUE_FATAL(put_file(image, bytes));
    for (size_t i = from; i < from + n; i++)
        for (size_t k = 0; k < sizeof how; k++) {
            memcpy(copy, image, bytes);
            copy[i] ^= how[k];
            tiny_fix_hashes(copy, bytes);
            CU_ASSERT_TRUE_FATAL(put_front(copy));
            gptc_status st = try_file(&why, 0);
            if (st == GPTC_OK)
                ++*accepted;
            else if (!why.text[0])
                CU_FAIL("no detail");
        }
    free(copy);
}

static void test_header_flips(void) {
    int accepted = 0;
    flips(0, sizeof(ArtHeader) + 5 * sizeof(ArtSection), &accepted);
    CU_ASSERT_TRUE(accepted > 0); /* reserved bytes, the minor version */
}

static void test_table_flips(void) {
    int accepted = 0;
    for (uint32_t kind = ART_META; kind <= ART_PLAN; kind++) {
        size_t n = 0, at = section_of(kind, &n);
        if (kind != ART_WEIGHTS) flips(at, n, &accepted);
    }
    CU_ASSERT_TRUE(accepted > 0);
}

/* ---- named mistakes ---- */
static ArtStep *find_step(Tiny *t, uint32_t kernel, int nth) {
    for (uint32_t i = 0; i < t->plan.n_steps; i++)
        if (t->steps[i].kernel == kernel && nth-- == 0) return &t->steps[i];
    return NULL;
}

static void late_store(Tiny *t) { t->plan.head_step = 3; }
static void row_too_short(Tiny *t) { t->plan.row_bytes -= 64; }
static void not_aligned(Tiny *t) { find_step(t, ART_K_NORM, 0)->arg[3].value += 4; }
static void reads_nothing(Tiny *t) {
    find_step(t, ART_K_NORM, 0)->arg[0] = find_step(t, ART_K_NORM, 2)->arg[0];
}
static void no_such_tensor(Tiny *t) { find_step(t, ART_K_LINEAR, 0)->arg[1].value = t->n_tensors; }
static void no_such_state(Tiny *t) { find_step(t, ART_K_STORE, 0)->arg[1].value = 4; }
static void wrong_k(Tiny *t) { find_step(t, ART_K_LINEAR, 0)->u.linear.k = 16; }
static void wrong_n(Tiny *t) { find_step(t, ART_K_LINEAR, 2)->u.linear.n = 32; }
static void plain_weight(Tiny *t) { t->tensors[TINY_W(0, L_Q)].layout = ART_PLAIN; }
static void wrong_act(Tiny *t) { find_step(t, ART_K_LINEAR, 0)->u.linear.act = ART_ACT_COUNT; }
static void bias_missing(Tiny *t) { find_step(t, ART_K_LINEAR, 0)->arg[2].kind = ART_ARG_POSITIONS; }
static void few_positions(Tiny *t) { t->meta.context = TINY_CONTEXT + 1; }
static void few_tokens(Tiny *t) { t->meta.vocab = TINY_VOCAB + 1; }
static void odd_rope(Tiny *t) { find_step(t, ART_K_ROPE, 0)->u.rope.rotated = 5; }
static void long_rope(Tiny *t) { find_step(t, ART_K_ROPE, 0)->u.rope.rotated = 10; }
static void uneven_heads(Tiny *t) { find_step(t, ART_K_ATTENTION, 0)->u.attention.kv_heads = 3; }
static void no_heads(Tiny *t) { find_step(t, ART_K_ATTENTION, 0)->u.attention.kv_heads = 0; }
static void not_a_number(Tiny *t) { find_step(t, ART_K_ATTENTION, 0)->u.attention.scale = NAN; }
static void not_stored(Tiny *t) { find_step(t, ART_K_STORE, 2)->arg[1].value = 0; }
static void output_is_input(Tiny *t) {
    find_step(t, ART_K_MOVE, 0)->arg[1] = find_step(t, ART_K_MOVE, 0)->arg[0];
}
static void move_far(Tiny *t) { find_step(t, ART_K_MOVE, 0)->u.move.src_offset = 1; }
static void move_wraps(Tiny *t) { find_step(t, ART_K_MOVE, 0)->u.move.dst_stride[2] = UINT32_MAX; }
static void move_none(Tiny *t) { find_step(t, ART_K_MOVE, 0)->u.move.count[0] = 0; }
static void reduce_wraps(Tiny *t) {
    find_step(t, ART_K_REDUCE, 0)->u.reduce = (ArtReduce){0, 65536, 65536, 1};
}
static void reduce_kind(Tiny *t) { find_step(t, ART_K_REDUCE, 0)->u.reduce.op = ART_RED_COUNT; }
static void softmax_len(Tiny *t) { find_step(t, ART_K_SOFTMAX, 0)->u.reduce.len = 5; }
static void topk_none(Tiny *t) {
    ArtStep *s = find_step(t, ART_K_REDUCE, 0);
    uint32_t n = s->arg[0].width;
    s->kernel = ART_K_TOPK;
    s->u.topk = (ArtTopk){1, n, 0, 0};
}
static void topk_more(Tiny *t) {
    topk_none(t);
    ArtStep *s = find_step(t, ART_K_TOPK, 0);
    s->u.topk.count = s->u.topk.len + 1;
}
static void pick_wraps(Tiny *t) {
    ArtStep *s = find_step(t, ART_K_REDUCE, 0);
    s->kernel = ART_K_PICK;
    s->arg[2] = s->arg[1];
    s->arg[1] = s->arg[0];
    s->u.pick = (ArtPick){65536, 65536, 65536, 1};
}
static void pick_into_itself(Tiny *t) {
    ArtStep *s = find_step(t, ART_K_REDUCE, 0);
    uint32_t n = s->arg[0].width;
    s->kernel = ART_K_PICK;
    s->arg[1] = s->arg[2] = s->arg[0];
    s->u.pick = (ArtPick){1, n, 1, n};
}
static void routed_by_matrix(Tiny *t) { /* one matrix is not experts */
    ArtStep *s = find_step(t, ART_K_LINEAR, 0);
    ArtLinear u = s->u.linear;
    s->kernel = ART_K_ROUTED;
    s->arg[2] = s->arg[1];
    s->arg[1] = s->arg[0];
    s->arg[3].kind = s->arg[4].kind = ART_ARG_NONE;
    s->u.routed = (ArtRouted){1, u.k, u.k, u.n, 0, 1};
}
static void experts_outside(Tiny *t) {
    ArtTensor *w = &t->tensors[find_step(t, ART_K_LINEAR, 0)->arg[1].value];
    w->rank = 3;
    w->dim[2] = w->dim[1], w->dim[1] = w->dim[0], w->dim[0] = (uint64_t)1 << 39;
}
/* The first product's weight as 4-bit codes in groups, with f32 scales and one zero point for all. */
static ArtTensor *grouped(Tiny *t) {
    ArtTensor *w = &t->tensors[find_step(t, ART_K_LINEAR, 0)->arg[1].value];
    w->dtype = ART_U4, w->layout = ART_GROUP16, w->group = 16;
    w->flags = ART_F32 | 8u << 16;
    w->bytes = (w->dim[0] + 15) / 16 * ((w->dim[1] + 15) / 16) * 16 * (4 + 8);
    return w;
}
/* That weight, 32 x 32, as a stack of experts; index: so many sums of the row, for as many slots. */
static ArtRouted *stacked(Tiny *t, uint32_t experts) {
    ArtStep *sum = find_step(t, ART_K_REDUCE, 0), *s = find_step(t, ART_K_MOVE, 0);
    const ArtArg x = s->arg[0], out = s->arg[1], w = find_step(t, ART_K_LINEAR, 0)->arg[1];
    grouped(t);
    sum->u.reduce = (ArtReduce){ART_RED_SUM, experts, TINY_D / experts, 1};
    sum->arg[1].width = experts;
    s[1].arg[2] = out; /* which read the four sums */
    memset(s->arg, 0, sizeof s->arg);
    s->kernel = ART_K_ROUTED;
    s->arg[0] = x, s->arg[1] = sum->arg[1], s->arg[2] = w, s->arg[5] = out;
    s->u.routed = (ArtRouted){experts, experts, TINY_D, TINY_D / experts, ART_ACT_NONE, 1};
    return &s->u.routed;
}
static void stack_split(Tiny *t) { stacked(t, 4); } /* two experts in a panel */
static void stack_short(Tiny *t) { stacked(t, 2)->experts = 3; }
static void stack_plain(Tiny *t) {
    ArtTensor *w = &t->tensors[find_step(t, ART_K_LINEAR, 0)->arg[1].value], plain = *w;
    stacked(t, 2);
    *w = plain;
}
/* The same in another form, with the bytes that it has. */
static ArtTensor *grouped_as(Tiny *t, uint32_t dtype, uint32_t flags, uint32_t group) {
    ArtTensor *w = grouped(t);
    w->dtype = dtype, w->flags = flags, w->group = group;
    w->bytes = art_groups_bytes(w);
    return w;
}
static const struct {
    uint32_t dtype, flags, group;
} forms[] = {
    {ART_U3, ART_F16 | 4u << 16, 8},
    {ART_U5, ART_U8 | 16u << 16, 24},
    {ART_U6, ART_U6 | 32u << 16, 4},
    {ART_U2, ART_U6 | ART_ZERO_HIGH << 8, 32},
    {ART_U5, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 32},
    {ART_U8, ART_F16 | (uint32_t)ART_GRID_PAIRS << 24, 16},
    {ART_U8, ART_F16 | (uint32_t)ART_GRID_QUADS << 24, 16},
    {ART_F8E4M3FN, ART_F16 | (uint32_t)ART_GRID_F8 << 24, 3},
};
/* What is refused takes the size that the nearest sound form has. */
static void form_mistake(Tiny *t, uint32_t dtype, uint32_t flags, uint32_t group, size_t nearest) {
    uint64_t size = grouped_as(t, forms[nearest].dtype, forms[nearest].flags, forms[nearest].group)->bytes;
    grouped_as(t, dtype, flags, group)->bytes = size;
}
#define FORM_MISTAKE(name, ...)                                                                              \
    static void name(Tiny *t) { form_mistake(t, __VA_ARGS__); }
FORM_MISTAKE(form_unit, ART_U3, ART_F16 | 4u << 16, 12, 0)
FORM_MISTAKE(form_unit_of_6, ART_U6, ART_U6 | 32u << 16, 6, 2)
FORM_MISTAKE(form_scale, ART_U3, ART_U5 | 4u << 16, 8, 0)
FORM_MISTAKE(form_zero_float, ART_U3, ART_F16 | ART_ZERO_FLOAT << 8, 8, 0)
FORM_MISTAKE(form_zero_high, ART_U2, ART_U8 | ART_ZERO_HIGH << 8, 32, 3)
FORM_MISTAKE(form_zero_high_of_4, ART_U4, ART_U6 | ART_ZERO_HIGH << 8, 32, 3)
FORM_MISTAKE(form_zero_and_grid, ART_U5, ART_U8 | 1u << 16 | (uint32_t)ART_GRID_INT8 << 24, 32, 4)
FORM_MISTAKE(form_grid, ART_U8, ART_F16 | 3u << 24, 16, 5)
FORM_MISTAKE(form_grid_of_6, ART_U6, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 32, 4)
FORM_MISTAKE(form_pairs_of_4, ART_U4, ART_F16 | (uint32_t)ART_GRID_PAIRS << 24, 16, 5)
FORM_MISTAKE(form_f8_plain, ART_F8E4M3FN, ART_F16, 3, 7)
FORM_MISTAKE(form_f8_of_ints, ART_U8, ART_F16 | (uint32_t)ART_GRID_F8 << 24, 3, 7)
FORM_MISTAKE(form_other_f8, ART_F8E5M2, ART_F16 | (uint32_t)ART_GRID_F8 << 24, 3, 7)
static void form_bytes(Tiny *t) {
    grouped_as(t, forms[4].dtype, forms[4].flags, forms[4].group)->bytes -= 64;
}
static void form_columns(Tiny *t) {
    ArtTensor *w = grouped_as(t, forms[6].dtype, forms[6].flags, forms[6].group);
    w->dim[1]--;
}

static void rounds_many(Tiny *t) {
    ArtLinear *u = &find_step(t, ART_K_LINEAR, 0)->u.linear;
    u->round = u->k + 1;
}
static void groups_none(Tiny *t) { grouped(t)->group = 0; }
static void groups_odd(Tiny *t) { grouped(t)->group = 15; }
static void groups_huge(Tiny *t) { grouped(t)->group = 1u << 31; }
static void groups_scale(Tiny *t) { grouped(t)->flags = ART_I64; }
static void groups_zeros(Tiny *t) { grouped(t)->flags |= 3u << 8; }
static void groups_zero(Tiny *t) { grouped(t)->flags |= 256u << 16; }
static void groups_bytes(Tiny *t) { grouped(t)->bytes += 64; }
static void groups_codes(Tiny *t) { grouped(t)->dtype = ART_F32; }
static void codes_in_panels(Tiny *t) { grouped(t)->layout = ART_PANEL16; }
static void rounding_turned(Tiny *t) { find_step(t, ART_K_ATTENTION, 0)->u.attention.rounding[0][1] = 1; }
static void rounding_nan(Tiny *t) { find_step(t, ART_K_ATTENTION, 0)->u.attention.rounding[1][0] = NAN; }
static void load_far(Tiny *t) { t->insns[6].div = 4, t->insns[6].mod = 8; }
static void load_div_0(Tiny *t) { t->insns[6].div = 0; }
static void load_mod_0(Tiny *t) { t->insns[6].mod = 0; }
static void load_nothing(Tiny *t) { t->insns[6].a = 5; }
static void load_in_place(Tiny *t) { t->insns[0].div = 2; }
static void register_unset(Tiny *t) { t->insns[2].b = 9; }
static void register_16(Tiny *t) { t->insns[2].dst = 16; }
static void unknown_insn(Tiny *t) { t->insns[2].op = ART_I_COUNT; }
static void no_store(Tiny *t) { t->insns[3].op = ART_I_NEG; }
static void early_store(Tiny *t) { t->insns[2].op = ART_I_STORE; }
static void insns_wrap(Tiny *t) { find_step(t, ART_K_POINTWISE, 0)->u.pointwise.first = UINT32_MAX - 1; }
static void unknown_kernel(Tiny *t) { t->steps[4].kernel = ART_K_COUNT; }
static void one_too_many(Tiny *t) { find_step(t, ART_K_NORM, 0)->arg[5].kind = ART_ARG_TOKENS; }
static void unknown_arg(Tiny *t) { find_step(t, ART_K_NORM, 0)->arg[1].kind = 6; }
static void no_output(Tiny *t) { find_step(t, ART_K_NORM, 0)->arg[3].kind = ART_ARG_NONE; }
static void other_head(Tiny *t) { t->plan.head_offset = 0; }
static void head_past(Tiny *t) { t->plan.head_step = t->plan.n_steps + 1; }
static void other_logits(Tiny *t) { t->plan.logits_offset = 0; }
static void tensor_outside(Tiny *t) { t->tensors[3].offset = t->weight_bytes; }
static void tensor_wraps(Tiny *t) { t->tensors[3].offset = UINT64_MAX - 63; }
static void tensor_huge(Tiny *t) {
    t->tensors[3].dim[0] = (uint64_t)1 << 33, t->tensors[3].dim[1] = (uint64_t)1 << 33;
}
static void tensor_type(Tiny *t) { t->tensors[3].dtype = 9; }
static void tensor_name(Tiny *t) { t->tensors[3].name_offset = t->meta.text_bytes; }
static void state_name(Tiny *t) { t->states[1].name_offset = t->meta.text_bytes; }
static void state_huge(Tiny *t) { t->states[1].dim = UINT16_MAX; }
static void state_kept(Tiny *t) { t->states[1].kept = ART_STATE_COUNT; }
static void strings_missing(Tiny *t) { t->meta.n_strings = UINT32_MAX; }
static void text_unended(Tiny *t) { t->text[t->meta.text_bytes - 1] = 'x'; }
static void stop_outside(Tiny *t) { t->meta.stop_tokens[0] = TINY_VOCAB; }
static void stops_many(Tiny *t) { t->meta.n_stop_tokens = 9; }
static void bos_outside(Tiny *t) { t->meta.bos_token = -2; }
static void no_vocabulary(Tiny *t) { t->meta.vocab = 0; }

/* clang-format off */
static const struct {
    const char *name;
    void (*make)(Tiny *);
} mistakes[] = {
#define M(f)                                                                                                 \
    { #f, f }
    M(late_store),      M(row_too_short),   M(not_aligned),     M(reads_nothing),
    M(no_such_tensor),  M(no_such_state),   M(wrong_k),         M(wrong_n),
    M(plain_weight),    M(wrong_act),       M(bias_missing),    M(few_positions),
    M(few_tokens),      M(odd_rope),        M(long_rope),       M(uneven_heads),
    M(no_heads),        M(not_a_number),    M(not_stored),      M(output_is_input),
    M(move_far),        M(move_wraps),      M(move_none),       M(reduce_wraps),
    M(reduce_kind),     M(topk_none),       M(topk_more),       M(pick_wraps),
    M(pick_into_itself),M(routed_by_matrix),M(experts_outside), M(softmax_len),
    M(load_far),        M(load_div_0),      M(load_mod_0),      M(load_nothing),
    M(load_in_place),   M(register_unset),  M(register_16),     M(unknown_insn),
    M(no_store),        M(early_store),     M(insns_wrap),      M(unknown_kernel),
    M(one_too_many),    M(unknown_arg),     M(no_output),       M(other_head),
    M(head_past),       M(other_logits),    M(tensor_outside),  M(tensor_wraps),
    M(tensor_huge),     M(tensor_type),     M(tensor_name),     M(state_name),
    M(state_huge),      M(state_kept),      M(strings_missing), M(text_unended),
    M(stop_outside),    M(stops_many),      M(bos_outside),     M(no_vocabulary),
    M(groups_none),     M(groups_odd),      M(groups_huge),     M(groups_scale),
    M(groups_zeros),    M(groups_zero),     M(groups_bytes),    M(form_unit),
    M(form_unit_of_6),  M(form_scale),      M(form_zero_float), M(form_zero_high),
    M(form_zero_high_of_4),M(form_zero_and_grid),M(form_grid),       M(form_grid_of_6),
    M(form_pairs_of_4), M(form_f8_plain),   M(form_f8_of_ints), M(form_other_f8),
    M(form_bytes),      M(form_columns),    M(groups_codes),    M(codes_in_panels),
    M(rounding_turned), M(rounding_nan),    M(rounds_many),     M(stack_split),
    M(stack_short),     M(stack_plain),
#undef M
};
/* clang-format on */

static void test_mistakes(void) {
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        gptc_detail why;
        size_t n;
        Tiny *t = tiny_new(3);
        mistakes[i].make(t);
        uint8_t *made = tiny_image(t, &n);
        CU_ASSERT_TRUE_FATAL(put_file(made, n));
        gptc_status st = try_file(&why, 0);
        if (st == GPTC_OK || !why.text[0]) fprintf(stderr, "not refused: %s\n", mistakes[i].name);
        CU_ASSERT_NOT_EQUAL(st, GPTC_OK);
        CU_ASSERT_NOT_EQUAL(why.text[0], 0);
        free(made);
        tiny_free(t);
    }
}

/* What the mistakes above start from is accepted. */
static void test_groups(void) {
    gptc_detail why;
    size_t n;
    Tiny *t = tiny_new(3);
    grouped(t);
    uint8_t *made = tiny_image(t, &n);
    CU_ASSERT_TRUE_FATAL(put_file(made, n));
    CU_ASSERT_EQUAL(try_file(&why, 1), GPTC_OK);
    free(made);
    tiny_free(t);
    for (size_t i = 0; i < 2 + sizeof forms / sizeof *forms; i++) {
        t = tiny_new(3);
        if (i < 2)
            stacked(t, (uint32_t)i + 1);
        else
            grouped_as(t, forms[i - 2].dtype, forms[i - 2].flags, forms[i - 2].group);
        made = tiny_image(t, &n);
        CU_ASSERT_TRUE_FATAL(put_file(made, n));
        CU_ASSERT_EQUAL(try_file(&why, 1), GPTC_OK);
        free(made);
        tiny_free(t);
    }
}

static void test_section_table(void) {
    enum { AT = sizeof(ArtHeader) };
    gptc_detail why;
    for (int which = 0; which < 6; which++) {
        uint8_t *copy = malloc(bytes);
        memcpy(copy, image, bytes);
        ArtSection *s = (ArtSection *)(void *)(copy + AT);
        ArtHeader *h = (ArtHeader *)(void *)copy;
        switch (which) {
        case 0: s[1].offset = s[0].offset; break;                 /* overlap */
        case 1: s[3].kind = ART_META; break;                      /* two of them */
        case 2: s[2].kind = 77; break;                            /* no plan */
        case 3: s[1].bytes = UINT64_MAX - s[1].offset + 2; break; /* the end wraps */
        case 4: h->major = ART_MAJOR + 1; break;
        default: h->n_sections = UINT32_MAX; break;
        }
        tiny_fix_hashes(copy, bytes);
        CU_ASSERT_TRUE_FATAL(put_file(copy, bytes));
        gptc_status st = try_file(&why, 0);
        CU_ASSERT_EQUAL(st, which == 4 ? GPTC_E_VERSION : GPTC_E_FORMAT);
        free(copy);
    }
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("artifact", setup, teardown);
    CU_add_test(s, "sound", test_sound);
    CU_add_test(s, "truncations", test_truncations);
    CU_add_test(s, "flips are noticed", test_flips_are_noticed);
    CU_add_test(s, "header flips", test_header_flips);
    CU_add_test(s, "table flips", test_table_flips);
    CU_add_test(s, "mistakes in the plan", test_mistakes);
    CU_add_test(s, "compressed weights", test_groups);
    CU_add_test(s, "section table", test_section_table);
    return unit_end();
}
