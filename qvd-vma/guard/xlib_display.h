/*
 * The head of Xlib's struct _XDisplay, as far as the flags: the part of its layout that Xlib's own macros
 * compile into every program and that therefore never changes. Declared here so that no X headers are needed;
 * a test compares the offset with them where they are installed.
 */
#ifndef QVD_XLIB_DISPLAY_H
#define QVD_XLIB_DISPLAY_H

struct display {
    void *extension_data, *free_functions;
    int file, connection_checker, protocol_major, protocol_minor;
    char *vendor;
    unsigned long resource_base, resource_mask, resource_id;
    int resource_shift;
    void *resource_allocator;
    int byte_order, bitmap_unit, bitmap_pad, bitmap_bit_order, format_count;
    void *formats;
    int protocol_version, release;
    void *event_head, *event_tail;
    int event_count;
    unsigned long last_request_read, request;
    char *last_request, *buffer, *buffer_position, *buffer_end;
    unsigned max_request_size;
    void *database, *synchronisation_handler;
    char *display_name;
    int default_screen, screen_count;
    void *screens;
    unsigned long motion_buffer;
    volatile unsigned long flags;
};

#endif
