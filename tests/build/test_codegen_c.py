"""The C text itself; what it does when compiled is in test_generated."""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime

from insula.build.codegen_c import generate
from insula.schema.idl import parse_idl
from tests.build.guests import Guest, build_module, write_project
from tests.toolchains import needs

IDL = """
@okra(namespace: "tests", version: "v1")
service Odd {
  exit(input: int): value
  "A doc */ that ends a comment."
  free(input: name): [name]
}
type int { int: Int!  has_x: Boolean!  x: Int  X: Int }
type value { value: String!  in: in }
type name { list: [in!] }
enum in { A B }
enum status { A }
"""

SOURCE = """
#include "service.gen.h"
insula_status Odd_exit(const int_ *input, value_ *output) {
    output->value = insula_text(input->has_x ? "yes" : "no");
    output->has_in = true;
    output->in = in__B;
    return INSULA_OK;
}
insula_status Odd_free(const name_ *input, name__list *output) {
    insula_resize(*output, 1);
    output->items[0] = *input;
    return INSULA_OK;
}
"""


def test_the_same_schema_gives_the_same_text() -> None:
    assert generate(parse_idl(IDL)) == generate(parse_idl(IDL))


def test_names_that_c_has_taken_compile(tmp_path: Path) -> None:
    needs("c")
    guest = Guest(
        build_module(write_project(tmp_path, {"service.okra.gql": IDL, "service.c": SOURCE}, name="Odd", language="c"))
    )
    assert guest.call(0, "exit", b'{"has_x": true, "x": 5, "X": 6}') == (False, b'{"value":"yes","in":"B"}')
    assert guest.call(1, "free", b'{"list": ["A"]}') == (False, b'[{"list":["A"]}]')


def test_a_service_that_asks_nothing_imports_nothing(tmp_path: Path) -> None:
    needs("c")
    module: wasmtime.Module = build_module(
        write_project(tmp_path, {"service.okra.gql": IDL, "service.c": SOURCE}, name="Odd", language="c")
    )
    assert [(entry.module, entry.name) for entry in module.imports] == []


def test_a_value_that_holds_itself_is_an_error_and_no_trap(tmp_path: Path) -> None:
    needs("c")
    idl = '@okra(namespace: "tests", version: "v1")\nservice Ring { ring(): Node }\ntype Node { next: Node }'
    source = """
#include "service.gen.h"
insula_status Ring_ring(Node *output) { output->next = output; return INSULA_OK; }
"""
    guest = Guest(
        build_module(write_project(tmp_path, {"service.okra.gql": idl, "service.c": source}, name="Ring", language="c"))
    )
    failed, output = guest.call(0, "ring", b"{}")
    assert failed
    assert b"nested too deep" in output


def test_a_stack_that_overflows_traps(tmp_path: Path) -> None:
    """It must not grow into the data of the module instead."""
    needs("c")
    idl = '@okra(namespace: "tests", version: "v1")\nservice Deep { dig(input: Hole): Int }\ntype Hole { deep: Int! }'
    source = """
#include "service.gen.h"
static int dig(int deep) {
    volatile char ground[1024];
    ground[deep % 1024] = 1;
    return deep ? dig(deep - 1) + ground[deep % 1024] : 0;
}
insula_status Deep_dig(const Hole *input, int32_t *output) { *output = dig(input->deep); return INSULA_OK; }
"""
    module = build_module(
        write_project(tmp_path, {"service.okra.gql": idl, "service.c": source}, name="Deep", language="c")
    )
    assert Guest(module).call(0, "dig", b'{"deep": 500}') == (False, b"500")
    with pytest.raises(wasmtime.Trap, match="out of bounds"):
        Guest(module).call(0, "dig", b'{"deep": 5000}')
