/* nvrtc.c: a compiler that compiles nothing, in libnvrtc's place (--nvrtc LIB): tests of what is around the kernels
 * need no toolkit. The "code" is the text behind what code begins with, so that a driver that runs nothing can still
 * read what the kernels take. */
#include <string.h>

static const char head[] = "\177ELF";
static const char *text;

int nvrtcVersion(int *major, int *minor);
int nvrtcVersion(int *major, int *minor) {
    *major = 13, *minor = 0;
    return 0;
}
int nvrtcCreateProgram(void **p, const char *source, const char *name, int n, const char *const *a,
                       const char *const *b);
int nvrtcCreateProgram(void **p, const char *source, const char *name, int n, const char *const *a,
                       const char *const *b) {
    (void)name, (void)n, (void)a, (void)b;
    text = source;
    *p = &text;
    return 0;
}
int nvrtcDestroyProgram(void **p);
int nvrtcDestroyProgram(void **p) {
    *p = NULL;
    return 0;
}
int nvrtcCompileProgram(void *p, int n, const char *const *options);
int nvrtcCompileProgram(void *p, int n, const char *const *options) {
    (void)p;
    return n < 2 || strncmp(options[0], "--gpu-architecture=", 19) != 0 || !strstr(text, "KERNEL(");
}
int nvrtcGetProgramLogSize(void *p, size_t *n);
int nvrtcGetProgramLogSize(void *p, size_t *n) {
    (void)p;
    *n = 1;
    return 0;
}
int nvrtcGetProgramLog(void *p, char *log);
int nvrtcGetProgramLog(void *p, char *log) {
    (void)p;
    *log = 0;
    return 0;
}
int nvrtcGetCUBINSize(void *p, size_t *n);
int nvrtcGetCUBINSize(void *p, size_t *n) {
    (void)p;
    *n = sizeof head - 1 + strlen(text) + 1;
    return 0;
}
int nvrtcGetCUBIN(void *p, char *to);
int nvrtcGetCUBIN(void *p, char *to) {
    (void)p;
    memcpy(to, head, sizeof head - 1);
    memcpy(to + sizeof head - 1, text, strlen(text) + 1);
    return 0;
}
int nvrtcGetPTXSize(void *p, size_t *n);
int nvrtcGetPTXSize(void *p, size_t *n) { return nvrtcGetCUBINSize(p, n); }
int nvrtcGetPTX(void *p, char *to);
int nvrtcGetPTX(void *p, char *to) { return nvrtcGetCUBIN(p, to); }
const char *nvrtcGetErrorString(int e);
const char *nvrtcGetErrorString(int e) { return e ? "refused" : "ok"; }
