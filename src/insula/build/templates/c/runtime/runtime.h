/* What the files of the runtime share among themselves; a service includes service.gen.h alone. */
#ifndef INSULA_RUNTIME_H
#define INSULA_RUNTIME_H

#include "insula.h"

/* Ends what the last call allocated, and its error. */
void insula_reset(void);

/* Ends the guest for want of memory, and lets the host see that this is why. */
_Noreturn void insula_no_memory(void);

/* Room for `length` bytes and the NUL behind them. */
char *insula_take_text(size_t length);

/* The first `length` bytes of `text`, copied to where there is room for `room`. */
char *insula_widen(char *text, size_t length, size_t room);

/* insula_fail with a text that is valid until the end of the call. */
insula_status insula_fail_text(insula_status code, insula_string message);

/* The message that was given with `code`, if that was the last error. */
insula_string insula_failure(insula_status code);

#endif
