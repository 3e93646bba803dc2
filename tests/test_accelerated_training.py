"""Training accelerated models as people do: compiled, in several processes, within the memory they had."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ceconv_convert import accelerate
from ceconv_convert.architectures.resnet import BasicBlock, ResNet
from tests.support import forked, same_state, shake


def network(seed=0):
    """A ResNet with lifting, separable, strided and 1×1 layers."""
    torch.manual_seed(seed)
    return shake(ResNet(BasicBlock, [1, 1, 1], [32, 48, 64], 4, 3, True, True, True), seed).train()


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 12, 12, generator=generator), torch.arange(4)) for _ in range(count)]


def train(model, data, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for x, y in data:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch._dynamo's own
def test_compiles_without_a_graph_break_before_and_after():
    published, accelerated = network(), network()
    accelerate(accelerated)
    compiled = torch.compile(accelerated, fullgraph=True, backend="aot_eager")
    assert train(compiled, batches()) == pytest.approx(train(published, batches()), rel=1e-4)
    published.eval(), accelerated.eval()
    x = batches()[0][0]
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), accelerated(x))
    wrapped = torch.compile(published, backend="aot_eager")
    before = wrapped(x)
    accelerate(published)
    torch.testing.assert_close(wrapped(x), before)
    nn.init.zeros_(published.conv1.weight)
    assert not torch.allclose(wrapped(x), before)


def test_two_processes_train_as_one(tmp_path):
    def rank(number, single):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=number, world_size=2)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        parallel = nn.parallel.DistributedDataParallel(model)
        accelerate(parallel)
        half = slice(2 * number, 2 * number + 2)
        parallel.eval()  # batch norms of one process see half a batch
        train(parallel, [(x[half], y[half]) for x, y in batches()], optimizer)
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, single[key], msg=key)
        dist.destroy_process_group()

    model = network().eval()
    train(model, batches())
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda n: forked(lambda: rank(n, model.state_dict())), (0, 1)))
    assert [code for code, _, _ in found] == [0, 0], found


class Live:
    """The bytes of tensors alive, by the profiler's records of allocations."""

    def peak(self, step):
        step()
        with torch.profiler.profile(profile_memory=True) as profile:
            step()
        sizes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        total = peak = 0
        for event in sorted(sizes, key=lambda event: event.start_ns()):
            total += event.nbytes()
            peak = max(peak, total)
        return peak


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("rotations", [3, 6])
@pytest.mark.parametrize("separable", [True, False])
def test_a_step_takes_no_more_memory(rotations, separable, size):
    model = ResNet(BasicBlock, [1, 1, 1, 1], [32, 64, 96, 128], 4, rotations, True, False, separable)
    x, y = torch.randn(8, 3, size, size), torch.arange(8) % 4

    def step():
        F.cross_entropy(model(x), y).backward()
        model.zero_grad()

    published = Live().peak(step)
    accelerate(model)
    assert 0 < Live().peak(step) <= 1.05 * published


def test_a_checkpoint_goes_on_in_plain_pytorch(tmp_path):
    """As in docs/training.md: without accelerate, with it, and back."""
    published, data = network(), batches(6)
    expected = train(published, data)
    model = network()
    losses, optimizer = [], torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for part in (data[:2], data[2:4], data[4:]):
        losses += train(model, part, optimizer)
        state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, tmp_path / "last.pth.tar")
        found = torch.load(tmp_path / "last.pth.tar", weights_only=True)
        assert list(found["state_dict"]) == list(published.state_dict())
        model = network(seed=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        model.load_state_dict(found["state_dict"])
        optimizer.load_state_dict(found["optimizer"])
        if len(losses) == 2:
            accelerate(model)
    assert losses == pytest.approx(expected, rel=1e-3)
    for key, tensor in published.state_dict().items():
        torch.testing.assert_close(found["state_dict"][key], tensor, rtol=1e-2, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # Lightning's, about loaders and devices
def test_a_checkpoint_goes_on_in_lightning(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning", exc_type=ImportError)

    class Classifier(lightning.LightningModule):
        def __init__(self, fast):
            super().__init__()
            self.model = network()
            self.losses = []
            if fast:
                accelerate(self.model)

        def training_step(self, batch, index):
            images, labels = batch
            loss = F.cross_entropy(self.model(images), labels)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)

    def fit(model, epochs, checkpoint=None):
        options = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        quiet = dict.fromkeys(options, False)
        trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(model, loader, ckpt_path=checkpoint, weights_only=False)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model.losses

    expected = fit(Classifier(fast=False), 2)
    first = fit(Classifier(fast=False), 1)
    going_on = Classifier(fast=True)
    assert first + fit(going_on, 2, tmp_path / "last.ckpt") == pytest.approx(expected, rel=1e-3)
    found = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert same_state(found, going_on.state_dict())


@pytest.mark.skipif("CECONV_PUBLISHED" not in os.environ, reason="needs a checkout of Attila94/CEConv")
def test_the_published_code_trains_on_what_was_accelerated(monkeypatch):
    """CECONV_PUBLISHED is the folder of the checkout."""
    monkeypatch.syspath_prepend(os.environ["CECONV_PUBLISHED"])
    from models.resnet import ResNet18

    def build():
        torch.manual_seed(0)
        return ResNet18(rotations=3, separable=True, groupcosetmaxpool=True, num_classes=4, width=32)

    data = [(torch.randn(4, 3, 48, 48), torch.arange(4)) for _ in range(6)]
    published = build()
    expected = train(published, data)
    fast, swapped = build(), build()
    assert not accelerate(fast).refused
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.01, momentum=0.9)
    losses = train(fast, data[:3], optimizer)
    swapped.load_state_dict(fast.state_dict())
    again = torch.optim.SGD(swapped.parameters(), lr=0.01, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())
    assert losses + train(swapped, data[3:], again) == pytest.approx(expected, rel=1e-2)
    assert list(swapped.state_dict()) == list(published.state_dict())
