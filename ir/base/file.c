/* file.c: whole files in (mapped) and out (written beside, then renamed).
 *
 * A destination that exists and is no plain file (a device, a pipe) is written in place: renaming
 * over it would replace it. A destination that is a link is followed, so that the link stays. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ir/base/base.h"

#define WRITE_BUFFER ((size_t)1 << 16)

static bool file_read_stream(int fd, FileView *out, Diag *d) {
    uint8_t *data = NULL;
    size_t count = 0, cap = 0;
    for (;;) {
        if (count == cap) {
            size_t more = cap == 0 ? WRITE_BUFFER : cap;
            uint8_t *grown = cap > SIZE_MAX / 2 ? NULL : realloc(data, cap + more);
            if (grown == NULL) {
                free(data);
                return diag_error(d, loc_file(out->path), "the stream does not fit in memory");
            }
            data = grown;
            cap += more;
        }
        ssize_t n = read(fd, data + count, cap - count);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int error = errno;
            free(data);
            return diag_error(d, loc_file(out->path), "cannot read: %s", strerror(error));
        }
        if (n == 0) break;
        count += (size_t)n;
    }
    if (count == 0) {
        free(data);
        data = NULL;
    }
    out->data = data == NULL ? (const uint8_t *)"" : data;
    out->bytes = count;
    return true;
}

static bool file_map_fd(int fd, FileView *out, Diag *d) {
    struct stat st;
    if (fstat(fd, &st) != 0) return diag_error(d, loc_file(out->path), "cannot inspect: %s", strerror(errno));
    if (S_ISDIR(st.st_mode)) return diag_error(d, loc_file(out->path), "is a directory, not a file");
    if (!S_ISREG(st.st_mode)) return file_read_stream(fd, out, d);
    if (st.st_size == 0) {
        out->data = (const uint8_t *)"";
        return true;
    }
    if ((uintmax_t)st.st_size > SIZE_MAX) return diag_error(d, loc_file(out->path), "is too large to map");
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return diag_error(d, loc_file(out->path), "cannot map: %s", strerror(errno));
    out->data = p;
    out->bytes = (size_t)st.st_size;
    out->mapped = true;
    return true;
}

bool file_map(const char *path, FileView *out, Diag *d) {
    *out = (FileView){NULL, 0, false, path};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return diag_error(d, loc_file(path), "cannot open: %s", strerror(errno));
    bool ok = file_map_fd(fd, out, d);
    close(fd);
    return ok;
}

void file_unmap(FileView *f) {
    if (f->bytes != 0) {
        if (f->mapped)
            munmap((void *)(uintptr_t)f->data, f->bytes);
        else
            free((void *)(uintptr_t)f->data);
    }
    *f = (FileView){0};
}

struct FileWriter {
    char *path;      /* as the user gave it, for messages */
    char *dest;      /* where it ends up: path with links followed */
    char *temporary; /* NULL when written in place */
    uint8_t *buffer;
    size_t buffered;
    uint64_t flushed;
    int fd;
    bool unnamed; /* `temporary` is a path to the handle */
    int error;    /* errno of the first failure, 0 while all is well */
};

static void writer_free(FileWriter *w) {
    if (w == NULL) return;
    if (w->fd >= 0) close(w->fd);
    free(w->path);
    free(w->dest);
    free(w->temporary);
    free(w->buffer);
    free(w);
}

static bool writer_open(FileWriter *w) {
    struct stat st;
    bool exists = stat(w->path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        return false;
    }
    if (exists && !S_ISREG(st.st_mode)) {
        w->fd = open(w->path, O_WRONLY | O_CLOEXEC);
        return w->fd >= 0;
    }
    w->dest = exists ? realpath(w->path, NULL) : strdup(w->path);
    if (w->dest == NULL) return false;
    size_t room = strlen(w->dest) + 64;
    w->temporary = malloc(room);
    if (w->temporary == NULL) return false;
    for (int attempt = 0; attempt < 100 && w->fd < 0; attempt++) {
        if (attempt == 0)
            snprintf(w->temporary, room, "%s.tmp-%ld", w->dest, (long)getpid());
        else
            snprintf(w->temporary, room, "%s.tmp-%ld-%d", w->dest, (long)getpid(), attempt);
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd < 0 && errno != EEXIST) return false;
    }
    return w->fd >= 0;
}

FileWriter *file_create(const char *path, Diag *d) {
    FileWriter *w = calloc(1, sizeof(*w));
    if (w != NULL) {
        w->fd = -1;
        w->path = strdup(path);
        w->buffer = malloc(WRITE_BUFFER);
        if (w->path != NULL && w->buffer != NULL && writer_open(w)) return w;
    }
    diag_error(d, loc_file(path), "cannot create: %s", strerror(errno));
    writer_free(w);
    return NULL;
}

static bool write_all(FileWriter *w, const uint8_t *data, size_t bytes) {
    while (bytes > 0 && w->error == 0) {
        ssize_t n = write(w->fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            w->error = n < 0 ? errno : EIO;
            break;
        }
        data += n;
        bytes -= (size_t)n;
        w->flushed += (uint64_t)n;
    }
    return w->error == 0;
}

