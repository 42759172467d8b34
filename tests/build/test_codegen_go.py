"""The Go text itself; what it does when compiled is in test_generated."""

from __future__ import annotations

import subprocess
from pathlib import Path

from insula.build.codegen_go import generate
from insula.build.project import generate as write_stubs
from insula.build.tools import find_go
from insula.schema.idl import parse_idl
from tests.build.guests import Guest, build_module, write_project
from tests.toolchains import needs

IDL = '''
@okra(namespace: "tests", version: "v1")
service Serve {
  "Takes odd names."
  exit(input: type): string
  exit_(): [type]
}
"""
A type whose name
is a word of Go.
"""
type type { func: Int!  marshalJSON: String  _one: Int  range: [Int!]! }
type string {
  "Documented."
  value: String!
  a: Int
  longer_name: in
}
type Insula { x: Int }
enum in { A B A_C }
'''

SOURCE = """
package main

import "odd/gen"

type service struct{}

func (service) Exit(input *gen.Type) (*gen.String, error) {
	b := gen.InB
	return &gen.String{Value: *input.MarshalJSON_, LongerName: &b}, nil
}
func (service) Exit_() ([]gen.Type, error) { return nil, nil }
func init()                                { gen.Serve(service{}) }
func main()                                {}
"""


def test_the_same_schema_gives_the_same_text() -> None:
    assert generate(parse_idl(IDL), "odd") == generate(parse_idl(IDL), "odd")


def test_the_text_is_formatted_as_gofmt_would(tmp_path: Path) -> None:
    needs("go")
    (tmp_path / "go.mod").write_text("module odd\n\ngo 1.24\n")
    write_stubs(tmp_path, "go", parse_idl(IDL))
    gofmt = find_go().program.resolve().with_name("gofmt")
    said = subprocess.run([gofmt, "-d", tmp_path / "gen"], capture_output=True, text=True, check=True)
    assert said.stdout == ""


def test_names_that_go_has_taken_compile(tmp_path: Path) -> None:
    needs("go")
    files = {"service.okra.gql": IDL, "service.go": SOURCE, "go.mod": "module odd\n\ngo 1.24\n"}
    guest = Guest(build_module(write_project(tmp_path, files, name="Serve", language="go")))
    assert guest.call(0, "exit", b'{"marshalJSON": "x"}') == (False, b'{"value":"x","longer_name":"B"}')
    assert guest.call(1, "exit_", b"") == (False, b"[]")
    assert "okra" not in {module for module, _ in guest.imports}
