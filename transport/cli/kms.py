"""`sealfabric kms`: a key service of your own, and an external key store for AWS KMS.

Every subcommand but `serve` and `xks-proxy` does one thing and ends. They work while a
service runs: what they change holds with its next request.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import UsageError
from ..identity.attestation import AttestationPolicy
from ..identity.kms import (
    Credential,
    ExternalPolicy,
    Head,
    KeyFolder,
    KeyRecord,
    verify_folder,
)
from ..identity.kms.files import write_new_private
from . import kms_serve
from .kms_folder import open_folder, unlocking

_LINE: Final = "{:32}  {:8}  {:8}  {:>7}  {:>6}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this command."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add(commands, "init", "make a key store in a new folder", _init)
    create = _add_key(commands, "create-key", "make a key", _create_key)
    _add_policy(create)
    policy = _add_key(commands, "set-policy", "give a key another policy", _set_policy)
    _add_policy(policy)
    _add(commands, "list", "list the keys", _list)
    _add_key(commands, "disable", "stop every use of a key at once", _disable)
    _add_key(commands, "enable", "let a disabled key be used again", _enable)
    _add_key(commands, "rotate", "begin a new version; older ones still decrypt", _rotate)
    retire = _add_key(commands, "retire", "destroy old versions of a key", _retire)
    retire.add_argument("--before", type=int, required=True, metavar="VERSION")
    _add_audit(commands)
    credential = commands.add_parser("xks-credential", help="make a credential for AWS KMS")
    credential.add_argument("file", type=Path, help="file to write, mode 0600")
    credential.add_argument("--prefix", default="", help="path before /kms/xks/v1")
    credential.set_defaults(act=_xks_credential)
    serve = _add(commands, "serve", "serve keys to attested peers", kms_serve.serve)
    kms_serve.add_serve_arguments(serve)
    proxy = _add(commands, "xks-proxy", "be AWS KMS's external key store", kms_serve.xks_proxy)
    kms_serve.add_proxy_arguments(proxy)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand; return its exit status."""
    act: Callable[[argparse.Namespace], int] = arguments.act
    return act(arguments)


# --- arguments -------------------------------------------------------------------------------


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    act: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the key store")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line")
    secret.add_argument("--key-file", type=Path, metavar="FILE", help="at least 32 random bytes")
    parser.set_defaults(act=act)
    return parser


def _add_key(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    act: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = _add(commands, name, summary, act)
    parser.add_argument("key", metavar="KEY", help="the key's name")
    return parser


def _add_policy(parser: argparse.ArgumentParser) -> None:
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--policy", type=Path, metavar="FILE", help="attestation policy (JSON)")
    kind.add_argument("--external", action="store_true", help="a key for the XKS proxy")
    parser.add_argument(
        "--kms-key", action="append", default=[], metavar="ARN", help="of --external: only it"
    )
    parser.add_argument(
        "--principal", action="append", default=[], metavar="ARN", help="of --external: only it"
    )


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    audit = commands.add_parser("audit", help="examine the audit log")
    kinds = audit.add_subparsers(dest="audit_command", required=True, metavar="command")
    verify = _add(kinds, "verify", "follow the chain of the audit log", _audit_verify)
    verify.add_argument("--head", metavar="NUMBER:HASH", help="a line that was noted earlier")
    verify.add_argument("--chain-only", action="store_true", help="without unlocking the store")


def _policy(arguments: argparse.Namespace) -> AttestationPolicy | ExternalPolicy:
    if arguments.external:
        return ExternalPolicy(
            kms_keys=tuple(arguments.kms_key), principals=tuple(arguments.principal)
        )
    if arguments.kms_key or arguments.principal:
        raise UsageError("--kms-key and --principal belong to --external")
    return AttestationPolicy.load(arguments.policy)


# --- subcommands -----------------------------------------------------------------------------


def _init(arguments: argparse.Namespace) -> int:
    secret = unlocking(arguments, twice=True)
    with KeyFolder.create(arguments.folder, secret, clock=time.time) as folder:
        print(f"key store  {arguments.folder} (mode 0700)")
        print(f"identity   {folder.store.store_id.hex()}")
        print(f"audit      {folder.audit.head}")
    print("Without the passphrase or key file nobody can use it, you included. Keep it elsewhere.")
    return 0


def _create_key(arguments: argparse.Namespace) -> int:
    policy = _policy(arguments)
    with open_folder(arguments) as folder:
        _show(folder.create_key(arguments.key, policy))
    return 0


def _set_policy(arguments: argparse.Namespace) -> int:
    policy = _policy(arguments)
    with open_folder(arguments) as folder:
        _show(folder.set_policy(arguments.key, policy))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with open_folder(arguments) as folder:
        print(_LINE.format("key", "purpose", "state", "current", "oldest"))
        for key_id in folder.store.key_ids():
            _show(folder.store.record(key_id))
    return 0


def _disable(arguments: argparse.Namespace) -> int:
    with open_folder(arguments) as folder:
        _show(folder.enable(arguments.key, False))
    return 0


def _enable(arguments: argparse.Namespace) -> int:
    with open_folder(arguments) as folder:
        _show(folder.enable(arguments.key))
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    with open_folder(arguments) as folder:
        _show(folder.rotate(arguments.key))
    return 0


def _retire(arguments: argparse.Namespace) -> int:
    with open_folder(arguments) as folder:
        _show(folder.retire(arguments.key, arguments.before))
    return 0


def _audit_verify(arguments: argparse.Namespace) -> int:
    expected = None if arguments.head is None else Head.parse(arguments.head)
    secret = None if arguments.chain_only else unlocking(arguments)
    report = verify_folder(arguments.folder, secret, expected=expected)
    print(f"intact up to line {report.head.number}: {report.head}")
    if report.unfinished_bytes:
        print(f"a crash left {report.unfinished_bytes} bytes of a line that never took effect")
    if report.fault is not None:
        print(f"NOT INTACT: {report.fault}")
        return 1
    if secret is None:
        print("followed without the store's secret: a missing end would not show")
    return 0


def _xks_credential(arguments: argparse.Namespace) -> int:
    credential = Credential.generate(arguments.prefix)
    write_new_private(arguments.file, credential.to_json().encode("ascii"))
    print(f"credential  {arguments.file} (mode 0600), as the console of AWS KMS takes it")
    print(f"path        {credential.uri_path}")
    print(f"access key  {credential.access_key_id}")
    return 0


def _show(record: KeyRecord) -> None:
    state = "enabled" if record.enabled else "DISABLED"
    print(_LINE.format(record.key_id, record.purpose.value, state, record.current, record.oldest))
