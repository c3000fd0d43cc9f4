"""The examples run, end by themselves, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from support.source_tree import PROJECT_ROOT

LIMIT = 60.0  # seconds
PRINTED = {
    "two_processes.py": ("product (300, 300), correct: True", "Noise_XXhfs+psk3"),
    "asyncio_nodes.py": ("ada [0, 1, 4]", "bob [100, 121, 144]", "eve [400, 441, 484]"),
    "pinned_keys.py": ("bob received [1. 1. 1. 1.]", "the impostor was not linked", "bad_hello"),
    "attested_link.py": (
        "The embedded attester is a MODEL, not hardware",
        "the owner answers approved, attested by 'MODEL, not hardware",
        "approved: a tensor, its sum is 499500.0",
        "approved: a data key of 32 bytes; decrypt gives it again: True",
        "changed: no link, hence no tensor: peer 'owner' refused this node",
        "changed: no key: the key service refused the request",
        "refused evidence, by reason: {'pcr': ",
    ),
}
NEVER_PRINTED = {
    "attested_link.py": ("answers changed", "changed: a tensor", "changed: a data key"),
}


def test_every_example_is_run():
    found = {path.name for path in (PROJECT_ROOT / "examples").glob("*.py")}
    launched = (PROJECT_ROOT / "tests/integrations/torch/test_examples.py").read_text("utf-8")
    assert found == set(PRINTED) | set(re.findall(r'launch\("(\w+\.py)"', launched))


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_does_what_it_says(name, tmp_path):
    finished = subprocess.run(
        [sys.executable, PROJECT_ROOT / "examples" / name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert finished.returncode == 0, finished.stderr
    for expected in PRINTED[name]:
        assert expected in finished.stdout
    for withheld in NEVER_PRINTED.get(name, ()):
        assert withheld not in finished.stdout
    assert finished.stderr == ""
