/* The host APIs. Only what a service calls is linked in, and only then does it import anything of the host.
 * Written anew by each `insula build`.
 */
#include "insula.h"
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

/* okra.run_host_api answers two numbers, which C has no way to say: this takes the call and stores them in `answer`. */
__asm__(
    "\t.functype\tokra_run_host_api (i32, i32) -> (i32, i32)\n"
    "\t.import_module\tokra_run_host_api, okra\n"
    "\t.import_name\tokra_run_host_api, run_host_api\n"
    "\t.section\t.text.insula_host_exchange,\"\",@\n"
    "\t.hidden\tinsula_host_exchange\n"
    "\t.globl\tinsula_host_exchange\n"
    "\t.type\tinsula_host_exchange,@function\n"
    "insula_host_exchange:\n"
    "\t.functype\tinsula_host_exchange (i32, i32, i32) -> ()\n"
    "\tlocal.get\t0\n"
    "\tlocal.get\t1\n"
    "\tcall\tokra_run_host_api\n"
    "\tlocal.set\t1\n"
    "\tlocal.set\t0\n"
    "\tlocal.get\t2\n"
    "\tlocal.get\t0\n"
    "\ti32.store\t0\n"
    "\tlocal.get\t2\n"
    "\tlocal.get\t1\n"
    "\ti32.store\t4\n"
    "\tend_function\n");

void insula_host_exchange(const char *request, size_t length, uint32_t answer[2]);

static insula_status status_of(insula_string code) {
    static const struct {
        const char *name;
        insula_status status;
    } table[] = {
        {"NOT_FOUND", INSULA_NOT_FOUND},
        {"CONFLICT", INSULA_ABORTED},
        {"INVALID_PARAMETERS", INSULA_INVALID_ARGUMENT},
        {"POLICY_DENIED", INSULA_PERMISSION_DENIED},
        {"LIMIT_EXCEEDED", INSULA_RESOURCE_EXHAUSTED},
        {"RESPONSE_TOO_LARGE", INSULA_RESOURCE_EXHAUSTED},
        {"ITERATOR_LIMIT_EXCEEDED", INSULA_RESOURCE_EXHAUSTED},
        {"ITERATOR_NOT_FOUND", INSULA_NOT_FOUND},
        {"TIMEOUT", INSULA_DEADLINE_EXCEEDED},
        {"CANCELLED", INSULA_CANCELED},
        {"UNAVAILABLE", INSULA_UNAVAILABLE},
        {"API_NOT_FOUND", INSULA_UNIMPLEMENTED},
        {"METHOD_NOT_FOUND", INSULA_UNIMPLEMENTED},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (insula_equal(code, insula_text(table[i].name))) return table[i].status;
    return INSULA_INTERNAL;
}

static insula_status refused(insula_reader *in) {
    insula_string name, code = insula_text(""), message = insula_text("the host gave no reason");
    insula_read_object(in);
    while (insula_next_field(in, &name)) {
        if (insula_equal(name, insula_text("code"))) code = insula_read_string(in);
        else if (insula_equal(name, insula_text("message"))) message = insula_read_string(in);
        else insula_skip(in);
    }
    return insula_fail_text(status_of(code), message);
}

insula_status insula_host(const char *api, const char *method, insula_string parameters, insula_string *data) {
    insula_writer request = insula_write();
    insula_put_text(&request, "{\"api\":");
    insula_write_string(&request, insula_text(api));
    insula_put_text(&request, ",\"method\":");
    insula_write_string(&request, insula_text(method));
    insula_put_text(&request, ",\"parameters\":");
    insula_put(&request, parameters.data, parameters.length);
    insula_put_text(&request, ",\"metadata\":{}}");

    uint32_t answer[2];
    insula_host_exchange(request.data, request.length, answer);
    if (answer[0] == 0) return insula_fail(INSULA_RESOURCE_EXHAUSTED, "the host does not take a request as large as this");
    insula_string response = insula_concat(((insula_string){(const char *)(uintptr_t)answer[0], answer[1]}));
    free((void *)(uintptr_t)answer[0]); /* the host got it from `allocate` */

    insula_reader in = insula_read(response);
    insula_string name, found = insula_text("null"), error = {0};
    bool success = false;
    insula_read_object(&in);
    while (insula_next_field(&in, &name)) {
        if (insula_equal(name, insula_text("success"))) success = insula_read_bool(&in);
        else if (insula_equal(name, insula_text("data"))) found = insula_read_raw(&in);
        else if (insula_equal(name, insula_text("error"))) error = insula_read_raw(&in);
        else insula_skip(&in);
    }
    if (!insula_read_end(&in)) return insula_fail(INSULA_INTERNAL, "the host's answer cannot be read");
    if (!success) {
        insula_reader why = insula_read(error);
        return refused(&why);
    }
    if (data) *data = found;
    return INSULA_OK;
}

/* ---- Parameters: an object that is written field by field ---- */

static insula_writer parameters(void) {
    insula_writer out = insula_write();
    insula_write_open(&out, '{');
    return out;
}

static void add_name(insula_writer *out, const char *name) {
    insula_write_comma(out);
    insula_write_string(out, insula_text(name));
    insula_put_text(out, ":");
}

static void add_text(insula_writer *out, const char *name, insula_string value) {
    add_name(out, name);
    insula_write_string(out, value);
}

static void add_number(insula_writer *out, const char *name, int64_t value) {
    add_name(out, name);
    insula_write_number(out, value);
}

static void add_json(insula_writer *out, const char *name, insula_string json) {
    add_name(out, name);
    insula_put(out, json.data, json.length);
}

static insula_status send(const char *api, const char *method, insula_writer *out, insula_string *data) {
    insula_write_close(out, '}');
    return insula_host(api, method, insula_written(out), data);
}

static insula_status unreadable(const char *api) {
    return insula_fail_text(INSULA_INTERNAL, insula_concat(insula_text("the answer of "), insula_text(api),
                                                           insula_text(" cannot be read")));
}

/* A text, or an empty one for null and for what is no text. */
static insula_string text_or_empty(insula_reader *in) {
    insula_string raw = insula_read_raw(in);
    if (raw.length == 0 || raw.data[0] != '"') return insula_text("");
    insula_reader inner = insula_read(raw);
    return insula_read_string(&inner);
}

/* ---- okra.log ---- */

insula_status insula_log(insula_log_level level, insula_string message) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    insula_writer out = parameters();
    add_text(&out, "level", insula_text(names[level & 3]));
    add_text(&out, "message", message);
    return send("okra.log", "write", &out, NULL);
}

