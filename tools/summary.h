/* summary.h: what a compile says of itself, on stderr. */
#ifndef GPTC_TOOLS_SUMMARY_H
#define GPTC_TOOLS_SUMMARY_H

#include "tools/driver.h"

/* What was recognised; no_cache: --no-kv-cache was given. */
void summary_graph(const Compile *c, bool no_cache, int64_t ctx);
/* What was planned, verified and written to `out`. */
void summary_written(const CompileResult *r, const char *out, double seconds);

#endif
