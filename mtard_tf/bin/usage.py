"""The command line itself: `--help` and `--version` leave with 0, a wrong flag is one line."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from absl import flags

import mtard_tf

# What absl adds to the help of a repeatable flag.
_ABSL = ";\n    repeat"
HELP = ("help", "helpfull", "helpshort", "h", "?")


def parse(argv: Sequence[str], command: str, docstring: str) -> list[str]:
    """What is left of a command line without its flags; exits for help, version and mistakes."""
    asked = [arg.lstrip("-") for arg in argv[1:] if arg.startswith("-")]
    if any(name in HELP for name in asked):
        print(f"{docstring.strip()}\n\nFlags:\n{described(command)}")
        sys.exit(0)
    if "version" in asked:
        print(f"{command} {mtard_tf.__version__}")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        message = " ".join(str(error).split()).rstrip(".")
        sys.exit(f"{command}: {message}; --help lists the flags.")


def described(command: str) -> str:
    """All flags of a command, one paragraph each."""
    modules = flags.FLAGS.flags_by_module_dict()
    # A module that is run by `python -m` has the path of its file as its name.
    own = [m for m in modules if m.startswith("mtard_tf.bin") or m == sys.argv[0]]
    paragraphs = {}
    for flag in (flag for module in own for flag in modules[module]):
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=..."
        default = "" if flag.default in (None, [], False) else f" (default {flag.default})"
        paragraphs[flag.name] = f"{name}: {flag.help.partition(_ABSL)[0]}{default}"
    paragraphs |= {"help": "--help: Shows this.", "version": "--version: Shows the version."}
    lines = [textwrap.fill(paragraphs[name], 94) for name in sorted(paragraphs)]
    return textwrap.indent("\n".join(lines).replace("\n-", "\n\n-"), "  ")


def refuse_rest(rest: Sequence[str]) -> None:
    """Raises ValueError for arguments that are no flags; names the flag that was meant."""
    for argument in rest:
        suffixes = {".gin": "config", ".keras": "model"}
        meant = [flag for end, flag in suffixes.items() if argument.endswith(end)]
        known = [f"did you mean --{flag}={argument}?" for flag in meant if flag in flags.FLAGS]
        hint = (known or ["write --FLAG=VALUE, in quotes where it has blanks (--help)."])[0]
        raise ValueError(f"{argument!r} is not a flag; {hint}")
