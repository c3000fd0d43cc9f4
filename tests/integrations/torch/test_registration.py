"""`import torch` makes the backend known, costs nothing, and never fails because of it."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import subprocess
import sys

import pytest

from support.source_tree import PROJECT_ROOT
from transport.integrations import torch as integration

torch = pytest.importorskip("torch")

HEAVY = {"zmq", "cryptography", "transport.node", "transport.collectives"}


@pytest.mark.parametrize("group", ["torch.backends", "torch.distributed.backends"])
def test_the_entry_points_lead_to_it(group):
    points = importlib.metadata.entry_points(group=group)
    assert {point.value for point in points if point.name == "sealed"} == {
        "transport.integrations.torch:autoload"
    }


@pytest.mark.slow
@pytest.mark.parametrize(("autoload", "known"), [("1", True), ("0", False)])
def test_importing_torch_registers_it_and_imports_nothing_else(autoload, known):
    program = (
        "import sys, torch, torch.distributed as dist\n"
        f"print('sealed' in dist.Backend.backend_list, *({HEAVY!r} & set(sys.modules)))\n"
        "from transport.integrations.torch import register\n"
        "register(), register()\n"
        "print(dist.Backend('sealed'), dist.Backend.backend_capability['sealed'])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": autoload},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert finished.stdout.splitlines() == [str(known), "sealed ['cpu', 'cuda']"]


def test_torch_can_be_imported_whatever_goes_wrong(monkeypatch, caplog):
    def refuse():
        raise RuntimeError("torch has changed")

    monkeypatch.setattr(integration, "register", refuse)
    with caplog.at_level(logging.ERROR, "transport"):
        integration.autoload()
    assert "torch could not be told of the backend 'sealed'" in caplog.text
