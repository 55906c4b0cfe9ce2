"""The self-contained tree of a package: pruned interpreter, wheels, programs, byte code, one time stamp."""

import os
import re
import shutil
import stat
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIB = "lib/python3.13"
# Of the standard library, what no program here imports.
PRUNED = (
    "ensurepip", "idlelib", "tkinter", "turtledemo", "turtle.py", "pydoc_data", "lib2to3", "test", "venv", "curses",
    "config-3.13-*", "__phello__", "pydoc.py", "_pyrepl", "dbm", "xmlrpc", "wsgiref", "msilib",
    "lib-dynload/_test*", "lib-dynload/_ctypes_test*", "lib-dynload/xx*", "lib-dynload/_curses*", "lib-dynload/_tkinter*",
    "lib-dynload/_dbm*", "lib-dynload/_gdbm*", "lib-dynload/readline*",
)  # fmt: skip
# Of the wheels, what only their own tests and builds need.
PRUNED_WHEELS = (
    "**/tests",
    "**/testing",
    "numpy/f2py",
    "numpy/_core/include",
    "numpy/_core/lib",
    "**/*.pyi",
    "**/*.pxd",
    "**/*.pyx",
)
KEPT_WHEELS = ("numpy/testing", "scipy/_lib/_testutils.py")
COMPILED = ("_columns_c", "_excursions_c", "_nvml_c", "_placement_c", "_ring_c", "_scan_c", "_sweep_c")


@dataclass(frozen=True, slots=True)
class Part:
    """Something bundled: for the list of licences and the SBOM."""

    name: str
    version: str
    licence: str
    purl: str
    licence_files: tuple[Path, ...]


def assert_compiled(wheel: Path) -> None:
    """Refuse a wheel without its compiled parts."""
    names = zipfile.ZipFile(wheel).namelist()
    missing = [part for part in COMPILED if not any(f"/{part}." in name and name.endswith(".so") for name in names)]
    missing += [part for part in ("libnvidia-ml.so.1",) if not any(name.endswith(part) for name in names)]
    if missing:
        raise SystemExit(f"packages: {wheel.name} lacks its compiled parts: {', '.join(missing)}")


