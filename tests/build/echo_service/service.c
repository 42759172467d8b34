#include "service.gen.h"

insula_status Echo_echo(const Everything *input, Everything *output) {
    *output = *input;
    return INSULA_OK;
}

insula_status Echo_scalar(const Everything *input, int64_t *output) {
    *output = input->big;
    return INSULA_OK;
}

insula_status Echo_list(const Everything *input, Mood_list *output) {
    *output = input->moods;
    return INSULA_OK;
}

insula_status Echo_nested(const Everything *input, Address_list *output) {
    *output = input->addresses;
    return INSULA_OK;
}

insula_status Echo_text(insula_string *output) {
    *output = insula_format("%d %.*s", 1, INSULA_ARG(insula_text("two")));
    return INSULA_OK;
}

insula_status Echo_fail(const Failure *input, bool *output) {
    char message[64];
    if (input->message.length > 63) return INSULA_DATA_LOSS;
    for (size_t i = 0; i <= input->message.length; i++) message[i] = input->message.data[i];
    *output = true;
    return input->code ? insula_fail((insula_status)input->code, message) : INSULA_OK;
}

#define IS(literal) insula_equal(input->what, insula_text(literal))
#define TRY(call) do { insula_status status = (call); if (status) return status; } while (0)

insula_status Echo_host(const HostCall *input, insula_string *output) {
    insula_state_value value = {0};
    *output = insula_text("done");
    if (IS("get")) {
        TRY(insula_state_get(input->key, &value));
        *output = insula_format("%d %.*s %lld %.*s", value.found, INSULA_ARG(value.data), (long long)value.version,
                                INSULA_ARG(value.last_modified));
    } else if (IS("set")) {
        insula_state_options options = {.has_ttl = true, .ttl = 1.5, .has_if_version = true, .if_version = 7, .if_absent = true};
        TRY(insula_state_set(input->key, input->value, &options, &value));
        *output = insula_format("%lld", (long long)value.version);
    } else if (IS("delete")) {
        TRY(insula_state_delete(input->key, NULL));
    } else if (IS("increment")) {
        int64_t sum;
        TRY(insula_state_increment(input->key, -5, &sum));
        *output = insula_format("%lld", (long long)sum);
    } else if (IS("list")) {
        insula_string cursor = input->value;
        insula_string_list keys;
        TRY(insula_state_list(input->key, 3, &cursor, &keys));
        *output = cursor;
        for (size_t i = 0; i < keys.count; i++) *output = insula_concat(*output, insula_text(" "), keys.items[i]);
    } else if (IS("context")) {
        insula_context context;
        TRY(insula_context_get(&context));
        *output = insula_concat(context.principal, context.deadline, context.traceparent, context.idempotency_key);
        for (size_t i = 0; i < context.metadata.count; i++)
            *output = insula_concat(*output, context.metadata.items[i].name, context.metadata.items[i].value);
    } else if (IS("header")) {
        TRY(insula_context_set_header(input->key, input->value));
    } else if (IS("trailer")) {
        TRY(insula_context_set_trailer(input->key, input->value));
    } else if (IS("now")) {
        insula_time now;
        TRY(insula_time_now(&now));
        *output = insula_format("%lld %.*s %.*s", (long long)now.unix_ms, INSULA_ARG(now.timezone), INSULA_ARG(now.iso8601));
    } else if (IS("sleep")) {
        TRY(insula_time_sleep(20));
    } else if (IS("env")) {
        bool found;
        TRY(insula_env_get(input->key, &found, output));
        if (!found) *output = insula_text("not set");
    } else if (IS("call")) {
        TRY(insula_call_service(input->key, "greet", input->value, output));
    } else if (IS("log")) {
        TRY(insula_log(INSULA_WARN, input->key));
    } else if (IS("raw")) {
        TRY(insula_host("okra.cache", "get", input->value, output));
    } else if (IS("ignored")) {
        insula_state_get(input->key, &value);
    }
    return INSULA_OK;
}
