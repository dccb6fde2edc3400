/* doctor.h: what gptc makes of a model before it is compiled: the import doctor of gptc-inspect. */
#ifndef GPTC_DOCTOR_H
#define GPTC_DOCTOR_H

#include "tools/driver.h"
#include "tools/report.h"

/* doctor_words.c: the architecture, read off a raised graph: layers, heads, positions, masks, norms,
 * activations, parameters. Names are not looked at. Adds sections "architecture" and "parameters". */
void doctor_architecture(Report *r, Graph *g);

/* doctor.c: all of it. True when the model would compile. A file that cannot be read leaves the report empty. The graph that was looked at is left in *raised
 * (NULL when the file cannot be imported), in c's arena. */
bool doctor_examine(Report *r, Compile *c, const char *path, const ImportOptions *opt, Graph **raised);

#endif
