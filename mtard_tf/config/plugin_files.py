"""Plugins in a Python file of one's own: imported by path, and kept with the run that uses them."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from mtard_tf import files, registry
from mtard_tf.config.gin_errors import ConfigError

FOLDER = "plugins"  # of a run
_BOUND = re.compile(
    r"""^\s*Experiment\.plugins\s*=[\s\\]*([(\[].*?[)\]]|'[^'\n]*'|"[^"\n]*")""", re.M | re.S
)
# Module -> its file and text, of all that this process has loaded.
_loaded: dict[str, tuple[pathlib.Path, bytes]] = {}
# Those of a run, as they were when it began: its configuration names the files they came from.
_of_run: set[str] = set()
_ORDER = "order.json"


def load(paths: Sequence[str | pathlib.Path]) -> None:
    """Imports files that call `mtard_tf.register`; what they register can be configured from then.

    A file with the name and text of one that is loaded is passed over.

    Raises:
      ConfigError: no Python file, an error in it, nothing registered, a name that is taken, or a
        file of the same name with another text.
    """
    for given in paths:
        path = pathlib.Path(given).expanduser()
        if path.suffix != ".py" or not path.is_file():
            known = _loaded.get(path.stem) if path.suffix == ".py" else None
            if known is None:
                raise ConfigError(f"There is no plugin {path}; give the path of a .py file.")
            continue
        text = path.read_bytes()
        if path.stem not in _loaded:
            _import(path)
            _loaded[path.stem] = (path.absolute(), text)
        elif _loaded[path.stem][1] != text:
            raise ConfigError(
                f"{path} and {_loaded[path.stem][0]} have the same name and other "
                "contents; rename one."
            )


def load_bound(text: str, folder: pathlib.Path) -> None:
    """Loads what `Experiment.plugins` names in the text of a gin file, before gin reads it.

    Args:
      text: of the file.
      folder: of the file, to which the paths are relative.
    """
    for match in _BOUND.finditer(text):
        try:
            value = ast.literal_eval(match[1])
        except (SyntaxError, ValueError):
            continue  # gin says what is wrong with it
        named = [value] if isinstance(value, str) else value
        paths = [folder / pathlib.Path(name).expanduser() for name in named]
        load([path for path in paths if path.stem not in _of_run])


def load_kept(run_dir: pathlib.Path) -> None:
    """Loads the plugins that a run was begun with, as they were then.

    Raises:
      ConfigError: one is loaded already, from a file that changed since; or as `load`.
    """
    folder = run_dir / FOLDER
    if not (folder / _ORDER).exists():
        return
    try:
        names = [str(name) for name in files.read_json(folder / _ORDER)["order"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / _ORDER} is damaged ({error}); put it back.") from error
    for name in names:
        _check_unchanged(name, folder / f"{name}.py")
    _of_run.update(names)
    load([folder / f"{name}.py" for name in names])


def given() -> list[str]:
    """`--plugins` flags for a process that is to have the same plugins, in their order."""
    return [f"--plugins={path}" for path, _ in _loaded.values()]


def keep(run_dir: pathlib.Path, begun: bool) -> None:
    """Keeps what is loaded with a run, or compares it.

    Args:
      run_dir: of the run.
      begun: whether it was begun before: its plugins must be those that are loaded.

    Raises:
      ConfigError: a file that changed since the run began.
    """
    if _loaded and not begun:
        files.write_json(run_dir / FOLDER / _ORDER, {"order": list(_loaded)})
    for name, (_, text) in _loaded.items():
        kept = run_dir / FOLDER / f"{name}.py"
        if not begun:
            with files.replacing(kept) as partial:
                partial.write_bytes(text)
        else:
            _check_unchanged(name, kept)


def _check_unchanged(name: str, kept: pathlib.Path) -> None:
    """Refuses a plugin that is loaded with another text than the one that a run keeps."""
    path, text = _loaded.get(name, (kept, b""))
    if path != kept and kept.exists() and kept.read_bytes() != text:
        raise ConfigError(
            f"{path} has changed since the run began; put it back (a copy is {kept}), or "
            "choose another --run_dir: a run has one version of its plugins."
        )


def _import(path: pathlib.Path) -> None:
    name = path.stem
    # A file of that name may be importable, as the plugin itself is from its folder.
    if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
        raise ConfigError(f"{path} has the name of another module, or none; rename it.")
    registry.load()
    before = {kind: registry.names(kind) for kind in registry.KINDS}
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's module raises at import
        del sys.modules[name]
        raise ConfigError(f"The plugin {path} cannot be imported: {_line(error, path)}") from error
    if before == {kind: registry.names(kind) for kind in registry.KINDS}:
        raise ConfigError(
            f"The plugin {path} registers nothing; decorate a class or function in it with "
            '@mtard_tf.register("models", "my_net").'
        )


def _line(error: Exception, path: pathlib.Path) -> str:
    """The error and the line of the file where it happened, in one line."""
    if isinstance(error, SyntaxError):
        number, reason = error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        number = next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)
        reason = str(error)
    where = f" (line {number})" if number else ""
    return f"{type(error).__name__}: {' '.join(reason.split())}{where}"
