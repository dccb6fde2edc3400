/* test_import.c: the ONNX import on small files built here: what it makes of good ones (bad ones: test_import_bad.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/import_check.h"
#include "tests/unit/unit.h"

static size_t count_op(Op op) {
    size_t n = 0;
    FOR_NODES (model.graph, id) n += graph_node(model.graph, id)->op == op;
    return n;
}

static const char *type_text(ValId v) {
    Text t = text_new(arena);
    type_print(&t, model.graph, graph_type(model.graph, v));
    return t.data;
}

/* ---- what is made ---- */

static void test_plain_function(void) {
    start();
    Buf g = add_graph();
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    Graph *gr = model.graph;
    CU_ASSERT_EQUAL(gr->inputs.count, 1);
    CU_ASSERT_EQUAL(gr->inputs.data[0].role, ROLE_NONE);
    float x[4] = {1, 2, 3, 4};
    Tensor in = {DT_F32, 2, {2, 2}, x}, out;
    int64_t bind[8] = {0, 0, 0, 0, 2};
    EvalArgs args = {bind, gr->symbols.count, &in, 1, 0};
    CU_ASSERT_TRUE_FATAL(eval_graph(gr, &args, &gr->outputs.data[0].v, 1, &out, arena, &diag));
    CU_ASSERT_EQUAL(tensor_get_f64(&out, 3), 24);
    finish();
}

/* Reshape to a shape computed from Shape, Gather, Mul, Concat leaves one reshape. */
static void test_shape_arithmetic(void) {
    start();
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "B,T,6");
    put_scalar(&g, "i0", 0);
    put_scalar(&g, "i1", 1);
    put_ints(&g, "zero", (const int64_t[]){0}, 1);
    put_ints(&g, "rest", (const int64_t[]){2, -1}, 2);
    put_node(&g, "Shape", "x", "s", NULL);
    put_node(&g, "Gather", "s i0", "b", NULL);
    put_node(&g, "Gather", "s i1", "t", NULL);
    put_node(&g, "Mul", "b t", "bt", NULL);
    put_node(&g, "Unsqueeze", "bt zero", "bt1", NULL);
    Buf axis = {.n = 0};
    attr_put_int(&axis, "axis", 0);
    put_node(&g, "Concat", "bt1 rest", "to", &axis);
    put_node(&g, "Reshape", "x to", "y", NULL);
    put_info(&g, 12, "y", 1, "M,2,3");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_EQUAL(count_op(OP_RESHAPE), 1);
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->outputs.data[0].v), "f32[B*T, 2, 3]");
    CU_ASSERT_TRUE(node_ok(model.graph->first));
    CU_ASSERT_EQUAL(model.graph->first.id, model.graph->last.id);
    finish();
}

/* A shape value used as data becomes dims; a comparison that always holds is known. */
static void test_shape_as_data(void) {
    start();
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "B,T");
    put_scalar(&g, "none", -1);
    put_node(&g, "Shape", "x", "s", NULL);
    put_node(&g, "Equal", "s none", "e", NULL);
    put_node(&g, "Size", "x", "n", NULL);
    put_info(&g, 12, "s", 7, "2");
    put_info(&g, 12, "e", 9, "2");
    put_info(&g, 12, "n", 7, "");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_EQUAL(count_op(OP_DIM), 3);
    int64_t v = 1;
    CU_ASSERT_TRUE(const_get_i64(model.graph, model.graph->outputs.data[1].v, 1, &v) && v == 0);
    finish();
}

static void test_dim_names(void) {
    start();
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "a,b");
    put_info(&g, 11, "z", 1, "a,b + 2*a");
    put_info(&g, 11, "w", 1, "floor(a/2)");
    put_node(&g, "Identity", "z", "y", NULL);
    put_info(&g, 12, "y", 1, "a,c");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    Dim a = graph_type(model.graph, model.graph->inputs.data[0].v)->dim[0];
    Dim b = graph_type(model.graph, model.graph->inputs.data[0].v)->dim[1];
    Dim sum = dim_add(model.graph, dim_add(model.graph, a, a), b);
    CU_ASSERT_TRUE(dim_eq(graph_type(model.graph, model.graph->inputs.data[1].v)->dim[1], sum));
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->inputs.data[2].v), "f32[floor_a_2_]");
    finish();
}

