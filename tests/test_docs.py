"""The documents are true: every command is run, every snippet is read by what it is for, every link leads somewhere.

Shell blocks run in order, in one folder for each document, against a server of their own; only addresses are changed on
the way. What would install something or never end (`make`, `pip`) is looked up instead. A JSON block is what the command
before it answers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click
import pytest

from insula.build.new import create
from insula.calls import ServiceId
from insula.cli.main import insula as root
from insula.errors import WIRE, code_named
from insula.host.catalogue import BUILT_IN
from insula.host.grants import ALWAYS
from insula.host.services import HostServices
from insula.packages.deployable import LIMIT_BOUNDS, ServiceLimits
from insula.packages.package import PackageConfig
from insula.schema.check import METHOD_DIRECTIVES
from insula.schema.idl import parse_idl
from insula.schema.scalars import SCALARS
from insula.settings import load
from insula.settings.load import keys_of
from insula.settings.tree import RESERVED_SECTIONS, SECTIONS, SERVICE_SECTIONS
from tests.markdown import Block, Document, commands
from tests.running import Process, process
from tests.test_house import KNOWS, SOURCE
from tests.toolchains import needs

if TYPE_CHECKING:
    from insula.storage.guest_state import StateRepository

REPOSITORY = Path(__file__).parent.parent
FILES = sorted(
    path.relative_to(REPOSITORY)
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/*/README.md"))
)
DOCUMENTS = {str(path): Document(REPOSITORY / path) for path in FILES}
MAKEFILE = (REPOSITORY / "Makefile").read_text()
LANGUAGES: tuple[Literal["c"], Literal["go"]] = ("c", "go")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))

every_document = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)


# What is run


class Shell:
    """Runs the shell blocks of a document in one folder, against one server."""

    def __init__(self, folder: Path, server: Process) -> None:
        self.folder = folder
        self._server = server
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environ = {
            **os.environ,
            "PATH": tools,
            "INSULA_URL": server.url,
            "INSULA_ADMIN_URL": server.admin_url,
        }
        self.said = ""

    def run(self, block: Block) -> None:
        for command in commands(block):
            words = shlex.split(command, comments=True)
            if words[0] == "make":
                assert len(words) == 2, command
                assert words[1] in TARGETS, command
            elif words[:2] == ["source", ".venv/bin/activate"]:
                assert "VENV := .venv\n" in MAKEFILE
            elif words[:2] == ["insula", "serve"]:
                serves(self.folder, words[2:])
            else:
                self._run(command, words)

    def _run(self, command: str, words: list[str]) -> None:
        command = command.replace("http://127.0.0.1:8080", self._server.url)
        command = command.replace("http://127.0.0.1:8081", self._server.admin_url)
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, env=self._environ, capture_output=True, text=True, timeout=300
        )
        # doctor ends with 1 where there is something to mend, which is this machine's affair
        allowed = (0, 1) if words[:2] == ["insula", "doctor"] else (0,)
        assert done.returncode in allowed, f"{command}\n{done.stdout}{done.stderr}"
        self.said = done.stdout


def serves(folder: Path, arguments: list[str]) -> None:
    """`insula serve` with these arguments, on free ports: it comes up, and ends in order."""
    for option in ("--port", "--admin-port"):
        if option in arguments:
            del arguments[arguments.index(option) : arguments.index(option) + 2]
    with process(folder, *arguments) as server:
        assert server.end() == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """What `make serve` starts; one for all documents, as a reader has one."""
    recipe = re.search(r"^serve:.*\n\t@exec \$\(BIN\)/insula serve (.*) \$\(ARGS\)$", MAKEFILE, re.MULTILINE)
    assert recipe
    folder = tmp_path_factory.mktemp("server")
    with process(folder, *shlex.split(recipe[1])) as server:
        yield server


def follow(document: Document, shell: Shell) -> None:
    for block in document.blocks:
        if block.language == "sh":
            shell.run(block)
        elif block.language == "json":
            assert json.loads(shell.said) == json.loads(block.text), f"{document.path}:{block.line}"


def test_the_readme_from_top_to_bottom(server: Process, tmp_path: Path) -> None:
    needs("c")
    folder = tmp_path / "checkout"
    folder.mkdir()
    shell = Shell(folder, server)
    follow(DOCUMENTS["README.md"], shell)
    blocks = {block.language: block.text for block in DOCUMENTS["README.md"].blocks}
    assert (folder / "hello" / "service.okra.gql").read_text().strip() == blocks["graphql"]
    assert (folder / "hello" / "service.c.bak").read_text().strip() == blocks["c"]


@pytest.mark.parametrize(("name", "language"), [("greeter", "c"), ("counter", "go")])
def test_the_readme_of_an_example(server: Process, tmp_path: Path, name: str, language: str) -> None:
    needs(language)
    folder = tmp_path / name
    shutil.copytree(REPOSITORY / "examples" / name, folder, ignore=shutil.ignore_patterns("gen", "dist"))
    shell = Shell(folder, server)
    follow(Document(folder / "README.md"), shell)
    assert json.loads(shell.said)


def test_the_readme_of_a_new_service(server: Process, tmp_path: Path) -> None:
    """Followed for C; the one for Go, which takes longer to build and is called in `tests/build`, has the same commands."""
    needs("c")
    c, go = (create("order-book", language, tmp_path / language, "shop") for language in LANGUAGES)
    assert Document(c / "README.md").blocks == Document(go / "README.md").blocks
    shell = Shell(c, server)
    follow(Document(c / "README.md"), shell)
    assert json.loads(shell.said) == {"message": "Hello, World!"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_service_of_the_reference(tmp_path: Path, language: str) -> None:
    """The files that it shows, put where it says, against a server with the settings that it shows."""
    needs(language)
    config, idl, settings, c, go, shell, answer = _from_end_to_end()
    folder = tmp_path / "branch"
    folder.mkdir()
    (folder / "service.okra.gql").write_text(idl.text)
    if language == "c":
        (folder / "okra.json").write_text(config.text)
        (folder / "service.c").write_text(c.text)
    else:
        written = {key: value for key, value in json.loads(config.text).items() if key != "source"}
        (folder / "okra.json").write_text(json.dumps(written | {"language": "go"}))
        (folder / "service.go").write_text(go.text)
        (folder / "go.mod").write_text("module branch\n\ngo 1.24\n")
    (tmp_path / "insula.toml").write_text(settings.text)
    with process(tmp_path) as server:
        reader = Shell(tmp_path, server)
        reader.run(shell)
        assert json.loads(reader.said) == json.loads(answer.text)


def _from_end_to_end() -> list[Block]:
    """The blocks up to the first command's answer."""
    blocks = DOCUMENTS["docs/services.md"].blocks
    assert [block.language for block in blocks[:7]] == ["json", "graphql", "toml", "c", "go", "sh", "json"]
    assert {block.language for block in blocks[7:]} == {"graphql"}, "nothing else of it would be tried"
    return blocks[:7]


