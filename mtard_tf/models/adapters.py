"""Models that expect or return something else, as models from images in [0, 1] to logits."""

from __future__ import annotations

from typing import Any

import keras

from mtard_tf.models.layers import NORMALIZATIONS
from mtard_tf.models.model_files import EvaluationError, activation

_ENDS = ("softmax", "sigmoid")


def adapted(
    model: keras.Model,
    *,
    from_probabilities: bool = False,
    input_scale: float = 1.0,
    normalization: str = "raw",
    channels_first: bool = False,
) -> keras.Model:
    """A functional model around another one, with its weights.

    Args:
      model: a Keras model; it is not changed.
      from_probabilities: it ends in softmax or sigmoid, which is taken away, so that gradients do
        not vanish; one sigmoid output z for two classes becomes the logits (0, z).
      input_scale: what it takes for white: 255 for images of 0 to 255.
      normalization: mean and deviation that it expects subtracted, a name of
        `layers.NORMALIZATIONS` such as "imagenet", of images in [0, 1].
      channels_first: it takes `[batch, channels, height, width]`.

    Raises:
      EvaluationError: no Keras model, no softmax or sigmoid where one is to be taken away, an
        unknown normalization, or one of another number of channels.
    """
    if not isinstance(model, keras.Model):
        raise EvaluationError(f"{model.name} is no Keras model, and only those can be adapted.")
    if len(model.inputs or ()) != 1 or len(model.outputs) != 1:
        raise EvaluationError(
            f"{model.name} has several inputs or outputs, or none that Keras knows; give a model "
            "from one batch of images to one of logits."
        )
    if input_scale != 1 and normalization != "raw":
        raise EvaluationError(
            f"An input scale of {input_scale:g} and the normalization {normalization!r} were "
            "given; give one of them."
        )
    if from_probabilities:
        model = _logits_of(model)
    if not (from_probabilities or channels_first) and input_scale == 1 and normalization == "raw":
        return model
    shape = tuple(model.input_shape[1:])
    if channels_first:
        shape = (*shape[1:], shape[0])
    images = x = keras.Input(shape, name="images")
    x = _normalized(x, normalization)
    if input_scale != 1:
        x = keras.layers.Rescaling(float(input_scale), name="input_scale")(x)
    if channels_first:
        x = keras.layers.Permute((3, 1, 2), name="channels_first")(x)
    logits = model(x)
    if logits.shape[-1] == 1:
        logits = _two_classes(logits)
    return keras.Model(images, logits, name=model.name)


def _normalized(x: Any, name: str) -> Any:
    if name not in NORMALIZATIONS:
        raise EvaluationError(
            f"The normalization is {name!r}; use one of {', '.join(sorted(NORMALIZATIONS))}."
        )
    found = NORMALIZATIONS[name]
    if found is None:
        return x
    mean, deviation = found
    if len(mean) != x.shape[-1]:
        raise EvaluationError(
            f"The normalization {name!r} is of {len(mean)} channels and the images have "
            f"{x.shape[-1]}; leave it out."
        )
    layer = keras.layers.Normalization(
        mean=list(mean), variance=[d * d for d in deviation], name="normalization"
    )
    return layer(x)


def _logits_of(model: keras.Model) -> keras.Model:
    """The model without the softmax or sigmoid at its end, on the same layers."""
    last = model.layers[-1] if model.layers else model
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and activation(last) in _ENDS
    ):
        return keras.Model(model.inputs, last.input, name=model.name)
    if activation(last) not in _ENDS:
        raise EvaluationError(
            f"{model.name} ends in {type(last).__name__} {last.name!r} without softmax or sigmoid; "
            "leave --from_probabilities out."
        )
    linear = last.__class__.from_config({**last.get_config(), "activation": "linear"})
    outputs = linear(last.input)
    linear.set_weights(last.get_weights())
    return keras.Model(model.inputs, outputs, name=model.name)


def _two_classes(logit: Any) -> Any:
    """(0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)), of z `[batch, 1]`."""
    nothing = keras.layers.Rescaling(0.0, name="other_class")(logit)
    return keras.layers.Concatenate(name="logits")([nothing, logit])
