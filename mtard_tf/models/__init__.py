"""Model factories: `factory(image_shape, num_classes, *, ...) -> keras.Model`.

Every model takes float32 images in [0, 1], `[batch, height, width, channels]`, and returns raw
logits `[batch, classes]`; normalisation, where a model wants one, is its first layer, so that
epsilon and clipping stay in pixel units. Built from Keras' own layers only, so that a saved
`.keras` file loads without this package.
"""

from mtard_tf import keras_environment

keras_environment.check()
