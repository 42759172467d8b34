from __future__ import annotations

from pathlib import Path

import pytest

from insula.build.compile_go import module_path
from insula.build.new import create
from insula.build.project import build
from insula.errors import InsulaError
from tests.toolchains import needs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return create("greeter", "go", tmp_path / "project")


@pytest.mark.parametrize(
    ("source", "said", "hint"),
    [
        ("package main\nfunc main() { x }\n", r"service\.go:2:15: undefined: x", None),
        (
            'package main\nimport "greeter/gen"\ntype s struct{}\nfunc main() { gen.Serve(s{}) }\n',
            r"service\.go:4:25: .*missing method Greet", "gen/service.gen.go",
        ),
        ("package main\n", "function main is undeclared", "func main() {}"),
    ],
)  # fmt: skip
def test_the_compiler_s_words_are_shown_whole(project: Path, source: str, said: str, hint: str | None) -> None:
    needs("go")
    (project / "service.go").write_text(source)
    with pytest.raises(InsulaError, match=said) as caught:
        build(project)
    assert str(project) not in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")
    assert not (project / "dist").exists()


def test_the_environment_does_not_change_what_is_built(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("go")
    (project.parent / "go.work").write_text("go 1.24\n")
    for name, value in (("GOOS", "plan9"), ("GOFLAGS", "-tags=odd"), ("GOEXPERIMENT", "nothing"), ("GOWASM", "x")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOPROXY", "off")
    assert build(project).size


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("module a\n", "a"),
        ('// why\n\nmodule "example.com/a-b/v2" // so\ngo 1.24\n', "example.com/a-b/v2"),
        ("\tmodule a.b_c~d\n", "a.b_c~d"),
    ],
)
def test_the_module_s_path_is_read(tmp_path: Path, text: str, path: str) -> None:
    (tmp_path / "go.mod").write_text(text)
    assert module_path(tmp_path) == path


def test_a_go_mod_that_names_no_module(project: Path) -> None:
    for text in ("// empty\n", 'module "a\\nb"\n'):
        (project / "go.mod").write_text(text)
        with pytest.raises(InsulaError, match="names no module"):
            build(project)


def test_a_project_without_go_mod(project: Path) -> None:
    (project / "go.mod").unlink()
    with pytest.raises(InsulaError, match=r"no go\.mod") as caught:
        build(project)
    assert caught.value.hint == "make it with: go mod init project"
