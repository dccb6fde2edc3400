/* test_passes.c: the pass table, the manager and the matching helpers. What passes do to graphs is tested by
 * the .gir files of tests/passes. */
#include <string.h>

#include "passes/pass.h"
#include "tests/unit/unit.h"

static int place(const char *name) {
    for (int i = 0; pass_table[i].name != NULL; i++)
        if (strcmp(pass_table[i].name, name) == 0) return i;
    return -1;
}

static void test_table_names_are_unique(void) {
    for (int i = 0; pass_table[i].name != NULL; i++) {
        CU_ASSERT_EQUAL(place(pass_table[i].name), i);
        CU_ASSERT_PTR_NOT_NULL(pass_table[i].run);
        CU_ASSERT_TRUE(strlen(pass_table[i].doc) > 10);
        CU_ASSERT_PTR_EQUAL(pass_find(pass_table[i].name), &pass_table[i]);
    }
    CU_ASSERT_PTR_NULL(pass_find("no-such-pass"));
}

static void test_order_holds(void) {
    int n = 0;
    for (const PassOrder *o = pass_order; o->before != NULL; o++, n++) {
        int a = place(o->before), b = place(o->after);
        CU_ASSERT_TRUE(a >= 0);
        CU_ASSERT_TRUE(b >= 0);
        if (a >= b) printf("\n  %s does not run before %s: %s\n", o->before, o->after, o->why);
        CU_ASSERT_TRUE(a < b);
        CU_ASSERT_TRUE(strlen(o->why) > 10);
    }
    CU_ASSERT_TRUE(n > 10);
}

static void test_stages_never_go_back(void) {
    for (int i = 1; pass_table[i].name != NULL; i++)
        CU_ASSERT_TRUE(pass_table[i].stage >= pass_table[i - 1].stage);
}

/* At every level each pass finds the facts it needs. */
static void test_facts_are_given(void) {
    for (int level = 0; level <= 3; level++)
        for (uint32_t of = OF_ROWS; of <= OF_FUNCTION; of++) {
            uint32_t facts = 0;
            for (const Pass *p = pass_table; p->name != NULL; p++) {
                if (p->min_level > level || !(p->of & of)) continue;
                CU_ASSERT_EQUAL(p->needs & ~facts, 0);
                facts = (facts & ~p->drops) | p->gives;
            }
        }
}

/* ---- the manager ---- */

static const char gpt[] = "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n"
                          "input %1 \"input_ids\" : i64[batch, seq] role=tokens\n"
                          "input %2 \"attention_mask\" : i64[batch, seq] role=mask\n"
                          "const %3 : i64[] = {1}\n"
                          "%4 : i64[batch, seq] = mul(%1, %3)\n"
                          "%5 : i64[batch, seq] = mul(%4, %2)\n"
                          "output %5 \"out\" role=logits\n";

static const char bad[] = "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n"
                          "input %1 \"position_ids\" : f32[batch, seq] role=positions\n"
                          "output %1 \"out\"\n";

typedef struct {
    uint32_t calls;
    char names[512];
    int64_t bound;
    uint32_t stop_at;
} Seen;

static bool note(void *user, uint32_t index, const Pass *p, PassResult r, const PassCount *counts,
                 size_t ncounts, double seconds, Graph *g) {
    Seen *s = user;
    (void)r, (void)g;
    CU_ASSERT_EQUAL(index, s->calls);
    CU_ASSERT_TRUE(seconds >= 0);
    s->calls++;
    strncat(s->names, p->name, sizeof(s->names) - strlen(s->names) - 1);
    strncat(s->names, " ", sizeof(s->names) - strlen(s->names) - 1);
    for (size_t i = 0; i < ncounts; i++)
        if (strcmp(counts[i].name, "inputs bound") == 0) s->bound = counts[i].count;
    return s->stop_at == 0 || s->calls < s->stop_at;
}

typedef struct {
    Arena *arena;
    Diag diag;
    Graph *g;
} Case;

static void case_open(Case *c, const char *text) {
    c->arena = arena_new();
    diag_init(&c->diag);
    c->g = graph_parse(text, strlen(text), "test.gir", NULL, c->arena, &c->diag);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c->g);
}

static void case_close(Case *c) {
    diag_free(&c->diag);
    arena_free(c->arena);
}

