/* embed.c: generate text from C with a compiled model.
 *   cc examples/embed.c -I. build/runtime/libgptc.a -lm -lpthread -o embed && ./embed model.bin "Once upon a time"
 * After "make install": include <gptc.h>, and cc embed.c $(pkg-config --cflags --libs gptc). */
#include <stdio.h>
#include <string.h>

#include "runtime/gptc.h"

static int show(void *user, int32_t id, const char *bytes, size_t count) {
    (void)user, (void)id;
    fwrite(bytes, 1, count, stdout);
    return 0;
}

int main(int argc, char **argv) {
    gptc_model *model = NULL;
    gptc_session *session = NULL;
    gptc_sampler *sampler = NULL;
    gptc_detail why = {""};
    int32_t ids[1024];
    size_t n = 0;
    if (argc != 3) return fprintf(stderr, "usage: embed MODEL.bin TEXT\n"), 2;
    gptc_sampler_options sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 1};
    gptc_status st = gptc_open(argv[1], NULL, &model, &why);
    if (!st) st = gptc_session_new(model, NULL, &session, &why);
    if (!st) st = gptc_sampler_new(model, &sampling, &sampler);
    if (!st) st = gptc_encode(model, argv[2], strlen(argv[2]), ids, 1024, &n);
    if (!st && n > 1024) st = GPTC_E_CONTEXT;
    if (!st) st = gptc_prefill(session, 0, ids, n, GPTC_LOGITS_LAST);
    if (!st) st = gptc_generate(session, 0, sampler, 64, show, NULL, NULL);
    if (st) fprintf(stderr, "%s %s\n", gptc_strerror(st), why.text);
    gptc_sampler_free(sampler);
    gptc_session_free(session);
    gptc_close(model);
    return st != GPTC_OK;
}
