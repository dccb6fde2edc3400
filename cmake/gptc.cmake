# One CMake library per folder, so that the linker enforces who may use whom.

set(GPTC_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes
                  -Wmissing-prototypes -Wundef -Wvla
                  -Wno-missing-field-initializers) # a table's trailing columns are 0 where left out

function(gptc_options target)
  target_compile_options(${target} PRIVATE ${GPTC_WARNINGS})
  if(GPTC_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  target_compile_definitions(${target} PRIVATE _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  if(GPTC_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${GPTC_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all -g)
    target_link_options(${target} PRIVATE -fsanitize=${GPTC_SANITIZE})
  endif()
  if(GPTC_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(GPTC_COVERAGE)
    target_compile_options(${target} PRIVATE -fprofile-instr-generate -fcoverage-mapping)
    target_link_options(${target} PRIVATE -fprofile-instr-generate)
  endif()
endfunction()

function(gptc_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  gptc_options(${name})
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
endfunction()
