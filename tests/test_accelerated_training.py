"""Training accelerated models as people do: compiled, in several processes, within the memory they had."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ceconv_convert import accelerate
from ceconv_convert.architectures.resnet import BasicBlock, ResNet
from tests.support import forked, shake


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
