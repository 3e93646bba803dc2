"""Accuracy on labelled inputs: of what decides for a class, and of nothing else."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from ceconv_convert import CEConv2d, convert
from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.verification.evidence import gather
from ceconv_convert.verification.judge import judge_module

COUNT = 40
"""More than a batch."""


class Network(nn.Module):
    """A function of pooled features ``[B, 4]``, and of features ``[B, 4, N, H, W]``."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = CEConv2d(1, 3, 3, 4, 3), function

    def forward(self, x):
        y = self.layer(x)
        return self.function(y.mean((2, 3, 4)), y)


def judged(function, labels):
    """The evidence and the verdict on random inputs with labels."""
    model = Network(function)
    data = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    evidence = gather(model, (3, 8, 8), data=data, labels=torch.as_tensor(labels))
    return evidence, judge_module(evidence, convert(model), "it")


def scores(seed=1):
    """The network's pooled features on those inputs."""
    with torch.no_grad():
        return Network(lambda pooled, _: pooled)(
            torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        )


LARGEST = scores().argmax(1)
SHIFT = float(scores()[:, 0].sort().values[COUNT // 2 - 1 : COUNT // 2 + 1].mean())
"""Between two scores: rounding decides nothing."""
POSITIVE = (scores()[:, 0] > SHIFT).long()

DECISIVE = {
    "scores": (lambda p, y: p, LARGEST),
    "integers": (lambda p, y: p.argmax(1), LARGEST),
    "integers in a column": (lambda p, y: p.argmax(1, keepdim=True), LARGEST),
    "one score": (lambda p, y: p[:, :1] - SHIFT, POSITIVE),
    "one score, no column": (lambda p, y: p[:, 0] - SHIFT, POSITIVE),
    "bools": (lambda p, y: p[:, 0] > SHIFT, POSITIVE),
    "features, then scores": (lambda p, y: (y, p), LARGEST),
    "features of pixels, then scores": (lambda p, y: {"map": y.amax(2), "scores": [p]}, LARGEST),
    "another score, then scores": (lambda p, y: (p[:, :1], p), LARGEST),
    "scores, then decisions": (lambda p, y: (p, p.argmin(1)), LARGEST),
    "a number for all, then scores": (lambda p, y: (y.mean() * 0 + 1, p), LARGEST),
}


@pytest.mark.parametrize(("function", "labels"), DECISIVE.values(), ids=DECISIVE)
def test_accuracy_counts_what_decides(function, labels):
    evidence, verdict = judged(function, labels)
    assert verdict.passed
    assert (verdict.accuracy.original, verdict.accuracy.candidate, verdict.accuracy.of) == (
        COUNT,
        COUNT,
        COUNT,
    )
    wrong = labels.clone()
    wrong[::4] = 1 - wrong[::4].clamp(max=1)
    _, verdict = judged(function, wrong)
    assert verdict.accuracy.original == int((wrong == labels).sum()) < COUNT
    assert not any("no accuracy" in line for line in evidence.explain())


UNDECIDED = {
    "features": (lambda p, y: y, "numbers of shape [4, 3, 6, 6], and no class scores"),
    "maps": (lambda p, y: (y.amax(2), y), "numbers of shape [4, 6, 6], [4, 3, 6, 6]"),
    "one score": (lambda p, y: p[:, :1], "a single score, which decides between the labels 0 and 1; found 3"),
    "classes of pixels": (lambda p, y: y.amax(2).argmax(1), "numbers of shape [6, 6]"),
    "several integers": (lambda p, y: p.argsort(1), "numbers of shape [4]"),
    "one number for all": (lambda p, y: p.mean(), "numbers of shape []"),
    "inputs mixed": (lambda p, y: p.flatten(), "numbers of shape []"),
}


@pytest.mark.parametrize(("function", "reason"), UNDECIDED.values(), ids=UNDECIDED)
def test_there_is_no_accuracy_where_nothing_decides(function, reason):
    evidence, verdict = judged(function, torch.arange(COUNT) % 4)
    assert verdict.passed, str(verdict)
    assert verdict.accuracy is None
    (line,) = [line for line in evidence.explain() if line.startswith("no accuracy: ")]
    assert reason in line


def test_a_label_that_is_none_of_the_classes_is_an_error():
    with pytest.raises(
        UnreadableInputError, match="the label 4, and the network has scores of the classes 0 to 3"
    ):
        judged(lambda p, y: p, torch.arange(COUNT) % 5)


def test_inputs_beyond_the_networks_dtype_are_an_error():
    with pytest.raises(UnreadableInputError, match="inputs reach 1.0e.06, which torch.float16"):
        gather(Network(lambda p, y: p).half(), data=torch.full((2, 3, 8, 8), 1e6))


def test_without_labels_nothing_is_said():
    model = Network(lambda p, y: y)
    assert "accuracy" not in str(gather(model, data=torch.randn(2, 3, 8, 8)).explain())


def test_labelled_inputs_of_a_network_of_maps(run, folder):
    torch.manual_seed(0)
    torch.save(nn.Sequential(CEConv2d(1, 3, 3, 4, 3), nn.ReLU(), CEConv2d(3, 3, 4, 2, 3)), "a.pt")
    np.savez("a.npz", images=np.ones((2, 3, 9, 9), np.float32), labels=[0, 1])
    code, out, _ = run("a.pt", "-o", "b.safetensors", "--inputs", "a.npz", "--report", "r.json")
    assert code == 0
    assert "no accuracy: for each input the network gives numbers of shape [2, 3, 5, 5]" in out
    report = json.loads((folder / "r.json").read_text())
    assert report["verdicts"][0]["accuracy"] is None
    assert any("no accuracy" in line for line in report["basis"])


def test_labels_beyond_the_classes_on_the_command_line(run, folder):
    model = nn.Sequential(CEConv2d(1, 3, 3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    torch.save(model, "a.pt")
    np.savez("a.npz", images=np.ones((2, 3, 9, 9), np.float32), labels=[0, 7])
    code, _, err = run("a.pt", "-o", "b.safetensors", "--inputs", "a.npz")
    assert code == 2
    assert "an input has the label 7" in err
