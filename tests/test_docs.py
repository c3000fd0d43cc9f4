"""The documentation says what the code does: its code runs, its tables agree, its links resolve."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import transport
from bench.sim import command as experiments
from support.markdown import (
    anchors,
    blocks,
    documents,
    headings,
    links,
    names,
    read,
    section,
    table,
)
from support.source_tree import PACKAGE, PROJECT_ROOT, python_files, relative
from transport.cli import COMMANDS
from transport.link import drops
from transport.link.state import TRANSITIONS
from transport.tensor.spec import DTYPE_NAMES, TensorSpec
from transport.wire import frames
from transport.wire.packet import Kind

RUN_LIMIT = 60.0  # seconds for a program of the documentation
UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
CAUSES = {
    value
    for name, value in vars(drops).items()
    if name.isupper() and isinstance(value, str) and not name.startswith("_")
}
TUTORIAL_PORT = "5551"


def environment() -> dict[str, str]:
    """Programs of the documentation import this checkout, wherever they run."""
    return {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}


def run(code: str, folder: Path) -> str:
    """Run a program in a folder of its own; return what it prints."""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def value_of(cell: str) -> object:
    """Read a default as tables write it: `4 MiB`, `0.25`, `True`."""
    number, _, unit = cell.partition(" ")
    if number in ("True", "False"):
        return number == "True"
    if unit:
        return int(number) * UNITS[unit]
    return float(number) if "." in number else int(number)


# --- programs ------------------------------------------------------------------------


def test_the_readme_example_runs(tmp_path):
    (example,) = blocks(read("README.md"), "python")
    assert len(example.splitlines()) <= 15
    assert run(example, tmp_path) == "[0. 1. 2. 3. 4. 5.]\n"


@pytest.mark.parametrize(
    "path",
    [path for path in documents() if path.name not in ("README.md", "tutorial.md")],
    ids=relative,
)
def test_blocks_marked_python_run(path, tmp_path):
    for block in blocks(path.read_text(encoding="utf-8"), "python"):
        run(block, tmp_path)


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_shorter_blocks_of_python_parse(path):
    for block in blocks(path.read_text(encoding="utf-8"), "py"):
        compile(textwrap.dedent(block), relative(path), "exec")


def test_the_tutorial_does_what_it_says(tmp_path):
    text = read("docs/tutorial.md")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    programs = {}
    for block in blocks(text, "python"):
        name = block.splitlines()[0].removeprefix("# ")
        assert TUTORIAL_PORT in block
        (tmp_path / name).write_text(block.replace(TUTORIAL_PORT, port), encoding="utf-8")
        programs[name] = name
    assert set(programs) == {"receiver.py", "sender.py"}
    make_secret = [sys.executable, "-m", PACKAGE, "keygen", "--secret", "cluster.secret"]
    subprocess.run(make_secret, cwd=tmp_path, env=environment(), timeout=RUN_LIMIT, check=True)
    started = {
        name: subprocess.Popen(
            [sys.executable, name],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in programs
    }
    try:
        printed = {name: each.communicate(timeout=RUN_LIMIT)[0] for name, each in started.items()}
    finally:
        for each in started.values():
            each.kill()
    shown = {
        lines[0].removeprefix("$ python "): lines[1:]
        for lines in (block.splitlines() for block in blocks(text, "console"))
        if lines[0].startswith("$ python ")
    }
    # Which paths have joined by then is a matter of microseconds.
    joining = re.compile("'joining'")
    for name in programs:
        assert joining.sub("'usable'", printed[name]).splitlines() == shown[name], name


def test_the_simulated_example_prints_what_stands_below_it(tmp_path):
    text = read("docs/explanation/srd.md")
    (program,), (printed,) = blocks(text, "python"), blocks(text, "text")
    assert run(program, tmp_path) == printed


def test_every_picture_of_an_experiment_stands_below_its_command():
    text = read("docs/explanation/srd.md")
    parser = argparse.ArgumentParser()
    experiments.add_arguments(parser)
    shown = re.findall(r"^`sealfabric sim (.+)`\n\n!\[[^]]+\]\(img/(\S+)\)$", text, re.M)
    assert len(shown) == text.count("](img/") > 0
    for words, picture in shown:
        assert str(parser.parse_args(words.split()).plot) == picture


# --- the specification agrees with the code --------------------------------------------


def test_the_states_are_drawn_as_they_are():
    (drawing,) = blocks(section(read("docs/spec.md"), "4.1 The life of a link"), "mermaid")
    drawn = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", drawing, re.M)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {
        (state.name, following.name, event.name)
        for (state, event), following in TRANSITIONS.items()
    }


def test_every_state_is_explained():
    rows = table(read("docs/spec.md"), "state", "what it means")
    states = {state for pair, after in TRANSITIONS.items() for state in (pair[0], after)}
    assert {row[0] for row in rows} == {state.name for state in states}


def test_the_packet_kinds_are_listed():
    rows = table(read("docs/spec.md"), "kind", "name")
    assert {row[1]: int(row[0]) for row in rows} == {kind.name: int(kind) for kind in Kind}


def test_the_frame_types_are_listed():
    rows = table(read("docs/spec.md"), "type", "name")
    frame_types = (name for name in vars(frames) if name.isupper() and "_" not in name)
    assert {row[1]: int(row[0]) for row in rows} == {
        name: getattr(frames, name) for name in frame_types
    }


def test_the_dtypes_are_listed():
    rows = table(read("docs/spec.md"), "code", "dtype", "bytes")
    listed = {row[1]: (int(row[0], 16), int(row[2])) for row in rows}
    portable = DTYPE_NAMES - {"longdouble", "clongdouble"}
    assert listed == {
        name: (spec.encode()[0], spec.itemsize)
        for name, spec in ((name, TensorSpec(name, (1,))) for name in portable)
    }


@pytest.mark.parametrize(
    ("document", "columns"),
    [
        ("docs/spec.md", ("`Config`", "default", "range")),
        ("docs/reference/configuration.md", ("field", "default")),
    ],
)
def test_the_configuration_is_listed(document, columns):
    listed = {names(row[0])[0]: value_of(row[1]) for row in table(read(document), *columns)}
    defaults = {field.name: field.default for field in dataclasses.fields(transport.Config)}
    assert listed == defaults
    assert list(listed) == list(defaults), "in the order of the code"


@pytest.mark.parametrize(
    ("path", "listed"),
    [(names(row[0])[0], row[1]) for row in table(read("docs/spec.md"), "constant", "value")],
)
def test_the_constants_are_right(path, listed):
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(f"{PACKAGE}.{module}"), name) == value_of(listed)


@pytest.mark.parametrize(
    ("document", "columns"),
    [
        ("docs/spec.md", ("cause", "counted by", "when")),
        ("docs/reference/counters.md", ("cause", "likely reason")),
    ],
)
def test_the_causes_of_drops_are_listed(document, columns):
    rows = table(read(document), *columns)
    assert sorted(name for row in rows for name in names(row[0])) == sorted(CAUSES)


@pytest.mark.parametrize("path", python_files(PACKAGE, "bench", "tests", "examples"), ids=relative)
def test_cited_sections_of_the_specification_exist(path):
    numbers = {heading.split()[0].rstrip(".") for heading in headings(read("docs/spec.md"))}
    text = path.read_text(encoding="utf-8")
    one = r"\d+(?:\.\d+)?"
    for cited in re.findall(rf"\bspec(?:\.md)?(?: section)? ({one}(?:(?:-|, | and ){one})*)", text):
        assert set(re.findall(one, cited)) <= numbers, cited


# --- everything public is documented ----------------------------------------------------


@pytest.mark.parametrize("name", transport.__all__)
def test_public_names_are_in_the_reference(name):
    assert re.search(rf"\b{name}\b", read("docs/reference/api.md"))


@pytest.mark.parametrize("name", ["Identity", "Trust", "Node", "Link", "Work"])
def test_public_methods_are_in_the_reference(name):
    text = read("docs/reference/api.md")
    public = [each for each in vars(getattr(transport, name)) if not each.startswith("_")]
    assert [each for each in public if not re.search(rf"\b{each}\b", text)] == []


@pytest.mark.parametrize("name", ["LinkStats", "PathStats", "NodeStats"])
def test_counters_are_in_the_reference(name):
    rows = table(section(read("docs/reference/counters.md"), name), "field", "meaning")
    listed = [field for row in rows for field in names(row[0])]
    fields = [field.name for field in dataclasses.fields(getattr(transport, name))]
    assert sorted(listed) == sorted(fields)


def test_every_environment_variable_is_documented():
    sources = "".join(path.read_text(encoding="utf-8") for path in python_files(PACKAGE))
    rows = table(read("docs/reference/configuration.md"), "variable", "names")
    asked = re.findall(r'environ(?:\.get\(|\[)"(SEALFABRIC_\w+)"', sources)
    assert {names(row[0])[0] for row in rows} == set(asked)


def test_the_tree_of_errors_is_the_one_of_the_code():
    (drawn,) = blocks(read("docs/reference/api.md"), "text")
    in_code = inspect.getdoc(transport.errors) or ""
    as_in_code = inspect.cleandoc(in_code.partition("TransportError")[2].partition("\n\n")[0])
    assert words(drawn.partition("TransportError")[2]) == words(as_in_code)


def words(text: str) -> list[str]:
    return text.replace("`", "").split()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_options_are_documented(command):
    text = read("docs/reference/command.md")
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"transport.cli.{command}").add_arguments(parser)
    assert f"sealfabric {command}" in text
    assert f"sealfabric {command}" in read("README.md")
    options = set(re.findall(r"--[a-z][a-z-]+", parser.format_help()))
    assert options <= set(re.findall(r"--[a-z][a-z-]+", text))


# --- the documents hang together --------------------------------------------------------


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_links_resolve(path):
    for target in links(path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        destination = (path.parent / place).resolve() if place else path
        assert destination.exists(), target
        assert destination.is_relative_to(PROJECT_ROOT), target
        if anchor:
            assert anchor in anchors(destination.read_text(encoding="utf-8")), target


def test_every_document_can_be_reached_from_the_readme():
    reached, waiting = set(), [PROJECT_ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        for target in links(path.read_text(encoding="utf-8")):
            if "://" not in target and target.partition("#")[0]:
                waiting.append((path.parent / target.partition("#")[0]).resolve())
    assert {*(PROJECT_ROOT / "docs").rglob("*.md")} <= reached


def test_every_decision_is_indexed():
    folder = PROJECT_ROOT / "docs" / "adr"
    indexed = dict(re.findall(r"\[(\d{4})\]\((\S+)\)", read("docs/adr/README.md")))
    assert indexed == {path.name[:4]: path.name for path in sorted(folder.glob("[0-9]*.md"))}
    for number, name in indexed.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert text.startswith(f"# {number}: ")
        assert {"Context", "Decision", "Consequences"} <= set(headings(text)), name
        assert len(text.splitlines()) <= 60, "a record is one page"


def test_the_tests_that_the_threat_model_names_exist():
    named = re.findall(r"`(tests/[\w/*.]+)`", read("docs/threat-model.md"))
    assert named
    assert [each for each in named if not list(PROJECT_ROOT.glob(each))] == []


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_a_page_that_names_the_embedded_attester_calls_it_a_model(path):
    text = path.read_text(encoding="utf-8")
    if re.search(r"embedded.{0,3}attester|attest init|\"embedded\"", text, re.I):
        assert re.search(r"\ba model\b|MODEL, not hardware", text), "it proves nothing"


def test_the_benchmark_table_can_be_replaced():
    text = read("README.md")
    start, end = text.index("<!-- bench:start -->"), text.index("<!-- bench:end -->")
    assert start < end
    assert text[start:end].count("\n|") >= 3