/* The numbers of a graph exported at [2, 8] become batch and seq, by provenance. */
static void test_fixed_shape(void) {
    start();
    Buf g = {.n = 0};
    static float table[64 * 8], rows[8 * 8];
    put_info(&g, 11, "ids", 7, "2,8");
    put_floats(&g, "table", (const int64_t[]){64, 8}, 2, table);
    put_floats(&g, "rows", (const int64_t[]){8, 8}, 2, rows);
    put_ints(&g, "flat", (const int64_t[]){16, 8}, 2);
    put_ints(&g, "heads", (const int64_t[]){2, 8, 2, -1}, 4);
    put_node(&g, "Gather", "table ids", "e", NULL);
    put_node(&g, "Add", "e rows", "p", NULL);
    put_node(&g, "Reshape", "p flat", "f", NULL);
    put_node(&g, "Reshape", "f heads", "h", NULL);
    put_info(&g, 12, "f", 1, "16,8");
    put_info(&g, 12, "h", 1, "2,8,2,4");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_EQUAL(model.graph->inputs.data[0].role, ROLE_TOKENS);
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->outputs.data[0].v), "f32[batch*seq, 8]");
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->outputs.data[1].v), "f32[batch, seq, 2, 4]");
    CU_ASSERT_EQUAL(count_op(OP_SLICE), 1);
    CU_ASSERT_EQUAL(model.graph->symbols.data[SYM_SEQ.id].literal, 8);
    CU_ASSERT_EQUAL(model.graph->context, 8);
    finish();
}

static void test_roles(void) {
    start();
    Buf g = cached_graph();
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    const Graph *gr = model.graph;
    static const Role roles[4] = {ROLE_POSITIONS, ROLE_TOKENS, ROLE_MASK, ROLE_PAST};
    static const char *const types[4] = {"i64[batch, seq]", "i64[batch, seq]", "i64[batch, past + seq]",
                                         "f32[batch, 2, past, 4]"};
    for (size_t i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL(gr->inputs.data[i].role, roles[i]);
        CU_ASSERT_STRING_EQUAL(type_text(gr->inputs.data[i].v), types[i]);
    }
    CU_ASSERT_EQUAL(gr->outputs.data[0].role, ROLE_LOGITS);
    CU_ASSERT_EQUAL(gr->outputs.data[1].role, ROLE_PRESENT);
    CU_ASSERT_EQUAL_FATAL(gr->states.count, 1);
    CU_ASSERT_EQUAL(gr->states.data[0].axis, 2);
    CU_ASSERT_EQUAL(gr->context, 16);
    finish();
}

/* Hidden states x [B, S, 8] appended to the past, and products of them with `width` features. */
static Buf hidden_graph(const char *past, int64_t width) {
    Buf g = {.n = 0}, axis = {.n = 0};
    static const float zeros[8 * 40];
    attr_put_int(&axis, "axis", 1);
    put_info(&g, 11, "x", 1, "B,S,8");
    put_info(&g, 11, "past", 1, past);
    put_info(&g, 11, "mask", 7, "B,T");
    put_floats(&g, "w", (const int64_t[]){8, width}, 2, zeros);
    put_node(&g, strcmp(past, "B,P,8") == 0 ? "Concat" : "Add", "past x", "present", &axis);
    put_node(&g, "MatMul", "x w", "y", NULL);
    put_info(&g, 12, "y", 1, "B,S,V");
    put_info(&g, 12, "present", 1, "B,T,8");
    return g;
}

