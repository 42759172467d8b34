// A service that does what no service should, for tests of a whole server. It imports nothing but WASI.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name)))

EXPORT(allocate) void *allocate(uint32_t size) { return malloc(size); }
EXPORT(deallocate) void deallocate(void *pointer) { free(pointer); }

static uint64_t pack(const void *pointer, uint32_t length) { return (uint64_t)(uintptr_t)pointer << 32 | length; }

static uint64_t answer(const char *text) {
    uint32_t length = strlen(text);
    char *copy = malloc(length);
    memcpy(copy, text, length);
    return pack(copy, length);
}

__attribute__((noinline)) static uint32_t deeper(uint32_t n) {
    volatile char room[256];
    room[n % 256] = (char)n;
    return deeper(n + 1) + room[n % 256];
}

static volatile uint32_t spins;
static char kept[64] = "nothing";

EXPORT(handle_request) uint64_t handle_request(char *method, uint32_t method_length, char *input, uint32_t length) {
    char name[32] = {0};
    memcpy(name, method, method_length < 31 ? method_length : 31);
#define ON(word) if (!strcmp(name, #word))
    ON(echo) { char *copy = malloc(length + 1); memcpy(copy, input, length); return pack(copy, length); }
    ON(getEcho) { char *copy = malloc(length + 1); memcpy(copy, input, length); return pack(copy, length); }
    ON(keep) { memcpy(kept, "a secret of another call", 25); __builtin_trap(); }
    ON(kept) { char text[96] = "{\"text\":\""; strcat(text, kept); strcat(text, "\"}"); return answer(text); }
    ON(loop) for (;;) spins++;
    ON(bomb) for (;;) { char *p = malloc(1 << 20); if (!p) __builtin_trap(); memset(p, 1, 1 << 20); spins += p[spins % 999]; }
    ON(overflow) { char text[32] = "{\"text\":\"x\"}"; text[9] = (char)deeper(1); return answer(text); }
    ON(quit) exit(3);
    ON(trap) __builtin_trap();
    ON(outside) return pack((void *)(uintptr_t)0x7ffffff0u, 16);
    ON(huge) return pack((void *)(uintptr_t)64, 0xffffffffu);
    ON(shapeless) return answer("{\"text\":7}");
    ON(broken) return answer("{\"text\":");
    ON(refuse) return answer("{\"error\":\"no such order\",\"code\":\"not_found\"}") | 1ull << 63;
    return 0;
}
