/* JSON in and out: strict, of bounded depth, exact for 64-bit integers. Written anew by each `insula build`. */
#include "insula.h"
#include "runtime.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How many bytes from `at` on stand for themselves in a string: ASCII, but no quote, backslash or control character. Eight
   at a time: a byte below 0x20, or equal to one of the two, borrows into its own high bit. */
static size_t plain(const char *at, const char *end) {
    static const uint64_t each = 0x0101010101010101;
    const char *start = at;
    uint64_t eight;
    while (end - at >= 8) {
        memcpy(&eight, at, 8);
        uint64_t quote = eight ^ each * '"', slash = eight ^ each * '\\';
        if ((eight | (eight - each * 0x20) | (quote - each) | (slash - each)) & each * 0x80) break;
        at += 8;
    }
    while (at < end && (unsigned char)*at >= 0x20 && (unsigned char)*at < 0x80 && *at != '"' && *at != '\\') at++;
    return (size_t)(at - start);
}

/* ---- Reading ---- */

insula_reader insula_read(insula_string json) {
    return (insula_reader){.at = json.data, .end = json.data + json.length, .first = true};
}

void insula_read_problem(insula_reader *in, const char *problem) {
    if (!in->problem) in->problem = problem;
    in->at = in->end;
}

/* The next character that is no blank, or -1. */
static int peek(insula_reader *in) {
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\n' || *in->at == '\t' || *in->at == '\r')) in->at++;
    return in->at < in->end ? (unsigned char)*in->at : -1;
}

static bool take_word(insula_reader *in, const char *word, size_t length) {
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, word, length) != 0) return false;
    in->at += length;
    return true;
}

bool insula_read_end(insula_reader *in) {
    if (peek(in) != -1) insula_read_problem(in, "more than one JSON value");
    return !in->problem;
}

bool insula_read_null(insula_reader *in) {
    return peek(in) == 'n' && take_word(in, "null", 4);
}

static void open(insula_reader *in, char bracket, const char *problem) {
    if (peek(in) != bracket) {
        insula_read_problem(in, problem);
    } else if (in->depth == INSULA_DEPTH) {
        insula_read_problem(in, "nested too deep");
    } else {
        in->at++;
        in->depth++;
        in->first = true;
    }
}

/* Whether another field or item follows in the object or list under way; takes the comma before it, or its end. */
static bool another(insula_reader *in, char closing) {
    int next = peek(in);
    if (in->problem) return false;
    if (next == closing) {
        in->at++;
        in->depth--;
        in->first = false;
        return false;
    }
    if (!in->first) {
        if (next != ',') {
            insula_read_problem(in, "not valid JSON");
            return false;
        }
        in->at++;
        next = peek(in);
    }
    in->first = false;
    if (next == -1) insula_read_problem(in, "the JSON ends too early");
    return !in->problem;
}

void insula_read_object(insula_reader *in) {
    open(in, '{', "must be an object");
}

void insula_read_list(insula_reader *in) {
    open(in, '[', "must be a list");
}

bool insula_next_item(insula_reader *in) {
    return another(in, ']');
}

