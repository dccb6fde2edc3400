/* unit.h: what every unit test's main() begins and ends with.
 *
 *   int main(void) {
 *       if (unit_begin()) return 1;
 *       CU_pSuite s = CU_add_suite("name", NULL, NULL);
 *       CU_add_test(s, "what holds", test_what_holds);
 *       return unit_end();
 *   }
 *
 * A suite whose set-up fails and a program that runs no test are failures, as a failed assertion is. */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include <CUnit/Basic.h>
#include <stdio.h>

static inline int unit_begin(void) { return CU_initialize_registry() != CUE_SUCCESS; }

static inline int unit_end(void) {
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_ErrorCode error = CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures() + CU_get_number_of_tests_failed() +
                      CU_get_number_of_suites_failed() + CU_get_number_of_tests_inactive();
    unsigned run = CU_get_number_of_tests_run();
    CU_cleanup_registry();
    if (!run) fprintf(stderr, "FAIL: no test ran\n");
    return error != CUE_SUCCESS || failed || !run;
}

#endif