static bool run(Case *c, PassRun r, int level) {
    PassOptions o = {true, 0, level};
    r.verify = true;
    return passes_run(c->g, &r, &o, NULL, &c->diag);
}

static bool said(const Case *c, const char *text) {
    for (size_t i = 0; i < c->diag.items.count; i++)
        if (strstr(c->diag.items.data[i].text, text) != NULL) return true;
    return false;
}

static void test_runs_what_is_asked(void) {
    Case c;
    Seen s = {0};
    case_open(&c, gpt);
    CU_ASSERT_TRUE(
        run(&c, (PassRun){.passes = "bind, fold,dce", .after = note, .user = &s, .time = true}, 1));
    CU_ASSERT_STRING_EQUAL(s.names, "bind fold dce ");
    CU_ASSERT_EQUAL(s.bound, 1);
    CU_ASSERT_EQUAL(c.g->inputs.count, 1);
    case_close(&c);
}

static void test_pipeline_stops(void) {
    Case c;
    Seen s = {0};
    case_open(&c, gpt);
    CU_ASSERT_TRUE(
        run(&c, (PassRun){.stop_after = "raise-linear", .disable = "tie,cse", .after = note, .user = &s}, 1));
    CU_ASSERT_STRING_EQUAL(s.names,
                           "raise-hits bind fold integers simplify dce raise-slots raise-dense raise-routed "
                           "raise-norm raise-act raise-linear ");
    CU_ASSERT_EQUAL(c.g->stage, STAGE_RAISED);
    case_close(&c);
}

static void test_level_zero_shares_nothing(void) {
    Case c;
    Seen s = {0};
    case_open(&c, gpt);
    CU_ASSERT_TRUE(run(&c, (PassRun){.stop_after = "raise-linear", .after = note, .user = &s}, 0));
    CU_ASSERT_STRING_EQUAL(s.names,
                           "raise-hits bind fold integers simplify dce raise-slots raise-dense raise-routed "
                           "raise-norm raise-act raise-linear ");
    case_close(&c);
}

static void expect_error(const char *text, PassRun r, int level, const char *error) {
    Case c;
    case_open(&c, text);
    CU_ASSERT_FALSE(run(&c, r, level));
    CU_ASSERT_TRUE(said(&c, error));
    CU_ASSERT_EQUAL(c.diag.errors, 1);
    case_close(&c);
}

static const char function[] = "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n"
                               "input %1 \"x\" : f32[seq, 4]\n"
                               "%2 : f32[seq, 4] = exp(%1)\n"
                               "output %2 \"y\"\n";

/* A graph that is no GPT takes what brings it to one form and raises it, and nothing that makes rows. */
static void test_functions(void) {
    Case c;
    Seen s = {0};
    case_open(&c, function);
    CU_ASSERT_TRUE(run(&c, (PassRun){.after = note, .user = &s}, 1));
    for (const Pass *p = pass_table; p->name != NULL; p++) {
        char name[64];
        snprintf(name, sizeof(name), "%s ", p->name);
        if (!(p->of & OF_FUNCTION)) CU_ASSERT_PTR_NULL(strstr(s.names, name));
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(s.names, "lower-attention fold "));
    CU_ASSERT_PTR_NOT_NULL(strstr(s.names, "raise-linear simplify-raised "));
    CU_ASSERT_PTR_NULL(strstr(s.names, "memplan"));
    CU_ASSERT_EQUAL(c.g->stage, STAGE_RAISED);
    case_close(&c);
    expect_error(function, (PassRun){.stop_after = "memplan"}, 1,
                 "pass memplan does not run at -O1 on a function");
    case_open(&c, gpt);
    CU_ASSERT_TRUE(graph_is_function(c.g, &(PassOptions){.kv_cache = false}));
    CU_ASSERT_FALSE(graph_is_function(c.g, &(PassOptions){.kv_cache = true}));
    case_close(&c);
}

static void test_caller_stops(void) {
    Case c;
    Seen s = {.stop_at = 2};
    case_open(&c, gpt);
    CU_ASSERT_FALSE(run(&c, (PassRun){.passes = "bind,fold,dce", .after = note, .user = &s}, 1));
    CU_ASSERT_EQUAL(s.calls, 2);
    case_close(&c);
}