def wheels_of(wheelhouse: Path, roots: list[str]) -> list[Path]:
    """Return the wheels of these requirements and of all that they need."""
    found: dict[str, Path] = {}
    by_name = {_canonical(path.name.split("-")[0]): path for path in wheelhouse.glob("*.whl")}
    waiting = [_canonical(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name in found or name not in by_name or name in {"pip", "setuptools"}:
            continue
        found[name] = by_name[name]
        waiting += _needs(by_name[name])
    return [found[name] for name in sorted(found)]


def _needs(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().split("\n\n")[0].splitlines()
    wanted = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    names = [re.match(r"[A-Za-z0-9._-]+", line) for line in wanted if "extra ==" not in line and "win32" not in line]
    return [_canonical(match.group()) for match in names if match]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def assemble(stage: Path, package: dict[str, Any], interpreter: Path, wheels: list[Path]) -> list[Part]:
    """Make the tree under stage/usr/lib/flyball and the links in usr/bin; return what is in it."""
    home = stage / "usr/lib/flyball" / package["tree"]
    _copy_interpreter(home, interpreter, package["libraries"])
    site = home / LIB / "site-packages"
    shutil.rmtree(site, ignore_errors=True)
    for wheel in wheels:
        _unpack(wheel, site)
    _keep_modules(site, package["modules"])
    for pattern in PRUNED_WHEELS:
        for path in sorted(site.glob(pattern)):
            if not any(path == site / kept for kept in KEPT_WHEELS):
                _remove(path)
    _set_search_paths(home)
    _write_programs(stage, home, package)
    parts = _parts(site, interpreter)
    _compile(stage, home)
    return parts


def _copy_interpreter(home: Path, interpreter: Path, libraries: list[str]) -> None:
    (home / "bin").mkdir(parents=True)
    shutil.copy(interpreter / "bin/python3.13", home / "bin/python3.13")
    ignore = shutil.ignore_patterns("__pycache__", "*.a")
    shutil.copytree(interpreter / LIB, home / LIB, ignore=ignore, symlinks=True)
    for pattern in PRUNED:
        for path in (home / LIB).glob(pattern):
            _remove(path)
    for name in libraries:
        shutil.copy(interpreter / "lib" / name, home / "lib" / name, follow_symlinks=True)
    if "libsqlite3.so.0" not in libraries:
        _remove(home / LIB / "sqlite3")
        for path in (home / LIB / "lib-dynload").glob("_sqlite3*"):
            _remove(path)


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for data in site.glob("*.data"):
        for folder in ("purelib", "platlib"):
            if (data / folder).exists():
                shutil.copytree(data / folder, site, dirs_exist_ok=True)
        _remove(data)


def _keep_modules(site: Path, modules: list[str]) -> None:
    """Leave of flyball's own packages those named; a host carries no simulated library."""
    for path in site.glob("flyball_*"):
        if (
            path.is_dir()
            and not path.name.endswith(".dist-info")
            and path.name not in {name.split(".")[0] for name in modules}
        ):
            _remove(path)
    for name in modules:
        folder, _, kept = name.partition(".")
        if kept:
            chosen = {
                "__init__.py",
                *(f"{other.partition('.')[2]}.py" for other in modules if other.startswith(f"{folder}.")),
            }
            for path in (site / folder).iterdir():
                if path.name not in chosen:
                    _remove(path)


def _set_search_paths(home: Path) -> None:
    """Have every binary of the interpreter find the libraries beside it, and strip them all."""
    for path in [home / "bin/python3.13", *home.rglob("*.so*")]:
        path.chmod(0o755)
        if "site-packages" not in path.parts:
            up = "/".join([".."] * len(path.parent.relative_to(home).parts))
            subprocess.run(["patchelf", "--set-rpath", f"$ORIGIN/{up}/lib", str(path)], check=True)
        if ".libs" not in str(path.parent):  # a wheel's own libraries were patched by its maker and may not stand it
            subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def _write_programs(stage: Path, home: Path, package: dict[str, Any]) -> None:
    (stage / "usr/bin").mkdir(parents=True)
    for program, module in package["programs"].items():
        path = home / "bin" / program
        python = f"/usr/lib/flyball/{package['tree']}/bin/python3.13"
        path.write_text(
            f"#!{python} -I\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n", encoding="utf-8"
        )
        path.chmod(0o755)
        (stage / "usr/bin" / program).symlink_to(os.path.relpath(path, stage / "usr/bin"))


def _parts(site: Path, interpreter: Path) -> list[Part]:
    parts = []
    for info in sorted(site.glob("*.dist-info")):
        headers = (info / "METADATA").read_text(encoding="utf-8").split("\n\n")[0]
        name, version = _header(headers, "Name"), _header(headers, "Version")
        licence = _header(headers, "License-Expression") or _header(headers, "License") or _classified(headers)
        files = tuple(
            path
            for path in sorted(info.rglob("*"))
            if re.match(r"(?i)(licen[cs]e|copying|notice|authors)", path.name) and path.is_file()
        )
        parts.append(
            Part(name, version, licence or "see its licence file", f"pkg:pypi/{_canonical(name)}@{version}", files)
        )
        for path in ("RECORD", "INSTALLER", "direct_url.json", "REQUESTED"):
            (info / path).unlink(missing_ok=True)
    for line in (interpreter / "versions").read_text(encoding="utf-8").splitlines():
        name, version = line.split()
        short = {"python3.13": "cpython", "libffi7": "libffi", "libsqlite3-0": "sqlite", "zlib1g": "zlib"}.get(
            name, name
        )
        licence = {
            "cpython": "PSF-2.0",
            "openssl": "Apache-2.0",
            "libffi": "MIT",
            "sqlite": "blessing",
            "zlib": "Zlib",
        }[short]
        parts.append(
            Part(name, version, licence, f"pkg:deb/debian/{name}@{version}", (interpreter / "licences" / short,))
        )
    return parts


def _header(headers: str, name: str) -> str:
    found = re.search(rf"(?m)^{name}: (.+)$", headers)
    return found.group(1).strip() if found else ""


def _classified(headers: str) -> str:
    return "; ".join(re.findall(r"(?m)^Classifier: License :: (?:OSI Approved :: )?(.+)$", headers))


def _compile(stage: Path, home: Path) -> None:
    """Byte code that is never checked against its source: the tree is never written again."""
    argv = [
        str(home / "bin/python3.13"),
        "-I",
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        str(stage),
    ]
    subprocess.run(
        [*argv, "-p", "/", "-x", "bad_coding|badsyntax", str(home / LIB)],
        check=True,
        env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )


def normalise(stage: Path, epoch: int) -> None:
    """Give every file one time stamp and one of two modes."""
    for path in [stage, *stage.rglob("*")]:
        if not path.is_symlink():
            is_open = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if is_open else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
