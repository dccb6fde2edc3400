/* lossy.h: passes that change what a model computes, each at a measured price.
 *
 * They work on a graph whose exact passes are done (STAGE_STATEFUL, before fuse). A *site* is a weight matrix that may
 * change. A *format* (formats.def) says how a site's matrix is stored; quantising makes a QuantMatrix of it. Prices are
 * measured by a *lab*: it runs the model on text with some sites changed. The lab is given by the caller, because
 * running a model is codegen's and the runtime's work (codegen/lab.c); tests bring their own.
 *
 *   format.c  formats, QuantMatrix    sites.c  sites of a graph, reading and replacing them
 *   round.c grid.c palette.c gptq.c  quantising a matrix    quantize.c  a matrix, a graph
 *   structure.c  blocks of a graph    prune.c share.c sparse.c  what shrinks it    shrink.c  which of them pay
 *   kept.c  moments kept while steps are priced
 *   pick.c  some features alone    removal.c  what goes, and what makes up for it    linalg.c  least squares
 *   cache.c  the KV cache in 8 bits
 *   budget.c allocate.c  the search; plan.c  what was decided, as text */
#ifndef GPTC_LOSSY_H
#define GPTC_LOSSY_H

#include "ir/ir.h"

/* ---- formats ---- */
typedef enum { GRID_LINEAR, GRID_LEARNED, GRID_F8 } GridKind;

/* value = scale * (grid[code] - grid[zero]). A linear grid is code - 2^(bits-1), so there value = scale * (code - zero),
 * and without zero points scale * grid[code]. */
typedef struct {
    const char *name, *doc;
    uint32_t bits;       /* of a code, 2..8 */
    uint32_t group;      /* columns that share a scale (and zero point); 0 = all of a row */
    bool zero;           /* zero points: one code a group */
    uint32_t scale_bits; /* 16: an fp16. 8, 6: an unsigned code; scale = code * row_scale[row], an fp16 */
    GridKind grid;
    uint32_t vector; /* columns that one code stands for; the grid has 2^bits entries of so many floats */
} Format;
extern const Format format_table[]; /* in the order of formats.def; ends with name NULL */
const Format *format_find(const char *name);
/* Stored bits of a rows x cols matrix: codes, scales, zero points, grid, and padding as the artifact has it. */
uint64_t format_stored_bits(const Format *f, int64_t rows, int64_t cols);

/* A matrix [rows = outputs][cols = inputs] in a format. Owned by the arena it was made in. */
typedef struct {
    const Format *format;
    int64_t rows, cols, groups; /* groups: of a row */
    uint8_t *codes;             /* [rows][cols / vector], one a byte */
    float *scale;        /* [rows][groups], exactly what is stored: representable, codes times row_scale */
    uint8_t *scale_code; /* [rows][groups], scale_bits < 16; else NULL */
    float *row_scale;    /* [rows], scale_bits < 16; else NULL; fp16 values */
    uint8_t *zero;       /* [rows][groups], as codes; NULL = none */
    float *grid; /* [2^bits][vector]; learned ones hold int8 values (scalars) or fp16 values (vectors) */
} QuantMatrix;
bool quant_new(const Format *f, int64_t rows, int64_t cols, Arena *a,
               QuantMatrix *out);                  /* false: cols do not fit */
void quant_dense(const QuantMatrix *q, float *to); /* [rows][cols] */

/* ---- sites ---- */
/* TABLE: rows that tokens or positions pick, and nothing else reads; HEAD: makes logits, a tied table included. */
typedef enum { SITE_LINEAR, SITE_TABLE, SITE_HEAD } SiteKind;
typedef struct {
    SiteKind kind;
    ValId weight;       /* what is replaced: the constant, or a slice of one; readers may turn and cast it */
    NodeId user;        /* the first product that reads it, the first gather when there is none */
    bool transposed;    /* weight is [cols, rows] */
    int64_t rows, cols; /* outputs, inputs; of a TABLE entries, width */
    int64_t experts;    /* a stack of so many matrices, one below the other, for rows to choose; 0 = one */
    uint32_t bits;      /* of a number as it is stored */
    int32_t
        layer; /* of which attention, from 0: what leads to it, and what follows it up to the next; -1 = tables
                    * and what makes logits */
    const char *name; /* of the constant, made unique */
    bool fixed;       /* compressed already, in the graph as imported: left alone */
    bool tied;        /* a SITE_HEAD that is also a table */
} Site;
/* Every matrix constant of at least 2 x 32 that a linear or a gather reads, and every stack of such of 16 outputs or a
 * multiple that a routed reads, in running order. */
