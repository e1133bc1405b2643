"""An exported SavedModel behind HTTP by LitServe: pip install litserve tensorflow.

python litserve_app.py FOLDER          # port 8000
base64 -w0 shoe.png | sed 's/.*/{"image": "&"}/' |
    curl -H 'Content-Type: application/json' -d @- http://127.0.0.1:8000/predict
"""

import base64
import binascii
import sys

import litserve as ls
import tensorflow as tf
from fastapi import HTTPException


class Classifier(ls.LitAPI):
    """Takes {"image": a PNG or JPEG in base64}; returns its label and the probabilities."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def setup(self, device: str) -> None:
        self._model = tf.saved_model.load(self._folder)  # kept: it owns the weights
        self._answer = self._model.signatures["encoded_images"]

    def decode_request(self, request: dict) -> bytes:
        try:
            return base64.b64decode(request["image"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise HTTPException(400, 'Send {"image": a PNG or JPEG in base64}.') from error

    def predict(self, encoded: bytes) -> dict:
        try:
            return self._answer(encoded=tf.constant([encoded]))
        except tf.errors.InvalidArgumentError as error:
            said = next((x for x in error.message.splitlines() if "Image 0" in x), error.message)
            raise HTTPException(400, said[said.find("Image 0") :].rstrip("]")) from error

    def encode_response(self, output: dict) -> dict:
        return {
            "label": output["label_name"].numpy()[0].decode(),
            "probabilities": output["probabilities"].numpy()[0].tolist(),
        }


if __name__ == "__main__":
    ls.LitServer(Classifier(sys.argv[1]), accelerator="cpu").run(
        port=8000, generate_client_file=False
    )
