"""Write a staged tree as a .deb with dpkg-deb."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

POSTINST = """#!/bin/sh
# Users and folders first; a first installation enables and starts, an upgrade restarts what runs.
set -e
if [ "$1" = configure ]; then
    {users}
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create {name}.conf || true; fi
    for unit in {start}; do
        deb-systemd-helper unmask "$unit" >/dev/null || true
        if deb-systemd-helper --quiet was-enabled "$unit"; then
            deb-systemd-helper enable "$unit" >/dev/null || true
        else
            deb-systemd-helper update-state "$unit" >/dev/null || true
        fi
    done
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ]; then action=restart; else action=start; fi
        for unit in {start}; do deb-systemd-invoke $action "$unit" >/dev/null || true; done
    fi
fi
"""
PRERM = """#!/bin/sh
# An upgrade keeps everything running until the new programs are there: caps and lease stand meanwhile.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    for unit in {start} {others}; do deb-systemd-invoke stop "$unit" >/dev/null || true; done
fi
"""
POSTRM = """#!/bin/sh
set -e
if [ "$1" = remove ]; then
    if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi
    for unit in {start}; do [ ! -x /usr/bin/deb-systemd-helper ] || deb-systemd-helper mask "$unit" >/dev/null || true; done
fi
if [ "$1" = purge ]; then
    for unit in {start}; do
        [ ! -x /usr/bin/deb-systemd-helper ] || deb-systemd-helper purge "$unit" >/dev/null || true
        [ ! -x /usr/bin/deb-systemd-helper ] || deb-systemd-helper unmask "$unit" >/dev/null || true
    done
    rm -rf {state}
    rmdir /var/lib/flyball /etc/flyball/keys /etc/flyball 2>/dev/null || true
    {forget_users}
fi
"""


def write(stage: Path, package: dict[str, Any], version: str, out: Path, epoch: int) -> Path:
    """Add the control files and build the archive."""
    control = stage / "DEBIAN"
    control.mkdir()
    size = sum(path.lstat().st_size for path in stage.rglob("*") if path.is_file() and not path.is_symlink()) // 1024
    name, architecture = package["name"], package["architecture"]["deb"]
    fields = {
        "Package": name, "Version": f"{version}-1", "Architecture": architecture, "Maintainer": package["maintainer"],
        "Installed-Size": str(size), "Depends": "libc6 (>= 2.30)", "Recommends": ", ".join(package.get("recommends", [])),
        "Section": "admin", "Priority": "optional", "Homepage": package["homepage"],
        "Description": f"{package['summary']}\n Self-contained under /usr/lib/flyball, with its own interpreter.",
    }  # fmt: skip
    (control / "control").write_text(
        "".join(f"{key}: {value}\n" for key, value in fields.items() if value), encoding="utf-8"
    )
    if package.get("config"):
        (control / "conffiles").write_text(
            "".join(f"/etc/flyball/{item}\n" for item in package["config"]), encoding="utf-8"
        )
    if package.get("units"):
        _write_scripts(control, package)
    _write_sums(stage, control)
    for path in [control, *control.iterdir(), stage]:
        os.utime(path, (epoch, epoch))
    target = out / f"{name}_{version}-1_{architecture}.deb"
    target.unlink(missing_ok=True)
    subprocess.run(
        ["nice", "dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(stage), str(target)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return target


def _write_scripts(control: Path, package: dict[str, Any]) -> None:
    start = package.get("start", [])
    has_user = package.get("sysusers", False)
    values = {
        "name": package["name"],
        "start": " ".join(start),
        "others": " ".join(unit for unit in package["units"] if unit not in start),
        "state": " ".join(package.get("state", [])),
        "users": f"systemd-sysusers {package['name']}.conf" if has_user else ":",
        "forget_users": "if getent passwd flyball-agent >/dev/null; then userdel flyball-agent || true; fi"
        if has_user
        else ":",
    }
    for name, text in (("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)):
        (control / name).write_text(text.format(**values), encoding="utf-8")
        (control / name).chmod(0o755)


def _write_sums(stage: Path, control: Path) -> None:
    lines = []
    for path in sorted(stage.rglob("*")):
        inside = path.relative_to(stage)
        if path.is_file() and not path.is_symlink() and inside.parts[0] not in {"DEBIAN", "etc"}:
            lines.append(f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {inside}\n")
    (control / "md5sums").write_text("".join(lines), encoding="utf-8")
