"""Turn one kernel message into what it says: an XID, an NVSwitch SXid or another event, its device, and what to do.

The driver's own words come first (recovery action by its number, reset flags, severity words), the catalogue second.
Only the head of a message is believed: process names inside it may hold anything, another message's text included.
"""

import re
from dataclasses import dataclass, replace

from flyball_agent.catalogue import UNKNOWN_SXID, Catalogue, Policy
from flyball_agent.kernel_events import find_event
from flyball_agent.kernel_nvlink import FIRST_XID, LAST_XID, LINK_INSPECTION_SUBCODES, parse_nvlink_error
from flyball_agent.kernel_prefix import PrefixedText, split_prefix

MAX_CHARACTERS = 8192  # a kernel record is 8 kB at most; longer text is cut before it is read
_ADDRESS = r"(?:PCI:)?(?:[0-9A-Fa-f]{1,8}:)?[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,2}(?:\.[0-9A-Fa-f])?"
_XID = re.compile(
    rf"NVRM: (?:GPU ?\d+:? )?Xid +\((?P<device>(?P<pci>{_ADDRESS})(?: GPU-I:(?P<gi>\w{{1,4}}))?(?: GPU-CI:\w{{1,4}})?)"
    r"\): *(?P<number>\d{1,5})(?![\w.-]\w|\w)[,:]? *",
    re.IGNORECASE,
)
_SXID = re.compile(
    rf"(?:nvidia-nvswitch\d*|NVRM): SXid \((?P<device>{_ADDRESS})\): *(?P<number>\d{{1,6}})(?!\w)[,:]? *", re.IGNORECASE
)
_SXID_WORD = re.compile(r"(non-?)?fatal\b", re.IGNORECASE)
_SXID_CONTINUES = re.compile(r"(?:Severity \d|Engine instance|Data \{)", re.IGNORECASE)
_BUS = r"(?:PCI:)?(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-9A-Fa-f])?"
_LOST = re.compile(rf"NVRM: (?:The NVIDIA )?GPU (?:at )?(?P<pci>{_BUS}):? (?:GPU )?has fallen off the bus")
_LOST_FIRST = re.compile(rf"NVRM: The NVIDIA GPU (?P<pci>{_BUS})(?=\s|$)")
_LOST_LAST = re.compile(r"^(?:NVRM: )?(?:.*installed in this system has *)?fallen off the bus and is not responding")
_LOST_MIDDLE = re.compile(
    r"^NVRM: \(PCI ID: .*installed in this system has\s*$|^(?:NVRM: )?installed in this system has\s*$"
)
_RECOVERY = re.compile(
    r"recovery action changed from (?:0x)?[0-9a-f]+ *(?:\([^)]*\))? *to (0x[0-9a-f]+|\d+)\b", re.IGNORECASE
)
# Process names have 15 characters at most: they cannot hold either of these.
_FLAGS = re.compile(r"(?<![\w-])RST: (Yes|No), D-RST: (Yes|No)\b", re.IGNORECASE)
_CAUSED_BY = re.compile(r"caused by previous Xid (\d+)\b", re.IGNORECASE)
_UUID = re.compile(rf"NVRM: GPU at (?P<pci>{_BUS}): (?P<uuid>GPU-[0-9a-f-]{{36}})(?!\S)", re.IGNORECASE)
_BARE_ADDRESS = re.compile(
    r"(?:PCI:)?(?:(?P<domain>[0-9a-f]{1,8}):)?(?P<bus>[0-9a-f]{1,4}):(?P<slot>[0-9a-f]{1,2})(?:\.(?P<function>[0-9a-f]))?",
    re.IGNORECASE,
)
# NVML field 230 and XID 154: (class, action, scope) by the driver's number.
_RECOVERY_POLICY = {
    0: ("info", "none", "gpu"),
    1: ("fatal", "reset_gpu", "gpu"),
    2: ("fatal", "reboot_node", "node"),
    3: ("warn", "drain_p2p", "domain"),
    4: ("fatal", "drain_and_reset", "gpu"),
    5: ("warn", "recover_imex", "domain"),
}
_NVLINK_POLICY = {"RESET_GPU": ("fatal", "reset_gpu"), "XID_154_EVAL": ("warn", "await_154")}


