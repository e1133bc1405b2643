"""The architecture of a net that exists already, as a factory of nets with weights of their own."""

from __future__ import annotations

import keras

from mtard_tf.files import digest


class Architecture:
    """`factory(image_shape, num_classes)` that builds a given net again, with fresh weights.

    The net itself is only read. Equal global seeds give equal weights. Without branches, those are
    what the code that made the net would have drawn; with branches, Keras builds in another order.

    Args:
      net: from images `[batch, height, width, channels]` to logits `[batch, classes]`.

    Raises:
      ValueError: the net is none that Keras can build again from its configuration.
    """

    def __init__(self, net: keras.Model) -> None:
        if not isinstance(net, keras.Model):
            raise ValueError(f"The net is {type(net).__name__}; give a keras.Model.")
        self._net = net
        try:
            keras.models.clone_model(net)
            self._print = digest(_nameless(net))
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"{net.name} cannot be built again from its configuration, as a subclass of "
                "keras.Model cannot; make it functional: keras.Model(inputs, outputs)."
            ) from error

    def __repr__(self) -> str:
        """What a run knows the architecture by."""
        return f"Architecture({self._net.name!r}, {self._print})"

    def __call__(self, image_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
        shape, outputs = tuple(self._net.input_shape[1:]), self._net.output_shape[-1]
        if shape != tuple(image_shape) or outputs != num_classes:
            raise ValueError(
                f"{self._net.name} takes images of {shape} and has {outputs} outputs; the data "
                f"have images of {tuple(image_shape)} and {num_classes} classes: build it for them."
            )
        return keras.models.clone_model(self._net)


def _nameless(net: keras.Model) -> str:
    """The net's configuration without its layers' names, which count on from cell to cell."""
    text = net.to_json()
    for place, layer in enumerate(net.layers):
        text = text.replace(f'"{layer.name}"', f'"layer {place}"')
    return text