size_t sites_find(Graph *g, Arena *a, Site **out);
bool site_read(Graph *g, const Site *s, float *to, Diag *d); /* [rows][cols] */
int64_t site_outputs(const Site *s);                         /* rows of one matrix */
double site_products(const Graph *g, const Site *s);         /* numbers that a row is multiplied with */
ValId site_value(const Graph *g,
                 const Site *s); /* the matrix as it is now; it may have been replaced since */
/* Replace the matrix by dequantize(codes, scale, zero?, grid?) or by fp32 or fp16 constants. All readers follow. What
 * was written may be written again, also through sites found before; site_read then reads the new matrix. */
bool site_write(Graph *g, const Site *s, const QuantMatrix *q, Diag *d);
bool site_write_dense(Graph *g, const Site *s, const float *w, DType as, Diag *d);
/* Products with the site's matrix round their input first, each run of `block` columns to 8 bits (linear's attribute);
 * 0 = off. Fastest where block is the format's group, or all columns for one scale a row. */
void site_round(Graph *g, const Site *s, int64_t block);

/* ---- text ---- */
typedef struct {
    int32_t *id; /* [windows][length] */
    int64_t windows, length;
    int64_t
        from; /* what logits say of positions from + 1 .. length - 1 is scored: 0 = all, length / 2 as llama.cpp */
} Windows;

/* ---- measuring: against the model with nothing changed, on the same tokens ---- */
typedef struct {
    int64_t scored;                     /* tokens */
    double perplexity, base_perplexity; /* exp of mean -log p of the next token */
    double perplexity_error;
    double
        log_ratio_error; /* of log(perplexity / base_perplexity): both on the same tokens, so far below theirs */
    double mean_kl,
        mean_kl_error; /* KL(base || changed), nats a token; one standard error, over windows: infinite of one window */
    double p99_kl, max_kl;
    double rms_dp, rms_dp_error;     /* of the probability of the next token, 0..1 */
    double same_top, same_top_error; /* 0..1 */
} Quality;

/* Second moments of what a site multiplies: sum of x x^T over `rows` inputs. A table that only gathers read multiplies
 * nothing: rows 0, xx the identity, sum 0. Sites that read the same input share their arrays. */
typedef struct Moments {
    int64_t cols, rows;
    float *xx;  /* [cols][cols], symmetric; divided by rows */
    float *sum; /* [cols], mean of x */
    /* [experts]: of what each matrix of a stack multiplies alone, sum NULL. NULL: not known. */
    const struct Moments *expert;
    int64_t experts;
} Moments;

/* Owned by who made it. All calls: false with the diag set. Not thread-safe. */
typedef struct Lab Lab;
struct Lab {
    void *self;
    /* Site i computes with w [rows][cols] from now on; NULL: as at first. Copied. */
    bool (*set)(Lab *lab, uint32_t site, const float *w, Diag *d);
    /* Runs the changed model on t. The base's log-probabilities are computed once per Windows and kept. */
    bool (*measure)(Lab *lab, const Windows *t, Quality *out, Diag *d);
    /* Moments of the inputs of `n` sites, of the model as changed now; made in `a`. */
    bool (*moments)(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a, Moments *out,
                    Diag *d);
    /* A graph of another structure or with other formats, compiled and run: what would be shipped. g is left alone. */
    bool (*measure_graph)(Lab *lab, const Graph *g, const Windows *t, Quality *out, Diag *d);
    /* As moments, and of stacks by expert, unless they are too large. May be NULL. */
    bool (*moments_apart)(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a,
                          Moments *out, Diag *d);
};

