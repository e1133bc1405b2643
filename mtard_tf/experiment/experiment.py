"""An experiment: an ordered list of stages in one run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from mtard_tf import registry
from mtard_tf.data.image_data import ImageData
from mtard_tf.experiment.sources import check_initial, check_source
from mtard_tf.experiment.stage import Stage
from mtard_tf.threat import ThreatModel, radius

# Attacks keep seeds as int32.
MAX_SEED = 2**31 - 1
# Of a run, besides those of its stages.
FOLDERS = ("comparison", "evaluation", "export", "logs", "plugins", "report", "teachers")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Stages in the order in which they run, and what they share.

    Attributes:
      dataset: factory of the data, such as `@datasets.fashion_mini`.
      stages: in order; a stage's teachers are stages before it, or files.
      epsilon: radius of the threat model, in [0, 1] pixel units: a number, or text as "8/255".
      norm: "linf" or "l2".
      seed: of weights, order of examples, augmentation and attacks; 0 to 2^31 - 1.
      strategy: devices to train on, see `strategies.create`; a flag overrides it.
      divide_cores: `mtard-train` computes each operation on the share of the cores that one of the
        parts has that are attacked side by side, in place of all cores: faster for small nets, and
        slower for stages of large nets without an attack. From Python, where TensorFlow
        may have begun, the environment variable TF_NUM_INTRAOP_THREADS says so.

    Raises:
      ValueError: no stages, a name twice, a stage whose teacher is neither an earlier stage nor a
        file, or a radius or seed out of range.
    """

    dataset: Callable[[], ImageData]
    stages: Sequence[Stage]
    epsilon: float | str = 8 / 255
    norm: str = "linf"
    seed: int = 0
    strategy: str = "one_device"
    divide_cores: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.dataset, ImageData):
            raise ValueError(
                "Experiment.dataset is a data set; give its factory: @datasets.name, without ()."
            )
        registry.check_factory("Experiment.dataset", self.dataset, "datasets")
        if registry.selector(self.dataset) == "datasets.npz":
            raise ValueError(
                "Experiment.dataset is @datasets.npz, images without a validation and test split; "
                "give a whole data set, and these to a stage: Stage.extra = @datasets.npz."
            )
        self._check_numbers()
        names = [stage.name for stage in self.stages]
        if not names:
            raise ValueError("Experiment.stages is empty; name at least one stage.")
        for name in names:
            if name in FOLDERS or "/" in name:
                raise ValueError(
                    f"Experiment.stages has {name!r}; a stage's name is a folder of the run: no "
                    f"'/', and none of {', '.join(FOLDERS)}."
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"Experiment.stages has {', '.join(twice)} twice; give each stage a name of its "
                "own."
            )
        for place, stage in enumerate(self.stages):
            for source in stage.sources:
                check_source(stage.name, source, names[:place])
            check_initial(stage.name, stage.initial or "")

    def _check_numbers(self) -> None:
        """Checks norm, radii and seed, and turns a radius that is text into a number."""
        ThreatModel(self.norm, 0.0)
        epsilon = radius(self.epsilon, "Experiment.epsilon", self.norm)
        object.__setattr__(self, "epsilon", epsilon)
        for stage in self.stages:
            if stage.epsilon is not None:
                radius(stage.epsilon, f"{stage.scope}/Stage.epsilon", self.norm)
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if not (whole and 0 <= self.seed <= MAX_SEED):
            raise ValueError(
                f"Experiment.seed is {self.seed!r}; give a whole number from 0 to {MAX_SEED}."
            )

    @property
    def threat(self) -> ThreatModel:
        """The threat model that training and evaluation share."""
        return ThreatModel(self.norm, float(self.epsilon))
