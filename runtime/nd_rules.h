/* nd_rules.h: the rules of nd_types.c and nd_shapes.c, one of each for every family of ops; nd_rules.c says which op
 * has which. A rule returns NULL, or what is wrong. Shape rules run once the types are right. */
#ifndef RUNTIME_ND_RULES_H
#define RUNTIME_ND_RULES_H

#include "runtime/nd.h"

typedef const char *NdRule(const NdCall *c);
NdRule nd_same_types, nd_test_types, nd_cast_types, nd_binary_types, nd_where_types, nd_source_types,
    nd_move_types, nd_concat_types, nd_gather_types, nd_scatter_types, nd_reduce_types, nd_topk_types,
    nd_matmul_types, nd_linear_types, nd_norm_types;
NdRule nd_pointwise_shapes, nd_same_shapes, nd_no_shapes, nd_move_shapes, nd_concat_shapes, nd_gather_shapes,
    nd_scatter_shapes, nd_reduce_shapes, nd_topk_shapes, nd_matmul_shapes, nd_linear_shapes, nd_norm_shapes;

#define NEED(condition, text)                                                                                \
    do {                                                                                                     \
        if (!(condition)) return text;                                                                       \
    } while (0)

#endif
