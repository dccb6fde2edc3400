/* test_graph.c: building, editing, copying and verifying graphs, and reading constants. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/unit/unit.h"

typedef struct {
    Arena *arena;
    Graph *g;
    Diag d;
    ValId tokens, table, rows, twice, out;
} Fixture;

static Type type_2(DType t, Dim a, Dim b) {
    Dim dims[2] = {a, b};
    return type_make(t, 2, dims);
}

static ValId add_node(Fixture *f, Op op, ValId a, ValId b) {
    ValId in[2] = {a, b};
    return graph_add(f->g, op, in, 2, NULL, NULL, loc_none(), &f->d);
}

/* rows = table[tokens];  twice = rows + rows;  out = twice * rows */
static Fixture fixture(void) {
    Fixture f;
    memset(&f, 0, sizeof(f));
    f.arena = arena_new();
    f.g = graph_new(f.arena);
    diag_init(&f.d);
    Dim batch = dim_sym(f.g, SYM_BATCH), seq = dim_sym(f.g, SYM_SEQ);
    f.tokens = graph_input(f.g, "ids", type_2(DT_I64, batch, seq), ROLE_TOKENS);
    float *data = arena_array_of(f.arena, 12, float);
    for (int i = 0; i < 12; i++) data[i] = (float)i;
    f.table = graph_const(f.g, type_2(DT_F32, dim_const(4), dim_const(3)), data, "table");
    f.rows = add_node(&f, OP_GATHER, f.table, f.tokens);
    f.twice = add_node(&f, OP_ADD, f.rows, f.rows);
    f.out = add_node(&f, OP_MUL, f.twice, f.rows);
    graph_output(f.g, f.out, "y", ROLE_LOGITS);
    return f;
}

static void fixture_free(Fixture *f) {
    diag_free(&f->d);
    arena_free(f->arena);
}

static bool says(const Diag *d, const char *part) {
    return d->items.count > 0 && strstr(d->items.data[d->items.count - 1].text, part) != NULL;
}

static const char *print(const Graph *g, Arena *a) {
    Text t = text_new(a);
    graph_print(&t, g);
    return t.data;
}

static void test_build(void) {
    Fixture f = fixture();
    CU_ASSERT_TRUE(val_ok(f.out));
    CU_ASSERT_TRUE(graph_verify(f.g, &f.d));
    CU_ASSERT_EQUAL(f.d.errors, 0);
    CU_ASSERT_EQUAL(graph_def_op(f.g, f.rows), OP_GATHER);
    CU_ASSERT_EQUAL(graph_def_op(f.g, f.tokens), OP_NONE);
    CU_ASSERT_EQUAL(graph_def_op(f.g, f.table), OP_NONE);
    CU_ASSERT_PTR_NULL(graph_constant(f.g, f.rows));
    CU_ASSERT_EQUAL(graph_type(f.g, f.out)->rank, 3);
    fixture_free(&f);
}

static void test_add_refuses(void) {
    Fixture f = fixture();
    size_t nodes = f.g->nodes.count, values = f.g->values.count;
    NodeId last = f.g->last;
    CU_ASSERT_FALSE(val_ok(add_node(&f, OP_ADD, f.rows, f.tokens))); /* f32 + i64 */
    ValId one[1] = {f.rows};
    CU_ASSERT_FALSE(val_ok(graph_add(f.g, OP_ADD, one, 1, NULL, NULL, loc_none(), &f.d)));
    CU_ASSERT_TRUE(says(&f.d, "takes 2 operands, not 1"));
    CU_ASSERT_FALSE(val_ok(add_node(&f, OP_ADD, f.rows, NO_VAL)));
    CU_ASSERT_FALSE(val_ok(graph_add(f.g, OP_RESHAPE, one, 1, NULL, NULL, loc_none(), &f.d)));
    CU_ASSERT_FALSE(val_ok(graph_add(f.g, OP_COUNT, one, 1, NULL, NULL, loc_none(), &f.d)));
    CU_ASSERT_FALSE(val_ok(add_node(&f, OP_ADD, f.rows, (ValId){999})));
    CU_ASSERT_EQUAL(f.d.errors, 6);
    CU_ASSERT_EQUAL(f.g->nodes.count, nodes);
    CU_ASSERT_EQUAL(f.g->values.count, values);
    CU_ASSERT_EQUAL(f.g->last.id, last.id);
    f.d.errors = 0;
    CU_ASSERT_TRUE(graph_verify(f.g, &f.d));
    fixture_free(&f);
}

