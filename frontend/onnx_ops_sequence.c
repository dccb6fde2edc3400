/* onnx_ops_sequence.c: sequences of tensors, as exporters leave them where a list was split or collected.
 *
 * A sequence is a list of tensor numbers that is known when compiling; no value of the IR stands for one.
 * What is made of its tensors is lowered as Split, Squeeze, Unsqueeze and Concat are. */
#include "frontend/import.h"

#define SEQUENCE_MAX 4096
#define PARTS_VERSION 11 /* of the ops that are lowered in place, whose lengths and axes are attributes */

/* Lists of n tensors cost as much as n nodes do. */
static bool room_for(Call *c, size_t n) {
    c->im->inlined += n;
    return (n <= SEQUENCE_MAX && c->im->inlined <= NODES_MAX) ||
           call_error(c, "too many tensors in sequences");
}

static bool sequence_items(Call *c, const uint32_t **items, size_t *n) {
    if (!in_has(c, 0) || !in_tv(c, 0)->sequence) return call_error(c, "input 0 is no sequence");
    *items = in_tv(c, 0)->items;
    *n = in_tv(c, 0)->nitems;
    return true;
}

static bool out_sequence(Call *c, const uint32_t *items, size_t n) {
    if (!out_used(c, 0)) return true;
    Tv *t = &c->im->tensors.data[c->n->out[0]];
    *t = (Tv){.name = t->name, .set = true, .sequence = true, .items = items, .nitems = (uint32_t)n};
    return true;
}

static uint32_t tensor_add(Call *c, Tv t) {
    VEC_PUSH(c->im->scratch, &c->im->tensors, t);
    return (uint32_t)(c->im->tensors.count - 1);
}

/* Operand i in a tensor of its own: those of a loop's body are made anew in every round. */
static bool item_of(Call *c, size_t i, uint32_t *item) {
    if (!in_has(c, i)) return call_error(c, "input %zu is missing", i);
    if (in_tv(c, i)->sequence) return call_error(c, "sequences of sequences are not supported");
    *item = tensor_add(c, *in_tv(c, i));
    return true;
}

/* Operand c->arg, or else the last of `count` positions; negative ones count back from n. */
static bool position(Call *c, size_t n, size_t count, size_t *out) {
    size_t i = (size_t)c->arg;
    int64_t at = (int64_t)count - 1;
    if (in_has(c, i) && !in_int(c, i, "the position", &at)) return false;
    if (at < 0) at += (int64_t)n;
    if (at < 0 || at >= (int64_t)count)
        return call_error(c, "position %lld is outside a sequence of %zu tensors", (long long)at, n);
    *out = (size_t)at;
    return true;
}

typedef struct {
    const char *op, *attr;
    const int64_t *ints; /* the attribute: a list */
    size_t nints;
    int64_t axis;
} Part;

/* Lowers one op on tensors by number. */
static bool run_part(Call *c, const Part *p, uint32_t *in, size_t nin, uint32_t *out, size_t nout) {
    OAttr attrs[2] = {{.name = "axis", .kind = OA_INT, .i = p->axis},
                      {.name = p->attr, .kind = OA_INTS, .ints = p->ints, .n = p->nints}};
    INode node = {.name = c->n->name,
                  .op = p->op,
                  .domain = "",
                  .version = PARTS_VERSION,
                  .index = c->n->index,
                  .in = in,
                  .out = out,
                  .nin = nin,
                  .nout = nout,
                  .attrs = attrs,
                  .nattrs = p->attr == NULL ? 1 : 2};
    const OpRule *r = op_rule_find("", p->op, PARTS_VERSION);
    Call part = {c->im, c->g, c->d, &node, c->loc, PARTS_VERSION, r->arg};
    return r->fn(&part);
}

static uint32_t *tensors_new(Call *c, size_t n) {
    uint32_t *ids = arena_array_of(c->im->scratch, n + 1, uint32_t);
    for (size_t i = 0; i < n; i++)
        ids[i] = tensor_add(c, (Tv){.name = c->im->tensors.data[c->n->out[0]].name});
    return ids;
}

/* Squeeze or Unsqueeze of each. */
static uint32_t *each_part(Call *c, const char *op, int64_t axis, const uint32_t *items, size_t n) {
    uint32_t *out = tensors_new(c, n);
    Part p = {op, "axes", &axis, 1, 0};
    for (size_t i = 0; i < n; i++) {
        uint32_t in = items[i];
        if (!run_part(c, &p, &in, 1, &out[i], 1)) return NULL;
    }
    return out;
}

/* ---- the operators ---- */