def test_the_line_that_the_server_prints_answers(server: Process) -> None:
    (line,) = [line for line in server.said.splitlines() if line.split()[:1] == ["try"]]
    done = subprocess.run(["bash", "-c", line.partition("try")[2]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["message"] == "Hello, you!"


def test_python_in_the_documents_runs(tmp_path: Path) -> None:
    """Each snippet is a program that serves until it is told to stop."""
    elsewhere = "docs/embedding.md"  # test_embedding.py runs those under a server of somebody else's
    documents = [document for name, document in DOCUMENTS.items() if name != elsewhere]
    snippets = [block for document in documents for block in document.blocks if block.language == "python"]
    assert snippets
    environ = {**os.environ, "INSULA_SERVER__PORT": "0", "INSULA_SERVER__ADMIN_PORT": "0"}
    for block in snippets:
        with subprocess.Popen(
            [sys.executable, "-c", block.text], cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True
        ) as program:
            assert program.stderr is not None
            up = any("listening on http://" in line for line in program.stderr)
            program.send_signal(signal.SIGTERM)
            _, rest = program.communicate(timeout=30)
        assert (up, program.returncode) == (True, 0), rest


# What is read


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    checked = {"sh", "json", "graphql", "c", "go", "python", "toml", "mermaid", "text"}
    for document in DOCUMENTS.values():
        for block in document.blocks:
            assert block.language in checked, f"{document.path}:{block.line} has a block of {block.language!r}"


def test_only_documents_that_are_run_have_commands() -> None:
    run = {"README.md", "examples/greeter/README.md", "examples/counter/README.md", "docs/services.md"}
    looked_up = {"docs/cli.md", "CONTRIBUTING.md"}
    for name, document in DOCUMENTS.items():
        if any(block.language == "sh" for block in document.blocks):
            assert name in run | looked_up, f"{name} has commands that nothing tries"


@pytest.mark.parametrize("name", ["docs/cli.md", "CONTRIBUTING.md"])
def test_commands_that_are_looked_up(name: str) -> None:
    for block in DOCUMENTS[name].blocks:
        for command in commands(block):
            if command.startswith("insula "):
                check_command(command)
            else:
                make, target = command.partition("#")[0].split()
                assert (make, target in TARGETS) == ("make", True), command


@every_document
def test_toml_is_settings_that_load(document: Document, tmp_path: Path) -> None:
    for block in document.blocks:
        if block.language == "toml":
            assert tomllib.loads(block.text)
            for file in re.findall(r'_file = "(.*)"', block.text):
                block = Block("toml", block.text.replace(file, str(tmp_path / "secret")), block.line)
            (tmp_path / "secret").write_text("s3cret")
            (tmp_path / "insula.toml").write_text(block.text)
            load(environ={}, cwd=tmp_path)


@every_document
def test_schemas_are_schemas(document: Document) -> None:
    for block in document.blocks:
        if block.language == "graphql":
            parse_idl(block.text)


@every_document
def test_links_lead_somewhere(document: Document) -> None:
    for link in document.links:
        where, _, anchor = link.partition("#")
        if where.startswith("http"):
            continue
        target = document.path.parent / where if where else document.path
        assert target.exists(), f"{document.path}: {link}"
        if anchor:
            assert anchor in Document(target).anchors, f"{document.path}: {link}"


@every_document
def test_what_is_named_within_lines_is_there(document: Document) -> None:
    for code in document.inline:
        if code.startswith("insula ") and not re.search(r"[{}…]", code):
            check_command(code)
        elif code.startswith("make "):
            assert code.split()[1] in TARGETS, code
        elif re.fullmatch(r"INSULA_[A-Z]+__[A-Z_]+(=.*)?", code):
            check_variable(code.partition("=")[0])
        elif re.fullmatch(r"\[[a-z_]+\]( [a-z_]+.*)?", code):
            check_setting(code)
        elif re.fullmatch(r"[\w./-]+\.(py|md|toml|txt)|[\w./-]+/", code):
            check_path(document, code)


def check_command(line: str) -> None:
    """That the command is there and has these options; a word in capitals stands for something."""
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = root
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no such command: {line}"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in options, f"{line} has no option {word}"


def check_variable(name: str) -> None:
    section, key = name.removeprefix("INSULA_").lower().split("__")
    if section != "section":  # the pattern itself, INSULA_SECTION__KEY
        assert section in SECTIONS, name
        assert key in keys_of(section), name


def check_setting(code: str) -> None:
    section, _, key = code.partition(" ")
    name = section.strip("[]")
    assert name in {*SECTIONS, *SERVICE_SECTIONS, *RESERVED_SECTIONS}, code
    known = {*keys_of(name), "bind_address"} if name in SECTIONS else set()
    for word in re.findall(r"[a-z_]+(?= =|$)", key.partition("=")[0].strip() + " =") if key else []:
        assert word in known, code


def check_path(document: Document, code: str) -> None:
    """A file or folder of the repository or of the package; what a build or a run makes is known by its name."""
    made = ("insula-data/", "gen/", "dist/", "hello/", "insula.toml", "depot/", "modules/", "incoming/")
    if code.startswith((*made, "/")) or "/hello" in code:
        return
    places = (document.path.parent, REPOSITORY, REPOSITORY / "src" / "insula")
    assert any((place / code).exists() for place in places), f"{document.path} names {code}"


def test_the_data_folder_holds_what_is_told_of_it(server: Process) -> None:
    (block,) = [block for block in DOCUMENTS["docs/architecture.md"].blocks if block.text.startswith("insula-data/\n")]
    told = {line.split()[0].rstrip("/") for line in block.text.splitlines() if line.startswith("  ")}
    there = {path.name for path in (server.log.parent / "insula-data").iterdir()}
    assert told == there - {"insula.db-shm", "insula.db-wal"}


# The reference of services, against the code


def _table(header: str) -> list[list[str]]:
    """The cells of the table in docs/services.md whose first line begins so, without the marks of code."""
    lines = DOCUMENTS["docs/services.md"].prose.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_keys_of_okra_json() -> None:
    keys = [key for row in _table("key") for key in re.findall(r"`(\w+)`", row[0])]
    assert sorted(keys) == sorted(PackageConfig.__struct_fields__)


def test_the_limits_of_okra_json() -> None:
    told = {row[0].strip("`"): tuple(map(int, row[1:4])) for row in _table("limit")}
    default = ServiceLimits()
    assert told == {key: (getattr(default, key), *bounds) for key, bounds in LIMIT_BOUNDS.items()}
    assert {*told, "singleton"} == set(ServiceLimits.__struct_fields__)


def test_the_host_apis() -> None:
    service = ServiceId("shop", "Orders", "v1")
    made = [make(HostServices(state=cast("StateRepository", object()))) for make in BUILT_IN]
    there = {one.name: set(one.configure(service, {}).okra) for one in made if one is not None}
    rows = [(row[0].strip("`"), set(re.findall(r"`(\w+)`", row[1])), row[3]) for row in _table("host API")]
    assert {name: methods for name, methods, _ in rows} == there
    default = {name for name, _, granted in rows if granted == "yes"}
    assert default == there.keys() & set(load(environ={}, cwd=REPOSITORY / "docs").grants.default)
    assert {name for name, _, granted in rows if granted.startswith("always")} == set(ALWAYS)


def test_the_scalars() -> None:
    told = {name: row[2].strip("`") for row in _table("scalar") for name in re.findall(r"`(\w+)`", row[0])}
    assert told == {name: scalar.protobuf for name, scalar in SCALARS.items()}


def test_the_directives_of_a_method() -> None:
    told = {name for row in _table("directive") for name in re.findall(r"@(\w+)", row[0])}
    assert told == set(METHOD_DIRECTIVES)


def test_the_statuses_of_errors() -> None:
    for codes, statuses, _ in _table("code"):
        known = [str(WIRE[code_named(code)].http) for code in re.findall(r"`(\w+)`", codes)]
        assert known[-1] == statuses.split(", ")[-1], codes


# Decisions


def test_decisions_are_numbered_and_of_one_form() -> None:
    """A number is one decision's for good; what was chosen, why, what else there was and what it costs is said of each."""
    files = sorted((REPOSITORY / "docs" / "decisions").iterdir())
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = file.read_text()
        assert text.startswith(f"# {int(file.name[:4])}. "), file.name
        assert "**Chosen.**" in text, file.name
        assert "**Why.**" in text, file.name
        assert "**Rejected.**" in text, file.name


# The Makefile


def test_every_target_is_in_its_help() -> None:
    told = set(re.findall(r'@echo "make (\w+)', MAKEFILE))
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert told == set(phony[1].split()) - {"help"} == TARGETS - {"help"}


# The drawn house


def test_the_drawn_rooms_are_the_rooms_that_the_arrows_hold() -> None:
    drawn = rooms_of(next(block for block in DOCUMENTS["docs/architecture.md"].blocks if "arrows" in block.text))
    held: dict[str, set[str]] = {
        name: known for name, known in KNOWS.items() if known and not name.startswith("__") and name != "assembly"
    }
    assert drawn == held


def test_the_table_of_rooms_says_the_same() -> None:
    told: dict[str, set[str]] = {}
    for line in DOCUMENTS["docs/architecture.md"].prose.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or cells[0] in ("room", "---"):
            continue
        known = {word.strip() for word in cells[2].split(",")} - {"nothing"}
        for name in re.findall(r"`([a-z]+)(?:\.py|/)?`", cells[0]):
            told[name] = known
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert told.pop("assembly") == {"all rooms but build and cli"}
    assert KNOWS["assembly"] == folders - {"build", "cli", "examples"}
    assert told == {name: known for name, known in KNOWS.items() if name != "assembly" and not name.startswith("__")}


def rooms_of(block: Block) -> dict[str, set[str]]:
    """`a --> b & c` as room -> the rooms that it knows."""
    arrows: dict[str, set[str]] = {}
    for line in block.text.splitlines():
        if "-->" in line:
            here, there = line.split("-->")
            arrows.setdefault(here.strip(), set()).update(room.strip() for room in there.split("&"))
    return arrows
