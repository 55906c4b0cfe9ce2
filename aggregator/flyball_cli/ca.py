"""`flyball ca`: a site's authority: make it, let hosts in, cut them off, write the broker's configuration."""

import argparse
import asyncio
import datetime
import json
import sys
from pathlib import Path
from typing import Final

from flyball_cli import ca_certificates as certificates
from flyball_cli.ca_broker import BrokerFiles, mosquitto_acl, mosquitto_conf, nats_conf
from flyball_cli.ca_store import Store, write_private, write_public
from flyball_cli.enrol_discovery import announced
from flyball_cli.enrol_server import EnrolServer, own_certificate
from flyball_cli.enrol_wire import BrokerAddress

FOLDER: Final = Path("/var/lib/flyball-ca")
PORT: Final = 8489
Parser = argparse.ArgumentParser


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `ca` and its subcommands."""
    parser = subparsers.add_parser("ca", help="the site's own authority: who may speak, and for whom")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the authority is kept (default {FOLDER})")
    commands = parser.add_subparsers(dest="ca_command", required=True, metavar="COMMAND")
    made = commands.add_parser("init", help="make the authority and the lease key")
    made.add_argument("--site", required=True, help="the site's name")
    made.set_defaults(run=run_init)
    _add_token(commands.add_parser("token", help="print a token that lets hosts in"))
    _add_named(commands.add_parser("approve", help="let a waiting host in"), run_approve)
    _add_named(
        commands.add_parser("revoke", help="cut an identity off: reload the broker's files afterwards"), run_revoke
    )
    issued = commands.add_parser("issue", help="make a certificate here: flyball.aggregator, facility.NAME, meter.NAME")
    issued.add_argument("--out", type=Path, required=True, help="folder for NAME.pem and NAME.key")
    _add_named(issued, run_issue)
    listed = commands.add_parser("list", help="who is enrolled, waits or is revoked")
    listed.set_defaults(run=run_list)
    _add_broker(commands.add_parser("broker", help="write the broker's configuration, with who may say what"))
    _add_serve(commands.add_parser("serve", help="answer enrolling hosts"))


def _add_token(parser: Parser) -> None:
    parser.add_argument("--hosts", type=int, default=1, help="how many hosts it lets in (default 1)")
    parser.add_argument("--names", default="*", help="pattern of their host ids, as in a shell (default *)")
    parser.add_argument("--hours", type=float, default=24.0, help="how long it is good (default 24)")
    parser.add_argument("--by-hand", action="store_true", help="each host then waits for `flyball ca approve`")
    parser.set_defaults(run=run_token)


def _add_named(parser: Parser, run: object) -> None:
    parser.add_argument("name", help="a host id, facility.NAME, meter.NAME or flyball.aggregator")
    parser.set_defaults(run=run)


def _add_broker(parser: Parser) -> None:
    parser.add_argument("--kind", choices=("mosquitto", "nats"), default="mosquitto")
    parser.add_argument("--out", type=Path, required=True, help="folder for the broker's configuration and key")
    parser.add_argument("--address", action="append", default=[], help="name or address that hosts find it under")
    parser.add_argument("--port", type=int, default=8883)
    parser.add_argument("--topic-prefix", default="", help="what stands before every topic")
    parser.set_defaults(run=run_broker)


def _add_serve(parser: Parser) -> None:
    parser.add_argument("--address", default="0.0.0.0", help="where to listen (default everywhere)")  # noqa: S104
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--name", action="append", default=[], help="name or address that hosts find it under")
    parser.add_argument("--broker", default="127.0.0.1:8883", help="ADDRESS:PORT of the broker, told to hosts")
    parser.add_argument("--no-discovery", action="store_true", help="do not announce the site by zeroconf")
    parser.set_defaults(run=run_serve)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def run_init(options: argparse.Namespace) -> int:
    """Make the authority; print its fingerprint and the lease key that hosts will trust."""
    store = Store.create(options.folder, options.site, _now())
    _say({"site": options.site, "fingerprint": store.fingerprint, "lease_public_key": store.lease_public_key})
    return 0


def run_token(options: argparse.Namespace) -> int:
    """Print a token."""
    until = _now() + datetime.timedelta(hours=options.hours)
    token = Store(options.folder).new_token(options.hosts, options.names, until, is_automatic=not options.by_hand)
    sys.stdout.write(token + "\n")
    return 0


def run_approve(options: argparse.Namespace) -> int:
    """Approve a waiting host."""
    Store(options.folder).approve(options.name)
    return 0


def run_revoke(options: argparse.Namespace) -> int:
    """Revoke an identity."""
    count = Store(options.folder).revoke(options.name, _now())
    _say({"revoked": options.name, "certificates": count, "next": "write the broker's files again and reload it"})
    return 0


def run_issue(options: argparse.Namespace) -> int:
    """Make key and certificate of one of the site's own identities."""
    store = Store(options.folder)
    key, request = certificates.make_request(options.name)
    _, public = certificates.read_request(request)
    options.out.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(options.out / f"{options.name}.key", certificates.key_pem(key))
    write_public(options.out / f"{options.name}.pem", store.sign(options.name, public, _now()))
    return 0


def run_list(options: argparse.Namespace) -> int:
    """Print one line an identity; report keys are what site.toml takes as report_public_key."""
    store = Store(options.folder)
    for name, member in sorted(store.book.members.items()):
        state = "revoked" if member.is_revoked else "enrolled"
        _say({"name": name, "state": state, "report_public_key": member.report_public_key})
    for path in sorted((store.folder / "pending").glob("*.pem")):
        _say({"name": path.stem, "state": "waiting"})
    return 0


def run_broker(options: argparse.Namespace) -> int:
    """Write the broker's files; run again after each enrolment and revocation, then reload the broker."""
    store, out = Store(options.folder), options.out.resolve()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.address:
        pair = own_certificate(store, "flyball.broker", tuple(options.address), _now())
        write_public(out / "broker.pem", pair[0].read_bytes())
        write_private(out / "broker.key", pair[1].read_bytes())
    for name in ("ca.pem", "crl.pem"):
        write_public(out / name, (store.folder / name).read_bytes())
    files = BrokerFiles(
        out / "ca.pem", out / "crl.pem", out / "broker.pem", out / "broker.key", out / "state", port=options.port
    )
    files.state.mkdir(mode=0o700, exist_ok=True)
    hosts, site, prefix = store.hosts(), store.book.site, options.topic_prefix
    if options.kind == "nats":
        write_public(out / "nats.conf", nats_conf(files, hosts, site, prefix).encode())
    else:
        write_public(out / "acl", mosquitto_acl(hosts, site, prefix).encode())
        write_public(out / "mosquitto.conf", mosquitto_conf(files, out / "acl").encode())
    return 0


def run_serve(options: argparse.Namespace) -> int:
    """Answer enrolling hosts until interrupted."""
    asyncio.run(_serve(options))
    return 0


async def _serve(options: argparse.Namespace) -> None:
    store = Store(options.folder)
    host, _, port = options.broker.rpartition(":")
    server = EnrolServer(store, BrokerAddress(host, int(port)))
    listener = await server.listen(options.address, options.port, tuple(options.name) or ("localhost", "127.0.0.1"))
    taken = listener.sockets[0].getsockname()[1]
    _say({"enrolment": f"{options.address}:{taken}", "fingerprint": store.fingerprint})
    async with listener, announced(store.book.site, store.fingerprint, taken, is_on=not options.no_discovery):
        await listener.serve_forever()


def _say(told: object) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