/* A GPT without its embedding is a function, and a warning says so; of other functions nothing is said. */
static void test_hidden_states(void) {
    const struct {
        const char *past;
        int64_t width;
        uint32_t items;
    } cases[] = {{"B,P,8", 40, 1}, {"B,P,8", 8, 0}, {"B,S,8", 40, 0}, {"B,1,8", 40, 0}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        start();
        Buf g = hidden_graph(cases[i].past, cases[i].width);
        CU_ASSERT_TRUE_FATAL(import(&g, NULL));
        CU_ASSERT_EQUAL(model.graph->inputs.data[0].role, ROLE_NONE);
        CU_ASSERT_EQUAL(diag.items.count, cases[i].items);
        if (cases[i].items != 0) CU_ASSERT_TRUE(said("hint: export the model with token ids as input"));
        finish();
    }
}

/* A table of two rows is one of segments, whatever the input is called. */
static void test_role_segments(void) {
    start();
    Buf g = {.n = 0};
    static float table[64 * 8], few[2 * 8];
    put_info(&g, 11, "position_ids", 7, "n,m");
    put_info(&g, 11, "a", 7, "n,m");
    put_floats(&g, "table", (const int64_t[]){64, 8}, 2, table);
    put_floats(&g, "few", (const int64_t[]){2, 8}, 2, few);
    put_node(&g, "Gather", "table a", "e", NULL);
    put_node(&g, "Gather", "few position_ids", "s", NULL);
    put_node(&g, "Add", "e s", "h", NULL);
    put_info(&g, 12, "h", 1, "n,m,8");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_EQUAL(model.graph->inputs.data[0].role, ROLE_SEGMENTS);
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->inputs.data[0].v), "i64[batch, seq]");
    CU_ASSERT_EQUAL(model.graph->inputs.data[1].role, ROLE_TOKENS);
    finish();
}

/* Positions are the running sum of the mask; the past goes through a Concat of its own. */
static void test_roles_indirect(void) {
    start();
    Buf g = {.n = 0}, axis = {.n = 0}, perm = {.n = 0};
    static float table[64 * 8], wpe[16 * 8];
    put_info(&g, 11, "a", 7, "n,m");
    put_info(&g, 11, "c", 7, "n,m");
    put_info(&g, 11, "d", 1, "n,2,old,4");
    put_floats(&g, "table", (const int64_t[]){64, 8}, 2, table);
    put_floats(&g, "wpe", (const int64_t[]){16, 8}, 2, wpe);
    put_ints(&g, "heads", (const int64_t[]){0, 0, 2, 4}, 4);
    put_ints(&g, "along", (const int64_t[]){1}, 1);
    put_node(&g, "CumSum", "c along", "sum", NULL);
    put_node(&g, "Mul", "sum c", "at", NULL);
    put_node(&g, "Gather", "table a", "e", NULL);
    put_node(&g, "Gather", "wpe at", "p", NULL);
    put_node(&g, "Reshape", "e heads", "k", NULL);
    attr_put_ints(&perm, "perm", (const int64_t[]){0, 2, 1, 3}, 4);
    put_node(&g, "Transpose", "k", "kt", &perm);
    attr_put_int(&axis, "axis", -2);
    put_node(&g, "Concat", "d", "old", &axis);
    put_node(&g, "Concat", "old kt", "now", &axis);
    put_info(&g, 12, "e", 1, "n,m,8");
    put_info(&g, 12, "p", 1, "n,total,8");
    put_info(&g, 12, "now", 1, "n,2,total,4");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    static const Role roles[3] = {ROLE_TOKENS, ROLE_MASK, ROLE_PAST};
    for (size_t i = 0; i < 3; i++) CU_ASSERT_EQUAL(model.graph->inputs.data[i].role, roles[i]);
    CU_ASSERT_EQUAL(model.graph->states.count, 1);
    finish();
}

