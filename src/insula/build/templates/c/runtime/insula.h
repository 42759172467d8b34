/* Insula's runtime for services in C: values, memory, errors and the calls to the host.
 *
 * Everything that a method is given or allocates here lives until that call has been answered; nothing is ever freed
 * by hand. Written anew by each `insula build`: changes here are lost.
 */
#ifndef INSULA_H
#define INSULA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* UTF-8 text. `data` may hold NUL bytes; text that comes from Insula has one more NUL behind its end. */
typedef struct {
    const char *data;
    size_t length;
} insula_string;

typedef struct {
    const uint8_t *data;
    size_t length;
} insula_bytes;

typedef struct { insula_string *items; size_t count; } insula_string_list;
typedef struct { insula_bytes *items; size_t count; } insula_bytes_list;
typedef struct { int32_t *items; size_t count; } insula_int32_list;
typedef struct { int64_t *items; size_t count; } insula_int64_list;
typedef struct { double *items; size_t count; } insula_double_list;
typedef struct { bool *items; size_t count; } insula_bool_list;

/* ---- Memory ---- */

/* Zeroed memory for `count` things of `size` bytes. Never NULL: a call that needs more than it may have ends here. */
void *insula_alloc(size_t count, size_t size);

/* Gives a list room for `n` zeroed items: insula_resize(output->names, 3); */
#define insula_resize(list, n) ((list).items = insula_alloc((n), sizeof *(list).items), (list).count = (n))

/* One zeroed thing of a type: output->address = insula_new(Address); */
#define insula_new(type) ((type *)insula_alloc(1, sizeof(type)))

/* ---- Text ---- */

/* A C string as text, without a copy. */
insula_string insula_text(const char *text);

/* printf for text: insula_format("%d of %.*s", 3, INSULA_ARG(name)) */
insula_string insula_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define INSULA_ARG(string) (int)(string).length, (string).data

/* Texts joined: insula_concat(insula_text("Hello, "), name) */
#define insula_concat(...)                                                                                             \
    insula_concat_parts((insula_string[]){__VA_ARGS__}, sizeof((insula_string[]){__VA_ARGS__}) / sizeof(insula_string))
insula_string insula_concat_parts(const insula_string *parts, size_t count);

bool insula_equal(insula_string a, insula_string b);

/* ---- Errors ---- */

/* How a method ends. The codes are those of Connect and gRPC. */
typedef enum {
    INSULA_OK = 0,
    INSULA_CANCELED = 1,
    INSULA_UNKNOWN = 2,
    INSULA_INVALID_ARGUMENT = 3,
    INSULA_DEADLINE_EXCEEDED = 4,
    INSULA_NOT_FOUND = 5,
    INSULA_ALREADY_EXISTS = 6,
    INSULA_PERMISSION_DENIED = 7,
    INSULA_RESOURCE_EXHAUSTED = 8,
    INSULA_FAILED_PRECONDITION = 9,
    INSULA_ABORTED = 10,
    INSULA_OUT_OF_RANGE = 11,
    INSULA_UNIMPLEMENTED = 12,
    INSULA_INTERNAL = 13,
    INSULA_UNAVAILABLE = 14,
    INSULA_DATA_LOSS = 15,
    INSULA_UNAUTHENTICATED = 16,
} insula_status;

/* Ends the call with an error: return insula_fail(INSULA_NOT_FOUND, "no such key"); */
insula_status insula_fail(insula_status code, const char *message);

/* ---- The host ----
 *
 * Each of these answers INSULA_OK, or a code whose message is remembered: `return` the code to pass the failure on, or
 * deal with it and go on. What a service uses must stand in `host_apis` of okra.json.
 */

/* Any method of any host API, parameters and result as JSON. */
insula_status insula_host(const char *api, const char *method, insula_string parameters, insula_string *data);

typedef enum { INSULA_DEBUG, INSULA_INFO, INSULA_WARN, INSULA_ERROR } insula_log_level;

insula_status insula_log(insula_log_level level, insula_string message);

/* A value of the service's durable state. `data` is JSON; `found` is false where the key has no value. */
typedef struct {
    bool found;
    insula_string data;
    int64_t version;
    insula_string last_modified;
} insula_state_value;

/* Conditions of a write; INSULA_ABORTED where they do not hold. `ttl` is in seconds. */
typedef struct {
    bool has_ttl;
    double ttl;
    bool has_if_version;
    int64_t if_version;
    bool if_absent;
} insula_state_options;

/* `options` may be NULL, and `stored` too where the new version is of no interest. */
insula_status insula_state_get(insula_string key, insula_state_value *value);
insula_status insula_state_set(insula_string key, insula_string json, const insula_state_options *options,
                               insula_state_value *stored);
