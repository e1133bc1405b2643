"""Measures: real numbers of each image, beside whether attacks break it. Each is a small frozen
object with its settings as fields, called as

    measure(model_fn, images, labels, *, threat, seeds, temperature) -> {column: values}

* `model_fn`, `images`, `labels` and `seeds` are those of an attack, see `mtard_tf.attacks`;
* of `threat`, measures of distance use the box; they look for the smallest change, whatever
  epsilon is;
* `temperature` is a number: the one at which the model was trained, 1 for most;
* each `values` is float32 `[batch]`, NaN where the measure is undefined for an image.

`measure.Measure` has this call; a measure derives from it and computes its columns in `run`. Any
other callable with this call is a measure as well, and may have the attributes of `Measure`:
`columns`, `logarithmic` and `examples`.
"""

from __future__ import annotations
