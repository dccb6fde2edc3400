/* expect.h: kernels on the host, each with what must be said of it: "" or a part of the fault's line. */
#ifndef TESTS_CUDA_EXPECT_H
#define TESTS_CUDA_EXPECT_H

#include "codegen/cuda/kernels/prelude_host.h"

static int failures;

static void expect(const char *name, const char *pattern, u32 blocks, u32 threads,
                   const std::function<void()> &kernel, u32 resident = 1, size_t shared_bytes = 0) {
    std::string got = host::launch(blocks, 1, threads, shared_bytes, resident, kernel);
    bool ok = *pattern ? got.find(pattern) != std::string::npos : got.empty();
    if (ok) return;
    printf("FAIL: %s: wanted \"%s\", got \"%s\"\n", name, pattern, got.c_str());
    failures++;
}

#endif