static void test_failures(void) {
    expect_error(gpt, (PassRun){.passes = "fold,flod"}, 1, "there is no pass \"flod\"");
    expect_error(gpt, (PassRun){.disable = "x"}, 1, "there is no pass \"x\"");
    expect_error(gpt, (PassRun){.disable = "bind"}, 1, "pass bind cannot be disabled");
    expect_error(gpt, (PassRun){.stop_after = "later"}, 1, "there is no pass \"later\"");
    expect_error(gpt, (PassRun){.stop_after = "tie"}, 0, "pass tie does not run at -O0");
    expect_error(gpt, (PassRun){.disable = "simplify"}, 1,
                 "pass raise-dense needs canonical form, which pass simplify");
    expect_error(bad, (PassRun){.passes = "bind"}, 1, "not a tensor of integers");
}

/* ---- match.c ---- */

static void test_match(void) {
    static const char text[] =
        "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n"
        "input %1 \"x\" : f32[seq, 4]\n"
        "const %2 : f32[] = {0.5}\nconst %3 : f32[1, 4] = splat(2)\nconst %4 : i64[] = {3}\n"
        "%5 : f32[seq, 4] = mul(%2, %1)\n"
        "%6 : f32[seq, 4] = broadcast(%3)\n"
        "%7 : f32[seq, 4] = sub(%5, %6)\n"
        "%8 : f32[seq, 4] = sub(%6, %5)\n"
        "%9 : f32[] = cast(%4)\n"
        "%10 : f32[seq, 4] = pow(%7, %9)\n"
        "%11 : f32[seq, 4] = add(%8, %10)\n"
        "output %11 \"out\"\n";
    Case c;
    ValId v[12] = {{0}}, x = NO_VAL, y = NO_VAL;
    double k = 0;
    size_t n = 5;
    case_open(&c, text);
    FOR_NODES (c.g, id) v[n++] = graph_node(c.g, id)->out[0];
    CU_ASSERT_TRUE(match_scalar(c.g, v[5], OP_MUL, &x, &k) && k == 0.5 && val_eq(x, c.g->inputs.data[0].v));
    CU_ASSERT_TRUE(match_scalar(c.g, v[7], OP_SUB, &x, &k) && k == 2 && val_eq(x, v[5]));
    CU_ASSERT_FALSE(match_scalar(c.g, v[8], OP_SUB, &x, &k));
    CU_ASSERT_TRUE(match_scalar(c.g, v[10], OP_POW, &x, &k) && k == 3);
    CU_ASSERT_FALSE(match_scalar(c.g, v[10], OP_MUL, &x, &k));
    CU_ASSERT_TRUE(match_is_scalar(c.g, v[6], 2, 0));
    CU_ASSERT_TRUE(match_is_scalar(c.g, v[6], 2.0001, 1e-3));
    CU_ASSERT_FALSE(match_is_scalar(c.g, v[6], 2.0001, 1e-6));
    CU_ASSERT_TRUE(match_commutative(c.g, v[11], OP_ADD, OP_POW, &x, &y) && val_eq(x, v[10]) &&
                   val_eq(y, v[8]));
    CU_ASSERT_FALSE(match_commutative(c.g, v[11], OP_ADD, OP_MUL, &x, &y));
    CU_ASSERT_TRUE(match_op(c.g, v[9], OP_CAST, NULL));
    CU_ASSERT_FALSE(match_op(c.g, c.g->inputs.data[0].v, OP_CAST, NULL));
    case_close(&c);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite table = CU_add_suite("table", NULL, NULL), manager = CU_add_suite("manager", NULL, NULL);
    CU_pSuite match = CU_add_suite("match", NULL, NULL);
    CU_add_test(table, "names are unique", test_table_names_are_unique);
    CU_add_test(table, "order holds", test_order_holds);
    CU_add_test(table, "stages never go back", test_stages_never_go_back);
    CU_add_test(table, "facts are given", test_facts_are_given);
    CU_add_test(manager, "runs what is asked", test_runs_what_is_asked);
    CU_add_test(manager, "pipeline stops", test_pipeline_stops);
    CU_add_test(manager, "level 0 shares nothing", test_level_zero_shares_nothing);
    CU_add_test(manager, "functions", test_functions);
    CU_add_test(manager, "caller stops", test_caller_stops);
    CU_add_test(manager, "failures", test_failures);
    CU_add_test(match, "match", test_match);
    return unit_end();
}
