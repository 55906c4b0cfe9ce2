"""The files around a package's tree: units, configuration, man pages, completion, licences, SBOM."""

import hashlib
import json
import shutil
import subprocess
import textwrap
import uuid
from pathlib import Path
from typing import Any

from tree import Part

# Prints a program's command line as JSON: its parser is caught where it would start to read arguments.
CATCH_PARSER = """
import argparse, importlib, json, sys

class Caught(Exception):
    pass

def catch(self, *_):
    raise Caught(self)

def described(parser):
    commands, options = {}, []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands = {name: described(sub) | {"help": helps.get(name, "")} for name, sub in action.choices.items()}
        elif action.help != argparse.SUPPRESS:
            names = action.option_strings or [action.metavar if isinstance(action.metavar, str) else action.dest]
            shown = parser._get_formatter()._expand_help(action) if action.help else ""
            value = "" if action.nargs == 0 or not action.option_strings else str(action.metavar or action.dest.upper())
            options.append({"names": names, "value": value, "help": shown, "choices": [str(c) for c in action.choices or ()]})
    return {"description": parser.description or "", "epilog": parser.epilog or "", "options": options, "commands": commands}

argparse.ArgumentParser.parse_args = catch
argparse.ArgumentParser.parse_known_args = catch
try:
    module, sys.argv = importlib.import_module(sys.argv[1]), [sys.argv[1], "--help"]
    module.main()
except Caught as caught:
    print(json.dumps(described(caught.args[0])))
"""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_units(stage: Path, package: dict[str, Any], units: Path) -> None:
    """Put units, sysusers, tmpfiles and drop-ins where systemd and people look for them."""
    for name in package.get("units", []):
        _copy(units / name, stage / "usr/lib/systemd/system" / name)
    for name in package.get("drop_ins", []):
        _copy(units / "drop-ins" / name, stage / f"usr/share/doc/{package['name']}/drop-ins" / name)
    if package.get("sysusers"):
        _copy(units / "sysusers.conf", stage / f"usr/lib/sysusers.d/{package['name']}.conf")
    if package.get("units"):
        _copy(units / "tmpfiles.conf", stage / f"usr/lib/tmpfiles.d/{package['name']}.conf")


def write_config(stage: Path, package: dict[str, Any], folder: Path) -> None:
    """Put the configuration files in place; an upgrade keeps what was changed in them."""
    for name in package.get("config", []):
        _copy(folder / name, stage / "etc/flyball" / name)


