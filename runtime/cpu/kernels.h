/* kernels.h: one level's kernels. A kernels_*.c file defines CPU_LEVEL, includes this and makes a table of
 * CPU_KERNELS. */
#include "runtime/cpu/attention.h"
#include "runtime/cpu/linear.h"
#include "runtime/cpu/pick.h"
#include "runtime/cpu/pointwise.h"
#include "runtime/cpu/product.h"
#include "runtime/cpu/reduce.h"
#include "runtime/cpu/routed.h"
#include "runtime/cpu/rows.h"
#include "runtime/cpu/tables.h"

/* clang-format off */
#define CPU_KERNELS(level, product_of_rows)                                                                  \
    {.name = level, .gather = gather, .norm = norm, .linear = product_of_rows, .rope = rope, .store = store, \
     .attention = attention, .pointwise = pointwise, .reduce = reduce, .softmax = softmax, .move = move,     \
     .topk = topk, .pick = pick, .routed = routed, .product = product, .tile = pointwise_insn}
/* clang-format on */
