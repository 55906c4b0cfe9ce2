"""The grammar of kernel messages that are no XID: memory, processors, disks, file servers, adapters, fabric manager.

Each form names one event; what the event means stands in the catalogue. Every message passes one cheap test for the
words that all forms need, so that the ordinary traffic of a kernel log costs little.
"""

import re
from dataclasses import dataclass

_KERNEL, _MANAGER = "kernel", "fabric manager"
_MANAGER_TAGS = frozenset(("nv-fabricmanager", "nvidia-fabricmanager", "fabricmanager"))
# Words of which each form below, and each of the driver's, holds at least one.
DRIVER_WORDS = ("NVRM", "SXid", "nvidia")
EVENT_WORDS = (
    *("RmInitAdapter", "Rate limiting GSP", "Heartbeat", "RxDet", "NVSwitch", "multicast team", "invalid context"),
    *(
        "libnccl",
        "oom-kill",
        "Killed process",
        "Kill process",
        "killed as a result",
        "EDAC",
        "Hardware Error",
        " blocked ",
    ),
    *("soft lockup", "Kernel panic", "file-max", "failing array", "read-only", "forced readonly", "superblock"),
    *("available path", "usable path", "nvme", "beyond end of device", "Buffer I/O", "nfs", "mlx5", "Port module"),
    *("NETDEV WATCHDOG", "PCIe Bus Error"),
)


@dataclass(frozen=True, slots=True)
class _Form:
    event: str
    pattern: re.Pattern[str]
    tag: str = _KERNEL


def _form(event: str, pattern: str, tag: str = _KERNEL) -> _Form:
    return _Form(event, re.compile(pattern), tag)


