"""Stop anywhere, resume, and end with the same bits; refuse what is not the same run."""

import functools

import pytest
import torch

from cllab.models import MLP
from cllab.regularization import AGEM, EWC, GEM, MAS, SI, LwF, RWalk
from cllab.replay import (
    ERACE,
    MIR,
    DarkExperienceReplay,
    ExperienceReplay,
    GDumb,
    GenerativeReplay,
    ICaRL,
    LatentReplay,
)
from cllab.streams import digits, split
from cllab.training import Joint, Step, fit, run

METHODS = {
    "fine-tuning": list,
    "replay": lambda: [ExperienceReplay(40)],
    "ewc online": lambda: [EWC(10.0, gamma=0.9)],
    "ewc separate": lambda: [EWC(10.0, anchors="separate", n_samples=30)],
    "ewc proximal": lambda: [EWC(10.0, step="proximal", labels="sampled")],
    "both": lambda: [EWC(5.0), ExperienceReplay(40)],
    "replay balanced": lambda: [ExperienceReplay(40, memory="cbrs", balanced=True)],
    "replay rings": lambda: [ExperienceReplay(40, 5, memory="class_ring"), ExperienceReplay(20, memory="ring")],
    "mir": lambda: [MIR(40, 5, candidates=12), EWC(5.0)],
    "der": lambda: [DarkExperienceReplay(40), EWC(5.0)],
    "der++": lambda: [DarkExperienceReplay(40, 0.3, 0.7, 5, form="sum"), ExperienceReplay(40, memory="balanced")],
    "er-ace": lambda: [ERACE(40), EWC(5.0)],
    "gdumb": lambda: [GDumb(40, epochs=2)],
    "latent": lambda: [LatentReplay(40, probe=5)],
    "latent moving": lambda: [LatentReplay(40, frozen=False, probe=5), EWC(5.0)],
    "generative gmm": lambda: [GenerativeReplay(refit=True, components=2), ExperienceReplay(40)],
    "generative vae": lambda: [
        GenerativeReplay("vae", labels="soft", hidden=16, latent=2, epochs=1, batch_size=32),
        EWC(5.0),
    ],
    "icarl": lambda: [ICaRL(30), EWC(5.0)],
    "si": lambda: [SI(0.5), ExperienceReplay(40)],
    "mas and rwalk": lambda: [MAS(0.5, n_samples=30), RWalk(0.5, interval=3)],
    "lwf": lambda: [LwF(warmup=1)],
    "gem": lambda: [GEM(20)],
    "a-gem": lambda: [AGEM(20, batch_size=8), LwF()],
    "joint": lambda: [Joint()],
}
ARGUMENTS = {"epochs": 2, "batch_size": 16, "eval_every": 4}


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(160), 2)


def net():
    return MLP(64, [16], 10)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def stop_at(events, step):
    for event in events:
        if isinstance(event, Step) and event.step == step:
            events.close()
            return


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", [3, 9, 14])  # within the first task, at and after boundaries
@pytest.mark.parametrize("keep", [True, False])
def test_resumed_is_uninterrupted(stream, tmp_path, name, step, keep):
    arguments = {**ARGUMENTS, "reset_optimizer": keep}
    whole = net()
    expected = run(whole, stream, METHODS[name](), **arguments)
    path = tmp_path / "run.pt"
    stop_at(fit(net(), stream, METHODS[name](), checkpoint=path, checkpoint_every=1, **arguments), step)
    resumed = MLP(64, [16], 10, seed=5)  # other weights: everything must come from the file
    history = run(resumed, stream, METHODS[name](), resume=path, **arguments)
    assert torch.equal(bits(whole), bits(resumed))
    assert history.curve == expected.curve and history.losses == expected.losses


def test_a_checkpoint_between_tasks(stream, tmp_path):
    path = tmp_path / "run.pt"
    whole = net()
    expected = run(whole, stream, [ExperienceReplay(40)], **ARGUMENTS)
    events = fit(net(), stream, [ExperienceReplay(40)], checkpoint=path, **ARGUMENTS)
    for event in events:
        if type(event).__name__ == "TaskEnded" and event.task == 1:
            break
    resumed = net()
    history = run(resumed, stream, [ExperienceReplay(40)], resume=path, **ARGUMENTS)
    assert torch.equal(bits(whole), bits(resumed)) and history.curve == expected.curve


def test_the_comparison_can_fail(stream, tmp_path):
    """Without the method's own state the result differs: the test above would notice."""

    class Forgetful(ExperienceReplay):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    path = tmp_path / "run.pt"
    whole = net()
    run(whole, stream, [Forgetful(40)], **ARGUMENTS)
    stop_at(fit(net(), stream, [Forgetful(40)], checkpoint=path, checkpoint_every=1, **ARGUMENTS), 14)
    resumed = net()
    with pytest.raises(ValueError, match="at least one row"):
        run(resumed, stream, [Forgetful(40)], resume=path, **ARGUMENTS)