@dataclass(frozen=True, slots=True)
class Classification:
    """What one message says; all `None` where it is of no interest.

    Args:
        device: Address as printed in the brackets of an XID or SXid, MIG instance included.
        severity: info, warn, fatal, or continuation (more about the message before); `class` in output.
        action: What to do; several joined by '+'.
        scope: Whom it concerns.
        rule: What decided: table row, driver flag or form.
        group: Root-cause group of the incident it belongs to.
        pci: Normalised address dddd:bb:ss.f of any event that names one.
        instance: MIG GPU instance, as printed.
        recovery: Recovery action that the driver now asks for (XID 154).
        caused_by: The XID that this one follows (XID 45).
        is_injected: Written by a user of the kernel log, for a drill.
    """

    xid: int | None = None
    sxid: int | None = None
    event: str | None = None
    device: str | None = None
    severity: str | None = None
    action: str | None = None
    scope: str | None = None
    rule: str | None = None
    group: str | None = None
    pci: str | None = None
    instance: str | None = None
    recovery: int | None = None
    caused_by: int | None = None
    is_injected: bool = False

    @property
    def is_interesting(self) -> bool:
        """Tell whether the message says anything."""
        return self.rule is not None


NOTHING = Classification()


def classify_line(line: str, catalogue: Catalogue, *, allow_injected: bool = False) -> Classification:
    """Classify one line of a log file, whatever stands before the message."""
    text = split_prefix(line[:MAX_CHARACTERS])
    return classify_text(text, catalogue, allow_injected=allow_injected)


def classify_text(text: PrefixedText, catalogue: Catalogue, *, allow_injected: bool = False) -> Classification:
    """Classify a message; one of another facility or program than the kernel's counts only as a drill."""
    is_drill = allow_injected and text.facility not in (None, 0)
    is_kernel = text.is_kernel or is_drill
    found = classify_body(text.body, catalogue) if is_kernel else NOTHING
    if not found.is_interesting:
        found = _classify_event(text, catalogue, is_kernel=is_kernel)
    return replace(found, is_injected=True) if is_drill and found.is_interesting else found


def classify_body(body: str, catalogue: Catalogue) -> Classification:
    """Classify the message of a kernel record by the driver's forms; NOTHING when it has none of them."""
    if "NVRM" not in body and "SXid" not in body:
        return NOTHING
    if found := _XID.match(body):
        return _classify_xid(found, body[found.end() :].partition("\n")[0], catalogue)
    if found := _SXID.match(body):
        return _classify_sxid(found, body[found.end() :].partition("\n")[0], catalogue)
    if "fallen off the bus" in body and (address := _find_lost(body)):
        return classify_lost(address, catalogue)
    return NOTHING


def classify_lost(address: str, catalogue: Catalogue) -> Classification:
    """Classify the loss of a GPU that the driver tells without a number: as its XID 79."""
    pci = normalise_address(address)
    device = f"PCI:{pci[:-2]}" if pci else address
    return _with_policy(Classification(xid=79, device=device, pci=pci, rule="text.lost"), catalogue.xid(79))


def parse_uuid_line(body: str) -> tuple[str, str] | None:
    """Return (PCI address, GPU UUID) of the driver's line that maps one to the other, or None."""
    found = _UUID.match(body)
    return (normalise_address(found["pci"]) or found["pci"], found["uuid"]) if found else None


def normalise_address(address: str) -> str | None:
    """Return a PCI address as dddd:bb:ss.f in lower case (domain of 4 digits, or more where needed), or None."""
    found = _BARE_ADDRESS.fullmatch(address.strip())
    if found is None:
        return None
    domain = int(found["domain"] or "0", 16)
    return f"{domain:04x}:{int(found['bus'], 16):02x}:{int(found['slot'], 16):02x}.{(found['function'] or '0').lower()}"


class LineJoiner:
    """Joins the driver's three-line loss of a GPU in a file that has one line per line of text."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Start with nothing pending."""
        self._catalogue = catalogue
        self._pending: str | None = None
        self._left = 0

    def classify(self, line: str, *, allow_injected: bool = False) -> Classification:
        """Classify a line; the last of the three gives the loss, with the device of the first."""
        text = split_prefix(line[:MAX_CHARACTERS])
        found = classify_text(text, self._catalogue, allow_injected=allow_injected)
        if found.is_interesting or not text.is_kernel:
            self._pending = None
            return found
        return self._join(text.body)

    def _join(self, body: str) -> Classification:
        if first := _LOST_FIRST.match(body):
            self._pending, self._left = first["pci"], 2
        elif self._pending and _LOST_LAST.match(body):
            address, self._pending = self._pending, None
            return classify_lost(address, self._catalogue)
        elif self._pending:
            self._left -= 1
            if self._left == 0 or not _LOST_MIDDLE.match(body):
                self._pending = None
        return NOTHING


def _find_lost(body: str) -> str | None:
    """Return the address of a GPU that fell off the bus, told in one line or in the driver's three."""
    if one_line := _LOST.match(body):
        return one_line["pci"]
    first = _LOST_FIRST.match(body)
    if first is None:
        return None
    rest = " ".join(part.strip().removeprefix("NVRM: ") for part in body[first.end() :].split("\n")[:4])
    return first["pci"] if _LOST_LAST.match(rest.strip()) else None


