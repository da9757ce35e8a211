"""Devices and generators."""

import pytest
import torch

from cllab.device import cpu_threads, generator, pick_device
from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay
from cllab.streams import digits, split
from cllab.training import Joint, run


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device(torch.device("cpu")).type == "cpu"
    for wrong in ("gpu", "", 3.5, None):
        with pytest.raises(ValueError, match="device"):
            pick_device(wrong)
    with pytest.raises(ValueError, match="CUDA devices"):
        pick_device(f"cuda:{torch.cuda.device_count()}")


def test_generators_are_separate_and_repeatable():
    def draw(*arguments):
        return torch.rand(4, generator=generator(*arguments)).tolist()

    assert draw(1) == draw(1) and draw(1, "a") == draw(1, "a")
    assert len({tuple(draw(*a)) for a in [(1,), (2,), (1, "a"), (1, "b"), (2, "a")]}) == 5
    with pytest.raises(ValueError, match="seed"):
        generator(-1)
    with pytest.raises(TypeError, match="seed"):
        generator(1.0)


def test_threads_come_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), cpu_threads(1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("methods", [list, lambda: [ExperienceReplay(50), EWC(1.0)], lambda: [Joint()]])
def test_cuda_sees_the_same_data_as_the_cpu(tmp_path, methods):
    stream = split(digits().take(200), 2)
    on_cpu, on_gpu = (run(MLP(64, [32], 10), stream, methods(), epochs=2, device=device) for device in ("cpu", "cuda"))
    losses = [[s.losses["task"] for s in h.losses[:8]] for h in (on_cpu, on_gpu)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    path = tmp_path / "run.pt"
    run(MLP(64, [32], 10), stream, methods(), epochs=2, device="cuda", checkpoint=path)
    resumed = run(MLP(64, [32], 10), stream, methods(), epochs=2, device="cuda", resume=path)
    assert resumed.curve == on_gpu.curve
