/* test_cuda_tables.c: the tables of CUDA kernels of a file, as the runtime checks them: those of another interface are
 * refused by name, and so is what is out of range. */
#include <string.h>

#include "runtime/cuda/cuda.h"
#include "tests/unit/unit.h"

/* A section with one function and no launches. */
typedef struct {
    ArtCuda head;
    ArtCudaFunction function;
    char text[8];
} Section;

static Section section(void) {
    return (Section){
        .head = {.interface = ART_CUDA_INTERFACE, .n_functions = 1, .text_bytes = 8, .decode = ART_NO_INDEX},
        .function = {.threads = 256},
        .text = "draw"};
}

static gptc_status check(const Section *s, size_t bytes, gptc_detail *why) {
    const ArtPlan plan = {0};
    const gptc_model m = {.plan = &plan, .cuda = s, .cuda_bytes = bytes};
    CudaKernels k;
    why->text[0] = 0;
    return cuda_kernels_check(&m, &k, why);
}

static void expect(const Section *s, gptc_status status, const char *said) {
    gptc_detail why;
    CU_ASSERT_EQUAL(check(s, sizeof *s, &why), status);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, said));
}

static void test_right(void) {
    Section s = section();
    expect(&s, GPTC_OK, "");
}

static void test_interface(void) {
    Section s = section();
    s.head.interface++;
    expect(&s, GPTC_E_VERSION, "compile it again");
    s.head.interface = 1; /* a number of images, which stood here once */
    expect(&s, GPTC_E_VERSION, "compile it again");
}

static void test_out_of_range(void) {
    Section s = section();
    gptc_detail why;
    s.head.draw = 1;
    expect(&s, GPTC_E_FORMAT, "draws");
    s = section();
    s.head.text_bytes = 9;
    expect(&s, GPTC_E_FORMAT, "do not fit");
    s = section();
    s.head.decode = 1;
    expect(&s, GPTC_E_FORMAT, "persistent kernel is out of range");
    s = section();
    s.function.threads = 1025;
    expect(&s, GPTC_E_FORMAT, "function 0");
    s = section();
    CU_ASSERT_EQUAL(check(&s, sizeof(ArtCuda) - 1, &why), GPTC_E_FORMAT);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("tables of CUDA kernels", NULL, NULL);
    CU_add_test(s, "what is right passes", test_right);
    CU_add_test(s, "another interface is refused", test_interface);
    CU_add_test(s, "what is out of range is refused", test_out_of_range);
    return unit_end();
}
