/* emit_decode.c: the persistent kernel of a program (see decode.h): what is before the layers, one layer, what is after
 * them, each as what the bringing lane does and what the computing warps do, then put together. */
#include "codegen/cuda/cost.h"
#include "codegen/cuda/decode.h"

enum { MOST_PIECES = 160, STAGES = 14, STOPS = 8, ROUND = 128 }; /* STAGES: MOST_STAGES of ring.cu */

static const ArtStep *step_of(const Decode *d, uint32_t step) { return &d->e->p->steps.data[step]; }

/* The product that makes the logits, with at most an elementwise step behind it. */
static bool find_head(Decode *d) {
    uint32_t last = d->steps.n - 1;
    d->logits = d->head = last;
    if (step_of(d, last)->kernel == ART_K_POINTWISE) {
        for (uint32_t k = 0; k < 6; k++)
            if (d->steps.source[last][k] != NO_STEP) d->head = d->steps.source[last][k];
        for (uint32_t k = 0; k < 6; k++) {
            uint32_t from = d->steps.source[last][k], kind = step_of(d, last)->arg[k].kind;
            if ((from != NO_STEP && from != d->head) || kind == ART_ARG_TENSOR || kind == ART_ARG_STATE)
                d->unable = "logits that are made of more than one product";
        }
        const ArtPointwise *u = &step_of(d, last)->u.pointwise;
        for (uint32_t i = 0; i < u->count; i++) {
            const ArtInsn *n = &d->e->p->insns.data[u->first + i];
            if (n->op == ART_I_LOAD && (n->div != 1 || n->mod < u->width))
                d->unable = "logits that are not elementwise";
        }
    }
    const ArtArg *out = &step_of(d, last)->arg[d->steps.out[last]];
    bool product = step_of(d, d->head)->kernel == ART_K_LINEAR && out->value == d->e->p->plan.logits_offset;
    if (!product) d->unable = "logits that are no product";
    return !d->unable;
}

/* What one attention leaves behind for the blocks that join its spans, and room for it in a block. */
static void find_scratch(Decode *d) {
    d->scratch = 2 * DECODE_MOST_BLOCKS + 4;
    for (uint32_t i = 0; i < d->steps.n; i++) {
        const ArtAttention *u = &step_of(d, i)->u.attention;
        if (step_of(d, i)->kernel != ART_K_ATTENTION) continue;
        uint32_t heads = emit_attention_heads(u->heads / u->kv_heads), words = heads * (u->vdim + 2);
        uint32_t join = heads * u->vdim + DECODE_MOST_SPLITS * (1 + 2 * heads), need = DECODE_WARPS * words;
        if (join > need) need = join;
        if (need > d->scratch) d->scratch = (need + 3) / 4 * 4;
        if (words * DECODE_MOST_BLOCKS > d->partial_words) d->partial_words = words * DECODE_MOST_BLOCKS;
    }
}

static bool write_region(Decode *d, uint32_t region, uint32_t begin, uint32_t end) {
    d->region = region;
    d->begin = begin;
    d->end = end;
    d->attentions = 0;
    d->bring = text_new(d->e->arena);
    d->body = text_new(d->e->arena);
    for (uint32_t i = begin; i < end && !d->unable; i++) {
        uint32_t kernel = step_of(d, i)->kernel;
        d->now = i;
        if (!d->done[i] && i != d->logits) {
            if (kernel == ART_K_LINEAR)
                decode_products(d, i);
            else if (kernel == ART_K_ATTENTION)
                decode_attention(d, i);
            else
                decode_small(d, i);
        } else if (i == d->logits && i == d->head && !d->done[i]) {
            decode_products(d, i);
        }
        if (!d->unable) decode_retire(d, i);
    }
    return !d->unable;
}

typedef struct {
    const char *bring[DECODE_REGIONS], *body[DECODE_REGIONS];
    uint32_t attentions[DECODE_REGIONS];
} Pieces;