/* ---- okra.state ---- */

static insula_status state_value(insula_string data, insula_state_value *value) {
    insula_reader in = insula_read(data);
    insula_string name;
    if (!value) return INSULA_OK;
    *value = (insula_state_value){.data = insula_text("null")};
    if (insula_read_null(&in)) return INSULA_OK;
    value->found = true;
    insula_read_object(&in);
    while (insula_next_field(&in, &name)) {
        if (insula_equal(name, insula_text("data"))) value->data = insula_read_raw(&in);
        else if (insula_equal(name, insula_text("version"))) value->version = insula_read_int64(&in);
        else if (insula_equal(name, insula_text("lastModified"))) value->last_modified = text_or_empty(&in);
        else insula_skip(&in);
    }
    return insula_read_end(&in) ? INSULA_OK : unreadable("okra.state");
}

static void add_options(insula_writer *out, const insula_state_options *options) {
    if (!options) return;
    add_name(out, "options");
    insula_write_open(out, '{');
    if (options->has_ttl) add_name(out, "ttl"), insula_write_double(out, options->ttl);
    if (options->has_if_version) add_number(out, "ifVersion", options->if_version);
    if (options->if_absent) add_name(out, "ifAbsent"), insula_write_bool(out, true);
    insula_write_close(out, '}');
}

insula_status insula_state_get(insula_string key, insula_state_value *value) {
    insula_writer out = parameters();
    insula_string data;
    add_text(&out, "key", key);
    insula_status status = send("okra.state", "get", &out, &data);
    return status ? status : state_value(data, value);
}

insula_status insula_state_set(insula_string key, insula_string json, const insula_state_options *options,
                               insula_state_value *stored) {
    insula_writer out = parameters();
    insula_string data;
    add_text(&out, "key", key);
    add_json(&out, "value", json);
    add_options(&out, options);
    insula_status status = send("okra.state", "set", &out, &data);
    return status ? status : state_value(data, stored);
}

insula_status insula_state_delete(insula_string key, const insula_state_options *options) {
    insula_writer out = parameters();
    add_text(&out, "key", key);
    add_options(&out, options);
    return send("okra.state", "delete", &out, NULL);
}

insula_status insula_state_increment(insula_string key, int64_t delta, int64_t *value) {
    insula_writer out = parameters();
    insula_string data;
    add_text(&out, "key", key);
    add_number(&out, "delta", delta);
    insula_status status = send("okra.state", "increment", &out, &data);
    if (status) return status;
    insula_reader in = insula_read(data);
    *value = insula_read_int64(&in);
    return insula_read_end(&in) ? INSULA_OK : unreadable("okra.state");
}

