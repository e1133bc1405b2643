"""The distiller families, as `mtard_tf.plugins.<family>`.

Installed, they lie beside this file. In a checkout, and under Bazel, they lie in the top-level
folder `plugins/`; this bridge then adds that folder to the package's search path.
"""

from __future__ import annotations

import os

from mtard_tf import keras_environment

keras_environment.check()  # a family imports Keras next


def _search_path(here: str) -> list[str]:
    if any(os.path.isfile(os.path.join(here, name, "__init__.py")) for name in os.listdir(here)):
        return [here]
    checkout = os.path.dirname(os.path.dirname(here))
    return [here, os.path.join(checkout, "plugins")]


# abspath, not realpath: Bazel's runfiles are links into the checkout, and following them would
# find families that a target does not list in its `deps`.
__path__ = _search_path(os.path.dirname(os.path.abspath(__file__)))
