"""What an audit says of a mixture of two nets (`mtard_tf.models.mix`)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mtard_tf.attacks.transfer import Transfer
from mtard_tf.auditing.batch_results import BatchRunner
from mtard_tf.auditing.diagnostics import NOTE, Finding
from mtard_tf.auditing.suite import Attack
from mtard_tf.files import digest
from mtard_tf.models.mix import MIXTURE_LAYER
from mtard_tf.models.model_files import fingerprint


def robust_part(model: Any) -> keras.Model | None:
    """The robust net of a mixture; None for any other model."""
    if not isinstance(model, keras.Model) or model.layers[-1].name != MIXTURE_LAYER:
        return None
    return model.get_layer("robust_net")


def findings(runner: BatchRunner, probe: Attack, adaptive: np.ndarray) -> list[Finding]:
    """Of a mixture, what attacks on its robust net alone would have said; of others, nothing.

    Args:
      runner: of the audit.
      probe: an iterated attack, which is crafted on the robust net.
      adaptive: which of the first images are correct after the probe on the mixture, bool
        `[examples]`.
    """
    part = robust_part(runner.evaluator.model)
    if part is None:
        return []
    label = digest(f"{probe!r} {fingerprint(part)}")
    alone = runner.attacked(
        "probe on the robust net", Transfer(part, probe), len(adaptive), label=label
    )
    whole, blind = float(adaptive.mean()), float(alone.mean())
    return [
        Finding(
            "mixture",
            NOTE,
            f"This is a mixture of two nets: the iterated attack leaves {whole:.1%} where it sees "
            f"the mixture and {blind:.1%} crafted on its robust net alone, of {len(adaptive):,} "
            "images; the lower counts. The clean net answers by its label, whose gradient is a "
            "stand-in.",
            {"adaptive": whole, "robust_net_alone": blind},
        )
    ]
