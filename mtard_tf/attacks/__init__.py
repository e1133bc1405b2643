"""Attacks. Each is a small object with its settings as fields, called as

    attack(model_fn, images, labels, *, threat, seeds, objective=None) -> perturbed images

and safe inside `tf.function` and under `tf.distribute`:

* `model_fn(images) -> logits` is fixed by the caller, who also fixes BatchNorm's mode;
* `images` are float32 in [0, 1], `[batch, height, width, channels]`; `labels` are `[batch]` ids;
* `threat` is the `ThreatModel` to stay inside (the caller checks);
* `seeds` are int32 `[batch, 2]`, one per image, and are the attack's only source of randomness,
  so that what happens to an image does not depend on the batch it sits in;
* `objective(images, logits) -> [batch]` replaces the loss that is maximised; attacks whose loss is
  fixed reject it.

`attack.Attack` has this call, with the checks of its arguments; an attack derives from it and
writes its algorithm in `run`. Any other callable with this call is an attack as well; an attribute
`kind` then says "black_box" of one that needs no gradient.
"""

from mtard_tf import keras_environment

keras_environment.check()
