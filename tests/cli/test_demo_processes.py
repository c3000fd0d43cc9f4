"""Child processes answer, fail and end; credentials are complete and private."""

from __future__ import annotations

import stat
import sys

import pytest

from transport.cli.demo_processes import PeerProcess, write_credentials
from transport.errors import TransportError
from transport.identity.keys import Identity
from transport.identity.trust import Trust

ECHO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["step"] == "fail":
        request = {"error": "it went wrong"}
    print(json.dumps({"arguments": sys.argv[1:], **request}), flush=True)
"""
ECHO_COMMAND = (sys.executable, "-c", ECHO)


def test_a_process_is_given_its_name_and_folder_and_answers_in_order(tmp_path):
    with PeerProcess("peer", tmp_path, ECHO_COMMAND) as process:
        process.ask("first", value=1)
        process.ask("second", value=[2])
        assert process.answer()["value"] == 1
        assert process.answer()["value"] == [2]
        answer = process.call("third")
        assert answer == {"arguments": ["peer", str(tmp_path)], "step": "third"}
        assert process.close() == 0


def test_a_failed_step_is_an_error_that_names_the_process(tmp_path):
    with PeerProcess("peer", tmp_path, ECHO_COMMAND) as process:
        with pytest.raises(TransportError, match=r"^peer: it went wrong$"):
            process.call("fail")
        assert process.call("next")["step"] == "next"


def test_a_process_that_ends_early_is_an_error_that_names_it(tmp_path):
    with PeerProcess("peer", tmp_path, (sys.executable, "-c", "pass")) as process:
        with pytest.raises(TransportError, match=r"^peer: the process "):
            process.call("anything")
        process.close()
        with pytest.raises(TransportError, match=r"^peer: the process is gone$"):
            process.ask("anything")


def test_credentials_pin_the_other_node_and_share_a_secret(tmp_path):
    private = write_credentials(tmp_path, "one", "two")
    for name, peer in (("one", "two"), ("two", "one")):
        own, other = (Identity.load(tmp_path / f"{each}.identity") for each in (name, peer))
        trust = Trust.load(tmp_path / f"{name}.trust")
        assert trust.admits(peer, other.public_key)
        assert not trust.admits(peer, own.public_key)
        assert not trust.admits("anyone else", other.public_key)
        assert trust.psk != bytes(32)
        assert other.public_key in private
    assert (tmp_path / "cluster.secret").read_bytes() in private
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