/* A table cut to min(16, seq) rows and added: the sequence is at most 16 long. */
static void test_cut_length(void) {
    start();
    Buf g = {.n = 0};
    static float table[64 * 8], wpe[16 * 8];
    put_info(&g, 11, "a", 7, "n,m");
    put_floats(&g, "table", (const int64_t[]){64, 8}, 2, table);
    put_floats(&g, "wpe", (const int64_t[]){16, 8}, 2, wpe);
    put_ints(&g, "one", (const int64_t[]){1}, 1);
    put_ints(&g, "zero", (const int64_t[]){0}, 1);
    put_ints(&g, "most", (const int64_t[]){16}, 1);
    put_node(&g, "Gather", "table a", "e", NULL);
    put_node(&g, "Shape", "a", "shape", NULL);
    put_node(&g, "Gather", "shape one", "length", NULL);
    put_node(&g, "Min", "most length", "cut", NULL);
    put_node(&g, "Slice", "wpe zero cut zero", "p", NULL);
    put_node(&g, "Add", "e p", "h", NULL);
    put_info(&g, 12, "h", 1, "n,m,8");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->outputs.data[0].v), "f32[batch, seq, 8]");
    CU_ASSERT_EQUAL(model.graph->context, 16);
    finish();

    /* The last min(16, seq) rows: from max(16 - seq, 0) on. */
    start();
    g.n = 0;
    put_info(&g, 11, "a", 7, "n,m");
    put_floats(&g, "table", (const int64_t[]){64, 8}, 2, table);
    put_floats(&g, "wpe", (const int64_t[]){16, 8}, 2, wpe);
    put_ints(&g, "one", (const int64_t[]){1}, 1);
    put_ints(&g, "zero", (const int64_t[]){0}, 1);
    put_ints(&g, "most", (const int64_t[]){16}, 1);
    put_node(&g, "Gather", "table a", "e", NULL);
    put_node(&g, "Shape", "a", "shape", NULL);
    put_node(&g, "Gather", "shape one", "length", NULL);
    put_node(&g, "Sub", "most length", "rest", NULL);
    put_node(&g, "Max", "rest zero", "from", NULL);
    put_node(&g, "Slice", "wpe from most zero", "p", NULL);
    put_node(&g, "Add", "e p", "h", NULL);
    put_info(&g, 12, "h", 1, "n,m,8");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->outputs.data[0].v), "f32[batch, seq, 8]");
    CU_ASSERT_EQUAL(model.graph->context, 16);
    finish();
}

/* GatherND by tuples of one index is Gather. */
/* As many rows as the last position says, counted in floats: the length of the table follows the sequence. */
static void test_range_of_positions(void) {
    static float table[64 * 8];
    start();
    Buf g = {.n = 0}, to = {.n = 0}, keep = {.n = 0};
    put_info(&g, 11, "a", 7, "n,m");
    put_info(&g, 11, "position_ids", 7, "n,m");
    put_floats(&g, "table", (const int64_t[]){64, 8}, 2, table);
    put_floats(&g, "start", NULL, 0, (const float[]){0});
    put_floats(&g, "step", NULL, 0, (const float[]){1});
    put_scalar(&g, "zero", 0);
    put_scalar(&g, "last", -1);
    put_scalar(&g, "one", 1);
    put_ints(&g, "lasts", (const int64_t[]){-1}, 1);
    attr_put_int(&keep, "keepdims", 0);
    attr_put_int(&to, "to", 1);
    put_node(&g, "Gather", "position_ids zero", "first", NULL);
    put_node(&g, "Gather", "first last", "end", NULL);
    put_node(&g, "Add", "end one", "length", NULL);
    put_node(&g, "Cast", "length", "limit", &to);
    put_node(&g, "Range", "start limit step", "rows", NULL);
    put_node(&g, "Gather", "rows position_ids", "angle", NULL);
    put_node(&g, "Gather", "table a", "e", NULL);
    put_node(&g, "ReduceSum", "e lasts", "sum", &keep);
    put_node(&g, "Add", "angle sum", "h", NULL);
    put_info(&g, 12, "h", 1, "n,m");
    put_info(&g, 12, "rows", 1, "t");
    bool ok = import(&g, NULL);
    CU_ASSERT_TRUE_FATAL(ok);
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->outputs.data[1].v), "f32[past + seq]");
    finish();
}

