// A guest that misbehaves on request. It speaks the okra ABI: the method's name says what it does, the input how much.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("test"), import_name(#name)))

// host(text, length): passes a request to the test and drops the answer; its first result is the answer's pointer.
IMPORT(host) uint32_t host(const char *request, uint32_t length);

EXPORT(allocate) void *allocate(uint32_t size) { return malloc(size); }
EXPORT(deallocate) void deallocate(void *pointer) { free(pointer); }

static uint64_t pack(const void *pointer, uint32_t length) { return (uint64_t)(uintptr_t)pointer << 32 | length; }

static uint64_t answer(const char *text) {
    uint32_t length = strlen(text);
    char *copy = malloc(length);
    memcpy(copy, text, length);
    return pack(copy, length);
}

static uint64_t number(uint32_t value) {
    char text[16];
    snprintf(text, sizeof text, "%u", (unsigned)value);
    return answer(text);
}

__attribute__((noinline)) static uint32_t deeper(uint32_t n) {
    volatile char room[256];
    room[n % 256] = (char)n;
    return deeper(n + 1) + room[n % 256];
}

static uint32_t calls;
static volatile uint32_t spins, zero;
static char secret[64];

EXPORT(handle_request) uint64_t handle_request(char *method, uint32_t method_length, char *input, uint32_t length) {
    char name[32] = {0}, amount[32] = {0};
    memcpy(name, method, method_length < 31 ? method_length : 31);
    memcpy(amount, input, length < 31 ? length : 31);
    uint32_t n = strtoul(amount, 0, 10);
#define ON(word) if (!strcmp(name, #word))
    calls++;
    ON(echo) { char *copy = malloc(length + 1); memcpy(copy, input, length); return pack(copy, length); }
    ON(same) return pack(input, length);
    ON(count) return number(calls);
    ON(keep) { memcpy(secret, amount, 32); return answer("true"); }
    ON(kept) return answer(secret);
    ON(nothing) return 0;
    ON(empty) return pack(malloc(1), 0);
    ON(refuse) return answer("{\"error\":\"no such order\",\"code\":\"not_found\"}") | 1ull << 63;
    ON(refuse_plain) return answer("{\"error\":\"no\"}") | 1ull << 63;
    ON(refuse_badly) return answer("[1]") | 1ull << 63;
    ON(loop) for (;;) spins++;
    ON(bomb) for (;;) { char *p = malloc(1 << 20); if (!p) __builtin_trap(); memset(p, 1, 1 << 20); spins += p[spins % 999]; }
    ON(doubling) for (uint32_t size = 1 << 16; ; size *= 2) { char *p = realloc((void *)(uintptr_t)spins, size);
        if (!p) abort(); memset(p, 1, size); spins = (uint32_t)(uintptr_t)p; }
    ON(grow) { char *p = malloc(n << 20); if (!p) return 0; memset(p, 7, n << 20); free(p); return answer("true"); }
    ON(overflow) return number(deeper(n));
    ON(exit) exit((int)n);
    ON(trap) __builtin_trap();
    ON(divide) return number(n / zero);
    ON(wild) return number(*(volatile uint32_t *)(uintptr_t)0xfffffff0u);
    ON(table) { void (*volatile f)(void) = (void (*)(void))(uintptr_t)0xfffff; f(); }
    ON(badptr) return pack((void *)(uintptr_t)0x7ffffff0u, 16);
    ON(hugelen) return pack((void *)(uintptr_t)64, 0xffffffffu);
    ON(big) { char *p = malloc(n); memset(p, '1', n); return pack(p, n); }
    ON(sleep) { struct timespec t = {n / 1000, n % 1000 * 1000000L}; nanosleep(&t, 0); return answer("true"); }
    ON(print) { for (uint32_t i = 0; i < n; i++) printf("line %u\n", (unsigned)i); fprintf(stderr, "done\n"); return answer("true"); }
    ON(host) return number(host(input, length));
    ON(host_often) { for (;;) host(input, length); }
    ON(host_wild) return number(host((char *)(uintptr_t)0xfffffff0u, 0xffffffffu));
    ON(env) { char *value = getenv(amount); return answer(value ? value : "null"); }
    ON(time) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return number((uint32_t)t.tv_sec); }
    ON(file) { FILE *f = fopen(amount, "r"); return answer(f ? "true" : "false"); }
    ON(stdin) { char byte; return number((uint32_t)read(0, &byte, 1)); }
    ON(random) { uint8_t bytes[8]; getentropy(bytes, 8); uint32_t sum = 0; for (int i = 0; i < 8; i++) sum |= bytes[i]; return number(sum != 0); }
    return 0;
}