def _classify_xid(found: re.Match[str], message: str, catalogue: Catalogue) -> Classification:
    number = int(found["number"])
    base = Classification(
        xid=number,
        device=found["device"],
        pci=normalise_address(found["pci"]),
        instance=found["gi"],
        rule=f"xid.{number}" if number in catalogue.xids else "xid.unknown",
    )
    base = _with_policy(base, catalogue.xid(number))
    if number == 154:
        return _classify_recovery(base, message)
    if FIRST_XID <= number <= LAST_XID:
        return _classify_nvlink(base, message, catalogue)
    if number in (94, 95):
        return _classify_poison(base, message)
    if number == 45 and (cause := _CAUSED_BY.search(message)):
        return replace(base, severity="info", action="none", rule="xid.45.follows", caused_by=int(cause[1]))
    return base


def _classify_recovery(base: Classification, message: str) -> Classification:
    """Take the driver's wish by its number: the words differ between driver branches."""
    found = _RECOVERY.search(message)
    if found is None:
        return replace(base, rule="xid.154.undecodable")
    code = int(found[1], 0 if found[1].lower().startswith("0x") else 10)
    severity, action, scope = _RECOVERY_POLICY.get(code, ("warn", "triage", "gpu"))
    return replace(base, severity=severity, action=action, scope=scope, rule=f"xid.154.{code}", recovery=code)


def _classify_poison(base: Classification, message: str) -> Classification:
    """Follow the reset flags of contained (94) and uncontained (95) memory errors; they outweigh the number."""
    if base.xid == 94 and "GSP-RISCV" in message:
        return replace(base, severity="fatal", action="reset_gpu", scope="gpu", rule="xid.94.gsp")
    found = _FLAGS.findall(message)
    if not found:
        return base
    reset, drain_and_reset = (word.lower() == "yes" for word in found[-1])
    if reset:
        return replace(base, severity="fatal", action="reset_gpu", scope="gpu", rule=f"xid.{base.xid}.rst")
    if drain_and_reset:
        return replace(base, severity="fatal", action="drain_and_reset", scope="gpu", rule=f"xid.{base.xid}.d_rst")
    return replace(
        base, severity="warn", action="restart_app+reset_gpu_when_idle", scope="app", rule=f"xid.{base.xid}.contained"
    )


def _classify_nvlink(base: Classification, message: str, catalogue: Catalogue) -> Classification:
    number = base.xid or 0
    error = parse_nvlink_error(message)
    if error is None or error.information is None or error.error_status is None:
        return replace(base, rule="nvlink5.undecodable")
    rule = catalogue.nvlink.find(number, error)
    name = f"nvlink5.{number}.{error.unit}"
    if rule is None:
        severity, action = ("fatal", "reset_gpu") if error.is_fatal else ("info", "none")
        return replace(base, severity=severity, action=action, rule=f"{name}.no_rule")
    severity, action = _NVLINK_POLICY.get(rule.action, ("warn" if error.is_fatal else "info", "none"))
    if action == "reset_gpu" and rule.unit.startswith("NETIR_LINK") and error.subcode in LINK_INSPECTION_SUBCODES:
        action = "reset_gpu+inspect_link"
    return replace(base, severity=severity, action=action, rule=f"{name}.{error.subcode}.{error.error_status:#x}")


def _classify_sxid(found: re.Match[str], message: str, catalogue: Catalogue) -> Classification:
    """Trust the severity word before the number: the numbers move between driver releases."""
    number = int(found["number"])
    base = Classification(sxid=number, device=found["device"], pci=normalise_address(found["device"]), group="fabric")
    if _SXID_CONTINUES.match(message):
        return replace(base, severity="continuation", action="none", scope="fabric", rule="sxid.continuation")
    if word := _SXID_WORD.match(message):
        severity, action = ("warn", "monitor") if word[1] else ("fatal", "reset_all_gpus_on_node")
        return replace(base, severity=severity, action=action, scope="fabric", rule=f"sxid.word.{severity}")
    policy = catalogue.sxids.get(number)
    rule = f"sxid.{number}" if policy else "sxid.unknown"
    return _with_policy(replace(base, rule=rule), policy or UNKNOWN_SXID)


def _classify_event(text: PrefixedText, catalogue: Catalogue, *, is_kernel: bool) -> Classification:
    event = find_event(text.body.partition("\n")[0], is_kernel=is_kernel, tag=text.tag)
    if event is None:
        return NOTHING
    name, address = event
    pci = normalise_address(address) if address else None
    return _with_policy(Classification(event=name, pci=pci, rule=f"event.{name}"), catalogue.events[name])


def _with_policy(base: Classification, policy: Policy) -> Classification:
    return replace(base, severity=policy.severity, action=policy.action, scope=policy.scope, group=policy.group)