static void test_insert_replace_erase(void) {
    Fixture f = fixture();
    f.g->insert_before = graph_def(f.g, f.out);
    ValId half = add_node(&f, OP_MUL, f.rows, graph_const_f32(f.g, 0.5f));
    f.g->insert_before = NO_NODE;
    NodeId old = graph_def(f.g, f.twice);
    CU_ASSERT_EQUAL(graph_node(f.g, old)->next.id, graph_def(f.g, half).id);
    graph_replace(f.g, f.twice, half);
    f.g->insert_before = old;
    graph_erase(f.g, old);
    CU_ASSERT_EQUAL(f.g->insert_before.id, graph_def(f.g, half).id);
    f.g->insert_before = NO_NODE;
    CU_ASSERT_EQUAL(graph_val(f.g, f.twice)->kind, V_FREE);
    CU_ASSERT_TRUE(graph_verify(f.g, &f.d));
    graph_replace(f.g, f.out, half);
    graph_erase(f.g, f.g->last);
    CU_ASSERT_TRUE(val_eq(f.g->outputs.data[0].v, half));
    CU_ASSERT_EQUAL(f.g->last.id, graph_def(f.g, half).id);
    graph_erase(f.g, f.g->first);
    CU_ASSERT_FALSE(graph_verify(f.g, &f.d)); /* half still reads rows */
    CU_ASSERT_TRUE(says(&f.d, "was erased"));
    fixture_free(&f);
}

static void test_uses_taint(void) {
    Fixture f = fixture();
    Uses u = graph_uses(f.g, f.arena);
    CU_ASSERT_EQUAL(u.count[f.rows.id], 3);
    CU_ASSERT_EQUAL(u.user[u.first[f.rows.id]].id, graph_def(f.g, f.twice).id);
    CU_ASSERT_EQUAL(u.user[u.first[f.rows.id] + 2].id, graph_def(f.g, f.out).id);
    CU_ASSERT_TRUE(graph_used_once(&u, f.twice));
    CU_ASSERT_TRUE(graph_used_once(&u, f.out)); /* the output port */
    CU_ASSERT_EQUAL(u.user[u.first[f.out.id]].id, 0);
    CU_ASSERT_FALSE(graph_used_once(&u, f.rows));
    Type scalar = type_scalar(DT_I64);
    Attr a = attr_default();
    a.value = dim_sym(f.g, SYM_SEQ);
    ValId clean = graph_add(f.g, OP_DIM, NULL, 0, &a, &scalar, loc_none(), &f.d);
    CU_ASSERT_TRUE_FATAL(val_ok(clean));
    bool *taint = graph_taint(f.g, f.arena);
    CU_ASSERT_TRUE(taint[f.tokens.id] && taint[f.rows.id] && taint[f.out.id]);
    CU_ASSERT_FALSE(taint[f.table.id] || taint[clean.id]);
    fixture_free(&f);
}

static void test_copy(void) {
    Fixture f = fixture();
    Arena *other = arena_new();
    Graph *copy = graph_copy(f.g, other);
    graph_replace(f.g, f.twice, f.rows);
    graph_erase(f.g, graph_def(f.g, f.twice));
    CU_ASSERT_EQUAL(graph_def_op(copy, f.twice), OP_ADD);
    Graph *third = graph_copy(copy, f.arena);
    CU_ASSERT_STRING_EQUAL(print(copy, f.arena), print(third, f.arena));
    CU_ASSERT_TRUE(graph_verify(copy, &f.d));
    CU_ASSERT_TRUE(graph_verify(f.g, &f.d));
    /* Copies grow on their own. */
    ValId in[2] = {f.rows, f.rows};
    for (int i = 0; i < 100; i++) graph_add(copy, OP_ADD, in, 2, NULL, NULL, loc_none(), &f.d);
    CU_ASSERT_TRUE(graph_verify(copy, &f.d));
    arena_free(other);
    fixture_free(&f);
}

static void test_attrs(void) {
    Attr a = attr_default(), b = attr_default();
    CU_ASSERT_EQUAL(a.steps[3], 1);
    CU_ASSERT_EQUAL(a.scale, 1.0f);
    b.axis = 2;
    CU_ASSERT_TRUE(attr_eq(OP_ADD, &a, &b, 2)); /* add has no axis */
    CU_ASSERT_FALSE(attr_eq(OP_SOFTMAX, &a, &b, 2));
    b = a;
    b.perm[2] = 1;
    CU_ASSERT_TRUE(attr_eq(OP_TRANSPOSE, &a, &b, 2));
    CU_ASSERT_FALSE(attr_eq(OP_TRANSPOSE, &a, &b, 3));
    b = a;
    b.eps = -0.0f;
    CU_ASSERT_FALSE(attr_eq(OP_NORM, &a, &b, 1));
    CU_ASSERT_EQUAL(op_parse("matmul", 6), OP_MATMUL);
    CU_ASSERT_EQUAL(op_parse("none", 4), OP_NONE);
    CU_ASSERT_EQUAL(op_parse("", 0), OP_NONE);
}