static bool writer_flush(FileWriter *w) {
    if (w->error == 0 && w->buffered != 0) write_all(w, w->buffer, w->buffered);
    w->buffered = 0;
    return w->error == 0;
}

bool file_write(FileWriter *w, const void *data, size_t bytes) {
    if (w->error != 0) return false;
    if (bytes == 0) return true;
    if (bytes > WRITE_BUFFER - w->buffered && !writer_flush(w)) return false;
    if (bytes >= WRITE_BUFFER) return write_all(w, data, bytes);
    memcpy(w->buffer + w->buffered, data, bytes);
    w->buffered += bytes;
    return true;
}

uint64_t file_offset(const FileWriter *w) { return w->flushed + w->buffered; }

bool file_pad(FileWriter *w, size_t alignment) {
    static const uint8_t zeros[256] = {0};
    if (alignment == 0) return w->error == 0;
    size_t left = (size_t)(file_offset(w) % alignment);
    left = left == 0 ? 0 : alignment - left;
    while (left > 0) {
        size_t n = left < sizeof(zeros) ? left : sizeof(zeros);
        if (!file_write(w, zeros, n)) return false;
        left -= n;
    }
    return w->error == 0;
}

bool file_write_at(FileWriter *w, uint64_t offset, const void *data, size_t bytes) {
    if (!writer_flush(w)) return false;
    const uint8_t *p = data;
    if (bytes > w->flushed || offset > w->flushed - bytes) w->error = EINVAL;
    while (bytes > 0 && w->error == 0) {
        ssize_t n = pwrite(w->fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            w->error = n < 0 ? errno : EIO;
            break;
        }
        p += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return w->error == 0;
}

static void sync_folder_of(const char *path) {
    char *folder = strdup(path);
    if (folder == NULL) return;
    char *slash = strrchr(folder, '/');
    const char *name = ".";
    if (slash == folder) {
        name = "/";
    } else if (slash != NULL) {
        *slash = '\0';
        name = folder;
    }
    /* Best effort: some file systems refuse to sync a folder, and the file itself is safe. */
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

bool file_flush(FileWriter *w) { return writer_flush(w); }

const char *file_temporary(const FileWriter *w) { return w->temporary != NULL ? w->temporary : w->path; }

void file_unname(FileWriter *w) {
    char by_handle[64];
    snprintf(by_handle, sizeof by_handle, "/proc/self/fd/%d", w->fd);
    char *path = access(by_handle, R_OK) == 0 ? strdup(by_handle) : NULL;
    if (path == NULL || w->temporary == NULL || unlink(w->temporary) != 0) {
        free(path);
        return; /* it keeps its name */
    }
    free(w->temporary);
    w->temporary = path;
    w->unnamed = true;
}

bool file_commit(FileWriter *w, Diag *d) {
    writer_flush(w);
    if (w->error == 0 && w->temporary != NULL && fsync(w->fd) != 0) w->error = errno;
    if (close(w->fd) != 0 && w->error == 0) w->error = errno;
    w->fd = -1;
    if (w->temporary != NULL) {
        if (w->error == 0 && rename(w->temporary, w->dest) != 0) w->error = errno;
        if (w->error != 0)
            (void)unlink(w->temporary);
        else
            sync_folder_of(w->dest);
    }
    bool ok = w->error == 0;
    if (!ok) diag_error(d, loc_file(w->path), "cannot write: %s", strerror(w->error));
    writer_free(w);
    return ok;
}

void file_abandon(FileWriter *w) {
    if (w == NULL) return;
    if (w->temporary != NULL && !w->unnamed) (void)unlink(w->temporary);
    writer_free(w);
}

bool file_write_text(const char *path, const char *text, size_t bytes, Diag *d) {
    FileWriter *w = file_create(path, d);
    if (w == NULL) return false;
    file_write(w, text, bytes);
    return file_commit(w, d);
}

bool file_same(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && S_ISREG(x.st_mode) && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

bool file_inside(const char *dir, const char *name, Arena *a, const char **out, Diag *d) {
    *out = NULL;
    Loc loc = loc_file(dir);
    if (*dir == '\0') dir = ".";
    if (*name == '\0') return diag_error(d, loc, "a file name inside this folder is empty");
    if (*name == '/')
        return diag_error(d, loc,
                          "\"%s\" is an absolute path; hint: only files inside the model's "
                          "folder are read",
                          name);
    char *root = realpath(dir, NULL);
    if (root == NULL) return diag_error(d, loc, "cannot resolve the folder: %s", strerror(errno));
    char *whole = realpath(arena_printf(a, "%s/%s", root, name), NULL);
    bool ok = false;
    if (whole == NULL) {
        diag_error(d, loc, "cannot find \"%s\" in this folder: %s", name, strerror(errno));
    } else {
        size_t n = strlen(root);
        while (n > 0 && root[n - 1] == '/') n--;
        ok = strncmp(whole, root, n) == 0 && whole[n] == '/';
        if (ok)
            *out = arena_strdup(a, whole);
        else
            diag_error(d, loc, "\"%s\" leads out of this folder; hint: copy the file into it", name);
    }
    free(root);
    free(whole);
    return ok;
}