def write_documents(
    stage: Path, package: dict[str, Any], parts: list[Part], version: str, source: Path, interpreter: Path
) -> None:
    """Write man pages, completion, licences and the SBOM."""
    folder = stage / f"usr/share/doc/{package['name']}"
    folder.mkdir(parents=True, exist_ok=True)
    for program, module in package["programs"].items():
        command_line = _command_line(stage / "usr/lib/flyball" / package["tree"], module, interpreter)
        section = "1" if program == "flyball" else "8"
        page = stage / f"usr/share/man/man{section}/{program}.{section}"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(man_page(program, section, version, command_line), encoding="utf-8")
        subprocess.run(["gzip", "-9n", str(page)], check=True)
        completion = stage / f"usr/share/bash-completion/completions/{program}"
        completion.parent.mkdir(parents=True, exist_ok=True)
        completion.write_text(bash_completion(program, command_line), encoding="utf-8")
    (folder / "copyright").write_text(
        copyright_file(parts, (source / "LICENSE").read_text(encoding="utf-8")), encoding="utf-8"
    )
    for part in parts:
        for index, path in enumerate(part.licence_files):
            _copy(path, folder / "licences" / f"{part.name}{'' if index == 0 else f'-{index}'}.txt")
    (folder / "sbom.cdx.json").write_text(
        json.dumps(sbom(package, parts, version), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    changes = f"{package['name']} ({version}-1) unstable; urgency=medium\n\n  * See CHANGELOG.md of the source.\n\n -- {package['maintainer']}  Wed, 01 Jan 2025 00:00:00 +0000\n"
    log = folder / "changelog.Debian"
    log.write_text(changes, encoding="utf-8")
    subprocess.run(["gzip", "-9n", str(log)], check=True)


def _command_line(home: Path, module: str, interpreter: Path) -> dict[str, Any]:
    python = str(home / "bin/python3.13")
    environment = {
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "100",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/root",
    }
    done = subprocess.run(
        [python, "-B", "-c", CATCH_PARSER, module], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode or not done.stdout.strip():
        raise SystemExit(f"packages: {module} shows no command line: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def man_page(program: str, section: str, version: str, told: dict[str, Any]) -> str:
    """Return the page as roff."""
    first = told["description"].strip().split("\n")[0].rstrip(".") or program
    lines = [f'.TH {program.upper()} {section} "" "flyball {version}"', ".SH NAME", f"{program} \\- {_roff(first)}"]
    lines += [".SH SYNOPSIS", f".B {program}", "[\\fIOPTIONS\\fR]" + (" \\fICOMMAND\\fR" if told["commands"] else "")]
    lines += [".SH DESCRIPTION", _roff(told["description"]), ".SH OPTIONS", *_options(told["options"])]
    if told["commands"]:
        lines.append(".SH COMMANDS")
    for name, command in sorted(told["commands"].items()):
        lines += [f".SS {name}", _roff(command["help"] or command["description"]), *_options(command["options"])]
        for inner, deeper in sorted(command["commands"].items()):
            lines += [".TP", f"\\fB{name} {inner}\\fR", _roff(deeper["help"])]
    if told["epilog"]:
        lines += [".SH NOTES", _roff(told["epilog"])]
    return "\n".join(line for line in lines if line) + "\n"


def _options(options: list[dict[str, Any]]) -> list[str]:
    lines = []
    for option in options:
        value = f" \\fI{_roff(option['value'])}\\fR" if option["value"] else ""
        lines += [
            ".TP",
            "\\fB" + "\\fR, \\fB".join(_roff(name) for name in option["names"]) + "\\fR" + value,
            _roff(option["help"]) or ".",
        ]
    return lines


def _roff(text: str) -> str:
    cleaned = text.replace("\\", "\\e").replace("-", "\\-").strip()
    return "\n".join(
        ("\\&" + line if line.startswith((".", "'")) else line) for line in cleaned.split("\n") if line.strip()
    )


def bash_completion(program: str, told: dict[str, Any]) -> str:
    """Return a completion script: commands first, then the options of the one that was chosen."""
    function = "_" + program.replace("-", "_")
    own = [name for option in told["options"] for name in option["names"] if name.startswith("-")]
    words = sorted(told["commands"]) or [
        choice for option in told["options"] for choice in option["choices"] if not option["names"][0].startswith("-")
    ]
    cases = []
    for name, command in sorted(told["commands"].items()):
        inner = [word for option in command["options"] for word in option["names"] if word.startswith("-")]
        cases.append(f'        {name}) words="{" ".join([*sorted(command["commands"]), *inner])}" ;;')
    return textwrap.dedent("""\
        # bash completion of {program}
        {function}() {{
            local words="{words}"
            case "${{COMP_WORDS[1]}}" in
        {cases}
                *) ;;
            esac
            mapfile -t COMPREPLY < <(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}")
        }}
        complete -o default -F {function} {program}
        """).format(program=program, function=function, words=" ".join([*words, *own]), cases="\n".join(cases))


def copyright_file(parts: list[Part], own_licence: str) -> str:
    """Return one text: our licence, then whose parts are bundled under which."""
    listed = "\n".join(f" {part.name} {part.version}: {part.licence.splitlines()[0][:80]}" for part in parts)
    note = f"flyball is licensed under the Apache License 2.0 (also /usr/share/common-licenses/Apache-2.0 on Debian).\n\nBundled parts, whose licences lie in licences/ beside this file:\n\n{listed}\n\n"
    return note + own_licence


def sbom(package: dict[str, Any], parts: list[Part], version: str) -> dict[str, Any]:
    """Return a CycloneDX 1.5 document; its serial number follows from its content."""
    components = [
        {
            "type": "library",
            "bom-ref": part.purl,
            "name": part.name,
            "version": part.version,
            "purl": part.purl,
            "licenses": [{"license": {"name": part.licence.splitlines()[0][:120]}}],
        }
        for part in parts
    ]
    content = json.dumps([package["name"], version, components], sort_keys=True)
    subject = {"type": "application", "bom-ref": package["name"], "name": package["name"], "version": version}
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "metadata": {"component": subject},
        "components": components,
        "dependencies": [{"ref": package["name"], "dependsOn": [part.purl for part in parts]}],
    }  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
