"""Write a staged tree as an .rpm with rpmbuild."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

SPEC = """%global __os_install_post %{{nil}}
%global _build_id_links none
%global debug_package %{{nil}}
%global _buildhost flyball
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global _binary_payload w19.zstdio
Name: {name}
Version: {version}
Release: 1
Summary: {summary}
License: Apache-2.0
URL: {homepage}
AutoReqProv: no
Requires: glibc >= 2.30
%description
{summary}. Self-contained under /usr/lib/flyball, with its own interpreter.
%install
cp -a {stage}/. %{{buildroot}}/
rm -rf %{{buildroot}}/DEBIAN
{scripts}%files
{files}
"""
SCRIPTS = """%post
{users}
systemd-tmpfiles --create {name}.conf >/dev/null 2>&1 || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -eq 1 ]; then systemctl enable --now {start} || :; else systemctl try-restart {start} || :; fi
else
    [ "$1" -ne 1 ] || systemctl enable {start} || :
fi
%preun
if [ "$1" -eq 0 ]; then systemctl disable --now {units} >/dev/null 2>&1 || :; fi
%postun
if [ "$1" -eq 0 ]; then
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || :
    rmdir /var/lib/flyball /etc/flyball/keys 2>/dev/null || :
fi
"""


def write(stage: Path, package: dict[str, Any], version: str, out: Path, epoch: int, work: Path) -> Path:
    """Write the spec and build the archive."""
    name, architecture = package["name"], package["architecture"]["rpm"]
    scripts = ""
    if package.get("units"):
        users = f"systemd-sysusers {name}.conf >/dev/null 2>&1 || :" if package.get("sysusers") else ":"
        scripts = SCRIPTS.format(
            name=name, users=users, start=" ".join(package["start"]), units=" ".join(package["units"])
        )
    values = {key: package[key] for key in ("name", "summary", "homepage")}
    spec = work / f"{name}.spec"
    spec.write_text(
        SPEC.format(**values, version=version, stage=stage, scripts=scripts, files="\n".join(_files(stage))),
        encoding="utf-8",
    )
    top = work / f"rpm-{name}"
    shutil.rmtree(top, ignore_errors=True)
    argv = [
        "nice",
        "rpmbuild",
        "-bb",
        "--quiet",
        "--target",
        architecture,
        "--define",
        f"_topdir {top}",
        "--define",
        f"_rpmdir {top}/out",
    ]
    done = subprocess.run(
        [*argv, str(spec)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )
    if done.returncode:
        raise SystemExit(f"packages: rpmbuild of {name}: {done.stderr[-2000:]}")
    (built,) = (top / "out").rglob("*.rpm")
    target = out / built.name
    shutil.move(built, target)
    shutil.rmtree(top)
    return target


def _files(stage: Path) -> list[str]:
    """List every file, and the folders that are ours alone; configuration is never replaced."""
    lines = ["%defattr(-,root,root,-)"]
    for path in sorted(stage.rglob("*")):
        inside = "/" + str(path.relative_to(stage))
        if inside.startswith("/DEBIAN"):
            continue
        if path.is_dir() and not path.is_symlink():
            if inside.startswith(("/usr/lib/flyball", "/usr/share/doc/flyball", "/etc/flyball")):
                lines.append(f'%dir "{inside}"')
        elif inside.startswith("/etc/"):
            lines.append(f'%config(noreplace) "{inside}"')
        else:
            lines.append(f'"{inside}"')
    return lines
