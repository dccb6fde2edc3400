/* fuzz_artifact.c: libFuzzer on the loader of model.bin.
 *
 * The input is a file cut short: zeros are added up to the length its header names, and the checksums are
 * made right, so that the checks behind them are reached. What opens has to run: a session of two sequences
 * takes three tokens, steps and samples; a function runs on small inputs, unless its shapes make that much work.
 * Tables of CUDA kernels that pass their check are read as gptc-inspect reads them.
 * Seeds in tests/corpus/artifact: what stands before the weights in the files of tests/unit/tiny_artifact.h and
 * tiny_function.h, in one with a matrix in every format (formats.bin), and in one with a persistent kernel
 * (decode.bin); of the last two, the code itself is left out. */
#include <stdio.h>
#include <unistd.h>

#include "runtime/cuda/cuda.h"
#include "tests/unit/tiny_artifact.h"

enum { MAX_FILE = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- functions ---- */
enum { INPUT_BYTES = 1 << 14, MAX_INPUTS = 8, MAX_NEED = 1 << 17 };

/* Inputs whose open dimensions are `open`; false: too many or too large. */
static bool inputs_make(const gptc_model *m, int64_t open, const void *data, gptc_tensor *in) {
    if (gptc_inputs(m) > MAX_INPUTS) return false;
    for (int32_t i = 0; i < gptc_inputs(m); i++) {
        gptc_port p;
        uint64_t bytes = 8;
        if (gptc_input(m, i, &p)) abort();
        in[i] = (gptc_tensor){.dtype = p.dtype, .rank = p.rank, .data = data};
        for (int32_t k = 0; k < p.rank; k++) {
            in[i].dim[k] = p.dim[k] < 0 ? open : p.dim[k];
            if (in[i].dim[k] && (bytes *= (uint64_t)in[i].dim[k]) > INPUT_BYTES) return false;
        }
    }
    return true;
}

/* Products read more than they hold: their work is bounded apart. */
static bool is_little_work(const gptc_function *f) {
    const Function *g = &f->model->function;
    uint64_t work = 0;
    for (uint32_t i = 0; i < g->head->n_nodes; i++) {
        const ArtNode *n = &g->nodes[i];
        uint64_t k = 1;
        if (n->op == ART_FN_MATMUL || n->op == ART_FN_LINEAR) {
            const NdTensor *x = f->operand[n->first_operand];
            k += (uint64_t)x->dim[x->rank - 1];
        }
        for (uint32_t o = 0; o < n->n_operands; o++)
            work += f->operand[n->first_operand + o] ? (uint64_t)f->operand[n->first_operand + o]->count : 0;
        work += k * (uint64_t)f->values[n->out[0]].count;
    }
    return work < 1 << 22;
}

/* Runs the function on inputs of open dimensions 0 to 4; false when one is too much. */
static bool run_function(gptc_model *m) {
    _Alignas(64) static uint8_t data[INPUT_BYTES];
    bool little = true;
    gptc_function *f;
    gptc_detail why;
    gptc_function_options o = {.threads = 1};
    gptc_tensor in[MAX_INPUTS];
    for (size_t i = 0; i < sizeof data; i += 8) data[i] = (uint8_t)(i / 8 % 3);
    if (gptc_function_new(m, &o, &f, &why)) return false;
    for (int64_t open = 0; open <= 4; open++) {
        if (!inputs_make(m, open, data, in)) {
            little = false;
            continue;
        }
        gptc_status st = function_plan(f, in, &why);
        if (!st && (f->need > MAX_NEED || !is_little_work(f))) {
            little = false;
            continue;
        }
        st = gptc_function_run(f, in, gptc_inputs(m), &why);
        if (st && !why.text[0]) abort();
        for (int32_t i = 0; i < gptc_outputs(m); i++)
            if ((gptc_function_output(f, i) == NULL) != (st != GPTC_OK)) abort();
    }
    gptc_function_free(f);
    return little;
}

static bool small(gptc_model *m) {
    uint64_t work = 0;
    if (m->function.head) return run_function(m) && m->meta->vocab > 0 && m->meta->vocab < 1 << 16;
    for (uint32_t i = 0; i < m->plan->n_steps; i++)
        for (int k = 0; k < ART_MAX_ARGS; k++) work += m->steps[i].arg[k].width;
    return m->plan->row_bytes < 1 << 20 && work < 1 << 22 && m->meta->vocab < 1 << 16 &&
           m->plan->n_states < 100;
}

static void run(gptc_model *m) {
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_detail why;
    gptc_session *s = NULL;
    gptc_sampler *p = NULL;
    gptc_model_get_info(m, &info);
    gptc_session_options o = {
        .threads = 1, .context = info.context < 8 ? info.context : 8, .sequences = 2, .chunk = 2};
    if (!gptc_session_new(m, &o, &s, &why)) {
        const int32_t ids[3] = {0, info.vocab - 1, info.vocab / 2};
        gptc_sampler_options so = {.temperature = 1, .top_k = 4};
        gptc_prefill(s, 1, ids, o.context < 3 ? (size_t)o.context : 3, GPTC_LOGITS_LAST);
        gptc_step(s, ids, 2);
        if (!gptc_sampler_new(m, &so, &p) && gptc_sample(s, 1, p) >= info.vocab) abort();
        gptc_sampler_free(p);
        gptc_session_free(s);
    } else if (!why.text[0]) {
        abort();
    }
    char text[64];
    size_t n;
    int32_t ids[16];
    gptc_token_text(m, 1, text, sizeof text);
    gptc_encode(m, "a b", 3, ids, 16, &n);
    gptc_model_meta(m, "producer");
}

static void read_kernels(const gptc_model *m) {
    CudaKernels k;
    gptc_detail why = {""};
    uint64_t sum = 0;
    gptc_status st = cuda_kernels_check(m, &k, &why);
    if (st && !why.text[0]) abort();
    if (st) return;
    const ArtCuda *h = k.head;
    for (uint32_t i = 0; i < h->n_functions; i++) sum += strlen(k.text + k.functions[i].name_offset);
    for (uint32_t i = 0; i < h->n_images; i++) sum += k.bytes[k.images[i].offset];
    for (uint32_t i = 0; i < h->n_launches; i++) sum += k.functions[k.launches[i].function].threads;
    for (uint32_t i = 0; i < h->n_places; i++) sum += k.places[i].value;
    if (h->decode == ART_NO_INDEX) sum += strlen(k.text + h->decode_bytes);
    if (sum == UINT64_MAX) abort(); /* all of it is read */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t image[MAX_FILE];
    static char path[64];
    static int file = -1;
    ArtHeader h;
    if (size < sizeof h || size > MAX_FILE) return 0;
    memcpy(&h, data, sizeof h);
    size_t bytes = h.file_bytes > size && h.file_bytes <= MAX_FILE ? (size_t)h.file_bytes : size;
    memcpy(image, data, size);
    memset(image + size, 0, bytes - size);
    tiny_fix_hashes(image, bytes);
    if (file < 0) {
        strcpy(path, "/tmp/gptc-fuzz-artifact-XXXXXX");
        file = mkstemp(path);
        unlink(path); /* it lives on in /proc, and goes with this process */
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    if (ftruncate(file, (off_t)bytes) || pwrite(file, image, bytes, 0) != (ssize_t)bytes) return 0;
    gptc_model *m;
    gptc_detail why;
    gptc_open_options o = {.cpu_level = data[size - 1] & 1};
    gptc_status st = gptc_open(path, &o, &m, &why);
    if (st && !why.text[0]) abort();
    if (st) return 0;
    if (m->cuda) read_kernels(m);
    if (small(m)) run(m);
    gptc_close(m);
    return 0;
}
