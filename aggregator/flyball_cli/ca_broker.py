"""Configuration of a site's broker, Mosquitto or NATS: mutual TLS, and who may say and hear what.

Each identity has rules of its own, none by pattern: whoever is revoked is gone from the file, so that a reload
(SIGHUP) silences even a session that stands. A host writes its own channels and reads its own orders; the aggregator
the reverse; a meter writes its one topic; a facility client reads summaries.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flyball_wire.topics import HOST_CHANNELS, ORDER_CHANNELS, PREFIX

AGGREGATOR = "flyball.aggregator"


@dataclass(frozen=True, slots=True)
class Rules:
    """Topic filters that one identity may write and read."""

    write: tuple[str, ...]
    read: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BrokerFiles:
    """Where the broker finds its secrets, where it keeps its state and listens."""

    ca: Path
    crl: Path
    certificate: Path
    key: Path
    state: Path
    address: str = "0.0.0.0"  # noqa: S104 - a site's broker is for its hosts; only certificates get in
    port: int = 8883


def rules_of(identity: str, site: str, prefix: str = "") -> Rules:
    """Return what an identity may write and read; nobody else may anything."""
    root = f"{prefix}/{PREFIX}/{site}" if prefix else f"{PREFIX}/{site}"
    if identity == AGGREGATOR:
        orders = tuple(f"{root}/host/+/{channel}" for channel in ORDER_CHANNELS)
        heard = tuple(f"{root}/host/+/{channel}" for channel in HOST_CHANNELS)
        return Rules((*orders, f"{root}/fleet/#"), (*heard, f"{root}/meter/+"))
    role, dot, name = identity.partition(".")
    if not dot:
        own = f"{root}/host/{identity}"
        return Rules(
            tuple(f"{own}/{channel}" for channel in HOST_CHANNELS),
            tuple(f"{own}/{channel}" for channel in ORDER_CHANNELS),
        )
    if role == "meter":
        return Rules((f"{root}/meter/{name}",), ())
    return Rules((), (f"{root}/fleet/#",)) if role == "facility" else Rules((), ())


def mosquitto_acl(identities: Iterable[str], site: str, prefix: str = "") -> str:
    """Return the access file of mosquitto."""
    blocks = []
    for identity in sorted({AGGREGATOR, *identities}):
        rules = rules_of(identity, site, prefix)
        lines = [*(f"topic write {topic}" for topic in rules.write), *(f"topic read {topic}" for topic in rules.read)]
        if lines:
            blocks.append("\n".join([f"user {identity}", *lines]))
    return "\n\n".join(blocks) + "\n"


def mosquitto_conf(files: BrokerFiles, acl: Path, *, as_root: bool = False) -> str:
    """Return mosquitto.conf. Nagle is off: with it, pipelined QoS 1 waits 40 ms for each acknowledgement."""
    return f"""\
listener {files.port} {files.address}
cafile {files.ca}
crlfile {files.crl}
certfile {files.certificate}
keyfile {files.key}
require_certificate true
use_identity_as_username true
tls_version tlsv1.2
allow_anonymous false
acl_file {acl}
set_tcp_nodelay true
max_packet_size 1048576
max_queued_messages 100000
persistence true
persistence_location {files.state}/
autosave_interval 5
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
{"user root" if as_root else "user mosquitto"}
"""


def nats_conf(files: BrokerFiles, identities: Iterable[str], site: str, prefix: str = "") -> str:
    """Return nats-server's configuration: only certificates whose name stands in it get in, so it needs no CRL."""
    rules = {name: rules_of(name, site, prefix) for name in sorted({AGGREGATOR, *identities})}
    users = "\n".join(_nats_user(name, own) for name, own in rules.items() if own.write or own.read)
    return f"""\
server_name: flyball
host: "127.0.0.1"
port: -1
jetstream {{ store_dir: "{files.state}/jetstream" }}
mqtt {{
  host: "{files.address}"
  port: {files.port}
  max_ack_pending: 4096
  tls {{ cert_file: "{files.certificate}", key_file: "{files.key}", ca_file: "{files.ca}", verify_and_map: true }}
}}
accounts {{
  flyball {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
}}
"""


def _nats_user(identity: str, rules: Rules) -> str:
    # QoS 1 needs subjects of the broker's own; reading $MQTT.msgs, where every message lies, is never among them.
    publish = [
        *map(_subject, rules.write),
        "$MQTT.JSA.>",
        "$JS.ACK.>",
        *(f"$MQTT.msgs.{_subject(t)}" for t in rules.write),
    ]
    subscribe = [*(s for topic in rules.read for s in _subjects(topic)), "$MQTT.sub.>", "$MQTT.JSA.>"]
    listed = ", ".join(f'"{subject}"' for subject in publish), ", ".join(f'"{subject}"' for subject in subscribe)
    permissions = f"publish: {{ allow: [{listed[0]}] }}, subscribe: {{ allow: [{listed[1]}] }}"
    return f'      {{ user: "CN={identity}", permissions: {{ {permissions} }} }}'


def _subject(topic: str) -> str:
    return topic.replace("/", ".").replace("+", "*").replace("#", ">")


def _subjects(topic: str) -> tuple[str, ...]:
    """`a/#` also means `a`, and NATS asks permission for both."""
    return (_subject(topic), _subject(topic.removesuffix("/#"))) if topic.endswith("/#") else (_subject(topic),)
