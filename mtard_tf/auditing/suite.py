"""A suite: the attacks and measures of one audit, by the names that its report gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from mtard_tf import registry
from mtard_tf.attacks.apgd import APGD, stand_in
from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.pushed import beyond
from mtard_tf.attacks.spsa import SPSA
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.auditing import requirements

Attack = Callable
Measure = Callable

_RESERVED = ("clean", "worst_case", "eight_bit")


@dataclasses.dataclass(frozen=True)
class Suite:
    """The attacks of one audit, and what its diagnostics use.

    Attributes:
      attacks: name -> attack, in the order in which they run; each attacks every image that
        the model classifies correctly, so that each has its own robust accuracy.
      transfer: name -> attack that is crafted on a surrogate, where one is given; one that stops
        early is pushed on there, see `attacks.pushed`.
      ensembles: name -> names of attacks; reported as the worst case over these, at no cost.
      probe: iterated gradient attack of the epsilon sweep and the diagnostics.
      probe_examples: the sweep and the diagnostics use the first N images.
      factors: of epsilon, for the sweep.
      measures: name -> measure, see `mtard_tf.measuring`. Not part of the `repr`, so that an
        audit without any keeps its fingerprint.
      require: what the audit has to reach, such as "worst_case>=0.45", see
        `mtard_tf.auditing.requirements`; the figures do not depend on it.

    Raises:
      ValueError: no attacks, a name that is reserved or used twice, an ensemble of unknown attacks,
        a requirement of another form.
    """

    attacks: Mapping[str, Attack]
    transfer: Mapping[str, Attack] = dataclasses.field(default_factory=dict)
    ensembles: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    probe: Attack = PGD(num_steps=20, relative_step_size=0.25)
    probe_examples: int = 200
    factors: Sequence[float] = (0.25, 0.5, 1.0, 1.5, 2.0)
    measures: Mapping[str, Measure] = dataclasses.field(default_factory=dict, repr=False)
    require: Sequence[str] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not {**self.attacks, **self.transfer}:
            raise ValueError("Suite.attacks is empty; name at least one attack.")
        names = [*self.attacks, *self.transfer, *self.ensembles, *self.measures]
        for name in names:
            if name in _RESERVED or names.count(name) > 1:
                raise ValueError(f"Suite has the name {name!r} twice or it is reserved; rename it.")
        for name, members in self.ensembles.items():
            unknown = set(members) - set(self.attacks)
            if unknown or not members:
                raise ValueError(
                    f"Suite.ensembles[{name!r}] is {tuple(members)}; name attacks of the suite: "
                    f"{', '.join(self.attacks)}."
                )
        attacks = {**self.attacks, **self.transfer}
        for field, named, example in (
            ("attacks", attacks, "an attack, such as @attacks.pgd()"),
            ("measures", self.measures, "a measure, such as @measures.logit_jacobian()"),
        ):
            for name, given in named.items():
                if not callable(given) or isinstance(given, type) or registry.selector(given):
                    raise ValueError(
                        f"Suite.{field}[{name!r}] is {given!r}; give {example} with its brackets."
                    )
        for text in self.require:
            requirements.parse(text)
        if self.probe_examples < 1:
            raise ValueError(f"Suite.probe_examples is {self.probe_examples}; give at least 1.")

    @property
    def compiled_probe(self) -> Attack:
        """The probe; the equal one of the attacks, where there is one, as that is compiled."""
        return next((a for a in self.attacks.values() if a == self.probe), self.probe)

    def without(self, names: Sequence[str]) -> Suite:
        """The suite without some attacks or measures, and without the ensembles that need them.

        Raises:
          ValueError: a name that the suite does not have.
        """
        known = [*self.attacks, *self.transfer, *self.ensembles, *self.measures]
        for name in names:
            if name not in known:
                raise ValueError(
                    f"There is no attack {name!r} to leave out; the suite has {', '.join(known)}."
                )
        return dataclasses.replace(
            self,
            attacks={k: v for k, v in self.attacks.items() if k not in names},
            transfer={k: v for k, v in self.transfer.items() if k not in names},
            ensembles={k: v for k, v in self.ensembles.items() if not {k, *v} & set(names)},
            measures={k: v for k, v in self.measures.items() if k not in names},
        )

    def fitted(self, classes: int, blind: bool) -> tuple[Suite, list[str]]:
        """The suite for one net, and a sentence for each attack that was replaced or added.

        Args:
          classes: of the net; with too few, APGD on DLR is replaced, see `apgd.stand_in`, and an
            ensemble of which one was replaced has the number of classes in its name.
          blind: no gradient reaches the net's images; Square and SPSA are added.
        """
        attacks, names, notes = self._for_classes(classes)
        ensembles = {}
        for name, members in self.ensembles.items():
            parts = tuple(dict.fromkeys(names[member] for member in members))
            changed = set(parts) != set(members)
            ensembles[f"{name}_{classes}_classes" if changed else name] = parts
        if blind:
            added: dict[str, Attack] = {
                "square_added": Square(1000, rescale_schedule=True),
                "spsa_added": SPSA(20, 64),
            }
            attacks |= added
            notes.append(f"no gradient reaches the images: {', '.join(added)} were added")
        return dataclasses.replace(self, attacks=attacks, ensembles=ensembles), notes

    def _for_classes(self, classes: int) -> tuple[dict[str, Attack], dict[str, str], list[str]]:
        """Attacks whose losses this many classes have, old name -> new name, and notes."""
        attacks: dict[str, Attack] = {}
        names: dict[str, str] = {}
        notes: list[str] = []
        for name, attack in self.attacks.items():
            taken = name
            if isinstance(attack, APGD):
                taken, attack = stand_in(name, attack, classes)
                other = attacks.get(taken, self.attacks.get(taken, attack))
                if taken != name and other != attack:
                    taken = f"{taken}_for_{name}"
                if taken != name:
                    notes.append(
                        f"{name}, whose loss needs more than {classes} classes, is replaced by "
                        f"{taken}"
                    )
            elif isinstance(attack, AutoAttack):
                run, own = attack.for_classes(classes), attack.components
                if list(run) != list(own):
                    taken = f"{name}_{classes}_classes"
                    notes.append(f"{name} runs {', '.join(run)} in place of {', '.join(own)}")
            names[name] = taken
            attacks.setdefault(taken, attack)
        return attacks, names, notes

    def names_for(self, classes: int) -> list[str]:
        """Attacks and ensembles that an audit with the suite may name, also of a blind net."""
        fitted, _ = self.fitted(classes, blind=True)
        several = (self.attacks, self.transfer, self.ensembles, fitted.attacks, fitted.ensembles)
        return list(dict.fromkeys(name for names in several for name in names))

    def settings(self) -> dict[str, str]:
        """Name -> what an attack or a measure is set to, as a report shows it."""
        every = {**self.attacks, **self.transfer, **self.measures}
        return {name: repr(setting) for name, setting in every.items()}

    def at_temperature(self, temperature: float) -> Suite:
        """The suite for a model that was trained at a temperature: `tempered` attacks take it."""

        def filled(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
            return {
                name: dataclasses.replace(attack, temperature=temperature)
                if isinstance(attack, AtTemperature) and attack.temperature is None
                else attack
                for name, attack in attacks.items()
            }

        return dataclasses.replace(
            self, attacks=filled(self.attacks), transfer=filled(self.transfer)
        )

    def all_attacks(self, surrogate: Callable | None) -> dict[str, Attack]:
        """Name -> attack, those on the surrogate last; without a surrogate, without these."""
        if surrogate is None:
            return dict(self.attacks)
        crafted = {
            name: Transfer(surrogate, beyond(attack)) for name, attack in self.transfer.items()
        }
        return {**self.attacks, **crafted}
