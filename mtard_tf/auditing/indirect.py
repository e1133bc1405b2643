"""The audit of a model without gradients: its suite, and how far its worst case can be trusted.

Black-box attacks run on the model itself. Attacks along a gradient are crafted on a copy with
straight-through gradients, where the file allows one, and on a surrogate, where one is given; their
images are pushed on beyond the boundary and then tried on the model, which alone counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.attacks import pushed
from mtard_tf.attacks.attack import kind_of
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.auditing.batch_results import BatchRunner
from mtard_tf.auditing.diagnostics import MASKED, NOTE, Finding
from mtard_tf.auditing.suite import Attack, Suite
from mtard_tf.data.batches import to_float
from mtard_tf.files import digest
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.layers import MIXTURE_LAYER
from mtard_tf.models.model_files import ModelFileError, fingerprint
from mtard_tf.runtimes.artefact import Artefact

_LIKE = 0.99  # share of images with the same label from which on a copy speaks for the model
_PROBE = Square(num_queries=200, rescale_schedule=True)  # where there is no gradient at all
COPY, SURROGATE = "straight_through", "transfer"


@dataclasses.dataclass(frozen=True)
class Substitute:
    """A net with gradients that is attacked in place of the model, which has none.

    Attributes:
      kind: `COPY` or `SURROGATE`.
      model_fn: images -> logits.
      digest: of its weights.
      agreement: share of the audited images with the model's own label.
      examples: how many images these are.
    """

    kind: str
    model_fn: Callable[[tf.Tensor], tf.Tensor]
    digest: str
    agreement: float
    examples: int

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self.model_fn(images)

    def __repr__(self) -> str:
        return f"{self.kind}({self.digest})"


class ThroughCopy(Transfer):
    """An attack along the gradient of the model's own copy."""

    kind = "gradient"


@dataclasses.dataclass(frozen=True)
class Indirect:
    """How one model without gradients is attacked.

    Attributes:
      kind: of the model, in words.
      substitutes: copy and surrogate, those that there are.
      missing: why there is no copy; empty where there is one.
    """

    kind: str
    substitutes: tuple[Substitute, ...]
    missing: str

    def suite(self, suite: Suite, classes: int) -> tuple[Suite, list[str]]:
        """The suite for a model of that many classes, and a sentence on each change."""
        moved = {name.removeprefix(f"{SURROGATE}_"): a for name, a in suite.transfer.items()}
        every = dataclasses.replace(
            suite, attacks={**moved, **suite.attacks}, transfer={}, ensembles={}
        )
        fitted, notes = every.fitted(classes, blind=False)
        own = {name: a for name, a in fitted.attacks.items() if kind_of(a) == "black_box"}
        along = {name: a for name, a in fitted.attacks.items() if name not in own}
        attacks: dict[str, Callable] = dict(own)
        for substitute in self.substitutes:
            attacks |= {
                f"{substitute.kind}_{n}": self._crafted(substitute, a) for n, a in along.items()
            }
        if along and self.substitutes:
            kinds = " and ".join(substitute.kind for substitute in self.substitutes)
            notes.append(f"{', '.join(along)} are crafted on substitutes ({kinds})")
        elif along:
            notes.append(f"{', '.join(along)} need a gradient and are left out")
        if suite.measures:
            notes.append(f"{', '.join(suite.measures)} need a gradient and are left out")
        probe = self.through(suite.probe)
        changed = dataclasses.replace(
            suite, attacks=attacks, transfer={}, ensembles={}, measures={}, probe=probe
        )
        return changed, notes

    def through(self, attack: Callable) -> Callable:
        """An attack of the checks, by the best way that there is."""
        return self._crafted(self.substitutes[0], attack) if self.substitutes else _PROBE

    def finding(self, correct: Mapping[str, np.ndarray]) -> Finding:
        """How far the worst case can be believed, and which attack decided.

        Args:
          correct: "clean" and each attack -> which images are classified correctly.
        """
        tried = {name: found for name, found in correct.items() if name != "clean"}
        decided = min(tried, key=lambda name: tried[name].mean())
        left = float(tried[decided].mean())
        words = [_WORDS[substitute.kind].format(s=substitute) for substitute in self.substitutes]
        good = [s for s in self.substitutes if s.kind == COPY and s.agreement >= _LIKE]
        text = f"The model is {self.kind}: it has no gradients. "
        if words:
            text += f"Gradient attacks were crafted on {' and on '.join(words)}, and evaluated here"
        else:
            text += "No gradient attack was run: give --surrogate=FILE"
        if not good:
            text += "; the worst case is an upper bound"
            text += f" ({self.missing})" if self.missing else ""
        text += f". The strongest attack is {decided}: alone it leaves {left:.1%}."
        values = {substitute.kind: substitute.agreement for substitute in self.substitutes}
        severity = NOTE if self.substitutes else MASKED
        return Finding("indirect_gradients", severity, text, values | {"decided": left})

    def entry(self, correct: Mapping[str, np.ndarray]) -> dict:
        """The report's `artefact`."""
        tried = {name: found for name, found in correct.items() if name != "clean"}
        return {
            "kind": self.kind,
            "gradients": {
                s.kind: {"agreement": s.agreement, "of": s.digest} for s in self.substitutes
            },
            "missing": self.missing,
            "decided_by": min(tried, key=lambda name: tried[name].mean()),
        }

    @staticmethod
    def _crafted(substitute: Substitute, attack: Callable) -> Transfer:
        cls = ThroughCopy if substitute.kind == COPY else Transfer
        return cls(substitute, pushed.beyond(attack))