/* ---- quantising one matrix ---- */
typedef struct {
    const Moments *moments; /* NULL: all inputs alike */
    bool gptq;              /* error feedback; else rounding with searched scales */
    bool order;             /* columns by falling moment */
} QuantOptions;
/* w [rows][cols]. `loss`, may be NULL: sum over outputs of the mean squared error of the product; with moments by
 * expert, of the products that are made. Deterministic, whatever the number of threads. */
bool quantize_matrix(const float *w, const Format *f, const QuantOptions *o, int64_t rows, int64_t cols,
                     Arena *a, QuantMatrix *out, double *loss, Diag *d);
/* The loss by other moments than those of `o`; m NULL: all inputs alike. */
double quant_loss(const float *w, const QuantMatrix *q, const Moments *m);
/* What the loss is relative to: sum over outputs of the mean square of the product itself. */
double matrix_energy(const float *w, const Moments *m, int64_t rows, int64_t cols);

/* ---- quantising a graph (quantize.c) ---- */
typedef struct {
    void *self;
    /* After each site: what it cost and what it is relative to (matrix_energy). False stops: an error. */
    bool (*site)(void *self, size_t done, size_t of, const Site *s, const Format *f, double loss,
                 double energy);
} LossyProgress;
/* Quantises site i to chosen[i] (NULL: it stays), in running order, each with error feedback from the moments of the
 * model as quantised so far, so that later sites see and mend what earlier ones did; writes the results into g and
 * sets them in the lab, whose sites must be these. One layer's moments are held at a time. lab NULL: no moments, all
 * inputs alike. progress NULL: nobody asks. */
bool lossy_quantize(Graph *g, const Site *sites, size_t n, const Format *const *chosen, Lab *lab,
                    const Windows *calibration, const LossyProgress *progress, Diag *d);

/* ---- structure (structure.c): what can go from a graph, found by how it computes ---- */
typedef enum { BLOCK_ATTENTION, BLOCK_FEED_FORWARD } BlockKind;

/* Attention, or a feed-forward net, up to the linear that joins its units to the residual stream. A unit is what can
 * go alone: a neuron; a head with its keys and values, which under grouped queries is a whole group of heads. */
typedef struct {
    BlockKind kind;
    int32_t layer;
    NodeId out; /* the linear that reads the units: unit u is its inputs u * size .. (u + 1) * size - 1 */
    NodeId attention; /* BLOCK_ATTENTION */
    NodeId join;      /* the addition to the residual stream; none: the block cannot be skipped */
    ValId branch;     /* what it adds */
    int64_t units, size;
    int64_t heads, kv_heads; /* BLOCK_ATTENTION: heads / kv_heads heads are a unit */
    int64_t
        multiple; /* units go by so many at once; 0: none can go (a norm over all of them, compressed weights) */
    uint64_t unit_weights; /* numbers that a unit holds in all matrices and biases */
    uint64_t unit_state;   /* cached numbers a token that a unit holds */
} Block;
size_t blocks_find(Graph *g, Arena *a, Block **out); /* in running order */
/* Numbers in the constants that outputs or states need, scales and zero points of compressed ones not counted; all of
 * their bits, as stored: bits may be NULL. */
uint64_t graph_weigh(const Graph *g, uint64_t *bits);

/* ---- steps: changes of structure that the search may take ---- */
/* The last two are of sites: one matrix for two sites; two of every four weights of one. */
typedef enum { STEP_NEURONS, STEP_HEADS, STEP_SKIP, STEP_SHARE, STEP_SPARSE, STEP_COUNT } StepKind;
typedef struct Removal Removal; /* removal.c: what goes, and the matrix and bias that make up for it */

/* Steps of different blocks combine; of one block one is taken; SHARE combines with SHARE of other sites. `amount` grows from step to step of a block and kind. */
typedef struct {
    StepKind kind;
    uint32_t block;          /* of blocks_find on the exact graph; of SHARE and SPARSE a site of sites_find */
    int32_t layer;           /* the block's */
    int64_t amount;          /* units that go; SKIP: all; SHARE: the other site; SPARSE: zeros */
    uint64_t weights, state; /* numbers that go: stored, cached for a token */
    uint64_t ops;            /* multiplications and additions for a token that go */
    double
        loss; /* predicted: mean squared error of what the block adds, relative to its variance; infinite: dear */
    double error;           /* the same, not relative: summed over outputs */
    const Removal *removal; /* what steps_prepare made */
} LossyStep;

