"""Batch results of an audit, written as they come, so that a preempted audit can resume."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.auditing.costs import Cost
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.batches import evaluation_batches, steps_per_epoch
from mtard_tf.data.image_data import Split
from mtard_tf.distribute import spreading
from mtard_tf.files import digest
from mtard_tf.reporting.progress import Bar

_FREE = Cost()
_BATCH = {"key", "settings", "batch", "values"}  # keys of a batch's line


class ResultsFile:
    """An append-only file of batch results, bound to the inputs that they came from.

    The first line holds the inputs' fingerprints, each further one the result of one batch. Lines
    are only ever added: a kill at any moment keeps the complete ones, and an incomplete last line
    is removed.

    Args:
      path: the file; created if it is absent, begun anew if an input changed.
      inputs: what every result depends on -> fingerprint.
      say: called with one line if results of an earlier run are used, or are not.
      others: files of processes that shared the work; used where their inputs are the same.
    """

    def __init__(
        self,
        path: pathlib.Path,
        inputs: Mapping[str, str],
        say: Callable[[str], None],
        others: Iterable[pathlib.Path] = (),
    ) -> None:
        self._results: dict[tuple[str, str, int], list] = {}
        self._costs: dict[tuple[str, str, int], Cost] = {}
        head, lines, size = _read(path)
        names = dict.fromkeys((*inputs, *head))
        changed = [name for name in names if head.get(name) != inputs.get(name)]
        if head and changed:
            say(f"changed since the last run: {', '.join(changed)}; its results are not used.")
        if changed:
            lines = []
            files.write_text(path, json.dumps(dict(inputs)) + "\n")
        else:
            os.truncate(path, size)
        shared = (_read(other) for other in others)
        given = [line for top, found, _ in shared if top == dict(inputs) for line in found]
        for line in (*given, *lines):
            place = line["key"], line["settings"], line["batch"]
            self._results[place] = line["values"]
            self._costs[place] = Cost(*line.get("cost", ()))
        if self._results:
            count = Counter(key for key, _, _ in self._results)
            text = ", ".join(f"{key} {number}" for key, number in count.items())
            say(f"resumed; batches already done: {text}.")
        self._file = path.open("a", encoding="utf-8")

    def get(self, key: str, settings: str, batch: int) -> np.ndarray | None:
        """The result of a batch, or None if it is absent."""
        values = self._results.get((key, settings, batch))
        return None if values is None else np.array(values)

    def cost(self, key: str, settings: str, batch: int) -> Cost:
        """What the result of a batch took, in whichever process."""
        return self._costs.get((key, settings, batch), _FREE)

    def put(
        self, key: str, settings: str, batch: int, values: np.ndarray, cost: Cost = _FREE
    ) -> None:
        """Stores the result of a batch; it is on disk when this returns."""
        self._costs[key, settings, batch] = cost
        line = {"key": key, "settings": settings, "batch": batch, "cost": cost}
        self._file.write(json.dumps(line | {"values": np.asarray(values).tolist()}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class BatchRunner:
    """Goes through a split batch by batch, and computes the results that are not stored yet.

    Args:
      evaluator: of the model.
      split: what is attacked.
      stored: results of this audit's earlier runs, and where new ones go.
      name: of the model, for the progress lines.
      share: (i, n) computes every n-th batch, from the i-th on; the others' results are False.
      devices: each computes a batch at a time; "" leaves the choice to TensorFlow.

    Attributes:
      costs: what each result took, by its key.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        split: Split,
        stored: ResultsFile,
        name: str,
        share: tuple[int, int] = (0, 1),
        devices: Sequence[str] = ("",),
    ) -> None:
        self.evaluator = evaluator
        self.split = split
        self.examples = len(split)
        self._stored = stored
        self._name = name
        self._share = share
        self._devices = devices
        self._predictions: np.ndarray | None = None
        self.costs: dict[str, Cost] = {}
        evaluator.compiled.count_passes()

    def predictions(self) -> np.ndarray:
        """The classes predicted on the clean images, int64 `[examples]`."""
        if self._predictions is None:
            self._predictions = self.run(
                "clean", "predictions", lambda images, *_: self.evaluator.predictions(images)
            )
        return self._predictions

    def clean(self) -> np.ndarray:
        """Which images are classified correctly, bool `[examples]`."""
        return self.predictions() == self.split.labels

    def attacked(
        self,
        key: str,
        attack: Callable,
        examples: int | None = None,
        epsilon: float | None = None,
        label: str | None = None,
    ) -> np.ndarray:
        """Which images are still classified correctly after `attack`, bool `[examples]`.

        Args:
          key: name of the result.
          attack: see `mtard_tf.attacks`.
          examples: only the first N images; all of them if None.
          epsilon: if not the threat model's.
          label: what the result depends on, if not the attack's `repr`.
        """
        clean = self.predictions()

        def compute(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> np.ndarray:
            before = clean[ids.numpy()]
            found = self.evaluator.attacked_predictions(
                attack, images, labels, ids, before, epsilon
            )
            return found == labels.numpy()

        return self.run(key, digest(label or repr(attack), epsilon), compute, examples)

    def run(
        self,
        key: str,
        settings: str,
        compute: Callable,
        examples: int | None = None,
        shape: tuple[int, ...] = (),
    ) -> np.ndarray:
        """`compute(images, labels, ids)` over the split, where it is not stored yet.

        Bool results are shown as a running accuracy, of the first column. `shape` is that of one
        image's result.
        """
        size, examples = self.evaluator.batch_size, min(examples or self.examples, self.examples)
        settings, count = digest(settings, examples), steps_per_epoch(examples, size)
        stored = ((i, self._stored.get(key, settings, i)) for i in range(count))
        results = {i: values for i, values in stored if values is not None}
        index, shares = self._share
        wanted = set(range(index, count, shares)) - set(results)
        for i in set(range(count)) - set(results) - wanted:  # another process'
            results[i] = np.zeros((min(size, examples - i * size), *shape), bool)
        timed = functools.partial(self._timed, compute)
        if wanted:
            batches = enumerate(evaluation_batches(self.split, size, examples))
            todo = (numbered for numbered in batches if numbered[0] in wanted)
            done = sum(map(len, results.values()))
            with Bar(f"{self._name} {key}", examples, initial=done) as bar:
                for i, values, cost in spreading.on_devices(timed, todo, self._devices):
                    self._stored.put(key, settings, i, values, cost)
                    results[i] = values
                    bar.set_postfix_str(_running([*results.values()]), refresh=False)
                    bar.update(len(values))
        self._charge(key, settings, count)
        return np.concatenate([results[i] for i in range(count)])

    def _timed(self, compute: Callable, numbered: tuple) -> tuple[int, np.ndarray, Cost]:
        (number, batch), device = numbered, None
        if len(self._devices) > 1:  # others' passes are counted apart
            batch = tuple(map(tf.identity, batch))
            device = batch[0].device
        started, before = time.perf_counter(), self.evaluator.compiled.passes(device)
        values = np.asarray(compute(*batch))
        cost = time.perf_counter() - started, self.evaluator.compiled.passes(device) - before
        return number, values, Cost(*cost)

    def _charge(self, key: str, settings: str, count: int) -> None:
        costs = (self._stored.cost(key, settings, batch) for batch in range(count))
        self.costs[key] = functools.reduce(Cost.plus, costs, self.costs.get(key, _FREE))


def _running(results: list[np.ndarray]) -> str:
    values = np.concatenate(results)
    first = values.reshape(len(values), -1)[:, 0]
    return f"{first.mean():.1%}" if values.dtype == bool else ""


def _read(path: pathlib.Path) -> tuple[dict, list[dict], int]:
    """The first line, those of batches, and their length in bytes; what follows is incomplete."""
    lines: list[dict] = []
    size = 0
    for text in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        line = _parsed(text)
        if line is None or (lines and not line.keys() >= _BATCH):
            break  # incomplete; nothing was written after it
        lines.append(line)
        size += len(text)
    return (lines[0], lines[1:], size) if lines else ({}, [], 0)


def _parsed(text: bytes) -> dict | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and text.endswith(b"\n") else None