def test_a_finished_run_resumes_to_its_history(stream, tmp_path):
    path = tmp_path / "run.pt"
    expected = run(net(), stream, checkpoint=path, **ARGUMENTS)
    history = run(net(), stream, resume=path, **ARGUMENTS)
    assert history.curve == expected.curve


def test_momentum_survives(stream, tmp_path):
    sgd = functools.partial(torch.optim.SGD, momentum=0.9)
    path = tmp_path / "run.pt"
    whole, resumed = net(), net()
    run(whole, stream, optimizer=sgd, **ARGUMENTS)
    stop_at(fit(net(), stream, optimizer=sgd, checkpoint=path, checkpoint_every=1, **ARGUMENTS), 6)
    run(resumed, stream, optimizer=sgd, resume=path, **ARGUMENTS)
    assert torch.equal(bits(whole), bits(resumed))


@pytest.mark.parametrize(
    "changed",
    [
        {"lr": 0.5},
        {"seed": 1},
        {"batch_size": 8},
        {"epochs": 3},
        {"optimizer": "sgd"},
        {"methods": [EWC(1.0)]},
    ],
)
def test_another_run_is_refused_and_the_model_left_alone(stream, tmp_path, changed):
    path = tmp_path / "run.pt"
    run(net(), stream, checkpoint=path, **ARGUMENTS)
    model = net()
    before = bits(model)
    call = {**ARGUMENTS, **changed}
    with pytest.raises(ValueError, match=f"resume.*{next(iter(changed))}"):
        fit(model, stream, call.pop("methods", []), resume=path, **call)
    assert torch.equal(before, bits(model))


def test_other_files_are_refused(stream, tmp_path):
    path = tmp_path / "no.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="resume"):
        fit(net(), stream, resume=path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="resume"):
        fit(net(), stream, resume=path)
    with pytest.raises(FileNotFoundError):
        fit(net(), stream, resume=tmp_path / "nowhere.pt")


def test_checkpoints_hold_no_pickled_objects(stream, tmp_path):
    path = tmp_path / "run.pt"
    run(net(), stream, [EWC(1.0), ExperienceReplay(10)], checkpoint=path, **ARGUMENTS)
    assert isinstance(torch.load(path, weights_only=True), dict)
    assert not list(tmp_path.glob("*.partial"))


def test_dropout_resumes_too(stream, tmp_path):
    def droppy():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 10))

    path = tmp_path / "run.pt"
    whole, resumed = droppy(), droppy()
    run(whole, stream, **ARGUMENTS)
    stop_at(fit(droppy(), stream, checkpoint=path, checkpoint_every=1, **ARGUMENTS), 7)
    torch.rand(9)
    run(resumed, stream, resume=path, **ARGUMENTS)
    assert torch.equal(bits(whole), bits(resumed))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"methods": [EWC(1.0), ExperienceReplay(40)]}, "methods"), ({"methods": [EWC(5.0), ExperienceReplay(41)]}, "methods"),
        ({"methods": [EWC(5.0), ExperienceReplay(40, rho=0.4)]}, "methods"),
        ({"stream": split(digits().take(160, seed=1), 2)}, "other data"), ({"model": MLP(64, [17], 10)}, "other parameters"),
        ({"model": MLP(64, [16], 10).double()}, "other parameters"),
    ],
)  # fmt: skip
def test_what_is_nearly_the_same_run_is_refused(stream, tmp_path, change, named):
    path = tmp_path / "run.pt"
    call = {"model": net(), "stream": stream, "methods": [EWC(5.0), ExperienceReplay(40)]}
    run(*call.values(), checkpoint=path, **ARGUMENTS)
    call |= {"model": net(), "methods": [EWC(5.0), ExperienceReplay(40)]} | change
    before = bits(call["model"])
    with pytest.raises(ValueError, match=f"resume.*{named}"):
        fit(*call.values(), resume=path, **ARGUMENTS)
    assert torch.equal(before, bits(call["model"]))


def test_a_file_cut_off_anywhere_is_refused(stream, tmp_path):
    path, cut = tmp_path / "run.pt", tmp_path / "cut.pt"
    run(net(), stream, checkpoint=path, **ARGUMENTS)
    whole = path.read_bytes()
    for end in range(0, len(whole), len(whole) // 25):
        cut.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="resume"):
            fit(net(), stream, resume=cut, **ARGUMENTS)
    torch.save(torch.zeros(3), cut)
    with pytest.raises(ValueError, match="resume"):
        fit(net(), stream, resume=cut, **ARGUMENTS)