insula_status insula_state_list(insula_string prefix, int32_t limit, insula_string *cursor, insula_string_list *keys) {
    insula_writer out = parameters();
    insula_string data, name;
    add_text(&out, "prefix", prefix);
    add_name(&out, "options");
    insula_write_open(&out, '{');
    if (limit > 0) add_number(&out, "limit", limit);
    if (cursor->length) add_text(&out, "cursor", *cursor);
    insula_write_close(&out, '}');
    insula_status status = send("okra.state", "list", &out, &data);
    if (status) return status;
    *keys = (insula_string_list){0};
    *cursor = insula_text("");
    insula_reader in = insula_read(data);
    insula_read_object(&in);
    while (insula_next_field(&in, &name)) {
        if (insula_equal(name, insula_text("keys"))) {
            insula_read_list(&in);
            while (insula_next_item(&in)) {
                keys->items = insula_grow(keys->items, keys->count, sizeof *keys->items);
                keys->items[keys->count++] = insula_read_string(&in);
            }
        } else if (insula_equal(name, insula_text("cursor"))) {
            *cursor = text_or_empty(&in);
        } else {
            insula_skip(&in);
        }
    }
    return insula_read_end(&in) ? INSULA_OK : unreadable("okra.state");
}

/* ---- okra.context ---- */

static void read_metadata(insula_reader *in, insula_metadata_list *metadata) {
    insula_read_list(in);
    while (insula_next_item(in)) {
        insula_metadata pair = {{"", 0}, {"", 0}};
        insula_read_list(in);
        for (int place = 0; insula_next_item(in); place++) {
            insula_string text = insula_read_string(in);
            if (place == 0) pair.name = text;
            if (place == 1) pair.value = text;
        }
        metadata->items = insula_grow(metadata->items, metadata->count, sizeof *metadata->items);
        metadata->items[metadata->count++] = pair;
    }
}

insula_status insula_context_get(insula_context *context) {
    insula_string data, name;
    insula_status status = insula_host("okra.context", "get", insula_text("{}"), &data);
    if (status) return status;
    *context = (insula_context){insula_text("null"), {0}, insula_text(""), insula_text(""), insula_text("")};
    insula_reader in = insula_read(data);
    insula_read_object(&in);
    while (insula_next_field(&in, &name)) {
        if (insula_equal(name, insula_text("principal"))) context->principal = insula_read_raw(&in);
        else if (insula_equal(name, insula_text("metadata"))) read_metadata(&in, &context->metadata);
        else if (insula_equal(name, insula_text("deadline"))) context->deadline = text_or_empty(&in);
        else if (insula_equal(name, insula_text("traceparent"))) context->traceparent = text_or_empty(&in);
        else if (insula_equal(name, insula_text("idempotencyKey"))) context->idempotency_key = text_or_empty(&in);
        else insula_skip(&in);
    }
    return insula_read_end(&in) ? INSULA_OK : unreadable("okra.context");
}

static insula_status set_metadata(const char *method, insula_string name, insula_string value) {
    insula_writer out = parameters();
    add_text(&out, "name", name);
    add_text(&out, "value", value);
    return send("okra.context", method, &out, NULL);
}

insula_status insula_context_set_header(insula_string name, insula_string value) {
    return set_metadata("setHeader", name, value);
}

insula_status insula_context_set_trailer(insula_string name, insula_string value) {
    return set_metadata("setTrailer", name, value);
}

/* ---- okra.time, okra.env, okra.call ---- */

insula_status insula_time_now(insula_time *now) {
    insula_string data, name;
    insula_status status = insula_host("okra.time", "now", insula_text("{}"), &data);
    if (status) return status;
    *now = (insula_time){0, insula_text(""), insula_text("")};
    insula_reader in = insula_read(data);
    insula_read_object(&in);
    while (insula_next_field(&in, &name)) {
        if (insula_equal(name, insula_text("timestamp"))) now->unix_ms = insula_read_int64(&in);
        else if (insula_equal(name, insula_text("timezone"))) now->timezone = text_or_empty(&in);
        else if (insula_equal(name, insula_text("iso8601"))) now->iso8601 = text_or_empty(&in);
        else insula_skip(&in);
    }
    return insula_read_end(&in) ? INSULA_OK : unreadable("okra.time");
}

insula_status insula_time_sleep(int64_t milliseconds) {
    insula_writer out = parameters();
    add_number(&out, "milliseconds", milliseconds);
    return send("okra.time", "sleep", &out, NULL);
}

insula_status insula_env_get(insula_string key, bool *found, insula_string *value) {
    insula_writer out = parameters();
    insula_string data;
    add_text(&out, "key", key);
    insula_status status = send("okra.env", "get", &out, &data);
    if (status) return status;
    insula_reader in = insula_read(data);
    *found = !insula_read_null(&in);
    *value = *found ? insula_read_string(&in) : insula_text("");
    return insula_read_end(&in) ? INSULA_OK : unreadable("okra.env");
}

insula_status insula_call_service(insula_string service, const char *method, insula_string input,
                                  insula_string *output) {
    insula_writer out = parameters();
    add_text(&out, "service", service);
    add_text(&out, "method", insula_text(method));
    add_json(&out, "input", input);
    return send("okra.call", "invoke", &out, output);
}
