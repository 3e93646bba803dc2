"""Write a page that runs the example network in the browser, in ONNX Runtime Web.

    python docs/web_demo/make_demo.py FOLDER
    python -m http.server --directory FOLDER

``make web`` does so, and tests the page in a browser without a window.

The page takes ONNX Runtime Web from a content delivery network, or from a folder ``ort`` beside it.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ceconv_convert import export_onnx, load

HERE = Path(__file__).parent
FIXTURES = HERE.parents[1] / "fixtures"
SHOWN = 40


class WithFeatures(nn.Module):
    """The network, and the features before it takes the maximum over the rotations."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.equivariant, self.invariant = network[:17], network[17:]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, 3, H, W]`` → logits ``[B, 10]``, features ``[B, 12, 3]``, averaged over the image."""
        features = self.equivariant(x)
        return self.invariant(features), features.mean((3, 4))


def main(folder: Path) -> None:
    """Write the page, the network and some test images."""
    folder.mkdir(parents=True, exist_ok=True)
    network = WithFeatures(load(FIXTURES / "color_digits.pt").eval())
    print(export_onnx(network, folder / "color_digits.onnx", input_shape=(3, 16, 16), force=True))  # noqa: T201
    test = np.load(FIXTURES / "color_digits_test.npz")
    images, labels = test["images"][:SHOWN], test["labels"][:SHOWN]
    digits = {"shape": images.shape, "images": images.ravel().tolist(), "labels": labels.tolist()}
    (folder / "digits.json").write_text(json.dumps(digits))
    shutil.copy(HERE / "index.html", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