@contextlib.contextmanager
def told(model: Any) -> Iterator[None]:
    """Tells why a file or server did not answer in its own line, out of TensorFlow's pages."""
    try:
        yield
    except Exception:
        failure = getattr(model, "failure", None)
        if failure is None:
            raise
        raise failure from None


_WORDS = {
    COPY: "a straight-through copy (same label on {s.agreement:.1%} of {s.examples:,} images)",
    SURROGATE: "the surrogate (same label on {s.agreement:.1%} of {s.examples:,})",
}


def of(
    model: Any, surrogate: Any, images: Any, predictions: Callable[[], np.ndarray]
) -> Indirect | None:
    """How a model is attacked if it has no gradients; None for one that has.

    Args:
      model: what is audited.
      surrogate: a net with gradients, or None.
      images: those that are audited, `[examples, height, width, channels]`.
      predictions: gives the model's classes of these, `[examples]`.
    """
    if not isinstance(model, Artefact):
        return None
    found, missing = [], ""
    try:
        found.append((COPY, model.straight_through(), fingerprint(model)))
    except ModelFileError as error:
        missing = str(error)
    if surrogate is not None:
        found.append((SURROGATE, FoldedInference(surrogate)(), fingerprint(surrogate)))
    substitutes = tuple(
        Substitute(kind, model_fn, digest, _agreement(model_fn, images, predictions()), len(images))
        for kind, model_fn, digest in found
    )
    return Indirect(model.kind, substitutes, missing)


def _agreement(model_fn: Callable, images: Any, predictions: np.ndarray) -> float:
    answer = tf.function(lambda x: tf.argmax(model_fn(x), axis=1), autograph=False)
    parts = np.array_split(np.arange(len(images)), -(-len(images) // 250))
    labels = np.concatenate([answer(to_float(images[part])).numpy() for part in parts])
    return float(np.mean(labels == predictions))


def _robust_part(model: Any) -> keras.Model | None:
    """The robust net of a mixture; None for any other model."""
    if not isinstance(model, keras.Model) or model.layers[-1].name != MIXTURE_LAYER:
        return None
    return model.get_layer("robust_net")


def mixture(runner: BatchRunner, probe: Attack, adaptive: np.ndarray) -> list[Finding]:
    """Of a mixture, what attacks on its robust net alone would have said; of others, nothing.

    Args:
      runner: of the audit.
      probe: an iterated attack, which is crafted on the robust net.
      adaptive: which of the first images are correct after the probe on the mixture, bool
        `[examples]`.
    """
    part = _robust_part(runner.evaluator.model)
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