/* Lengths of the parts: a list, or one length for all but the last, which may be shorter. */
static bool part_lengths(Call *c, Dim d, const int64_t **lengths, size_t *n) {
    int64_t each = 1;
    if (in_has(c, 1) && in_type(c, 1)->rank > 0)
        return in_ints(c, 1, "the lengths", lengths, n) && room_for(c, *n);
    if (in_has(c, 1) && !in_int(c, 1, "the length of the parts", &each)) return false;
    if (!dim_is_const(d) || each < 1)
        return call_error(c, "how many parts there are must be known when compiling; "
                             "hint: optimise the export, or split an axis of fixed length");
    *n = (size_t)(d.v / each + (d.v % each != 0));
    if (!room_for(c, *n)) return false;
    int64_t *v = arena_array_of(c->im->scratch, *n + 1, int64_t);
    for (size_t i = 0; i < *n; i++) v[i] = (int64_t)i * each + each <= d.v ? each : d.v % each;
    *lengths = v;
    return true;
}

static bool lower_split_to_sequence(Call *c) {
    ValId v = in_val(c, 0);
    uint32_t axis = 0;
    const int64_t *lengths = NULL;
    size_t n = 0;
    if (!val_ok(v) || !axis_norm(c, attr_int(c, "axis", 0), type_of(c, v)->rank, &axis) ||
        !part_lengths(c, type_of(c, v)->dim[axis], &lengths, &n))
        return false;
    uint32_t *items = tensors_new(c, n);
    Part p = {"Split", "split", lengths, n, axis};
    if (!run_part(c, &p, c->n->in, 1, items, n)) return false;
    if (!in_has(c, 1) && attr_int(c, "keepdims", 1) == 0) items = each_part(c, "Squeeze", axis, items, n);
    return items != NULL && out_sequence(c, items, n);
}

static bool lower_sequence_construct(Call *c) {
    size_t n = c->n->nin;
    if (!room_for(c, n)) return false;
    uint32_t *items = arena_array_of(c->im->scratch, n + 1, uint32_t);
    for (size_t i = 0; i < n; i++)
        if (!item_of(c, i, &items[i])) return false;
    return out_sequence(c, items, n);
}

static bool lower_sequence_at(Call *c) {
    const uint32_t *items = NULL;
    size_t n = 0, at = 0;
    if (!sequence_items(c, &items, &n)) return false;
    if (!in_has(c, 1)) return call_error(c, "the position is missing");
    return position(c, n, n, &at) && out_tensor(c, 0, items[at]);
}

static bool lower_sequence_insert(Call *c) {
    const uint32_t *old = NULL;
    uint32_t item = 0;
    size_t n = 0, at = 0;
    if (!sequence_items(c, &old, &n) || !item_of(c, 1, &item) || !position(c, n, n + 1, &at) ||
        !room_for(c, n + 1))
        return false;
    uint32_t *items = arena_array_of(c->im->scratch, n + 1, uint32_t);
    for (size_t i = 0; i < n + 1; i++) items[i] = i < at ? old[i] : i == at ? item : old[i - 1];
    return out_sequence(c, items, n + 1);
}

static bool lower_sequence_erase(Call *c) {
    const uint32_t *old = NULL;
    size_t n = 0, at = 0;
    if (!sequence_items(c, &old, &n) || !position(c, n, n, &at) || !room_for(c, n)) return false;
    uint32_t *items = arena_array_of(c->im->scratch, n, uint32_t);
    for (size_t i = 0; i + 1 < n; i++) items[i] = old[i + (i >= at)];
    return out_sequence(c, items, n - 1);
}

static bool lower_sequence_length(Call *c) {
    const uint32_t *items = NULL;
    size_t n = 0;
    if (!sequence_items(c, &items, &n)) return false;
    Dim count = dim_const((int64_t)n);
    return out_dims(c, 0, DT_I64, 0, &count, 1);
}

static bool lower_sequence_concat(Call *c) {
    const uint32_t *items = NULL;
    size_t n = 0;
    if (!sequence_items(c, &items, &n)) return false;
    if (n == 0) return call_error(c, "the sequence is empty");
    Part p = {"Concat", NULL, NULL, 0, attr_int(c, "axis", 0)};
    uint32_t *in = attr_int(c, "new_axis", 0) != 0 ? each_part(c, "Unsqueeze", p.axis, items, n)
                                                   : arena_dup(c->im->scratch, items, n * sizeof(*items));
    return in != NULL && run_part(c, &p, in, n, c->n->out, 1);
}

const OpRule onnx_rules_sequence[] = {
    {"", "SequenceEmpty", 11, 0, lower_sequence_construct, 0},
    {"", "SequenceConstruct", 11, 0, lower_sequence_construct, 0, T_ANY, "of tensors"},
    {"", "SplitToSequence", 11, 0, lower_split_to_sequence, 0, T_ANY,
     "how many parts there are must be known when compiling"},
    {"", "SequenceAt", 11, 0, lower_sequence_at, 1, T_ANY, "at a constant position", .sequences = true},
    {"", "SequenceInsert", 11, 0, lower_sequence_insert, 2, T_ANY, "at a constant position",
     .sequences = true},
    {"", "SequenceErase", 11, 0, lower_sequence_erase, 1, T_ANY, "at a constant position", .sequences = true},
    {"", "SequenceLength", 11, 0, lower_sequence_length, 0, .sequences = true},
    {"", "ConcatFromSequence", 11, 0, lower_sequence_concat, 0, .sequences = true},
    {0},
};
