/*
 * Preloaded into nxagent, and into nothing else.
 *
 * When its display breaks, nxagent goes on where every other X program exits. From then on a request of
 * Xlib gets no reply, which the library does not expect in two places:
 *
 * - XQueryExtension takes what happens to lie on its stack for the reply. An extension that seems to be there
 *   is then set up over the broken display, and the failure path of that frees a list that is still in use.
 * - _XReply looks into the packet that _XRead did not fill. It can wait for ever for something else.
 *
 * So on a display that is known to be broken no extension is present, and every read yields an event that
 * nobody reacts to. Generic events are refused always: the link may break between the two replies of their
 * set-up, and nxagent has no use for them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "xlib_display.h"

enum { display_is_broken = 1, event_that_nobody_minds = 14 /* NoExpose */ };

typedef int query_extension(struct display *, const char *, int *, int *, int *);
typedef int read_packet(struct display *, char *, long);

/* The programs that nxagent starts have no use for this library. */
__attribute__((constructor)) static void keep_it_from_children(void)
{
    unsetenv("LD_PRELOAD");
}

static int is_broken(const struct display *display)
{
    return (display->flags & display_is_broken) != 0;
}

int XQueryExtension(struct display *display, const char *name, int *major, int *event, int *error)
{
    query_extension *original = (query_extension *)dlsym(RTLD_NEXT, "XQueryExtension");
    int generic_events = name && strcmp(name, "Generic Event Extension") == 0;

    if (original && !generic_events) {
        int present = original(display, name, major, event, error);
        if (!is_broken(display))
            return present;
    }
    *major = *event = *error = 0;
    return 0;
}

int _XRead(struct display *display, char *data, long size)
{
    read_packet *original = (read_packet *)dlsym(RTLD_NEXT, "_XRead");
    int result = original(display, data, size);

    if (is_broken(display) && size > 0) {
        memset(data, 0, (size_t)size);
        data[0] = event_that_nobody_minds;
    }
    return result;
}