insula_status insula_state_delete(insula_string key, const insula_state_options *options);
insula_status insula_state_increment(insula_string key, int64_t delta, int64_t *value);

/* Keys that start with `prefix`, at most `limit` (0: as many as the host gives). `cursor` is empty at first and is
 * moved on; it is empty again after the last page. */
insula_status insula_state_list(insula_string prefix, int32_t limit, insula_string *cursor, insula_string_list *keys);

typedef struct { insula_string name, value; } insula_metadata;
typedef struct { insula_metadata *items; size_t count; } insula_metadata_list;

/* Who calls, and with what. `principal` is JSON (`null` where nobody signed in); the texts are empty where not known. */
typedef struct {
    insula_string principal;
    insula_metadata_list metadata;
    insula_string deadline;
    insula_string traceparent;
    insula_string idempotency_key;
} insula_context;

insula_status insula_context_get(insula_context *context);
insula_status insula_context_set_header(insula_string name, insula_string value);
insula_status insula_context_set_trailer(insula_string name, insula_string value);

typedef struct {
    int64_t unix_ms;
    insula_string timezone;
    insula_string iso8601;
} insula_time;

insula_status insula_time_now(insula_time *now);
insula_status insula_time_sleep(int64_t milliseconds);

/* A granted key of the service's environment; `found` says whether it is set. */
insula_status insula_env_get(insula_string key, bool *found, insula_string *value);

/* A method of another service, `{namespace}.{Name}` or a full id; input and output as JSON. */
insula_status insula_call_service(insula_string service, const char *method, insula_string input,
                                  insula_string *output);

/* ---- JSON ----
 *
 * What the generated code is made of; a method rarely needs it. A reader keeps its first problem and answers nothing
 * more after it, so that the code that uses it has one check at its end.
 */

#define INSULA_DEPTH 100

typedef struct {
    const char *at, *end;
    int depth;
    bool first;
    const char *problem;  /* NULL while all is well */
    const char *field;    /* the innermost known field that was being read */
} insula_reader;

insula_reader insula_read(insula_string json);
bool insula_read_end(insula_reader *in);           /* nothing but blanks is left, and there was no problem */
bool insula_read_null(insula_reader *in);          /* takes a null if one is next */
void insula_read_nothing(insula_reader *in);       /* what a method without input gets: anything, or nothing */
void insula_read_object(insula_reader *in);        /* then insula_next_field until it is false */
bool insula_next_field(insula_reader *in, insula_string *name);
void insula_read_list(insula_reader *in);          /* then insula_next_item until it is false */
bool insula_next_item(insula_reader *in);
void insula_read_problem(insula_reader *in, const char *problem);
void insula_skip(insula_reader *in);               /* one value of any kind */
insula_string insula_read_raw(insula_reader *in);  /* the same, as it is written */
insula_string insula_read_string(insula_reader *in);
insula_bytes insula_read_bytes(insula_reader *in);
int32_t insula_read_int32(insula_reader *in);
int64_t insula_read_int64(insula_reader *in);
double insula_read_double(insula_reader *in);
bool insula_read_bool(insula_reader *in);
void *insula_grow(void *items, size_t count, size_t size); /* room for one more item, in steps */

typedef struct {
    char *data;
    size_t length, room;
    int depth;
    const char *problem;
} insula_writer;

insula_writer insula_write(void);
insula_string insula_written(const insula_writer *out);
void insula_put(insula_writer *out, const char *text, size_t length); /* as it is */
#define insula_put_text(out, literal) insula_put((out), (literal), sizeof(literal) - 1)
void insula_write_field(insula_writer *out, const char *quoted, size_t length); /* `"name":`, after a comma if needed */
void insula_write_comma(insula_writer *out);                                    /* between two items */
bool insula_write_open(insula_writer *out, char bracket); /* false, with a problem, where it goes too deep */
void insula_write_close(insula_writer *out, char bracket);
void insula_write_problem(insula_writer *out, const char *problem);
void insula_write_string(insula_writer *out, insula_string value);
void insula_write_bytes(insula_writer *out, insula_bytes value);
void insula_write_int32(insula_writer *out, int32_t value);
void insula_write_int64(insula_writer *out, int64_t value); /* digits in quotes, as proto3 JSON has them */
void insula_write_double(insula_writer *out, double value);
void insula_write_bool(insula_writer *out, bool value);
void insula_write_number(insula_writer *out, int64_t value); /* bare digits */

/* ---- What the generated code gives to the runtime ---- */

/* Runs method `number` of the schema. */
insula_status insula_dispatch(uint32_t number, insula_reader *in, insula_writer *out);

/* The number of the method with this name, or -1. */
int32_t insula_method_number(insula_string name);

/* What every method does after reading its input and after writing its output. */
insula_status insula_bad_input(const insula_reader *in);
insula_status insula_bad_output(const insula_writer *out);

#endif
