/* driver.h: the part of the CUDA driver API that the runtime uses, opened at run time: a machine without a GPU
 * needs nothing, and tests put a driver of their own in its place. The types are those of the API's
 * documentation; no header of a toolkit is needed. */
#ifndef RUNTIME_CUDA_DRIVER_H
#define RUNTIME_CUDA_DRIVER_H

#include "runtime/gptc.h"

#include <stddef.h>
#include <stdint.h>

typedef int CuResult; /* 0: done; 2: out of memory */
typedef int CuDevice;
typedef uint64_t CuPointer;
typedef struct CuContextS *CuContext;
typedef struct CuModuleS *CuModule;
typedef struct CuFunctionS *CuFunction;
typedef struct CuStreamS *CuStream;
typedef struct CuGraphS *CuGraph;
typedef struct CuGraphExecS *CuGraphExec;
enum {
    CU_OUT_OF_MEMORY = 2,
    CU_NOT_READY = 600,
    CU_CAPTURE_THREAD = 1,
    CU_MOST_SHARED = 8 /* of a function */
};
enum {
    CU_SMS = 16,
    CU_MAJOR = 75,
    CU_MINOR = 76,
    CU_COOPERATIVE = 95,
    CU_SHARED_BYTES = 97
}; /* of a device */

typedef struct { /* CUlaunchAttribute */
    uint32_t id;
    uint8_t pad[4];
    union {
        uint8_t bytes[64];
        int programmatic; /* id 6: the launch may begin before the one before it has ended */
        int cooperative;  /* id 2: all blocks run at once, or the launch is refused */
    } value;
} CuAttribute;
enum { CU_ATTRIBUTE_COOPERATIVE = 2, CU_ATTRIBUTE_PROGRAMMATIC = 6 };
typedef struct { /* CUlaunchConfig */
    uint32_t grid[3], block[3], shared_bytes;
    CuStream stream;
    CuAttribute *attributes;
    uint32_t n_attributes;
} CuLaunch;

/* CALL(member, symbol, parameters) */
#define CUDA_CALLS(CALL)                                                                                     \
    CALL(init, "cuInit", (unsigned))                                                                         \
    CALL(version, "cuDriverGetVersion", (int *))                                                             \
    CALL(error_string, "cuGetErrorString", (CuResult, const char **))                                        \
    CALL(device_count, "cuDeviceGetCount", (int *))                                                          \
    CALL(device_get, "cuDeviceGet", (CuDevice *, int))                                                       \
    CALL(device_name, "cuDeviceGetName", (char *, int, CuDevice))                                            \
    CALL(device_attribute, "cuDeviceGetAttribute", (int *, int, CuDevice))                                   \
    CALL(context_retain, "cuDevicePrimaryCtxRetain", (CuContext *, CuDevice))                                \
    CALL(context_release, "cuDevicePrimaryCtxRelease_v2", (CuDevice))                                        \
    CALL(context_current, "cuCtxSetCurrent", (CuContext))                                                    \
    CALL(memory_info, "cuMemGetInfo_v2", (size_t *, size_t *))                                               \
    CALL(memory_new, "cuMemAlloc_v2", (CuPointer *, size_t))                                                 \
    CALL(memory_free, "cuMemFree_v2", (CuPointer))                                                           \
    CALL(memory_set, "cuMemsetD8Async", (CuPointer, unsigned char, size_t, CuStream))                        \
    CALL(upload, "cuMemcpyHtoDAsync_v2", (CuPointer, const void *, size_t, CuStream))                        \
    CALL(download, "cuMemcpyDtoHAsync_v2", (void *, CuPointer, size_t, CuStream))                            \
    CALL(copy, "cuMemcpyDtoDAsync_v2", (CuPointer, CuPointer, size_t, CuStream))                             \
    CALL(stream_new, "cuStreamCreate", (CuStream *, unsigned))                                               \
    CALL(stream_wait, "cuStreamSynchronize", (CuStream))                                                     \
    CALL(stream_query, "cuStreamQuery", (CuStream))                                                          \
    CALL(stream_free, "cuStreamDestroy_v2", (CuStream))                                                      \
    CALL(host_new, "cuMemHostAlloc", (void **, size_t, unsigned))                                            \
    CALL(host_free, "cuMemFreeHost", (void *))                                                               \
    CALL(host_address, "cuMemHostGetDevicePointer_v2", (CuPointer *, void *, unsigned))                      \
    CALL(module_load, "cuModuleLoadData", (CuModule *, const void *))                                        \
    CALL(module_free, "cuModuleUnload", (CuModule))                                                          \
    CALL(module_function, "cuModuleGetFunction", (CuFunction *, CuModule, const char *))                     \
    CALL(function_set, "cuFuncSetAttribute", (CuFunction, int, int))                                         \
    CALL(launch, "cuLaunchKernelEx", (const CuLaunch *, CuFunction, void **, void **))                       \
    CALL(capture_begin, "cuStreamBeginCapture_v2", (CuStream, int))                                          \
    CALL(capture_end, "cuStreamEndCapture", (CuStream, CuGraph *))                                           \
    CALL(graph_make, "cuGraphInstantiateWithFlags", (CuGraphExec *, CuGraph, unsigned long long))            \
    CALL(graph_launch, "cuGraphLaunch", (CuGraphExec, CuStream))                                             \
    CALL(graph_free, "cuGraphExecDestroy", (CuGraphExec))                                                    \
    CALL(graph_text_free, "cuGraphDestroy", (CuGraph))

typedef struct {
    void *library;
#define CALL(member, symbol, parameters) CuResult(*member) parameters;
    CUDA_CALLS(CALL)
#undef CALL
} CudaDriver;

/* path NULL: libcuda.so.1. GPTC_E_UNSUPPORTED says what is missing. */
gptc_status cuda_driver_open(CudaDriver *d, const char *path, gptc_detail *why);
void cuda_driver_close(CudaDriver *d);
/* GPTC_OK, or a status that names the call, what the driver said and nothing else. */
gptc_status cuda_check(const CudaDriver *d, CuResult r, const char *call, gptc_detail *why);

#endif
