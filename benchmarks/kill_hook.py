"""Tells a process' renames and first writes, and kills its group at one of them.

`kill_test.py` puts it as `sitecustomize.py` on the path of the commands that it runs, so that the
package itself has no hook. KILL_FOLDER is what counts (nothing outside of it does), KILL_SEEN the
file to which each new moment is added, KILL_AT a file of the moments to kill at, one a line, and
KILL_AFTER whether a rename is done first.
"""

import builtins
import io
import os
import re
import signal

_folder = os.environ.get("KILL_FOLDER", "")
_seen = set()
_open, _replace, _rename = io.open, os.replace, os.rename
with _open(os.environ.get("KILL_AT", os.devnull), encoding="utf-8") as _file:
    _deadly = set(_file.read().splitlines())


def _moment(kind, path):
    """Name of a moment, the same for all steps, stages and processes; None outside the folder."""
    path = os.path.abspath(os.fspath(path))
    if not _folder or not path.startswith(_folder + os.sep):
        return None
    short = os.path.relpath(path, _folder).split(os.sep, 1)[-1]
    short = re.sub(r"partial-[0-9a-f]{8}-\d+-\d+", "partial", short)
    short = re.sub(r"(clean|robust)_teacher|student(?!\.)|events\.out\.\S+", "STAGE", short)
    who = "job" if os.environ.get("KILL_JOB") else os.environ["KILL_COMMAND"]
    return f"{who}: {kind} {re.sub('[0-9]+', '#', short)}"


def _pass(kind, path):
    moment = _moment(kind, path)
    if moment is None or moment in _seen:
        return
    _seen.add(moment)
    with _open(os.environ["KILL_SEEN"], "a", encoding="utf-8") as file:
        file.write(moment + "\n")
    if moment in _deadly:
        os.killpg(0, signal.SIGKILL)


def _told(function):
    def renamed(source, target, *args, **kwargs):
        after = os.environ.get("KILL_AFTER") == "1"
        if not after:
            _pass("rename to", target)
        function(source, target, *args, **kwargs)
        if after:
            _pass("rename to", target)

    return renamed


def _opened(path, mode="r", *args, **kwargs):
    file = _open(path, mode, *args, **kwargs)
    if isinstance(path, (str, os.PathLike)) and set(mode) & set("wax+"):
        _pass("write", path)
    return file


if _folder:
    # Jobs of a command are told by what the package gives them; it is gone once they have begun.
    if "MTARD_PARENT" in os.environ:
        os.environ["KILL_JOB"] = "1"
    os.replace, os.rename = _told(_replace), _told(_rename)
    builtins.open = io.open = _opened