static bool write_regions(Decode *d, Pieces *out) {
    const DecodeSteps *s = &d->steps;
    uint32_t first = s->count ? s->first : s->n, after = first + s->count * s->period;
    const uint32_t begin[DECODE_REGIONS] = {0, first, after},
                   end[DECODE_REGIONS] = {first, first + s->period, s->n};
    if (s->n - s->count * s->period + s->period > MOST_PIECES) d->unable = "layers that are not alike";
    for (uint32_t r = 0; r < DECODE_REGIONS && !d->unable; r++) {
        if (!write_region(d, r, begin[r], end[r])) break;
        if (r == DECODE_BEFORE) /* what layers leave to each other lies where the first one finds it */
            for (uint32_t i = first; i < first + s->period && s->count; i++)
                if (d->value[i].carried) decode_local(d, i - s->period);
        if (r == DECODE_LAYER && s->count) decode_carry(d);
        out->bring[r] = d->bring.data ? d->bring.data : "";
        out->body[r] = d->body.data ? d->body.data : "";
        out->attentions[r] = d->attentions;
    }
    return !d->unable;
}

/* ---- the table ---- */
static void add_places(Decode *d, uint32_t region, uint32_t layer, CudaDecode *out) {
    for (size_t i = 0; i < d->places[region].items.count; i++) {
        const DecodePlace *at = &d->places[region].items.data[i];
        const ArtArg *a = &step_of(d, at->step + layer * d->steps.period)->arg[at->arg];
        ArtCudaPlace place = {a->kind == ART_ARG_STATE ? ART_CUDA_STATE : ART_CUDA_TENSOR,
                              (uint32_t)a->value};
        if (at->of != DECODE_OFFSET)
            place =
                (ArtCudaPlace){ART_CUDA_NUMBER, decode_number(d, at->step + layer * d->steps.period, at->of)};
        VEC_PUSH(d->e->arena, &out->places, place);
    }
}

static void write_table(Decode *d, CudaDecode *out) {
    const DecodeSteps *s = &d->steps;
    add_places(d, DECODE_BEFORE, 0, out);
    for (uint32_t l = 0; l < s->count; l++) add_places(d, DECODE_LAYER, l, out);
    add_places(d, DECODE_AFTER, 0, out);
    d->grid_places = (uint32_t)out->places.count;
    for (uint32_t i = 0; i < DECODE_GRIDS; i++)
        for (size_t k = 0; k < d->grids[i].tensors.count; k++)
            VEC_PUSH(d->e->arena, &out->places,
                     ((ArtCudaPlace){ART_CUDA_TENSOR, d->grids[i].tensors.data[k]}));
    uint32_t table = (uint32_t)(out->places.count + STOPS + decode_grid_words(d)) * 4,
             barriers = (2 * STAGES + 1) * 8;
    out->words = 2 * (2 * DECODE_MOST_BLOCKS + 2) + d->partial_words + d->words[DECODE_BEFORE] +
                 (uint64_t)d->words[DECODE_LAYER] * s->count + d->words[DECODE_AFTER];
    out->fixed_bytes = (d->floats * 4 + barriers + table + ROUND - 1) / ROUND * ROUND;
}

/* ---- the text ---- */
static void write_body(const Decode *d, Text *t, const char *const piece[DECODE_REGIONS], const Pieces *p) {
    const DecodeSteps *s = &d->steps;
    uint32_t words = 2 * (2 * DECODE_MOST_BLOCKS + 2) + d->partial_words + d->words[DECODE_BEFORE];
    text_add(t, piece[DECODE_BEFORE]);
    if (s->count) {
        text_printf(t, "        for (u32 layer = 0; layer < %u; layer++) {\n", s->count);
        text_printf(t, "        const u32 layer_places = %zu + layer * %zu;\n",
                    d->places[DECODE_BEFORE].items.count, d->places[DECODE_LAYER].items.count);
        if (piece == p->body)
            text_printf(
                t, "        const u32 layer_words = %u + layer * %u, layer_attentions = %u + layer * %u;\n",
                words, d->words[DECODE_LAYER], p->attentions[0], p->attentions[1]);
        text_printf(t, "%s        }\n", piece[DECODE_LAYER]);
    }
    text_add(t, piece[DECODE_AFTER]);
}

