#include "service.gen.h"

static insula_string greeting(Language language, insula_string name) {
    switch (language) {
    case Language_FRENCH: return insula_concat(insula_text("Bonjour, "), name, insula_text(" !"));
    case Language_GERMAN: return insula_concat(insula_text("Guten Tag, "), name, insula_text("!"));
    case Language_JAPANESE: return insula_concat(insula_text("こんにちは、"), name, insula_text("さん。"));
    default: return insula_concat(insula_text("Hello, "), name, insula_text("!"));
    }
}

static insula_status greet(insula_string name, Language language, GreetResponse *output) {
    if (name.length == 0) return insula_fail(INSULA_INVALID_ARGUMENT, "there is nobody to greet: name is empty");
    output->language = language == Language_UNSPECIFIED ? Language_ENGLISH : language;
    output->message = greeting(output->language, name);
    return INSULA_OK;
}

insula_status Greeter_greet(const GreetRequest *input, GreetResponse *output) {
    return greet(input->name, input->language, output);
}

insula_status Greeter_greetAll(const GreetAllRequest *input, GreetResponse_list *output) {
    insula_resize(*output, input->names.count);
    for (size_t i = 0; i < output->count; i++) {
        insula_status status = greet(input->names.items[i], input->language, &output->items[i]);
        if (status != INSULA_OK) return status;
    }
    return INSULA_OK;
}

insula_status Greeter_listLanguages(Language_list *output) {
    insula_resize(*output, 4);
    for (size_t i = 0; i < output->count; i++) output->items[i] = Language_ENGLISH + i;
    return INSULA_OK;
}
