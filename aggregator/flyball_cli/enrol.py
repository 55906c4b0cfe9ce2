"""`flyball enrol` on a host: with a token once, with `--renew` ever after (a timer does that)."""

import argparse
import asyncio
import datetime
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from flyball_agent.config import load_agent_config
from flyball_cli.ca_certificates import IdentityError
from flyball_cli.ca_store import write_public
from flyball_cli.enrol_client import EnrolFiles, enrol, renew
from flyball_cli.enrol_discovery import find_site
from flyball_governor.config import LeaseConfig, TrustedKey, load_governor_config
from flyball_governor.identity import KEY_NAME
from flyball_wire.config import print_config
from flyball_wire.errors import ConfigError, FlyballError
from flyball_wire.signing import load_key_file

FOLDER: Final = Path("/etc/flyball")
EXIT_WAITING: Final = 75  # sysexits.h EX_TEMPFAIL: somebody has to approve; the same command then goes through
DISCOVERY_S: Final = 10.0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `enrol`."""
    add_arguments(subparsers.add_parser("enrol", help="give this host its identity in a site"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--site-address", help="ADDRESS:PORT of `flyball ca serve`; without it the site is looked for")
    parser.add_argument("--token-file", type=Path, help="file with the token (0600); - reads it from standard input")
    parser.add_argument(
        "--renew", action="store_true", help="renew the certificate when two thirds of its life are over"
    )
    parser.add_argument("--restart-agent", action="store_true", help="after a renewal: systemd hands it the new key")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"configuration (default {FOLDER})")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Enrol or renew; return 0, or 75 while the host waits for approval."""
    files = EnrolFiles(options.folder)
    try:
        if options.renew:
            address = _address(options.site_address or _kept_address(files))
            is_renewed = renew(files, address, datetime.datetime.now(datetime.UTC))
            if is_renewed and options.restart_agent:
                subprocess.run(["systemctl", "try-restart", "flyball-agent.service"], check=False)
            _say({"renewed": is_renewed})
            return 0
        return _enrol(files, options)
    except IdentityError as error:
        raise FlyballError(f"enrol: {error}") from None
    except OSError as error:
        raise FlyballError(f"enrol: the site cannot be reached: {error}") from None


def _enrol(files: EnrolFiles, options: argparse.Namespace) -> int:
    agent_file, governor_file = options.folder / "agent.toml", options.folder / "governor.toml"
    agent = load_agent_config(agent_file if agent_file.exists() else None, {})
    governor = load_governor_config(governor_file if governor_file.exists() else None, {})
    token = _token(options.token_file)
    text = options.site_address or _discover(token)
    told = enrol(files, _address(text), token, agent.host_id, _report_key(Path(governor.state_dir), governor.host_id))
    if told is None:
        _say({"waiting": agent.host_id, "next": "flyball ca approve; then this command again"})
        return EXIT_WAITING
    write_public(files.folder / "enrolled.json", json.dumps({"address": text, "site": told["site"]}).encode())
    broker = replace(
        agent.broker, address=told["broker"]["address"], port=told["broker"]["port"], ca_file=str(files.authority),
        certificate_file=str(files.certificate), key_file=str(files.key),
    )  # fmt: skip
    write_public(agent_file, print_config(replace(agent, site=told["site"], broker=broker)).encode())
    write_public(
        governor_file, print_config(replace(governor, lease=trusting(governor.lease, told["lease_keys"]))).encode()
    )
    _say({"enrolled": agent.host_id, "site": told["site"], "next": "systemctl restart flyball-governor flyball-agent"})
    return 0


def trusting(lease: LeaseConfig, keys: dict[str, Any]) -> LeaseConfig:
    """Return a lease configuration that trusts these keys (hex by id) as well; old ones stay, for the overlap."""
    kept = [key for key in lease.trusted if key.key_id not in keys]
    generation = max((key.generation for key in kept), default=-1) + 1
    added = [TrustedKey(str(key_id), str(public), generation) for key_id, public in sorted(keys.items())]
    return replace(lease, trusted=(*kept, *added))


def _report_key(folder: Path, host: str) -> str | None:
    """Return the governor's public report key; None where it has not started yet."""
    path = folder / KEY_NAME
    return load_key_file(path, f"gov-{host}"[:64]).public_bytes.hex() if path.exists() else None


def _token(path: Path | None) -> str:
    if path is None:
        raise ConfigError("--token-file: expected; a token on the command line would show in the process list")
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="ascii")
    token = text.strip()
    if len(token.partition(".")[0]) != 64 or not token.partition(".")[2]:
        raise ConfigError("token: expected FINGERPRINT.SECRET as `flyball ca token` prints it")
    return token


def _discover(token: str) -> str:
    found = asyncio.run(find_site(token.partition(".")[0], DISCOVERY_S))
    if found is None:
        raise FlyballError(f"enrol: no site with the token's fingerprint was announced within {DISCOVERY_S:g} s")
    return f"{found.address}:{found.port}"


def _kept_address(files: EnrolFiles) -> str:
    try:
        return str(json.loads((files.folder / "enrolled.json").read_bytes())["address"])
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"{files.folder / 'enrolled.json'}: not enrolled; expected --site-address") from None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"{text!r}: expected ADDRESS:PORT")
    return host.strip("[]"), int(port)


def _say(told: object) -> None:
    sys.stdout.write(json.dumps(told) + "\n")


def main() -> int:
    """Run `flyball-enrol`, which host packages carry instead of the whole command line."""
    parser = argparse.ArgumentParser("flyball-enrol", description="Give this host its identity in a site.")
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except FlyballError as error:
        sys.stderr.write(f"flyball-enrol: {error}\n")
        return 78 if isinstance(error, ConfigError) else 1
    finally:
        os.sync()
