"""Build every package of describe.toml as .deb and .rpm into dist/, the same bytes each time.

    python packaging/build.py --interpreter DIR [--only NAME] [--wheelhouse DIR] [--root DIR]

DIR is what interpreter.sh printed; its build root also compiles flyball's wheel, so that glibc 2.30 is enough for all.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import deb
import rpm
import texts
import tree

HERE = Path(__file__).parent
SOURCE = HERE.parent
WHEELS = HERE / "wheels.sha256"
WHEEL_TAGS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


@dataclasses.dataclass(frozen=True, slots=True)
class Build:
    """Where everything lies for one run."""

    interpreter: Path
    root: Path
    wheelhouse: Path
    work: Path
    out: Path
    epoch: int
    version: str


def main() -> int:
    """Build; print one line of sizes a package."""
    options = _options()
    described = tomllib.loads((HERE / "describe.toml").read_text(encoding="utf-8"))
    build = _prepare(options)
    wheel = build_wheel(build)
    failures = []
    for package in described["package"]:
        if options.only in {None, package["name"]}:
            common = {key: value for key, value in described.items() if key != "package"}
            failures += make_package(
                build, common | package | {"libraries": common["libraries"] + package.get("libraries", [])}, wheel
            )
    for line in failures:
        sys.stderr.write(f"packages: {line}\n")
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cache = Path(os.environ.get("FLYBALL_CACHE") or Path.home() / ".cache/flyball")
    parser.add_argument("--interpreter", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=cache / "root-bullseye")
    parser.add_argument("--wheelhouse", type=Path, default=cache / "wheelhouse")
    parser.add_argument("--work", type=Path, default=SOURCE / "build/packages")
    parser.add_argument("--out", type=Path, default=SOURCE / "dist")
    parser.add_argument("--only", help="build this package alone")
    return parser.parse_args()


def _prepare(options: argparse.Namespace) -> Build:
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _output(["git", "-C", str(SOURCE), "log", "-1", "--format=%ct"]))
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    fill_wheelhouse(options.wheelhouse, [*project["dependencies"], *project["optional-dependencies"]["aggregator"]])
    version = os.environ.get("FLYBALL_VERSION") or project["version"]
    return Build(options.interpreter, options.root, options.wheelhouse, options.work, options.out, epoch, version)


def fill_wheelhouse(folder: Path, requirements: list[str]) -> None:
    """Download the pinned wheels where they are missing: for the interpreter in the packages, not the one running this.

    Every wheel must have the SHA-256 that wheels.sha256 gives it. FLYBALL_NEW_WHEELS=1 writes that file instead.
    """
    listed = dict(reversed(line.split()) for line in WHEELS.read_text(encoding="ascii").splitlines())
    is_new = os.environ.get("FLYBALL_NEW_WHEELS") == "1"
    if is_new or not all((folder / name).exists() for name in listed):
        _download(folder, requirements)
    found = {path.name: texts.digest(path) for path in sorted(folder.glob("*.whl"))}
    if is_new:
        WHEELS.write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()), encoding="ascii")
    elif found != listed:
        wrong = sorted(name for name in {*found, *listed} if found.get(name) != listed.get(name))
        raise SystemExit(f"packages: {folder}: not the wheels of {WHEELS.name}: {', '.join(wrong)}")


def _download(folder: Path, requirements: list[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", str(folder)]
    argv += ["--only-binary=:all:", "--python-version", "3.13", "--implementation", "cp"]
    argv += [f"--platform={tag}" for tag in WHEEL_TAGS]
    argv += ["-c", str(HERE / "constraints.txt"), *requirements, "setuptools>=77", "Cython>=3.1,<4"]
    subprocess.run(argv, check=True)


def build_wheel(build: Build) -> Path:
    """Compile flyball's wheel in the build root and return it."""
    inside = build.root / "build"
    for name in ("src", "tools", "wheel"):
        shutil.rmtree(inside / name, ignore_errors=True)
        (inside / name).mkdir(parents=True)
    tracked = _output(["git", "-C", str(SOURCE), "ls-files", "-co", "--exclude-standard"]).splitlines()
    for name in tracked:
        if name.startswith(("agent/", "aggregator/", "ext/")) or "/" not in name:
            target = inside / "src" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / name, target)
    for name in ("setuptools", "cython"):
        shutil.unpack_archive(next(build.wheelhouse.glob(f"{name}-*.whl")), inside / "tools", "zip")
    script = (
        "cd /build/src && export PYTHONPATH=/build/tools LD_LIBRARY_PATH=/opt/flyball/lib LC_ALL=C.UTF-8 TZ=UTC PYTHONHASHSEED=0 && "
        "/opt/flyball/bin/python3.13 setup.py -q bdist_wheel -d /build/wheel"
    )
    subprocess.run(
        ["nice", "chroot", str(build.root), "sh", "-ec", script],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (wheel,) = (inside / "wheel").glob("*.whl")
    tree.assert_compiled(wheel)
    return wheel


def make_package(build: Build, package: dict[str, Any], wheel: Path) -> list[str]:
    """Stage one package, write it in both forms and return what is wrong with its size."""
    stage = build.work / package["name"]
    shutil.rmtree(stage, ignore_errors=True)
    parts = tree.assemble(
        stage, package, build.interpreter, [wheel, *tree.wheels_of(build.wheelhouse, package["requirements"])]
    )
    texts.write_units(stage, package, SOURCE / "systemd")
    texts.write_config(stage, package, HERE / "etc")
    texts.write_documents(stage, package, parts, build.version, SOURCE, build.interpreter)
    tree.normalise(stage, build.epoch)
    installed = sum(path.lstat().st_size for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    made = [
        deb.write(stage, package, build.version, build.out, build.epoch),
        rpm.write(stage, package, build.version, build.out, build.epoch, build.work),
    ]
    sizes = {path.name: round(path.stat().st_size / 2**20, 2) for path in made}
    sys.stdout.write(
        json.dumps({"package": package["name"], "installed_mib": round(installed / 2**20, 1), "mib": sizes}) + "\n"
    )
    most = package.get("most_mib", {"package": 1e9, "installed": 1e9})
    wrong = [f"{name}: {size} MiB, at most {most['package']}" for name, size in sizes.items() if size > most["package"]]
    if installed > most["installed"] * 2**20:
        wrong.append(f"{package['name']}: {installed / 2**20:.1f} MiB installed, at most {most['installed']}")
    return wrong


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
