/* decode.h: what the writers of the persistent kernel share (kernels/ring.cu, kernels/decode.cu).
 *
 * The kernel is the plan's steps of one row, in order, each as a few lines: a group of products, attention, or
 * something small that every block computes for itself. Layers that are alike are one loop; what differs, where their
 * tensors and caches lie, comes from a table (places). */
#ifndef GPTC_CUDA_DECODE_H
#define GPTC_CUDA_DECODE_H

#include "codegen/cuda/emit.h"

#define NO_STEP UINT32_MAX

/* Which step wrote each operand, and the layers that are alike: steps first..first + period, `count` times. */
typedef struct {
    uint32_t n, first, period, count; /* count 0: no loop */
    uint32_t (*source)[ART_MAX_ARGS]; /* NO_STEP: the operand is no row */
    uint32_t *out;                    /* the operand that a step writes; its inputs are before it */
} DecodeSteps;
/* decode_steps.c. False: an operand that nothing wrote. */
bool decode_steps(const Program *p, Arena *a, DecodeSteps *out);

/* A value is named by the step that writes it, of the first layer for all. In the loop, the name of a step before it
 * means what the layer before has left, which lies where that step's value lay. */
typedef struct {
    bool is_local, is_published;
    bool carried; /* lives in one place from layer to layer */
    uint32_t local,
        words; /* floats of the block's memory; words, in the loop from the layer's first one on */
    uint32_t width, uses, last_use, region;
} DecodeValue;
typedef struct {
    uint32_t at, count;
    bool used, retired; /* retired: free when the block's warps have met once more */
} DecodeSlot;
/* What the table of places says of an operand: where it lies; of a matrix which form it has, where its grid is. */
typedef enum { DECODE_OFFSET, DECODE_FORM, DECODE_GRID } DecodePlaceOf;
typedef struct {
    uint32_t step, arg;
    DecodePlaceOf of;
} DecodePlace;
/* The forms of matrices with rows of k, each as a step whose matrix has it; whether one has a learned grid. */
typedef struct {
    uint32_t k;
    bool grids;
    VEC(uint32_t) steps;
} DecodeForms;
enum { DECODE_GRIDS = 3 }; /* kinds of learned grids: levels, pairs, quadruples */
enum {
    DECODE_BEFORE,
    DECODE_LAYER,
    DECODE_AFTER,
    DECODE_REGIONS
}; /* of the kernel: what stands around the loop */

typedef struct {
    Emit *e;
    DecodeSteps steps;
    DecodeValue *value; /* of each step */
    bool *done;
    VEC(DecodeSlot) slots;
    struct {
        VEC(DecodePlace) items;
    } places[DECODE_REGIONS];
    VEC(DecodeForms) forms;
    struct {
        VEC(uint32_t) tensors;
    } grids[DECODE_GRIDS];
    uint32_t words[DECODE_REGIONS]; /* of a layer, where there is a loop */
    uint32_t floats;                /* of the block's memory */
    uint32_t grid_places;           /* in the table of places: the matrices with learned grids */
    uint32_t partial_words, scratch;
    uint32_t attentions;              /* those before the place being written, of this region */
    uint32_t region, begin, end, now; /* steps of the region; the one being written */
    uint32_t logits;                  /* the value that is the logits; the product that makes it */
    uint32_t head;
    Text bring, body;
    const char *unable; /* why there is no such kernel */
} Decode;

/* The block's memory begins with this: sums of panels, of norms, then `scratch`. */
enum { DECODE_PARTS = 0, DECODE_NORM = 256, DECODE_SCRATCH = 272 };
enum { DECODE_MOST_BLOCKS = 256, DECODE_MOST_SPLITS = 64, DECODE_WARPS = 8 };

/* emit_decode.c: the kernel of the program. When the plan has something that the kernel lacks, nothing is added and
 * out->no_decode says what. */
void write_decode(Emit *e);

/* ---- decode_values.c ---- */
/* Uses, widths and last uses of all values, and which are carried. False: `unable` is set. */
bool decode_values(Decode *d);
/* The name of an operand's value; NO_STEP: no row. */
uint32_t decode_source(const Decode *d, uint32_t step, uint32_t arg);
/* The step before attention that writes the row's own entry of its state; NO_STEP: none. */
uint32_t decode_store(const Decode *d, uint32_t step, uint32_t arg);
/* "place[…]" of an operand, a tensor or state; "tensor_at<half>(weights, place[…])". */
const char *decode_place(Decode *d, uint32_t step, uint32_t arg, DecodePlaceOf of);
const char *decode_tensor(Decode *d, uint32_t step, uint32_t arg);
const ArtTensor *decode_art(const Decode *d, uint32_t step, uint32_t arg);
/* Places of a value: in the block's memory; in words, for all blocks (an expression). */
uint32_t decode_new_local(Decode *d, uint32_t value);
const char *decode_new_words(Decode *d, uint32_t value);
/* Where the block holds the value, which is gathered first when only words are there, together with those beside it that
 * are wanted soon. */
uint32_t decode_local(Decode *d, uint32_t value);
/* At the end of a layer: what it leaves to the next one goes to its place. */
void decode_carry(Decode *d);
/* After a piece: what nobody reads after this step gives its place back. */
void decode_retire(Decode *d, uint32_t step);

/* ---- decode_forms.c ---- */
/* Finds the forms of all matrices. False: `unable` is set. */
bool decode_forms(Decode *d);
/* Of a product, panel p: what the lane calls that brings it, what the others call for its sums, x at that place. */
const char *decode_bring_call(Decode *d, uint32_t step);
const char *decode_sum_call(Decode *d, uint32_t step, uint32_t x);
/* The functions that these call. */
void decode_forms_text(const Decode *d, Text *t);
/* The number that the table has for the step's matrix. */
uint32_t decode_number(Decode *d, uint32_t step, DecodePlaceOf of);
/* Words of the tables of learned grids; the calls that make them, of matrices in that place of the table of places and after. */
uint32_t decode_grid_words(const Decode *d);
void decode_grids_text(const Decode *d, Text *t, uint32_t places);

/* ---- decode_products.c, decode_small.c: writers for a step and what goes with it; false: `unable` says why ---- */
void decode_products(Decode *d, uint32_t step); /* which always can be */
bool decode_attention(Decode *d, uint32_t step);
bool decode_small(Decode *d, uint32_t step);

#endif