bool insula_next_field(insula_reader *in, insula_string *name) {
    if (!another(in, '}')) return false;
    *name = insula_read_string(in);
    if (peek(in) != ':') insula_read_problem(in, "not valid JSON");
    else in->at++;
    return !in->problem;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The four hex digits of a \u escape, or -1. */
static int32_t code_unit(insula_reader *in) {
    int32_t unit = 0;
    if (in->end - in->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex(*in->at++);
        if (digit < 0) return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

static size_t encode(uint32_t point, char *out) {
    if (point < 0x80) return out[0] = (char)point, 1;
    if (point < 0x800) return out[0] = (char)(0xC0 | point >> 6), out[1] = (char)(0x80 | (point & 63)), 2;
    if (point < 0x10000) {
        out[0] = (char)(0xE0 | point >> 12);
        out[1] = (char)(0x80 | (point >> 6 & 63));
        out[2] = (char)(0x80 | (point & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | point >> 18);
    out[1] = (char)(0x80 | (point >> 12 & 63));
    out[2] = (char)(0x80 | (point >> 6 & 63));
    out[3] = (char)(0x80 | (point & 63));
    return 4;
}

/* The length of the UTF-8 sequence at `at`, or 0 where there is none: the table of RFC 3629. */
static size_t sequence(const unsigned char *at, const unsigned char *end) {
    unsigned char lead = at[0], low = 0x80, high = 0xBF;
    size_t length;
    if (lead >= 0xC2 && lead <= 0xDF) length = 2;
    else if (lead >= 0xE0 && lead <= 0xEF) length = 3;
    else if (lead >= 0xF0 && lead <= 0xF4) length = 4;
    else return 0;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    if ((size_t)(end - at) < length || at[1] < low || at[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if (at[i] < 0x80 || at[i] > 0xBF) return 0;
    return length;
}

/* Takes one escape after its backslash; the length of what it stands for, written to `out`, or 0. */
static size_t escape(insula_reader *in, char *out) {
    if (in->at == in->end) return 0;
    switch (*in->at++) {
    case '"': return *out = '"', 1;
    case '\\': return *out = '\\', 1;
    case '/': return *out = '/', 1;
    case 'b': return *out = '\b', 1;
    case 'f': return *out = '\f', 1;
    case 'n': return *out = '\n', 1;
    case 'r': return *out = '\r', 1;
    case 't': return *out = '\t', 1;
    case 'u': break;
    default: return 0;
    }
    int32_t unit = code_unit(in);
    if (unit < 0 || (unit >= 0xDC00 && unit <= 0xDFFF)) return 0;
    if (unit < 0xD800 || unit > 0xDBFF) return encode((uint32_t)unit, out);
    if (!take_word(in, "\\u", 2)) return 0;
    int32_t second = code_unit(in);
    if (second < 0xDC00 || second > 0xDFFF) return 0;
    return encode(0x10000 + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(second - 0xDC00), out);
}

insula_string insula_read_string(insula_reader *in) {
    insula_string none = {"", 0};
    if (peek(in) != '"') return insula_read_problem(in, "must be a string"), none;
    const char *start = ++in->at, *stop = start;

    /* The end of the string first: its text is never longer than what stands between the quotes. */
    while ((stop += plain(stop, in->end)) < in->end && *stop != '"') stop += *stop == '\\' ? 2 : 1;
    if (stop >= in->end) return insula_read_problem(in, "a string without its end"), none;
    char *text = insula_take_text((size_t)(stop - start)), *to = text;
    for (;;) {
        size_t run = plain(in->at, stop);
        memcpy(to, in->at, run);
        to += run;
        in->at += run;
        if (in->at >= stop) break;
        unsigned char c = (unsigned char)*in->at;
        if (c == '\\') {
            in->at++;
            size_t length = escape(in, to);
            if (length == 0) return insula_read_problem(in, "a string with a bad escape"), none;
            to += length;
        } else if (c < 0x20) {
            return insula_read_problem(in, "a string with a bare control character"), none;
        } else {
            size_t length = sequence((const unsigned char *)in->at, (const unsigned char *)stop);
            if (length == 0) return insula_read_problem(in, "a string that is not UTF-8"), none;
            while (length--) *to++ = *in->at++;
        }
    }
    in->at = stop + 1;
    *to = 0;
    return (insula_string){text, (size_t)(to - text)};
}

/* The text of one number by JSON's grammar; empty where it is none. `whole` says that it has digits alone. */
static insula_string number(insula_reader *in, bool *whole) {
    const char *start = in->at, *at = start;
    *whole = true;
    if (at < in->end && *at == '-') at++;
    const char *digits = at;
    while (at < in->end && *at >= '0' && *at <= '9') at++;
    if (at == digits || (*digits == '0' && at - digits > 1)) return (insula_string){start, 0};
    if (at < in->end && *at == '.') {
        *whole = false;
        digits = ++at;
        while (at < in->end && *at >= '0' && *at <= '9') at++;
        if (at == digits) return (insula_string){start, 0};
    }
    if (at < in->end && (*at == 'e' || *at == 'E')) {
        *whole = false;
        at++;
        if (at < in->end && (*at == '+' || *at == '-')) at++;
        digits = at;
        while (at < in->end && *at >= '0' && *at <= '9') at++;
        if (at == digits) return (insula_string){start, 0};
    }
    in->at = at;
    return (insula_string){start, (size_t)(at - start)};
}

/* A number, bare or, as proto3 JSON has it for the large ones, in a string. Empty with a problem where there is none. */
static insula_string number_or_text(insula_reader *in, bool *whole, insula_string *quoted) {
    *quoted = (insula_string){0};
    if (peek(in) != '"') return number(in, whole);
    *quoted = insula_read_string(in);
    insula_reader inner = insula_read(*quoted);
    insula_string found = number(&inner, whole);
    return inner.at == inner.end ? found : (insula_string){"", 0};
}

static int64_t integer(insula_reader *in, int64_t least, int64_t most, const char *range) {
    bool whole;
    insula_string quoted, text = number_or_text(in, &whole, &quoted);
    if (text.length == 0 || !whole) return insula_read_problem(in, "must be a whole number"), 0;
    bool minus = text.data[0] == '-';
    int64_t value = 0;
    for (size_t i = minus; i < text.length; i++) {
        int digit = text.data[i] - '0';
        if (__builtin_mul_overflow(value, 10, &value) ||
            (minus ? __builtin_sub_overflow(value, digit, &value) : __builtin_add_overflow(value, digit, &value)))
            return insula_read_problem(in, range), 0;
    }
    if (value < least || value > most) return insula_read_problem(in, range), 0;
    return value;
}

int32_t insula_read_int32(insula_reader *in) {
    return (int32_t)integer(in, INT32_MIN, INT32_MAX, "out of the range of 32 bits");
}

int64_t insula_read_int64(insula_reader *in) {
    return integer(in, INT64_MIN, INT64_MAX, "out of the range of 64 bits");
}

double insula_read_double(insula_reader *in) {
    bool whole;
    insula_string quoted, text = number_or_text(in, &whole, &quoted);
    if (text.length == 0) {
        if (insula_equal(quoted, insula_text("NaN"))) return NAN;
        if (insula_equal(quoted, insula_text("Infinity"))) return INFINITY;
        if (insula_equal(quoted, insula_text("-Infinity"))) return -INFINITY;
        return insula_read_problem(in, "must be a number"), 0;
    }
    double value = strtod(insula_concat(text).data, NULL); /* a copy, for the NUL that strtod needs */
    if (isinf(value)) return insula_read_problem(in, "out of range"), 0;
    return value;
}

bool insula_read_bool(insula_reader *in) {
    int next = peek(in);
    if (next == 't' && take_word(in, "true", 4)) return true;
    if (next != 'f' || !take_word(in, "false", 5)) insula_read_problem(in, "must be true or false");
    return false;
}

/* Base64 of the standard or the URL-safe alphabet, with or without its padding. */
insula_bytes insula_read_bytes(insula_reader *in) {
    insula_string text = insula_read_string(in);
    uint8_t *bytes = (uint8_t *)insula_take_text(text.length / 4 * 3 + 3);
    size_t count = 0, digits = text.length;
    uint32_t bits = 0, held = 0;
    while (digits && text.length % 4 == 0 && text.length - digits < 2 && text.data[digits - 1] == '=') digits--;
    for (size_t i = 0; i < digits; i++) {
        char c = text.data[i];
        uint32_t value;
        if (c >= 'A' && c <= 'Z') value = (uint32_t)(c - 'A');
        else if (c >= 'a' && c <= 'z') value = (uint32_t)(c - 'a') + 26;
        else if (c >= '0' && c <= '9') value = (uint32_t)(c - '0') + 52;
        else if (c == '+' || c == '-') value = 62;
        else if (c == '/' || c == '_') value = 63;
        else return insula_read_problem(in, "must be base64"), (insula_bytes){0};
        bits = bits << 6 | value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            bytes[count++] = (uint8_t)(bits >> held);
        }
    }
    if (digits % 4 == 1) return insula_read_problem(in, "must be base64"), (insula_bytes){0};
    return (insula_bytes){bytes, count};
}

void insula_skip(insula_reader *in) {
    insula_string name;
    bool whole;
    int next = peek(in);
    switch (next) {
    case '{':
        insula_read_object(in);
        while (insula_next_field(in, &name)) insula_skip(in);
        break;
    case '[':
        insula_read_list(in);
        while (insula_next_item(in)) insula_skip(in);
        break;
    case '"': insula_read_string(in); break;
    case 't':
    case 'f': insula_read_bool(in); break;
    case 'n':
        if (!insula_read_null(in)) insula_read_problem(in, "not valid JSON");
        break;
    default:
        if (number(in, &whole).length == 0)
            insula_read_problem(in, next == -1 ? "the JSON ends too early" : "not valid JSON");
    }
}

void insula_read_nothing(insula_reader *in) {
    if (peek(in) != -1) insula_skip(in);
}

insula_string insula_read_raw(insula_reader *in) {
    peek(in);
    const char *start = in->at;
    insula_skip(in);
    if (in->problem) return (insula_string){"null", 4};
    return insula_concat(((insula_string){start, (size_t)(in->at - start)}));
}

/* ---- Writing ---- */

insula_writer insula_write(void) {
    return (insula_writer){0};
}

insula_string insula_written(const insula_writer *out) {
    return (insula_string){out->data ? out->data : "", out->length};
}

void insula_write_problem(insula_writer *out, const char *problem) {
    if (!out->problem) out->problem = problem;
}

static char *room(insula_writer *out, size_t more) {
    if (more > out->room - out->length) {
        size_t needed;
        if (__builtin_add_overflow(out->length, more, &needed) || needed > SIZE_MAX / 4) insula_no_memory();
        size_t wider = out->room ? out->room * 2 : 1024;
        out->room = wider > needed ? wider : needed;
        out->data = insula_widen(out->data, out->length, out->room);
    }
    return out->data + out->length;
}

void insula_put(insula_writer *out, const char *text, size_t length) {
    if (length) memcpy(room(out, length), text, length);
    out->length += length;
}

static void put_char(insula_writer *out, char c) {
    *room(out, 1) = c;
    out->length++;
}

void insula_write_comma(insula_writer *out) {
    char last = out->length ? out->data[out->length - 1] : '{';
    if (last != '{' && last != '[' && last != ':') put_char(out, ',');
}

void insula_write_field(insula_writer *out, const char *quoted, size_t length) {
    insula_write_comma(out);
    insula_put(out, quoted, length);
}

bool insula_write_open(insula_writer *out, char bracket) {
    if (++out->depth > INSULA_DEPTH) insula_write_problem(out, "nested too deep");
    put_char(out, bracket);
    return !out->problem;
}

void insula_write_close(insula_writer *out, char bracket) {
    out->depth--;
    put_char(out, bracket);
}

void insula_write_string(insula_writer *out, insula_string value) {
    static const char digits[] = "0123456789abcdef";
    put_char(out, '"');
    size_t from = 0;
    for (size_t i = 0; i < value.length; i++) {
        i += plain(value.data + i, value.data + value.length);
        if (i == value.length) break;
        unsigned char c = (unsigned char)value.data[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        insula_put(out, value.data + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\') {
            insula_put(out, (char[]){'\\', (char)c}, 2);
        } else if (c == '\n') {
            insula_put(out, "\\n", 2);
        } else {
            insula_put(out, (char[]){'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]}, 6);
        }
    }
    insula_put(out, value.data + from, value.length - from);
    put_char(out, '"');
}

void insula_write_bytes(insula_writer *out, insula_bytes value) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    put_char(out, '"');
    for (size_t i = 0; i < value.length; i += 3) {
        size_t left = value.length - i;
        uint32_t bits = (uint32_t)value.data[i] << 16;
        if (left > 1) bits |= (uint32_t)value.data[i + 1] << 8;
        if (left > 2) bits |= value.data[i + 2];
        insula_put(out, (char[]){alphabet[bits >> 18], alphabet[bits >> 12 & 63], left > 1 ? alphabet[bits >> 6 & 63] : '=',
                                 left > 2 ? alphabet[bits & 63] : '='}, 4);
    }
    put_char(out, '"');
}

void insula_write_number(insula_writer *out, int64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do digits[--at] = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0) digits[--at] = '-';
    insula_put(out, digits + at, sizeof digits - at);
}

void insula_write_int32(insula_writer *out, int32_t value) {
    insula_write_number(out, value);
}

void insula_write_int64(insula_writer *out, int64_t value) {
    put_char(out, '"');
    insula_write_number(out, value);
    put_char(out, '"');
}

void insula_write_double(insula_writer *out, double value) {
    char digits[32];
    if (isnan(value)) return insula_put_text(out, "\"NaN\"");
    if (isinf(value)) return value < 0 ? insula_put_text(out, "\"-Infinity\"") : insula_put_text(out, "\"Infinity\"");
    if (value == 0 && signbit(value)) return insula_put_text(out, "-0.0");
    /* The fewest digits that read back as the same number. */
    int length = 0;
    for (int precision = 15; precision <= 17; precision++) {
        length = snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    insula_put(out, digits, (size_t)length);
}

void insula_write_bool(insula_writer *out, bool value) {
    if (value) insula_put_text(out, "true");
    else insula_put_text(out, "false");
}
