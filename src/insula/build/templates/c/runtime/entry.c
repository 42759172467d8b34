/* What the host calls. Written anew by each `insula build`.
 *
 * `allocate`, `deallocate` and `handle_request` are the exports of every okra service. `insula_input` and
 * `insula_call` do the same in one call: the input has a buffer that stays, the method is a number, and the output
 * stays in this module, valid until the next call.
 */
#include "insula.h"
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name)))
#define FAILED (UINT64_C(1) << 63)

static const char *const code_names[] = {
    "ok", "canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
    "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented",
    "internal", "unavailable", "data_loss", "unauthenticated",
};

typedef struct {
    insula_string json;
    bool failed;
} answer;

static answer run(int32_t method, const char *input, uint32_t length) {
    insula_reset();
    insula_reader in = insula_read((insula_string){input, length});
    insula_writer out = insula_write();
    insula_status status = method < 0 ? insula_fail(INSULA_UNIMPLEMENTED, "the service has no such method")
                                      : insula_dispatch((uint32_t)method, &in, &out);
    if (status == INSULA_OK) return (answer){insula_written(&out), false};

    if (status < 0 || status > INSULA_UNAUTHENTICATED) status = INSULA_UNKNOWN;
    insula_string message = insula_failure(status);
    if (message.length == 0) message = insula_text("the service gave no reason");
    insula_writer error = insula_write();
    insula_put_text(&error, "{\"error\":");
    insula_write_string(&error, message);
    insula_put_text(&error, ",\"code\":\"");
    insula_put(&error, code_names[status], strlen(code_names[status]));
    insula_put_text(&error, "\"}");
    return (answer){insula_written(&error), true};
}

static uint64_t packed(const char *data, size_t length, bool failed) {
    return (failed ? FAILED : 0) | (uint64_t)(uintptr_t)data << 32 | (uint32_t)length;
}

EXPORT(allocate) void *insula_allocate(uint32_t size) {
    return malloc(size ? size : 1);
}

EXPORT(deallocate) void insula_deallocate(void *pointer) {
    free(pointer);
}

EXPORT(handle_request)
uint64_t insula_handle_request(const char *method, uint32_t method_length, const char *input, uint32_t length) {
    answer given = run(insula_method_number((insula_string){method, method_length}), input, length);
    char *copy = malloc(given.json.length ? given.json.length : 1);
    if (!copy) insula_no_memory();
    memcpy(copy, given.json.data, given.json.length);
    return packed(copy, given.json.length, given.failed);
}

static char *input_buffer;
static uint32_t input_room;

EXPORT(insula_input) char *insula_input(uint32_t length) {
    if (length > input_room) {
        free(input_buffer);
        input_buffer = malloc(length);
        input_room = input_buffer ? length : 0;
    } else if (!input_buffer) {
        input_buffer = malloc(1);
    }
    return input_buffer;
}

EXPORT(insula_call) uint64_t insula_call(uint32_t method, uint32_t length) {
    /* More input than there is room for was never written. */
    if (length > input_room) return 0;
    answer given = run(method > INT32_MAX ? -1 : (int32_t)method, input_buffer, length);
    return packed(given.json.data, given.json.length, given.failed);
}
