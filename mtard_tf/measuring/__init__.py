"""Measures: real numbers of each image, beside the outcomes of attacks. Each is a small frozen
object with its settings as fields, called as

    measure(model_fn, images, labels, *, threat, seeds, temperature) -> {column: values}

* `model_fn`, `images`, `labels` and `seeds` are those of an attack, see `mtard_tf.attacks`;
* of `threat`, measures of distance use the box; they look for the smallest change, whatever
  epsilon is;
* `temperature` is a number: the one at which the model was trained, 1 for most;
* each `values` is float32 `[batch]`, NaN where the measure means nothing for an image.

Two attributes of the class say what comes back: `columns`, name -> definition in one line, and
`logarithmic`, the names of those columns that are a log10. The column "value" is reported under the
measure's own name. The field `examples` bounds how many images it runs on; None for all.
"""

from __future__ import annotations
