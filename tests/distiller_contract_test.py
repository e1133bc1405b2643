"""Every built-in distiller keeps the contract; a new one is tested by being registered."""

from __future__ import annotations

from mtard_tf import registry
from mtard_tf.testing import DistillerContract

DEFENSIVE = (
    "models.defensive_cnn.widths = (4, 4)",
    "models.defensive_cnn.dense = 8",
    "models.defensive_cnn.form = 'bethgelab'",  # the other needs larger images
    "models.defensive_cnn.dropout = 0.0",  # a new net draws other units
)
# Else these few steps would end before the student trusts itself.
INTROSPECTIVE = {
    name: (f"student/distillers.{name}.begin = 0",) for name in ("iad", "iad2", "adaiad")
}


class TestBuiltIns(DistillerContract):
    names = tuple(registry.names("distillers"))
    bindings = {
        **INTROSPECTIVE,
        "densely_guided": (
            "student/Stage.teachers = {'assistant': 'assistant', 'teacher': 'clean_teacher'}",
        ),
        "extended_defensive_experimental": (
            "student/Stage.model = @models.defensive_cnn",
            "student/models.defensive_cnn.outlier_class = True",
            *DEFENSIVE,
        ),
    }
