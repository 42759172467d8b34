// A service that takes as much of everything as its caller says. It speaks the okra ABI; the method's name says what of.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT(name) __attribute__((export_name(#name)))

struct answer { char *text; uint32_t length; };

// Two results, so it comes in through a few lines of assembly: C has no function with two.
__asm__(".functype run_host_api (i32, i32) -> (i32, i32)\n"
        ".import_module run_host_api, okra\n.import_name run_host_api, run_host_api\n"
        ".globl ask_host\n.type ask_host,@function\nask_host:\n"
        ".functype ask_host (i32, i32, i32) -> ()\n"
        ".local i32, i32\n"
        "local.get 1\nlocal.get 2\ncall run_host_api\nlocal.set 4\nlocal.set 3\n"
        "local.get 0\nlocal.get 3\ni32.store 0\nlocal.get 0\nlocal.get 4\ni32.store 4\nend_function\n");
void ask_host(struct answer *answer, const char *request, uint32_t length);

EXPORT(allocate) void *allocate(uint32_t size) { return malloc(size); }
EXPORT(deallocate) void deallocate(void *pointer) { free(pointer); }

// {"number": done, "refused": "…"}
static uint64_t answer(long number, const char *refused) {
    char *text = malloc(4096);
    int length = snprintf(text, 4096, "{\"number\":\"%ld\",\"refused\":\"%s\"}", number, refused);
    return (uint64_t)(uintptr_t)text << 32 | (uint32_t)length;
}

static uint64_t print(long number, const char *piece, size_t size, int fd) {
    long written = 0;
    for (; written < number; ) {
        ssize_t some = write(fd, piece, size);
        if (some < 0) return answer(written, "write");
        written += some;
    }
    return answer(written, "");
}

static uint64_t ask(long number, const char *request) {
    for (long asked = 0; asked < number; asked++) {
        struct answer said = {0, 0};
        ask_host(&said, request, strlen(request));
        int good = said.length > 15 && !memcmp(said.text, "{\"success\":true", 15);
        const char *code = good ? 0 : strstr(said.text, "LIMIT_EXCEEDED");
        free(said.text);
        if (!good) return answer(asked, code ? "LIMIT_EXCEEDED" : "another");
    }
    return answer(number, "");
}

static char kept[1 << 16];
static volatile uint32_t spins;

// Input: {"number":"N"} with the number written as a text, as a Long is.
EXPORT(handle_request) uint64_t handle_request(char *method, uint32_t method_length, char *input, uint32_t length) {
    char copy[64] = {0};
    memcpy(copy, input, length < 63 ? length : 63);
    const char *digits = strpbrk(copy, "0123456789");
    long number = digits ? atol(digits) : 0;
#define ON(word) if (method_length == sizeof #word - 1 && !memcmp(method, #word, method_length))
    ON(lines) {
        memset(kept, 'a', sizeof kept);
        for (size_t at = 80; at < sizeof kept; at += 81) kept[at] = '\n';
        return print(number, kept, sizeof kept, 1);
    }
    ON(line) {
        memset(kept, 'b', sizeof kept);
        return print(number, kept, sizeof kept, 2);
    }
    ON(binary) {
        for (size_t at = 0; at < sizeof kept; at++) kept[at] = (char)(at * 2654435761u >> 24);
        return print(number, kept, sizeof kept, 1);
    }
    ON(asks) return ask(number, "{\"api\":\"okra.time\",\"method\":\"now\",\"parameters\":{}}");
    ON(opens) return ask(number, "{\"api\":\"test.endless\",\"method\":\"open\",\"parameters\":{}}");
    ON(opensAndTraps) { ask(number, "{\"api\":\"test.endless\",\"method\":\"open\",\"parameters\":{}}"); __builtin_trap(); }
    ON(opensAndLoops) { ask(number, "{\"api\":\"test.endless\",\"method\":\"open\",\"parameters\":{}}"); for (;;) spins++; }
    ON(counts) {
        for (long asked = 0; asked < number; asked++) {
            struct answer said = {0, 0};
            char request[128];
            int size = snprintf(request, sizeof request,
                "{\"api\":\"okra.state\",\"method\":\"set\",\"parameters\":{\"key\":\"k%ld\",\"value\":%ld}}", asked % 100, asked);
            ask_host(&said, request, size);
            int good = said.length > 15 && !memcmp(said.text, "{\"success\":true", 15);
            free(said.text);
            if (!good) return answer(asked, "refused");
        }
        return answer(number, "");
    }
    ON(memory) {  // megabytes, all of them touched and kept
        for (long taken = 0; taken < number; taken++) {
            size_t page = __builtin_wasm_memory_grow(0, 16);
            if (page == (size_t)-1) return answer(taken, "memory");
            memset((void *)(page << 16), 1, 1 << 20);
        }
        return answer(number, "");
    }
    return 0;
}
