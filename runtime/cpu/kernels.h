/* kernels.h: the table of one level's kernels. A kernels_*.c file defines CPU_LEVEL, CPU_TABLE and CPU_NAME
 * and includes this. */
#include "runtime/cpu/attention.h"
#include "runtime/cpu/linear.h"
#include "runtime/cpu/pick.h"
#include "runtime/cpu/pointwise.h"
#include "runtime/cpu/product.h"
#include "runtime/cpu/reduce.h"
#include "runtime/cpu/routed.h"
#include "runtime/cpu/rows.h"
#include "runtime/cpu/tables.h"

const CpuKernels CPU_TABLE = {
    .name = CPU_NAME,
    .gather = gather,
    .norm = norm,
    .linear = linear,
    .rope = rope,
    .store = store,
    .attention = attention,
    .pointwise = pointwise,
    .reduce = reduce,
    .softmax = softmax,
    .move = move,
    .topk = topk,
    .pick = pick,
    .routed = routed,
    .product = product,
    .tile = pointwise_insn,
};