static void test_gather_rows(void) {
    start();
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "4,n,8");
    put_ints(&g, "last", (const int64_t[]){-1}, 1);
    put_node(&g, "GatherND", "x last", "y", NULL);
    put_info(&g, 12, "y", 1, "n,8");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    ValId y = model.graph->outputs.data[0].v;
    CU_ASSERT_EQUAL(graph_def_op(model.graph, y), OP_GATHER);
    CU_ASSERT_STRING_EQUAL(type_text(y), "f32[n, 8]");
    finish();
}

/* A norm over the last axis whose weight differs by head: the weight is multiplied after. */
static void test_wide_norm(void) {
    start();
    Buf g = {.n = 0};
    static const float w[2 * 8] = {1, 2, 3};
    put_info(&g, 11, "x", 1, "n,2,8");
    put_floats(&g, "w", (const int64_t[]){2, 8}, 2, w);
    put_node(&g, "LayerNormalization", "x w", "y", NULL);
    put_info(&g, 12, "y", 1, "n,2,8");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    ValId y = model.graph->outputs.data[0].v;
    CU_ASSERT_EQUAL(graph_def_op(model.graph, y), OP_MUL);
    CU_ASSERT_STRING_EQUAL(type_text(y), "f32[n, 2, 8]");
    finish();
}

static void test_options(void) {
    start();
    Buf g = cached_graph(), m;
    make_model(&m, 18, &g, NULL);
    ImportOptions swap = {.input_ids = "b", .positions = "a"};
    CU_ASSERT_TRUE_FATAL(import_options(&m, &swap));
    CU_ASSERT_EQUAL(model.graph->inputs.data[0].role, ROLE_TOKENS);
    CU_ASSERT_EQUAL(model.graph->inputs.data[1].role, ROLE_POSITIONS);
    onnx_close(&model);
    ImportOptions wrong = {.input_ids = "nobody"};
    CU_ASSERT_FALSE(import_options(&m, &wrong));
    CU_ASSERT_TRUE(said("no input 'nobody'"));
    ImportOptions logits = {.logits = "nothing"};
    CU_ASSERT_FALSE(import_options(&m, &logits));
    CU_ASSERT_TRUE(said("no output 'nothing'"));
    finish();
}

static void test_bound_input(void) {
    start();
    Buf g = {.n = 0}, m;
    put_info(&g, 11, "x", 1, "4,6");
    put_info(&g, 11, "shape", 7, "2");
    put_node(&g, "Reshape", "x shape", "y", NULL);
    put_info(&g, 12, "y", 1, "a,b");
    REFUSED(&g, "does not follow from the shapes");
    make_model(&m, 18, &g, NULL);
    int64_t to[2] = {-1, 3};
    BoundInput b = {"shape", {DT_I64, 1, {2}, to}};
    ImportOptions opt = {.bound = &b, .nbound = 1};
    CU_ASSERT_TRUE_FATAL(import_options(&m, &opt));
    CU_ASSERT_EQUAL(model.graph->inputs.count, 1);
    CU_ASSERT_STRING_EQUAL(type_text(model.graph->outputs.data[0].v), "f32[8, 3]");
    finish();
}

static void test_if(void) {
    start();
    Buf g = {.n = 0}, attrs = {.n = 0}, t, yes = branch("Neg"), no = branch("Abs");
    attr_put_graph(&attrs, "then_branch", &yes);
    attr_put_graph(&attrs, "else_branch", &no);
    put_info(&g, 11, "x", 1, "N");
    const uint8_t flag = 0;
    make_tensor(&t, "flag", 9, NULL, 0, &flag, 1);
    put_buf(&g, 5, &t);
    put_node(&g, "If", "flag", "y", &attrs);
    put_info(&g, 12, "y", 1, "N");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_EQUAL(count_op(OP_ABS), 1);
    CU_ASSERT_EQUAL(count_op(OP_NEG), 0);
    finish();
    start();
    Buf h = {.n = 0};
    put_info(&h, 11, "x", 1, "N");
    put_info(&h, 11, "flag", 9, "");
    put_node(&h, "If", "flag", "y", &attrs);
    put_info(&h, 12, "y", 1, "N");
    REFUSED(&h, "condition is not known");
    finish();
}

