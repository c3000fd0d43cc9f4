"""Imports point down, and what is pure stays pure: the architecture, held by machine.

The checks read syntax trees, so an import inside a function or under
`TYPE_CHECKING` counts like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from support.source_tree import (
    PACKAGE,
    Module,
    called_name,
    imports,
    load,
    python_files,
    relative,
)

# From the bottom up. A module may import its own layer and those before it.
# "" is `transport/__init__.py`, the list of public names.
LAYERS = (
    ("errors", "config"),
    ("wire",),
    ("tensor",),
    ("crypto",),
    ("identity",),
    ("link",),
    ("path",),
    ("sim",),
    ("node",),
    ("services",),
    ("collectives",),
    ("",),
    ("integrations",),
    ("bench",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# `link` and everything below it: bytes and the time come in as arguments.
PURE = {"errors", "config", "wire", "tensor", "crypto", "identity", "link"}
IMPURE_MODULES = {
    *("_thread", "asyncio", "concurrent", "multiprocessing", "queue", "sched", "select"),
    *("selectors", "signal", "socket", "socketserver", "ssl", "subprocess", "threading"),
    *("time", "zmq"),
}
WALL_CLOCK_CALLS = {"now", "utcnow", "today"}
CLOCK_OWNERS = {"date", "datetime"}

MAY_USE_ZMQ = {"path", "bench", "cli"}
FRAMEWORKS = {
    *("accelerate", "cupy", "deepspeed", "horovod", "jax", "jaxlib", "lightning", "mpi4py"),
    *("ray", "sglang", "tensorflow", "torch", "torchft", "torchvision", "transformers", "vllm"),
}

SOURCES = python_files(PACKAGE)


def layer_of(name: str) -> str:
    """Return the layer of a module of the package: `transport.link.sender` is in `link`."""
    return [*name.split("."), ""][1]


def imported_layers(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the layers of the package that a module imports, with the line."""
    for found in imports(module):
        if found.target.split(".")[0] != PACKAGE:
            continue
        layer = layer_of(found.target)
        # `from transport import Node`: what names no layer is one of the public names.
        is_public_name = layer not in RANK and found.target.count(".") == 1
        yield "" if is_public_name else layer, found.line


def violations(module: Module) -> list[str]:
    """Return every breach of the architecture in one module, readable by its author."""
    layer = layer_of(module.name)
    if layer not in RANK:
        return [f"{module.name}: unknown layer {layer!r}; give it a place in LAYERS"]
    return [
        f"{module.name}:{line}: {reason}"
        for line, reason in sorted(
            {*_upward(module, layer), *_foreign(module, layer), *_clocks(module, layer)}
        )
    ]


def _upward(module: Module, layer: str) -> Iterator[tuple[int, str]]:
    for target, line in imported_layers(module):
        if target not in RANK:
            yield line, f"imports unknown layer {target!r}"
        elif RANK[target] > RANK[layer]:
            yield line, f"{layer!r} imports {target or PACKAGE!r}, which is above it"


def _foreign(module: Module, layer: str) -> Iterator[tuple[int, str]]:
    for found in imports(module):
        top = found.target.split(".")[0]
        if layer in PURE and top in IMPURE_MODULES:
            yield found.line, f"{layer!r} is pure and must not import {top!r}"
        elif top == "zmq" and layer not in MAY_USE_ZMQ:
            yield found.line, f"{layer!r} must not import 'zmq'; only 'path' speaks it"
        elif top in FRAMEWORKS and layer != "integrations":
            yield found.line, f"{layer!r} must not import the framework {top!r}"


def _clocks(module: Module, layer: str) -> Iterator[tuple[int, str]]:
    if layer not in PURE:
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or called_name(node) not in WALL_CLOCK_CALLS:
            continue
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = getattr(owner, "attr", getattr(owner, "id", ""))
        if name in CLOCK_OWNERS:
            yield node.lineno, f"{layer!r} is pure and must not read the wall clock"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_keeps_to_its_layer(path):
    assert violations(load(path)) == []


@pytest.mark.parametrize("path", python_files(PACKAGE, "bench"), ids=relative)
def test_a_module_says_what_it_is(path):
    assert ast.get_docstring(load(path).tree), f"{relative(path)} has no docstring"


def test_there_is_something_to_check():
    assert len(SOURCES) > 10
    assert {layer_of(load(path).name) for path in SOURCES} >= {"errors", "wire", "crypto", "link"}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("transport.link.link", "from ..node import engine", "'link' imports 'node'"),
        ("transport.link.link", "from .. import node", "'link' imports 'node'"),
        ("transport.link.link", "import transport.node.engine", "'link' imports 'node'"),
        ("transport.link.link", "from transport import Node", "imports 'transport', which is"),
        ("transport.link.link", "import transport", "imports 'transport', which is above"),
        ("transport.link.link", "from .. import gossip", "imports 'transport', which is above"),
        ("transport.wire.codec", "def f():\n    from ..crypto import seal", "'wire' imports"),
        ("transport.crypto.seal", "import threading", "pure and must not import 'threading'"),
        ("transport.link.link", "from time import monotonic", "must not import 'time'"),
        ("transport.link.link", "import zmq.asyncio", "pure and must not import 'zmq'"),
        ("transport.node.node", "import zmq", "only 'path' speaks it"),
        ("transport.node.node", "import torch.distributed as dist", "framework 'torch'"),
        ("transport.cli.main", "def f():\n    import jax", "framework 'jax'"),
        ("transport.tensor.views", "import_module('torch')", "framework 'torch'"),
        ("transport.tensor.views", "importlib.import_module('ray.util')", "framework 'ray'"),
        ("transport.identity.x", "datetime.datetime.now()", "read the wall clock"),
        ("transport.link.x", "date.today()", "read the wall clock"),
        ("transport.gossip.x", "", "unknown layer 'gossip'"),
        ("transport.node.x", "from ..gossip import y", "imports unknown layer 'gossip'"),
    ],
)
def test_the_checker_finds_breaches(name, text, reason):
    found = violations(Module(name=name, text=text))
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("transport.link.link", "from ..wire import frames\nfrom .. import errors"),
        ("transport.link.link", "import os\nos.urandom(8)\nself.now()\nstats.now(3)"),
        ("transport.path.zeromq", "import zmq\nimport threading, time"),
        ("transport.integrations.torch", "import torch\nfrom transport import Node"),
        ("transport.cli.main", "from transport import Node, bench\nimport zmq"),
        ("transport.config", "from .errors import UsageError"),
        ("transport", "from .node import Node"),
        ("transport.tensor.views", 'torch = sys.modules.get("torch")'),
    ],
)
def test_the_checker_lets_the_allowed_pass(name, text):
    assert violations(Module(name=name, text=text, is_package=name == PACKAGE)) == []
