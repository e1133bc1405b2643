"""The binaries: flags, one call, errors in one line."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from mtard_tf import keras_environment
from mtard_tf.bin import usage
from mtard_tf.processes.preemption import (
    EXIT_CODE,
    Preempted,
    go_with_parent,
    leave_at_once,
    lost_worker,
    received,
)

_DEBUG = flags.DEFINE_bool("debug", False, "Show the whole stack trace of an error.")

_PLUGINS = flags.DEFINE_multi_string(
    "plugins", [], "Python file that registers your own models, attacks, ...; repeatable."
)

# What a thread that reads data says, within an error of TensorFlow; see `data.streaming.served`.
_UNREAD = re.compile(r"\[DataError: (.*)\]$", re.MULTILINE)


def run(
    main: Callable[[Sequence[str]], None],
    *,
    takes_words: bool = False,
    needs_tensorflow: bool = True,
) -> None:
    """Runs `main` under absl: quiet TensorFlow, and a user's error as one line with exit code 1.

    Preempted (SIGTERM, Ctrl-C), also before `main` has begun, the process prints one line and
    exits with 75 or 130.

    Args:
      main: of a binary.
      takes_words: whether it takes arguments that are no flags.
      needs_tensorflow: whether to import TensorFlow before `main`, which takes seconds.
    """

    def guarded(argv: Sequence[str]) -> None:
        try:
            if not takes_words:
                usage.refuse_rest(argv[1:])
            keras_environment.check()
            logging.set_verbosity(logging.FATAL)
            if needs_tensorflow:
                import_tensorflow_quietly()
                _load_plugins()
            _unless_preempted(main, argv)
        except (ValueError, OSError, TypeError) as error:
            # A TypeError is a user's only where gin left an argument of a plugin unset.
            if _DEBUG.value or (isinstance(error, TypeError) and "by Gin" not in str(error)):
                raise
            sys.exit(f"{_command(argv[0])}: {_explained(error)}")
        except Exception as error:
            unread = _UNREAD.search(str(error))
            if unread and not _DEBUG.value:
                sys.exit(f"{_command(argv[0])}: {_unescaped(unread[1])}")
            line = lost_worker(error)
            if _DEBUG.value or not line:
                raise
            _leave(argv[0], line, EXIT_CODE)

    docstring = sys.modules[main.__module__].__doc__ or ""
    try:
        leave_at_once()
        go_with_parent()
        app.run(guarded, flags_parser=lambda argv: usage.parse(argv, _command(argv[0]), docstring))
    except Preempted as error:
        _leave(sys.argv[0], str(error), error.code)


def _explained(error: Exception) -> str:
    if "In call to configurable" not in str(error):
        return str(error)
    from mtard_tf.config.gin_errors import explain

    return explain(error)


def _unescaped(text: str) -> str:
    # TensorFlow quotes a string in C's way, byte by byte.
    return text.encode().decode("unicode_escape").encode("latin-1").decode()


def _load_plugins() -> None:
    if _PLUGINS.value:
        from mtard_tf.config import plugin_files

        plugin_files.load(_PLUGINS.value)


def _unless_preempted(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    try:
        main(argv)
    except Exception as error:
        if received():  # a library turned it into an error of its own
            raise Preempted(where="no file is incomplete") from error
        raise


def _leave(program: str, message: str, code: int) -> NoReturn:
    print(f"{_command(program)}: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Not sys.exit: TensorFlow's threads may wait for a worker that never answers.
    os._exit(code)


def _command(path: str) -> str:
    """The command's name, also where it runs as `python -m mtard_tf.bin.NAME`."""
    name, suffix = os.path.splitext(os.path.basename(path))
    # import_ has its underscore because `import` is a word of Python.
    return f"mtard-{name.rstrip('_')}" if suffix == ".py" else name


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow and finds its devices without its start-up noise.

    Its C++ parts write to file descriptor 2 before any log level is read, so the descriptor itself
    is turned away meanwhile; what they wrote is shown if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            tf.get_logger().setLevel("ERROR")
        except Exception:
            noise.seek(0)
            os.write(kept, noise.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
