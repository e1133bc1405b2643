"""The exit code that says that an audit does not meet its requirements."""

from __future__ import annotations

import sys
from collections.abc import Callable


def show(command: Callable[[], str]) -> None:
    """Prints what a command returns; exits with 3 if requirements are not met."""
    from mtard_tf.auditing.gate import Unmet

    try:
        if lines := command():  # the chief alone has some
            print(lines)
    except Unmet as unmet:
        print(unmet)
        sys.exit(unmet.code)
