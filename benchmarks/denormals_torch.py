"""What flushing denormal numbers does to PGD on a net with large logits, in PyTorch.

    python -c "import numpy as np; from mtard_tf.data import fashion_mini; \\
      t = fashion_mini().test.take(range(200)); \\
      np.savez('images.npz', images=t.images.astype('f') / 255, labels=t.labels)"
    TORCH_PYTHON benchmarks/denormals_torch.py images.npz

TensorFlow flushes them always, PyTorch on request: so the same attack in one framework shows what
the flushing alone changes. The net is `tests/reference/fashion_defensive_t40.npz`; the attack 20
steps of epsilon / 4 at 0.1 on the cross-entropy, from uniform starts. Prints robust accuracy and
how many of the 200 images have a gradient of exactly 0 at the first step.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from attack_time_torch import Net

WEIGHTS = pathlib.Path(__file__).parents[1] / "tests" / "reference" / "fashion_defensive_t40.npz"
EPSILON = 0.1


def main() -> None:
    net = Net(str(WEIGHTS), padding=0).eval()
    with np.load(sys.argv[1]) as file:
        images = torch.tensor(file["images"].transpose(0, 3, 1, 2).copy())
        labels = torch.tensor(file["labels"].astype(np.int64))
    torch.set_num_threads(1)  # the setting is one thread's
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        for seed in range(3):
            torch.manual_seed(seed)
            x = (images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
            zero = 0
            for step in range(20):
                x = x.detach().requires_grad_(True)
                loss = F.cross_entropy(net(x), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, x)
                if step == 0:
                    zero = int((gradient.abs().amax((1, 2, 3)) == 0).sum())
                x = x.detach() + EPSILON / 4 * gradient.sign()
                x = torch.max(torch.min(x, images + EPSILON), images - EPSILON).clamp(0, 1)
            robust = 100 * float((net(x).argmax(1) == labels).float().mean())
            print(f"flushed {flush!s:5}  seed {seed}  robust {robust:.1f}  zero gradients {zero}")


if __name__ == "__main__":
    main()