static void test_const_read(void) {
    Fixture f = fixture();
    static const uint16_t halves[] = {0x3c00, 0xc000, 0x7e00};
    static const int8_t bytes[] = {-1, 127};
    static const uint64_t wide[] = {UINT64_MAX};
    static const float same[] = {2, 2, 2};
    static const double far[] = {1e300};
    Dim n[1] = {dim_const(3)};
    ValId h = graph_const(f.g, type_make(DT_F16, 1, n), halves, NULL);
    ValId s = graph_const(f.g, type_make(DT_F32, 1, n), same, NULL);
    n[0] = dim_const(2);
    ValId b = graph_const(f.g, type_make(DT_I8, 1, n), bytes, NULL);
    ValId w = graph_const(f.g, type_scalar(DT_U64), wide, NULL);
    ValId d64 = graph_const(f.g, type_scalar(DT_F64), far, NULL);
    double x = 0;
    int64_t i = 0;
    CU_ASSERT_TRUE(const_get_f64(f.g, h, 1, &x) && x == -2.0);
    CU_ASSERT_TRUE(const_get_f64(f.g, h, 2, &x) && isnan(x));
    CU_ASSERT_FALSE(const_get_i64(f.g, h, 2, &i));
    CU_ASSERT_FALSE(const_get_f64(f.g, h, 3, &x));
    CU_ASSERT_TRUE(const_get_i64(f.g, b, 0, &i) && i == -1);
    CU_ASSERT_FALSE(const_get_i64(f.g, w, 0, &i));
    CU_ASSERT_TRUE(const_get_f64(f.g, w, 0, &x) && x == 0x1p64);
    CU_ASSERT_FALSE(const_get_i64(f.g, d64, 0, &i));
    CU_ASSERT_TRUE(const_scalar(f.g, s, &x) && x == 2.0);
    CU_ASSERT_FALSE(const_scalar(f.g, b, &x));
    CU_ASSERT_FALSE(const_scalar(f.g, h, &x));
    CU_ASSERT_FALSE(const_scalar(f.g, f.rows, &x));
    CU_ASSERT_FALSE(const_get_f64(f.g, NO_VAL, 0, &x));
    ValId again = graph_const(f.g, *graph_type(f.g, s), same, "other name");
    CU_ASSERT_EQUAL(const_hash(f.g, s), const_hash(f.g, again));
    CU_ASSERT_NOT_EQUAL(const_hash(f.g, s), const_hash(f.g, h));
    Dim square[2] = {dim_const(1), dim_const(3)};
    ValId reshaped = graph_const(f.g, type_make(DT_F32, 2, square), same, NULL);
    CU_ASSERT_NOT_EQUAL(const_hash(f.g, s), const_hash(f.g, reshaped));
    fixture_free(&f);
}

static void test_seed(void) {
    float f[1000];
    const_fill_seed(DT_F32, 7, f, 1000);
    double sum = 0;
    bool inside = true;
    for (int i = 0; i < 1000; i++) {
        inside = inside && f[i] >= -0.1f && f[i] < 0.1f;
        sum += (double)f[i];
    }
    CU_ASSERT_TRUE(inside);
    CU_ASSERT_TRUE(fabs(sum / 1000) < 0.01);
    int64_t n[1000];
    uint8_t b[1000];
    const_fill_seed(DT_I64, 7, n, 1000);
    const_fill_seed(DT_BOOL, 7, b, 1000);
    int64_t most = 0, ones = 0;
    for (int i = 0; i < 1000; i++) {
        inside = inside && n[i] >= 0 && n[i] < 64 && b[i] <= 1;
        if (n[i] > most) most = n[i];
        ones += b[i];
    }
    CU_ASSERT_TRUE(inside && most == 63 && ones > 400 && ones < 600);
    float again[1000];
    const_fill_seed(DT_F32, 7, again, 1000);
    CU_ASSERT_EQUAL(memcmp(f, again, sizeof(f)), 0);
    const_fill_seed(DT_F32, 8, again, 1000);
    CU_ASSERT_NOT_EQUAL(memcmp(f, again, sizeof(f)), 0);
}

/* ---- the verifier ---- */

static void refuses(Fixture *f, const char *part) {
    CU_ASSERT_FALSE(graph_verify(f->g, &f->d));
    if (!says(&f->d, part)) {
        CU_FAIL("another message was expected");
        fprintf(stderr, "\n%s\n", f->d.items.count > 0 ? f->d.items.data[0].text : "(none)");
    }
    fixture_free(f);
}