static void write_text(const Decode *d, const Pieces *p, const CudaDecode *c, Text *t) {
    const DecodeSteps *s = &d->steps;
    size_t places = c->places.count;
    emit_texts(d->e, cuda_decode_texts);
    text_printf(t,
                "\n/* A step of one row, %u times or until the text ends, as one kernel of as many blocks as "
                "the chip has "
                "SMs.\n * %u layers in a loop; %llu words between blocks. */\n",
                16, s->count, (unsigned long long)c->words);
    text_printf(t, "enum { ATTENTIONS = %u };\n",
                p->attentions[0] + p->attentions[1] * s->count + p->attentions[2]);
    decode_forms_text(d, t);
    text_add(t,
             "/* What the block's lane that brings does: the tiles in the order in which they are taken. */\n"
             "DEVICE void decode_bring(Ring ring, shared<u32> place, global<const u8> weights, global<u8> "
             "cache, u32 "
             "position,\n                         u32 sequence, u32 context, u32 steps) {\n"
             "    const u32 old = position;\n    u32 turn = 0;\n"
             "    for (u32 step = 0; step < steps; step++, position++) {\n");
    write_body(d, t, p->bring, p);
    text_add(t, "    }\n}\n");
    text_printf(t,
                "KERNEL(288, 1) decode(global<const u8> weights, global<u8> cache, global<const u32> places, "
                "global<u64> "
                "words, global<u64> sums, global<float> logits, global<u32> mail, global<const u32> row, u32 "
                "context, u32 epoch, u32 steps, u32 stages) {\n"
                "    if (!has_bulk_copies) return;\n"
                "    SHARED_AT_LAUNCH(u8, memory);\n"
                "    const shared<float> local = (shared<float>)memory;\n"
                "    const shared<u64> barriers = (shared<u64>)(memory + %u);\n"
                "    const shared<u32> place = (shared<u32>)(memory + %u);\n"
                "    Ring ring = ring_begin(barriers, memory + %u, stages);\n"
                "    for (u32 i = thread_index(); i < %zu; i += thread_count()) place[i] = places[i];\n",
                d->floats * 4, d->floats * 4 + (2 * STAGES + 1) * 8, c->fixed_bytes, places + STOPS);
    if (decode_grid_words(d)) text_printf(t, "    const shared<u32> grids = place + %zu;\n", places + STOPS);
    decode_grids_text(d, t, d->grid_places);
    text_printf(
        t,
        "    barrier();\n"
        "    u32 token = row[0], position = row[1];\n"
        "    const u32 sequence = row[2], old = position;\n"
        "    if (warp() == RING_WARPS) {\n"
        "        if (lane() == 0) decode_bring(ring, place, weights, cache, position, sequence, context, "
        "steps);\n"
        "        return;\n    }\n"
        "    u32 turn = 0, parts = %u;\n"
        "    for (u32 step = 0; step < steps; step++, position++, epoch++) {\n"
        "        Best best = {0, NO_TOKEN};\n",
        DECODE_PARTS);
    write_body(d, t, p->body, p);
    text_printf(t,
                "        const Next next = token_next<%u>(best, local + %u, words, sums, mail, logits, row + "
                "3, place "
                "+ %zu, %u, step, epoch);\n"
                "        if (block_index() == 0 && thread_index() == 0) publish_host(mail + (1 + step), "
                "next.token);\n"
                "        token = next.token;\n"
                "        if (!next.go_on) break;\n    }\n"
                "    if (thread_index() == 0) mbarrier_arrive(ring.over);\n}\n",
                d->e->p->meta.vocab, DECODE_SCRATCH, places, STOPS);
}

/* Whether a step is predicted to be faster so, on the GPU that the figures are best known of. */
static bool predicted_first(const Emit *e) {
    CostPlan plan = cost_plan(e->p, e->p->meta.context / 2, e->arena);
    CostStep cost;
    plan.launches = cuda_launches(e->out);
    cost_step(cost_target(90), &plan, &cost);
    return cost.persistent.seconds < cost.graph.seconds;
}

void write_decode(Emit *e) {
    CudaDecode *out = &e->out->decode;
    uint32_t n = (uint32_t)e->p->steps.count;
    Decode d = {.e = e,
                .value = arena_array_of(e->arena, n + 1, DecodeValue),
                .done = arena_array_of(e->arena, n + 1, bool)};
    Pieces pieces = {0};
    if (!n || !decode_steps(e->p, e->arena, &d.steps)) d.unable = "values that no single step writes";
    if (!d.unable && find_head(&d)) find_scratch(&d);
    d.floats = DECODE_SCRATCH + d.scratch;
    if (d.unable || !decode_forms(&d) || !decode_values(&d) || !write_regions(&d, &pieces)) {
        *out = (CudaDecode){.function = UINT32_MAX, .unable = d.unable};
        return;
    }
    out->function = (uint32_t)e->out->functions.count;
    write_table(&d, out);
    out->first = predicted_first(e);
    write_text(&d, &pieces, out, &e->out->source);
    CudaFunction f = {.name = "decode", .threads = 288, .body = ""};
    VEC_PUSH(e->arena, &e->out->functions, f);
}
