"""Batches that Python reads for TensorFlow, without Python in TensorFlow's threads.

A `tf.data` iterator that is dropped waits for its threads. Where one of them needs Python
(`from_generator`, `py_function`) while the interpreter ends, that thread never gets the
interpreter's lock, and the process hangs. Here TensorFlow's threads only ask and wait, in queues
of TensorFlow, which a dropped iterator leaves at once; a thread of Python answers.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_MANY = 2**31 - 1  # each pass has one question open at a time
_BEGIN = -1
_PATIENCE = 10.0  # seconds for a last read when the interpreter ends

Elements = Callable[[int], Generator[tuple[np.ndarray, ...], None, None]]
"""Number of an element -> the elements from that one on."""


def served(elements: Elements, signature: Sequence[tf.TensorSpec], count: int) -> tf.data.Dataset:
    """A dataset of elements that a thread of Python makes, as they are asked for.

    It may be gone through again and again; what is read ahead belongs to the newest pass.

    Args:
      elements: a pure function; what it raises is raised by the dataset's iterator, as an
        `InvalidArgumentError` that has its text.
      signature: of the parts of an element.
      count: number of elements.
    """
    with tf.device("CPU:0"):
        reader = _Reader(elements, signature, count)

        def one_pass(_: tf.Tensor) -> tf.data.Dataset:
            answers, number = reader.begin()
            places = tf.data.Dataset.range(count)
            return places.map(lambda place: reader.ask(answers, number, place))

        dataset = tf.data.Dataset.from_tensors(0).flat_map(one_pass)
    weakref.finalize(dataset, reader.close).atexit = False  # then `_close_all` does it
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


class _Reader:
    """The thread, and the queues in which it is asked and answers."""

    def __init__(self, elements: Elements, signature: Sequence[tf.TensorSpec], count: int) -> None:
        self._elements, self._signature, self._count = elements, signature, count
        self._types = [tf.string, *(spec.dtype for spec in signature)]  # the first is an error
        self._asked = tf.queue.FIFOQueue(_MANY, [tf.int64, tf.int64], [(), ()])
        self._begun = tf.queue.FIFOQueue(_MANY, [tf.resource, tf.int64], [(), ()])
        self._passes: list[tf.queue.FIFOQueue] = []
        self._open: tuple[int, int, Generator] | None = None  # pass, next element, elements
        self._thread = threading.Thread(target=self._run, daemon=True, name="mtard-reader")
        self._thread.start()
        _READERS.add(self)

    def begin(self) -> tuple[tf.Tensor, tf.Tensor]:
        """In a graph: the queue of answers of a new pass, and the pass' number."""
        with tf.control_dependencies([self._asked.enqueue((_BEGIN, 0))]):
            return self._begun.dequeue()

    def ask(self, answers: tf.Tensor, number: tf.Tensor, place: tf.Tensor) -> tuple:
        """In a graph: element `place` of a pass."""
        with tf.control_dependencies([self._asked.enqueue((number, place))]):
            error, *parts = tf.raw_ops.QueueDequeueV2(handle=answers, component_types=self._types)
        with tf.control_dependencies([tf.debugging.Assert(error == "", [error])]):
            return tuple(
                tf.ensure_shape(tf.identity(part), spec.shape)
                for part, spec in zip(parts, self._signature, strict=True)
            )

    def close(self, patience: float | None = None) -> None:
        """Ends the thread, and waits for it if `patience` is given, in seconds."""
        self._asked.close(cancel_pending_enqueues=True)
        if patience is not None:
            self._thread.join(patience)

    def _run(self) -> None:
        with tf.device("CPU:0"):
            try:
                while True:
                    number, place = (int(value) for value in self._asked.dequeue())
                    if number == _BEGIN:
                        self._passes.append(tf.queue.FIFOQueue(_MANY, self._types))
                        handle = self._passes[-1].queue_ref
                        self._begun.enqueue((handle, np.int64(len(self._passes) - 1)))
                    else:
                        self._passes[number].enqueue(self._answer(number, place))
            except tf.errors.OpError:  # the queue is closed, or belonged to a context that ended
                self._leave()

    def _answer(self, number: int, place: int) -> list[Any]:
        try:
            if self._open is None or self._open[:2] != (number, place):
                self._leave()
                self._open = number, place, self._elements(place)
            stream = self._open[2]
            found = next(stream)
            self._open = number, place + 1, stream
            if place + 1 == self._count:
                self._leave()
            return ["", *found]
        except Exception as error:  # whatever a reader of files raises
            self._leave()
            nothing = (
                np.empty([size or 0 for size in s.shape], s.dtype.as_numpy_dtype)
                for s in self._signature
            )
            return [f"{type(error).__name__}: {error}", *nothing]

    def _leave(self) -> None:
        if self._open is not None:
            self._open[2].close()
            self._open = None


_READERS: weakref.WeakSet[_Reader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for reader in list(_READERS):
        reader.close(_PATIENCE)