/* Every step that g's blocks offer, nothing measured: kind, block, amount, and what goes. */
size_t steps_offered(Graph *g, Arena *a, LossyStep **out);
/* Fills in the steps' losses, from the inputs of g's blocks as the lab sees them on the calibration text. `sites` are
 * the lab's. dear [nsites], may be NULL: the error of a site's product, for each number that goes, above which more of a
 * block's units are not looked at. */
bool steps_forecast(Graph *g, const Site *sites, size_t nsites, Lab *lab, const Windows *calibration,
                    const double *dear, LossyStep *steps, size_t n, Diag *d);
/* The same, and chooses for each step what goes and what makes up for it: a matrix each, in `a`. Deterministic. */
bool steps_prepare(Graph *g, const Site *sites, size_t nsites, Lab *lab, const Windows *calibration,
                   LossyStep *steps, size_t n, Arena *a, Diag *d);
/* Whether they combine; a plan may say otherwise. */
bool steps_differ(const LossyStep *steps, size_t n, Diag *d);
/* A copy of g, in `a`, with prepared steps applied in order; matrices, cache and work shrink. */
Graph *steps_apply(const Graph *g, const LossyStep *steps, size_t n, Arena *a, Diag *d);
/* "neurons block=5 amount=64": a step in a plan. Parsing checks it against what g offers; the rest is for steps_prepare. */
void step_print(Text *t, const LossyStep *s);
bool step_parse(Graph *g, const char *text, size_t bytes, Arena *a, LossyStep *out, Diag *d);
const char *step_kind_name(StepKind k);

/* ---- the cache (cache.c) ---- */
/* Every state keeps its rows rounded to 8 bits, one step a head and position; those that do stay as they are. */
bool cache_round(Graph *g, Diag *d);
uint64_t cache_bits(Graph *g, bool rounded); /* that a position of the cache takes, in fp32 or in 8 bits */

/* ---- choosing steps (shrink.c) ---- */

/* Numbers are worth what they cost to keep: the whole may cost `kl` at `bits` a number, and a bit less for each of
 * them costs kl * log 4 (the error of rounding falls fourfold a bit). A step pays when it costs less. */
typedef struct {
    Graph *exact; /* STAGE_STATEFUL; left alone */
    const Site *sites;
    size_t nsites;
    Lab *lab;                           /* of this graph and these sites */
    const Windows *calibration, *probe; /* for moments; for measuring */
    double kl, bits;                    /* reached without steps */
    uint64_t weights;                   /* numbers in the model */
    const double *sensitivity; /* [nsites]: KL for a unit of error of a site's product; NULL: not known */
} ShrinkTask;
/* What came of a block's offers of a kind: the amount that was chosen, or the one that was measured. */
typedef struct {
    LossyStep step;
    bool kept;
    double kl; /* measured alone; of an amount that was not measured, from the losses of both */
    bool measured;
    double worth;       /* KL that as many bits would cost elsewhere */
    const char *reason; /* why it was kept or rolled back */
} StepOutcome;
typedef struct {
    VEC(StepOutcome) outcomes;
    LossyStep *kept; /* prepared */
    size_t nkept;
    double predicted_kl, predicted_gain; /* of those kept; share of the bits that goes at the same KL */
    Quality measured;                    /* all kept ones together, on `probe` */
    Graph *graph;                        /* with them, in `a`; NULL: none pays */
} ShrinkResult;
/* Sharing is tried as well, and where no step pays taken when it does; 2:4 is tried on one matrix and never kept: no
 * target has a kernel for it. */
bool shrink_choose(const ShrinkTask *t, Arena *a, ShrinkResult *out, Diag *d);

double shrink_worth(const ShrinkTask *t, double spent); /* KL that a number is worth when so much is spent */

/* w [rows][m->cols] with two zeros in every four of a row, the rest made up for. */
bool sparse_mask(float *w, int64_t rows, const Moments *m, Diag *d);

#endif
