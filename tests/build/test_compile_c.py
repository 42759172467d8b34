from __future__ import annotations

import json
from pathlib import Path

import pytest

from insula.build.new import create
from insula.build.project import build
from insula.build.tools import cache_folder
from insula.errors import InsulaError
from tests.toolchains import needs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    needs("c")
    return create("greeter", "c", tmp_path / "project")


def test_the_source_may_be_a_folder(project: Path) -> None:
    (project / "source" / "deep").mkdir(parents=True)
    (project / "service.c").rename(project / "source" / "-service.c")
    (project / "source" / "deep" / "more.c").write_text("int more(void) { return 1; }\n")
    (project / "source" / ".hidden.c").write_text("not C")
    config = json.loads((project / "okra.json").read_text())
    (project / "okra.json").write_text(json.dumps({**config, "source": "source"}))
    assert build(project).size


def test_a_folder_without_c(project: Path) -> None:
    (project / "service.c").unlink()
    config = json.loads((project / "okra.json").read_text())
    (project / "okra.json").write_text(json.dumps({**config, "source": "."}))
    with pytest.raises(InsulaError, match="no C file"):
        build(project)


@pytest.mark.parametrize(
    ("source", "said", "hint"),
    [
        ("#include <nothing_here.h>", r"service\.c:1:10: .*nothing_here\.h", None),
        ('#include "service.gen.h"\nint x = "y";\n', r"service\.c:2:5: .*int", None),
        ('#include "service.gen.h"\n', "Greeter_greet", "gen/service.gen.h"),
    ],
)
def test_the_compiler_s_words_are_shown_whole(project: Path, source: str, said: str, hint: str | None) -> None:
    (project / "service.c").write_text(source)
    with pytest.raises(InsulaError, match=said) as caught:
        build(project)
    assert str(project) not in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")
    assert not (project / "dist").exists()


def test_a_warning_is_shown_and_does_no_harm(project: Path) -> None:
    lines: list[str] = []
    with open(project / "service.c", "a") as file:
        file.write(f"static int not_used_{project.parent.name};\n")
    build(project, progress=lines.append)
    assert "unused variable" in "\n".join(lines)


def test_what_is_in_the_environment_does_not_reach_the_compiler(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stdbool.h").write_text("#error from outside\n")
    for name in ("CPATH", "C_INCLUDE_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    assert build(project).size


def test_the_first_build_says_that_it_takes_longer(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where another installation of the compiler has filled the cache, which is of no use to this one."""
    cache = cache_folder("zig")
    own = tmp_path / "cache" / "insula" / "zig"
    own.mkdir(parents=True)
    for name in ("global", "local"):
        (cache / name).mkdir(parents=True, exist_ok=True)
        (own / name).symlink_to(cache / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said: list[str] = []
    build(project, progress=said.append)
    assert "takes half a minute" in said[1]
    said.clear()
    build(project, progress=said.append)
    assert "takes half a minute" not in said[1]
