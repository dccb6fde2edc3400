#include "tools/cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void print_help(const Cli *c) {
    printf("usage: %s %s\n\n%s\n\noptions:\n", c->tool, c->usage, c->about);
    for (const CliOption *o = c->options; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s%s", o->short_name ? o->short_name : "",
                 o->short_name ? ", " : "", o->name, o->arg ? (o->kind == CLI_OPTIONAL ? "[=" : " ") : "",
                 o->arg ? o->arg : "");
        if (o->arg && o->kind == CLI_OPTIONAL) strncat(left, "]", sizeof left - strlen(left) - 1);
        printf("  %-28s %s\n", left, o->doc);
    }
    printf("  %-28s %s\n  %-28s %s\n", "-h, --help", "this text", "--version", "the version");
    printf(
        "\nexit status: 0 done, 1 the input or what is asked of it is at fault, 2 usage, 3 this machine or\n"
        "build lacks something, 70 a bug\n");
}

int cli_usage(const char *tool, const char *what, const char *arg) {
    fprintf(stderr, "%s: %s%s%s; see %s --help\n", tool, what, arg ? ": " : "", arg ? arg : "", tool);
    return EXIT_USAGE;
}

static int store(const Cli *c, const CliOption *o, const char *value) {
    char *end = NULL;
    errno = 0;
    switch (o->kind) {
    case CLI_FLAG: *(bool *)o->to = true; return -1;
    case CLI_STRING:
    case CLI_OPTIONAL: *(const char **)o->to = value; return -1;
    case CLI_INT: *(int64_t *)o->to = strtoll(value, &end, 10); break;
    case CLI_FLOAT: *(double *)o->to = strtod(value, &end); break;
    }
    if (!end || *end || end == value || errno) return cli_usage(c->tool, "no number", value);
    return -1;
}

/* The option that arg names, and its attached value if it has one. */
static const CliOption *find(const Cli *c, const char *arg, const char **value) {
    *value = NULL;
    for (const CliOption *o = c->options; o->name; o++) {
        size_t n = strlen(o->name);
        if (!strcmp(arg, o->name)) return o;
        if (!strncmp(arg, o->name, n) && arg[n] == '=' && o->kind != CLI_FLAG) {
            *value = arg + n + 1;
            return o;
        }
        if (!o->short_name) continue;
        n = strlen(o->short_name);
        if (!strcmp(arg, o->short_name)) return o;
        if (arg[1] != '-' && !strncmp(arg, o->short_name, n) && o->kind != CLI_FLAG) {
            *value = arg + n;
            return o;
        }
    }
    return NULL;
}

int cli_parse(Cli *c, int argc, char **argv) {
    bool only_positional = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value;
        if (only_positional || arg[0] != '-' || !arg[1]) {
            if (c->count == c->max) return cli_usage(c->tool, "one argument too many", arg);
            c->positional[c->count++] = arg;
            continue;
        }
        if (!strcmp(arg, "--")) {
            only_positional = true;
            continue;
        }
        if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            print_help(c);
            return cli_finish(c->tool, EXIT_DONE);
        }
        if (!strcmp(arg, "--version")) {
            printf("%s %s\n", c->tool, gptc_version());
            return cli_finish(c->tool, EXIT_DONE);
        }
        const CliOption *o = find(c, arg, &value);
        if (!o) return cli_usage(c->tool, "no such option", arg);
        bool needs = o->kind != CLI_FLAG && o->kind != CLI_OPTIONAL;
        if (needs && !value && i + 1 == argc) return cli_usage(c->tool, "a value is missing after", arg);
        if (needs && !value) value = argv[++i];
        if (o->kind == CLI_OPTIONAL && !value) value = "";
        int status = store(c, o, value);
        if (status >= 0) return status;
    }
    return -1;
}

int cli_fail(const char *tool, const char *where, gptc_status s, const char *detail) {
    const char *at = where ? where : "", *more = detail ? detail : "";
    fprintf(stderr, "%s: %s%s%s%s%s\n", tool, at, *at ? ": " : "", gptc_strerror(s), *more ? ": " : "", more);
    return s == GPTC_E_MEMORY || s == GPTC_E_UNSUPPORTED ? EXIT_MACHINE : EXIT_INPUT;
}

int cli_finish(const char *tool, int status) {
    errno = 0;
    bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (!failed || status == EXIT_BUG) return status;
    fprintf(stderr, "%s: standard output: cannot write%s%s\n", tool, errno ? ": " : "",
            errno ? strerror(errno) : "");
    return EXIT_INPUT;
}

double cli_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

JsonNumber json_number(double x, int digits) {
    JsonNumber n = {"null"};
    if (isfinite(x)) snprintf(n.text, sizeof n.text, "%.*g", digits, x);
    return n;
}

int cli_decode(const char *tool, const char *name, gptc_session_options *to) {
    static const char *const forms[] = {"auto", "graph", "persistent"};
    if (!name) return -1;
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, forms[i])) return to->decode = (gptc_decode_form)i, -1;
    return cli_usage(tool, "takes auto, graph or persistent: --decode", name);
}

int cli_device(const char *tool, const char *name, gptc_session_options *to) {
    bool cuda = !strncmp(name, "cuda", 4);
    if (!strcmp(name, "cpu")) return -1;
    if (!cuda || (name[4] && name[4] != ':')) return cli_usage(tool, "takes cpu or cuda: --device", name);
    to->device = GPTC_CUDA;
    if (name[4]) to->cuda_driver = name + 5;
    return -1;
}
