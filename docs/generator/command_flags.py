"""The page of commands: what each is for, and its flags, from `mtard_tf.commands.requests`."""

from __future__ import annotations

import ast
import dataclasses
import pathlib

from mtard_tf.commands import requests

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
COMMANDS = ("train", "eval", "compare", "report", "export", "import", "data", "plan")
_ALL = "`--plugins=FILE` (Python file that registers parts of your own; repeatable), `--debug` "
_ALL += "(the whole stack trace of an error), `--version` and `--help`."


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Commands",
        "",
        "Every command and its flags, as `--help` has them. A flag without a default may be left "
        f"out unless it says *required*. Each command also takes {_ALL} A wrong flag or setting "
        "is one line on stderr and exit code 1; a run that is preempted exits with 75.",
        "",
    ]
    for command in COMMANDS:
        module = ROOT / "mtard_tf" / "bin" / f"{command}{'_' * (command == 'import')}.py"
        said = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
        lines += [f"## mtard-{command} {{#{command}}}", "", said, "", "| flag | default | |"]
        lines += ["|---|---|---|", *map(_row, flags(command)), ""]
    return "\n".join(lines)


def flags(command: str) -> list[dataclasses.Field]:
    """The flags of a command, by name."""
    fields = dataclasses.fields(getattr(requests, command.capitalize()))
    return sorted(fields, key=_name)


def _name(field: dataclasses.Field) -> str:
    return field.metadata.get("name", field.name)


def _row(field: dataclasses.Field) -> str:
    boolean = field.type == "bool"
    flag = f"--[no]{_name(field)}" if boolean else f"--{_name(field)}=..."
    if field.metadata.get("required"):
        default = "*required*"
    else:
        default = "" if field.default in (None, ()) else f"`{str(field.default).lower()}`"
        if isinstance(field.default, str):
            default = f"`{field.default}`"
    return f"| `{flag}` | {default} | {field.metadata['help']} |".replace("NAME|", "NAME\\|")
