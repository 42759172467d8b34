// A guest that hands what it is called with to the host. It speaks the okra ABI; the method's name says what it does.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name)))

struct answer { char *text; uint32_t length; };

// Two results, so it comes in through a few lines of assembly: C has no function with two.
__asm__(".functype run_host_api (i32, i32) -> (i32, i32)\n"
        ".import_module run_host_api, okra\n.import_name run_host_api, run_host_api\n"
        ".functype next (i32, i32) -> (i32, i32)\n"
        ".import_module next, okra\n.import_name next, next\n"
        ".globl relay_run\n.type relay_run,@function\nrelay_run:\n"
        ".functype relay_run (i32, i32, i32) -> ()\n"
        ".local i32, i32\n"
        "local.get 1\nlocal.get 2\ncall run_host_api\nlocal.set 4\nlocal.set 3\n"
        "local.get 0\nlocal.get 3\ni32.store 0\nlocal.get 0\nlocal.get 4\ni32.store 4\nend_function\n"
        ".globl relay_next\n.type relay_next,@function\nrelay_next:\n"
        ".functype relay_next (i32, i32, i32) -> ()\n"
        ".local i32, i32\n"
        "local.get 1\nlocal.get 2\ncall next\nlocal.set 4\nlocal.set 3\n"
        "local.get 0\nlocal.get 3\ni32.store 0\nlocal.get 0\nlocal.get 4\ni32.store 4\nend_function\n");
void relay_run(struct answer *answer, const char *request, uint32_t length);
void relay_next(struct answer *answer, const char *request, uint32_t length);

EXPORT(allocate) void *allocate(uint32_t size) { return malloc(size); }
EXPORT(deallocate) void deallocate(void *pointer) { free(pointer); }

static uint64_t pack(const void *pointer, uint32_t length) { return (uint64_t)(uintptr_t)pointer << 32 | length; }

#ifdef TRAP_AT_START
__attribute__((constructor)) static void start(void) { puts("about to fail"); fflush(stdout); __builtin_trap(); }
#endif

EXPORT(handle_request) uint64_t handle_request(char *method, uint32_t method_length, char *input, uint32_t length) {
    struct answer answer = {0, 0};
#define ON(word) if (method_length == sizeof #word - 1 && !memcmp(method, #word, method_length))
    ON(getEcho) return pack(memcpy(malloc(length + 1), input, length), length);
    ON(echo) return pack(memcpy(malloc(length + 1), input, length), length);
    ON(relay) { relay_run(&answer, input, length); return pack(answer.text, answer.length); }
    ON(more) { relay_next(&answer, input, length); return pack(answer.text, answer.length); }
    ON(trap) __builtin_trap();
    ON(say) { fwrite(input, 1, length, stdout); putchar('\n'); fflush(stdout); return pack(strdup("null"), 4); }
    return 0;
}