/* function twice(a) -> b: calls `inner`, which is Neg or the function itself. */
static Buf function(const char *domain, const char *inner) {
    Buf f = {.n = 0}, all = {.n = 0}, opset = {.n = 0};
    put_text(&f, 1, "twice");
    put_text(&f, 4, "a");
    put_text(&f, 5, "b");
    put_node_in(&f, 7, domain, inner, "a", "t", NULL);
    put_node_in(&f, 7, "", "Neg", "t", "b", NULL);
    put_int(&opset, 2, 18);
    put_buf(&f, 9, &opset);
    put_text(&f, 10, "local");
    put_buf(&all, 25, &f);
    return all;
}

static void test_functions(void) {
    start();
    Buf g = {.n = 0}, good = function("", "Exp"), bad = function("local", "twice");
    put_info(&g, 11, "x", 1, "N");
    put_node_in(&g, 1, "local", "twice", "x", "m", NULL);
    put_node_in(&g, 1, "local", "twice", "m", "y", NULL);
    put_info(&g, 12, "y", 1, "N");
    CU_ASSERT_TRUE_FATAL(import(&g, &good));
    CU_ASSERT_EQUAL(count_op(OP_EXP), 2);
    CU_ASSERT_EQUAL(count_op(OP_NEG), 2);
    onnx_close(&model);
    CU_ASSERT_FALSE(import(&g, &bad));
    CU_ASSERT_TRUE(said("calls itself"));
    finish();
}

/* Nodes may stand in any order, and nobody's nodes are left out. */
static void test_order(void) {
    start();
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "N");
    put_node(&g, "Neg", "t", "y", NULL);
    put_node(&g, "Exp", "x", "t", NULL);
    put_node(&g, "NoSuchOp", "x", "unused", NULL);
    put_info(&g, 12, "y", 1, "N");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    CU_ASSERT_EQUAL(model.nnodes, 2);
    finish();
}

static void test_tensor_files(void) {
    char path[] = "/tmp/gptc-tensor-XXXXXX";
    int fd = mkstemp(path);
    CU_ASSERT_TRUE_FATAL(fd >= 0);
    close(fd);
    start();
    float v[6] = {1, 2, 3, 4, 5, 6.5f};
    Tensor t = {DT_F32, 2, {2, 3}, v}, back;
    CU_ASSERT_TRUE_FATAL(onnx_tensor_write(path, &t, "t", &diag));
    CU_ASSERT_TRUE_FATAL(onnx_tensor_read(path, arena, &back, &diag));
    CU_ASSERT_EQUAL(back.dtype, DT_F32);
    CU_ASSERT_EQUAL(back.rank, 2);
    CU_ASSERT_EQUAL(back.dim[1], 3);
    CU_ASSERT_EQUAL(tensor_get_f64(&back, 5), 6.5);
    finish();
    unlink(path);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite made = CU_add_suite("import", NULL, NULL);
    CU_add_test(made, "a plain function", test_plain_function);
    CU_add_test(made, "shape arithmetic leaves nothing", test_shape_arithmetic);
    CU_add_test(made, "shapes used as data", test_shape_as_data);
    CU_add_test(made, "names of dimensions", test_dim_names);
    CU_add_test(made, "fixed shapes become symbols", test_fixed_shape);
    CU_add_test(made, "roles and states", test_roles);
    CU_add_test(made, "roles found on a detour", test_roles_indirect);
    CU_add_test(made, "segments", test_role_segments);
    CU_add_test(made, "hidden states in place of tokens", test_hidden_states);
    CU_add_test(made, "a cut length", test_cut_length);
    CU_add_test(made, "norm weights by head", test_wide_norm);
    CU_add_test(made, "range of positions", test_range_of_positions);
    CU_add_test(made, "rows by index tuples", test_gather_rows);
    CU_add_test(made, "options override roles", test_options);
    CU_add_test(made, "bound inputs", test_bound_input);
    CU_add_test(made, "If", test_if);
    CU_add_test(made, "local functions", test_functions);
    CU_add_test(made, "order of nodes", test_order);
    CU_add_test(made, "tensor files", test_tensor_files);
    return unit_end();
}
