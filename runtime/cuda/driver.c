/* driver.c: opens the CUDA driver (see driver.h). */
#include "runtime/cuda/driver.h"

#include "runtime/runtime.h"

#include <dlfcn.h>
#include <string.h>

/* A function pointer from dlsym, which gives an object pointer (POSIX says how). */
static bool symbol(void *library, const char *name, void *to) {
    void *p = dlsym(library, name);
    memcpy(to, &p, sizeof p);
    return p != NULL;
}

gptc_status cuda_driver_open(CudaDriver *d, const char *path, gptc_detail *why) {
    const char *missing = NULL;
    memset(d, 0, sizeof *d);
    d->library = dlopen(path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!d->library)
        return status_fail(why, GPTC_E_UNSUPPORTED, "no NVIDIA driver: %s; the CPU runs the same file",
                           dlerror());
#define CALL(member, name, parameters)                                                                       \
    if (!symbol(d->library, name, &d->member) && !missing) missing = name;
    CUDA_CALLS(CALL)
#undef CALL
    if (!missing) return GPTC_OK;
    cuda_driver_close(d);
    return status_fail(why, GPTC_E_UNSUPPORTED,
                       "the NVIDIA driver is too old: it has no %s; one for CUDA 12 or newer is needed",
                       missing);
}

void cuda_driver_close(CudaDriver *d) {
    if (d->library) dlclose(d->library);
    memset(d, 0, sizeof *d);
}

gptc_status cuda_check(const CudaDriver *d, CuResult r, const char *call, gptc_detail *why) {
    const char *text = NULL;
    if (r == 0) return GPTC_OK;
    d->error_string(r, &text);
    return status_fail(why, r == CU_OUT_OF_MEMORY ? GPTC_E_MEMORY : GPTC_E_DEVICE, "%s: %s (%d)", call,
                       text ? text : "unknown error", r);
}
