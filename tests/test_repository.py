"""Rules of the repository: nothing executable off the wire, no open listener, no sprawl."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

import transport
from support.source_tree import (
    PACKAGE,
    PROJECT_ROOT,
    Module,
    called_name,
    imports,
    load,
    python_files,
    relative,
)

LINES_LIMIT = 500

EXECUTABLE_MODULES = {
    *("_pickle", "cloudpickle", "dill", "jsonpickle", "joblib", "marshal", "pickle", "shelve"),
}
EXECUTABLE_BUILTINS = {"eval", "exec", "compile", "__import__"}
EXECUTABLE_METHODS = {"recv_pyobj", "send_pyobj"}

# An address that listens on every interface, but not the end of one like 10.0.0.0.
WILDCARD_LISTENER = re.compile(r"tcp://\*|(?<![\d.])0\.0\.0\.0|\[::\]")

# What `import transport` must leave alone, so that it stays quick and small.
HEAVY = ("cbor2", "torch", "matplotlib", "ml_dtypes", "transport.bench", "transport.cli")


def executable_inputs(module: Module) -> Iterator[str]:
    """Yield each place where a module could run what it reads."""
    for found in imports(module):
        if found.target.split(".")[0] in EXECUTABLE_MODULES:
            yield f"{module.name}:{found.line}: imports {found.target}"
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = called_name(node)
        is_builtin = isinstance(node.func, ast.Name) and name in EXECUTABLE_BUILTINS
        if is_builtin or name in EXECUTABLE_METHODS:
            yield f"{module.name}:{node.lineno}: calls {name}"
        for keyword in node.keywords:
            refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "allow_pickle" and not refused:
                yield f"{module.name}:{node.lineno}: passes allow_pickle"


def pyproject() -> dict:
    return tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=relative)
def test_nothing_that_is_read_can_be_executed(path):
    assert list(executable_inputs(load(path))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "importlib.import_module('cloudpickle')",
        "eval(text)",
        "exec(text)",
        "socket.recv_pyobj()",
        "np.load(file, allow_pickle=True)",
        "np.load(file, allow_pickle=flag)",
    ],
)
def test_the_search_for_executable_input_finds_it(text):
    assert len(list(executable_inputs(Module(name="transport.x", text=text)))) == 1


@pytest.mark.parametrize("text", ["re.compile(p)", "np.load(f, allow_pickle=False)", "x.eval()"])
def test_the_search_for_executable_input_lets_the_harmless_pass(text):
    assert list(executable_inputs(Module(name="transport.x", text=text))) == []


@pytest.mark.parametrize("path", python_files(PACKAGE, "bench", "examples"), ids=relative)
def test_no_listener_is_open_to_every_interface(path):
    assert WILDCARD_LISTENER.findall(load(path).text) == []


def test_the_search_for_open_listeners_finds_them():
    for address in ("tcp://*:5555", "tcp://0.0.0.0:1", "'0.0.0.0'", "tcp://[::]:1"):
        assert WILDCARD_LISTENER.search(address)
    for address in ("tcp://127.0.0.1:0", "10.0.0.0/8", "tcp://[::1]:1", "1.0.0.0.0"):
        assert not WILDCARD_LISTENER.search(address)


@pytest.mark.parametrize("path", python_files(PACKAGE, "bench", "tests", "examples"), ids=relative)
def test_files_stay_short_enough_to_read(path):
    lines = len(load(path).text.splitlines())
    assert lines <= LINES_LIMIT, f"{relative(path)} has {lines} lines; split it along its seams"


def test_the_licence_is_the_one_that_is_declared():
    text = (PROJECT_ROOT / "LICENSE").read_text(encoding="utf-8")
    assert pyproject()["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_types_are_shipped():
    assert (PROJECT_ROOT / PACKAGE / "py.typed").is_file()
    assert "py.typed" in pyproject()["tool"]["setuptools"]["package-data"][PACKAGE]


def test_there_is_one_version():
    assert transport.__version__ == pyproject()["project"]["version"]


def test_every_development_version_is_pinned():
    lines = (PROJECT_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    project = pyproject()["project"]
    extras = project["optional-dependencies"].values()
    asked = {*project["dependencies"], *(name for extra in extras for name in extra)}
    assert {re.split(r"[<>=~!\[; ]", name)[0] for name in asked} <= pinned


def test_importing_the_package_imports_nothing_heavy():
    report = f"import sys, transport; print(*({set(HEAVY)!r} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", report],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert process.stdout.split() == []
