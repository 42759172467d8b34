/* Memory of one call, text, and the error it may end with. Written anew by each `insula build`. */
#include "insula.h"
#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The arena: blocks that are cut from front to back and all given back before the next call ---- */

#define FIRST_BLOCK (64u << 10)
#define ALIGNMENT 16u

typedef struct block {
    struct block *before;
    size_t room, used;
    _Alignas(ALIGNMENT) char bytes[];
} block;

static block *blocks;

static insula_status failure;
static insula_string failure_message;

void insula_reset(void) {
    while (blocks && (blocks->before || blocks->room > FIRST_BLOCK)) {
        block *gone = blocks;
        blocks = gone->before;
        free(gone);
    }
    if (blocks) blocks->used = 0;
    failure = INSULA_OK;
}

/* The host takes a trap for want of memory where a growth of the memory was refused before. malloc does not even ask for a
   size that cannot be, so this asks for more than there can ever be. */
_Noreturn void insula_no_memory(void) {
    (void)__builtin_wasm_memory_grow(0, 65536);
    __builtin_trap();
}

/* Memory that is not cleared. A guest without memory left cannot go on: it ends here, and the host sees why. */
static void *take(size_t size) {
    if (size > SIZE_MAX - FIRST_BLOCK) insula_no_memory();
    size = (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (!blocks || blocks->room - blocks->used < size) {
        size_t room = size > FIRST_BLOCK ? size : FIRST_BLOCK;
        block *more = malloc(sizeof(block) + room);
        if (!more) insula_no_memory();
        more->before = blocks;
        more->room = room;
        more->used = 0;
        blocks = more;
    }
    void *taken = blocks->bytes + blocks->used;
    blocks->used += size;
    return taken;
}

void *insula_alloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) insula_no_memory();
    return memset(take(bytes), 0, bytes);
}

char *insula_take_text(size_t length) {
    if (length == SIZE_MAX) insula_no_memory();
    char *text = take(length + 1);
    text[length] = 0;
    return text;
}

/* Items are kept in an array whose room is the next power of two, from 4 on, so that it need not be stored. */
void *insula_grow(void *items, size_t count, size_t size) {
    if (count >= 4 ? (count & (count - 1)) != 0 : count != 0) return items;
    void *wider = insula_alloc(count ? count * 2 : 4, size);
    if (count) memcpy(wider, items, count * size);
    return wider;
}

char *insula_widen(char *text, size_t length, size_t room) {
    char *wider = take(room);
    if (length) memcpy(wider, text, length);
    return wider;
}

/* ---- Text ---- */

insula_string insula_text(const char *text) {
    return (insula_string){text, strlen(text)};
}

bool insula_equal(insula_string a, insula_string b) {
    return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

insula_string insula_concat_parts(const insula_string *parts, size_t count) {
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        if (__builtin_add_overflow(length, parts[i].length, &length)) insula_no_memory();
    char *text = insula_take_text(length), *at = text;
    for (size_t i = 0; i < count; i++) {
        if (parts[i].length) memcpy(at, parts[i].data, parts[i].length);
        at += parts[i].length;
    }
    return (insula_string){text, length};
}

insula_string insula_format(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) length = 0;
    char *text = insula_take_text((size_t)length);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return (insula_string){text, (size_t)length};
}

/* ---- Errors ---- */

insula_status insula_fail_text(insula_status code, insula_string message) {
    failure = code;
    failure_message = message;
    return code;
}

insula_status insula_fail(insula_status code, const char *message) {
    /* A copy, as the caller may build the message on its stack. */
    insula_string text = insula_text(message ? message : "");
    return insula_fail_text(code, insula_concat(text));
}

insula_string insula_failure(insula_status code) {
    return failure == code ? failure_message : insula_text("");
}

insula_status insula_bad_input(const insula_reader *in) {
    insula_string field = in->field ? insula_concat(insula_text(in->field), insula_text(": ")) : insula_text("");
    insula_string problem = insula_text(in->problem ? in->problem : "not valid JSON");
    return insula_fail_text(INSULA_INVALID_ARGUMENT, insula_concat(insula_text("the input: "), field, problem));
}

insula_status insula_bad_output(const insula_writer *out) {
    return insula_fail_text(INSULA_INTERNAL, insula_concat(insula_text("the output: "), insula_text(out->problem)));
}