_PCI = r"(?P<pci>(?:PCI:)?(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-9A-Fa-f])?)"
_FORMS = (
    _form("gpu_init_failed", rf"^NVRM: (?:GPU(?: at)? {_PCI}:? )?.{{0,40}}RmInitAdapter failed!"),
    _form("gsp_rpc_storm", rf"^NVRM: Rate limiting GSP RPC error prints for GPU at {_PCI}"),
    _form("gsp_heartbeat_lost", r"^NVRM: (?:GPU\d* ?)?\w*HeartbeatTimedOut\w*: Heartbeat timed out"),
    _form(
        "nvlink_post_rx_detect_failure",
        r"^NVRM: knvlink\w*: (?:Failed to update Rx Detect|Getting peer.*ostRxDet.*fail)",
    ),
    _form("fm_nvswitch_fatal", rf"^detected NVSwitch fatal error \d+ on .*?pci bus id {_PCI}", _MANAGER),
    _form("fm_nvswitch_non_fatal", rf"^detected NVSwitch non-fatal error \d+ on .*?pci bus id {_PCI}", _MANAGER),
    _form("fm_nvlink_failure", r"^failed to find the GPU handle \d+ in the multicast team", _MANAGER),
    _form(
        "nvidia_peermem_invalid_context", r"^nvidia[-_]peermem .*detected invalid context, skipping further processing"
    ),
    _form("nvidia_nccl_segfault_in_libnccl", r"segfault at [0-9a-f]+ ip .* in libnccl\.so"),
    _form("oom_start", r"^.{1,64} invoked oom-killer: "),
    _form("oom_kill", r"^oom-kill:constraint="),
    _form("oom_killed", r"^(?:(?:Memory cgroup o|O)ut of memory[^:]*: )?Kill(?:ed)? process \d+ \("),
    _form("oom_legacy_task", r"^Task in \S+ killed as a result of limit of "),
    _form("memory_uncorrectable", r"^EDAC .*\b\d{1,9} UE\b|^EDAC .*: UE "),
    _form("memory_correctable", r"^EDAC .*\b\d{1,9} CE\b|^EDAC .*: CE "),
    _form("machine_check", r"^mce: \[Hardware Error\]: (?:Machine check events logged|CPU \d+: Machine Check)"),
    _form("cpu_blocked_too_long", r"^INFO: task .+:\d+ blocked (?:in I/O wait )?for more than \d+ seconds"),
    _form("cpu_soft_lockup", r"^(?:watchdog: )?BUG: soft lockup - CPU#\d+ stuck for \d+s!"),
    _form("kernel_panic", r"^Kernel panic - not syncing"),
    _form("vfs_file_max_limit_reached", r"^VFS: file-max limit \d+ reached"),
    _form("raid_array_failure", r"^md/raid\w*:\w+: Disk failure on \S+ detected, failing array"),
    _form(
        "filesystem_read_only",
        r"^(?:EXT[234]-fs|BTRFS|XFS|F2FS-fs)[^:]{0,80}: .{0,80}?[Rr]emounting filesystem read-only",
    ),
    _form("filesystem_read_only", r"^BTRFS (?:info|error|critical|warning) \(.*forced readonly"),
    _form("superblock_write_error", r"I/O error while writing superblock"),
    _form("nvme_path_failure", r"^block nvme\w+: no (?:available|usable) path - failing I/O"),
    _form("nvme_controller_timeout", r"^nvme nvme\d+: I/O .*timeout, reset controller"),
    _form(
        "nvme_device_disabled", r"^nvme nvme\d+: (?:Disabling device after reset failure|Removing after probe failure)"
    ),
    _form("beyond_end_of_device", r"(?:^|: )attempt to access beyond end of device"),
    _form("buffer_io_error", r"^Buffer I/O error on dev(?:ice)? \S+, logical block"),
    _form("nfs_server_not_responding", r"^(?:\w+: )?nfs: server \S+ not responding"),
    _form("nfs_server_ok", r"^nfs: server \S+ OK"),
    _form("nfs_lock_reclaim_failed", r"^(?:NFS: )?nfs4_reclaim_open_state: Lock reclaim failed"),
    _form(
        "nfs_writeback_hang",
        r"^\s*(?:\? )?(?:nfs_page_async_flush|nfs_lock_and_join_requests)\+0x[0-9a-f]+/0x[0-9a-f]+",
    ),
    _form("pci_power_insufficient", rf"^mlx5_core(?: {_PCI})?.*Detected insufficient power on the PCIe slot \(\d+W\)"),
    _form("port_module_high_temperature", r"Port module event\[error\]: .*High Temperature"),
    _form("port_module_cable_unplugged", r"Port module event: .*Cable unplugged"),
    _form("nic_command_timeout", rf"^mlx5_core(?: {_PCI})?.*timeout\. Will cause a leak of a command resource"),
    _form("access_reg_failed", r"mlx5_cmd_out_err:\d+:\(pid \d+\): ACCESS_REG\(0x[0-9a-f]+\).* failed"),
    _form("nic_health_compromised", rf"^mlx5_core(?: {_PCI})?.*[Dd]evice'?s health compromised"),
    _form("nic_unrecoverable_error", rf"^mlx5_core(?: {_PCI})?.*[Uu]nrecoverable hardware error"),
    _form(
        "nic_transmit_timeout", r"^NETDEV WATCHDOG: .* transmit queue \d+ timed out|^.*: NETDEV WATCHDOG: .*timed out"
    ),
    _form("pcie_error_fatal", rf"^(?:\w+ )?{_PCI}: PCIe Bus Error: severity=Uncorrected \(Fatal\)"),
    _form("pcie_error_nonfatal", rf"^(?:\w+ )?{_PCI}: PCIe Bus Error: severity=Uncorrected \(Non-Fatal\)"),
)


def find_event(body: str, *, is_kernel: bool, tag: str | None) -> tuple[str, str | None] | None:
    """Return (event, PCI address or None) of a message, or None when it is of no interest.

    Args:
        body: The message's first line, without prefix.
        is_kernel: Whether nothing says that another program than the kernel wrote it.
        tag: The program that the line names; fabric manager's own lines come under its name or from its own file.
    """
    if not any(word in body for word in EVENT_WORDS):
        return None
    for form in _FORMS:
        if not is_kernel and not (form.tag == _MANAGER and tag in _MANAGER_TAGS):
            continue
        if found := form.pattern.search(body):
            return form.event, found.groupdict().get("pci")
    return None