static void test_verify_refuses(void) {
    Fixture f = fixture();
    graph_node(f.g, graph_def(f.g, f.rows))->in[1] = f.out;
    refuses(&f, "used before it is defined");
    f = fixture();
    graph_val(f.g, f.out)->type.dim[2] = dim_const(7);
    refuses(&f, "should be f32[batch, seq, 3]");
    f = fixture();
    f.g->consts.data[graph_val(f.g, f.table)->cidx].bytes = 4;
    refuses(&f, "needs 48");
    f = fixture();
    graph_val(f.g, f.table)->type.dim[0] = dim_sym(f.g, SYM_SEQ);
    refuses(&f, "symbolic type");
    f = fixture();
    graph_node(f.g, f.g->first)->next = f.g->first;
    refuses(&f, "wrong link");
    f = fixture();
    graph_output(f.g, f.rows, "y", ROLE_NONE);
    refuses(&f, "called \"y\"");
    f = fixture();
    graph_output(f.g, NO_VAL, "z", ROLE_NONE);
    refuses(&f, "never computed");
    f = fixture();
    Port twice = f.g->inputs.data[0];
    VEC_PUSH(f.arena, &f.g->inputs, twice);
    refuses(&f, "listed twice");
}

static void test_verify_stage(void) {
    Fixture f = fixture();
    float w[3] = {1, 2, 3};
    Type column = type_2(DT_F32, dim_const(3), dim_const(1));
    CU_ASSERT_TRUE(val_ok(add_node(&f, OP_LINEAR, f.out, graph_const(f.g, column, w, NULL))));
    Arena *a = arena_new();
    Graph *raised = graph_copy(f.g, a);
    raised->stage = STAGE_RAISED;
    CU_ASSERT_TRUE(graph_verify(raised, &f.d));
    arena_free(a);
    refuses(&f, "stage imported");
    f = fixture();
    f.g->stage = STAGE_ORDERED;
    graph_node(f.g, graph_def(f.g, f.rows))->region = 1;
    graph_node(f.g, graph_def(f.g, f.out))->region = 1;
    CU_ASSERT_TRUE(graph_verify(f.g, &f.d));
    graph_node(f.g, graph_def(f.g, f.twice))->region = 2;
    refuses(&f, "stand together");
}

static void test_verify_state(void) {
    Fixture f = fixture();
    Dim batch = dim_sym(f.g, SYM_BATCH), past = dim_sym(f.g, SYM_PAST);
    Dim dims[3] = {batch, past, dim_const(3)};
    ValId old = graph_input(f.g, "past", type_make(DT_F32, 3, dims), ROLE_PAST);
    ValId in[2] = {old, f.out};
    Attr a = attr_default();
    a.axis = 1;
    ValId grown = graph_add(f.g, OP_CONCAT, in, 2, &a, NULL, loc_none(), &f.d);
    CU_ASSERT_TRUE_FATAL(val_ok(grown));
    State s = {"past", old, grown, 1};
    VEC_PUSH(f.arena, &f.g->states, s);
    f.g->stage = STAGE_STATEFUL;
    CU_ASSERT_TRUE(graph_verify(f.g, &f.d));
    f.g->states.data[0].axis = 0;
    CU_ASSERT_FALSE(graph_verify(f.g, &f.d));
    f.g->states.data[0].axis = 1;
    f.g->states.data[0].out = old;
    CU_ASSERT_FALSE(graph_verify(f.g, &f.d));
    graph_node(f.g, graph_def(f.g, grown))->in[0] = f.out;
    graph_node(f.g, graph_def(f.g, grown))->in[1] = old;
    f.g->states.data[0].out = grown;
    refuses(&f, "is not its past");
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("graph", NULL, NULL);
    CU_add_test(s, "build", test_build);
    CU_add_test(s, "refused nodes leave no trace", test_add_refuses);
    CU_add_test(s, "insert, replace, erase", test_insert_replace_erase);
    CU_add_test(s, "uses and taint", test_uses_taint);
    CU_add_test(s, "copy", test_copy);
    CU_add_test(s, "attributes", test_attrs);
    CU_add_test(s, "constants of every dtype", test_const_read);
    CU_add_test(s, "seeded constants", test_seed);
    CU_pSuite v = CU_add_suite("verifier", NULL, NULL);
    CU_add_test(v, "broken graphs", test_verify_refuses);
    CU_add_test(v, "stages", test_verify_stage);
    CU_add_test(v, "states", test_verify_state);
    return unit_end();
}
