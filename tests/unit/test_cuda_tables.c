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

/* A section with a persistent kernel and one place. */
typedef struct {
    ArtCuda head;
    ArtCudaFunction function;
    ArtCudaPlace place;
    char text[8];
} Placed;

static bool place_passes(uint32_t kind, uint32_t value) {
    const ArtPlan plan = {.n_states = 2};
    Placed s = {
        .head = section().head, .function = {.threads = 288}, .place = {kind, value}, .text = "decode"};
    s.head.decode = 0, s.head.n_places = 1, s.head.decode_bytes = 1280;
    const gptc_model m = {.plan = &plan, .cuda = &s, .cuda_bytes = sizeof s, .n_tensors = 3};
    CudaKernels k;
    gptc_detail why = {0};
    gptc_status status = cuda_kernels_check(&m, &k, &why);
    CU_ASSERT(status == GPTC_OK || (status == GPTC_E_FORMAT && strstr(why.text, "persistent kernel")));
    return status == GPTC_OK;
}

static void test_places(void) {
    CU_ASSERT_TRUE(place_passes(ART_CUDA_TENSOR, 2) && place_passes(ART_CUDA_STATE, 1));
    CU_ASSERT_FALSE(place_passes(ART_CUDA_TENSOR, 3) || place_passes(ART_CUDA_STATE, 2));
    CU_ASSERT_TRUE(place_passes(ART_CUDA_NUMBER, 0) && place_passes(ART_CUDA_NUMBER, 1279));
    CU_ASSERT_FALSE(place_passes(ART_CUDA_NUMBER, 1280)); /* no number of anything in the block's memory */
    CU_ASSERT_FALSE(place_passes(ART_CUDA_ROWS, 0) || place_passes(ART_CUDA_NUMBER + 1, 0));
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("tables of CUDA kernels", NULL, NULL);
    CU_add_test(s, "what is right passes", test_right);
    CU_add_test(s, "another interface is refused", test_interface);
    CU_add_test(s, "places are of three kinds", test_places);
    CU_add_test(s, "what is out of range is refused", test_out_of_range);
    return unit_end();
}
