"""Model factories: `factory(image_shape, num_classes, *, ...) -> keras.Model`.

Every model takes float32 images in [0, 1], `[batch, height, width, channels]`, and returns raw
logits `[batch, classes]`; normalisation, if any, is its first layer, so that epsilon and clipping
are in pixel units. Only Keras' own layers are used, so that saved `.keras` files load without this
package.
"""

from mtard_tf import keras_environment

keras_environment.check()

# Imported here, so that `models.small_cnn` is the factory, not the module of its name.
from mtard_tf.models.borrowed import from_file, keras_application  # noqa: E402
from mtard_tf.models.convnext import convnext_femto  # noqa: E402
from mtard_tf.models.defensive_cnn import defensive_cnn  # noqa: E402
from mtard_tf.models.mobilenet_v2 import mobilenet_v2  # noqa: E402
from mtard_tf.models.pre_activation import preact_resnet18, wide_resnet  # noqa: E402
from mtard_tf.models.resnet_cifar import resnet8, resnet18, resnet20, resnet34  # noqa: E402
from mtard_tf.models.small_cnn import small_cnn  # noqa: E402
from mtard_tf.models.vision_transformer import vit_tiny  # noqa: E402

__all__ = [
    "convnext_femto",
    "defensive_cnn",
    "from_file",
    "keras_application",
    "mobilenet_v2",
    "preact_resnet18",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet34",
    "small_cnn",
    "vit_tiny",
    "wide_resnet",
]
