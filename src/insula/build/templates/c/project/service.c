#include "service.gen.h"

insula_status {{SERVICE}}_greet(const GreetRequest *input, GreetResponse *output) {
    if (input->name.length == 0) return insula_fail(INSULA_INVALID_ARGUMENT, "name is empty");
    output->message = insula_concat(insula_text("Hello, "), input->name, insula_text("!"));
    return INSULA_OK;
}
