/* status.c: statuses in words, and the detail that goes with one. */
#include "runtime/runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *gptc_strerror(gptc_status s) {
    switch (s) {
    case GPTC_OK: return "ok";
    case GPTC_E_ARGUMENT: return "an argument is out of range";
    case GPTC_E_MEMORY: return "not enough memory";
    case GPTC_E_IO: return "the file cannot be read";
    case GPTC_E_FORMAT: return "not a gptc file, or damaged";
    case GPTC_E_VERSION: return "the file was made for another major version";
    case GPTC_E_CHECKSUM: return "a checksum does not match: the file is damaged";
    case GPTC_E_UNSUPPORTED: return "this library or machine lacks what is asked for";
    case GPTC_E_DEVICE: return "the GPU or its driver reported an error";
    case GPTC_E_NO_TOKENIZER: return "the file has no tokenizer";
    case GPTC_E_TOKEN: return "a token id is outside the vocabulary";
    case GPTC_E_CONTEXT: return "the sequence would outgrow its context";
    case GPTC_E_NO_LOGITS: return "no logits were computed there";
    case GPTC_E_STOPPED: return "stopped by the callback";
    case GPTC_E_SHAPE: return "a tensor's dtype or shape does not fit the function";
    case GPTC_E_INDEX: return "an index is outside its axis";
    }
    return "unknown status";
}

const char *gptc_version(void) { return "0.1.0"; }

gptc_status status_fail(gptc_detail *why, gptc_status s, const char *fmt, ...) {
    if (why) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(why->text, sizeof why->text, fmt, ap);
        va_end(ap);
    }
    return s;
}

void options_read(void *to, size_t bytes, const void *from) {
    size_t given = 0;
    if (from) memcpy(&given, from, sizeof given);
    if (from) memcpy(to, from, given && given < bytes ? given : bytes);
}

void info_write(void *to, const void *from, size_t bytes) {
    size_t given, head = sizeof given;
    memcpy(&given, to, head);
    size_t n = given && given < bytes ? given : bytes;
    if (n > head) memcpy((char *)to + head, (const char *)from + head, n - head);
}
