/* cli.h: options of the command line tools, one table per tool.
 *
 * "--name VALUE", "--name=VALUE", "-n VALUE", "-nVALUE" and "--flag"; the rest is positional. Every tool
 * answers --help from its table and --version. Exit statuses are the same for all tools. Also what every
 * tool does with a status of the runtime, at its end, and with numbers in JSON. */
#ifndef GPTC_CLI_H
#define GPTC_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/gptc.h"

/* done; the input or what was asked of it is at fault; usage; the machine or this build lacks something
 * (memory, a target); a bug */
enum { EXIT_DONE = 0, EXIT_INPUT = 1, EXIT_USAGE = 2, EXIT_MACHINE = 3, EXIT_BUG = 70 };

typedef enum {
    CLI_FLAG,
    CLI_STRING,
    CLI_INT,
    CLI_FLOAT,
    CLI_OPTIONAL
} CliKind; /* OPTIONAL: --name or --name=VALUE */
typedef struct {
    const char *name;       /* "--out"; NULL ends the table */
    const char *short_name; /* "-o" or NULL */
    CliKind kind;
    void *to;              /* bool *, const char **, int64_t *, double * */
    const char *arg, *doc; /* "FILE", "where to write" */
} CliOption;
typedef struct {
    const char *tool, *usage, *about;
    const CliOption *options;
    const char **positional; /* filled in; max entries */
    size_t max, count;
} Cli;

/* -1: go on. Otherwise the exit status (help, version, or a usage error that was printed). */
int cli_parse(Cli *c, int argc, char **argv);

/* Prints "TOOL: WHAT: ARG; see TOOL --help" to stderr; arg may be NULL. Returns EXIT_USAGE. */
int cli_usage(const char *tool, const char *what, const char *arg);
/* Prints "TOOL: WHERE: the status in words: DETAIL" to stderr; where and detail may be NULL or "". Returns
 * the exit status that s means. */
int cli_fail(const char *tool, const char *where, gptc_status s, const char *detail);
/* --device: "cpu", "cuda" or "cuda:LIB", a driver library in place of libcuda.so.1. -1, or the exit status. */
int cli_device(const char *tool, const char *name, gptc_session_options *to);
/* --decode NAME (NULL: not given) the same way. */
int cli_decode(const char *tool, const char *name, gptc_session_options *to);
/* Last of all: flushes stdout. If that or a write before failed, says so; else returns status. */
int cli_finish(const char *tool, int status);
double cli_seconds(void); /* of a clock that only goes forward */
/* x with %.*g, or null where JSON has no number for it. */
typedef struct {
    char text[40];
} JsonNumber;
JsonNumber json_number(double x, int digits);

#endif
