"""`attest`: a verdict for scripts in the exit status, and for people in what is printed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.attestation import NOW, authority, document_of, entries, evidence
from transport.cli import main
from transport.cli.attest import ACCEPTED, REFUSED, UNREADABLE
from transport.identity.attestation import EmbeddedAttester, Root, measure

NITRO = entries("genuine-aws")[0]
DEBUG = next(entry for entry in entries("genuine-aws") if entry["debug_mode"])
AT = datetime.fromtimestamp(NOW, UTC).isoformat()


def attest(*arguments: object) -> int:
    return main(["attest", *map(str, arguments)])


@pytest.fixture
def nitro(tmp_path: Path) -> Path:
    path = tmp_path / "nitro.bin"
    path.write_bytes(document_of(NITRO))
    return path


def policy_file(folder: Path, **changes: object) -> Path:
    path = folder / "policy.json"
    pcrs = {"0": [NITRO["pcrs"]["0"]], "4": [NITRO["pcrs"]["4"]]}
    path.write_text(json.dumps({"pcrs": pcrs, **changes}), encoding="utf-8")
    return path


def test_a_genuine_document_is_accepted_at_its_own_time(
    nitro: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attest("verify", nitro, "--at", NITRO["time"]) == ACCEPTED
    printed = capsys.readouterr().out
    assert NITRO["module_id"] in printed
    assert NITRO["pcrs"]["0"] in printed
    assert "CN=aws.nitro-enclaves" in printed
    assert "Nitro hardware" in printed
    assert "authenticity alone: no policy was given" in printed


def test_it_is_refused_now_and_what_it_claims_is_marked_as_unproven(
    nitro: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attest("verify", nitro) == REFUSED
    printed = capsys.readouterr().out
    assert "verdict     refused: expired: " in printed
    assert "Nothing of it is proven" in printed
    assert "Nitro hardware" not in printed
    assert NITRO["module_id"] in printed


def test_a_policy_decides(nitro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_file(tmp_path)
    assert attest("verify", nitro, "--at", NITRO["time"], "--policy", policy) == ACCEPTED
    printed = capsys.readouterr().out
    assert "verdict     accepted: policy " in printed
    assert "authenticity alone" not in printed
    policy_file(tmp_path, pcrs={"0": ["01" * 48]})
    assert attest("verify", nitro, "--at", NITRO["time"], "--policy", policy) == REFUSED
    assert "refused: pcr: PCR0 is " in capsys.readouterr().out
    # Of 2021, and judged an hour later: old, though its certificates are still valid.
    policy_file(tmp_path, max_age=60)
    later = datetime.fromisoformat(NITRO["time"]).timestamp() + 3600
    at = datetime.fromtimestamp(later, UTC).isoformat()
    assert attest("verify", nitro, "--at", at, "--policy", policy) == REFUSED
    assert "refused: stale: " in capsys.readouterr().out
    assert attest("verify", nitro, "--at", at) == ACCEPTED


def test_debug_mode_has_to_be_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "debug.bin"
    path.write_bytes(document_of(DEBUG))
    assert attest("verify", path, "--at", DEBUG["time"]) == REFUSED
    assert "refused: debug: " in capsys.readouterr().out
    assert attest("verify", path, "--at", DEBUG["time"], "--allow-debug") == ACCEPTED
    assert "Nitro hardware, debug mode" in capsys.readouterr().out


def test_another_root_takes_the_place_of_nitros(
    nitro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, root = tmp_path / "own.bin", tmp_path / "root.der"
    own.write_bytes(evidence())
    root.write_bytes(authority()[0].der)
    assert attest("verify", own, "--at", AT, "--root", root) == ACCEPTED
    assert "not Nitro hardware" in capsys.readouterr().out
    assert attest("verify", own, "--at", AT) == REFUSED
    assert attest("verify", nitro, "--at", NITRO["time"], "--root", root) == REFUSED
    assert "refused: foreign_root: " in capsys.readouterr().out


def test_json_is_one_object_with_the_verdict(
    nitro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attest("verify", nitro, "--at", NITRO["time"], "--json") == ACCEPTED
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "accepted"
    assert report["proven"] is True
    assert report["policy"] is None
    assert report["module_id"] == NITRO["module_id"]
    assert report["pcrs"]["0"] == NITRO["pcrs"]["0"]
    assert len(report["chain"]) == 5
    assert report["made_at"] == NITRO["time"].replace("685000", "685")
    assert attest("verify", nitro, "--json") == REFUSED
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["reason"]) == ("refused", "expired")
    assert report["proven"] is False
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage")
    assert attest("verify", garbage, "--json") == UNREADABLE
    assert json.loads(capsys.readouterr().out)["verdict"] == "unreadable"


def test_what_cannot_be_read_has_a_status_of_its_own(
    nitro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(20_000))
    (tmp_path / "huge").write_bytes(bytes(1024 * 1024 + 1))
    (tmp_path / "bad.json").write_text('{"pcrs": {}}', encoding="utf-8")
    for document in ("empty", "large", "huge", "absent", "."):
        assert attest("verify", tmp_path / document) == UNREADABLE, document
    assert attest("verify", nitro, "--policy", tmp_path / "absent") == UNREADABLE
    assert attest("verify", nitro, "--policy", tmp_path / "bad.json") == UNREADABLE
    assert attest("verify", nitro, "--root", tmp_path / "empty") == UNREADABLE
    assert "an empty policy" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        attest("verify", nitro, "--at", "yesterday")
    assert caught.value.code == 2


def test_a_time_without_a_zone_is_utc(nitro: Path) -> None:
    assert attest("verify", nitro, "--at", "2021-03-17T22:01:56") == ACCEPTED
    assert attest("verify", nitro, "--at", "2021-03-17T22:01:56Z") == ACCEPTED
    assert attest("verify", nitro, "--at", "2021-03-18T00:01:56+02:00") == ACCEPTED
    assert attest("verify", nitro, "--at", "2021-03-17T22:01:56-08:00") == REFUSED


def test_an_authority_is_made_once_and_called_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "authority"
    assert attest("init", folder) == 0
    printed = capsys.readouterr().out
    assert Root.load(folder / "root.pem").fingerprint in printed
    assert "MODEL, not hardware" in printed
    assert "PRIVATE" not in printed
    assert attest("init", folder) == 1
    assert "exists already" in capsys.readouterr().err


def test_what_measure_prints_is_what_an_attester_attests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text("print(1)\n", encoding="utf-8")
    assert attest("init", tmp_path / "authority") == 0
    capsys.readouterr()
    assert attest("measure", script, "--json", "--manifest") == 0
    printed = json.loads(capsys.readouterr().out)
    made = EmbeddedAttester.load(tmp_path / "authority", script=script)
    assert printed["pcrs"] == {f"PCR{index}": made.pcrs[index].hex() for index in range(3)}
    assert printed["manifest"] == made.measurement.manifest.splitlines()
    assert attest("measure", script) == 0
    text = capsys.readouterr().out
    assert made.pcrs[0].hex() in text
    assert "MODEL, not hardware" in text
    assert "program.py" not in text
    assert attest("measure", "--manifest") == 0
    assert measure().pcr0.hex() in capsys.readouterr().out
    assert attest("measure", tmp_path / "absent.py") == 1
    assert "cannot be measured" in capsys.readouterr().err
