"""The token task: its rules, its limits, texts of tokens, and that a token is read off its row."""

import pytest
import torch

from cllab.isolation import token_ids, token_rows, token_task
from cllab.isolation.tokens import KINDS, N_VALUES, PER_KIND, TOKENS, VECTOR


def test_every_row_follows_the_rule_of_its_kind():
    task = token_task(256, seed=3)
    for x, y, kind in (
        (task.data.x, task.data.y, task.kind),
        (task.data.x_test, task.data.y_test, task.kind_test),
        (task.probe_x, task.probe_y, task.probe_kind),
        token_rows("the cat is ( 3 += 4 )"),
    ):
        cells = x[:, VECTOR:].view(-1, len(KINDS), N_VALUES).argmax(dim=2)
        assert y.tolist() == [int(cells[i, kind[i]]) for i in range(len(y))]
    assert task.data.n_classes == 4 and len(task.stream) == 1 and task.stream.in_features == 28
    assert task.data.x.shape == (256, 28)


def test_probes_hold_every_token_once():
    task = token_task(64)
    assert task.probe_label == TOKENS and len(set(TOKENS)) == 40
    assert task.probe_kind.bincount().tolist() == [PER_KIND] * len(KINDS)
    assert token_ids(task.probe_x).tolist() == list(range(40))


def test_tokens_are_read_off_their_rows():
    task = token_task(512, seed=1)
    for x in (task.data.x, task.data.x.double()):
        assert torch.equal(token_ids(x) // PER_KIND, task.kind)
    with pytest.raises(ValueError, match=r"^x must hold rows of the token task, \[N, 28\]"):
        token_ids(torch.ones(3, 24))


def test_a_text_is_the_same_tokens_with_cells_of_its_seed():
    x, _, kind = token_rows("the cat is ( 3 += 4 )", seed=5)
    assert [KINDS[k] for k in kind.tolist()] == [
        "language", "word", "language", "bracket", "digit", "code", "digit", "bracket",
    ]  # fmt: skip
    assert [TOKENS[i] for i in token_ids(x).tolist()] == ["the", "cat", "is", "(", "3", "+=", "4", ")"]
    again, other = token_rows("the cat is ( 3 += 4 )", seed=5)[0], token_rows("the cat is ( 3 += 4 )", seed=6)[0]
    assert torch.equal(x, again) and not torch.equal(x, other)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [("", ValueError, "at least one token"), ("the mouse", ValueError, "each token of text"), (3, TypeError, "^text")],
)
def test_a_text_of_other_tokens_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        token_rows(text)


def test_it_has_its_limits_and_can_be_compared():
    task = token_task(64, n_test=64)
    assert task == task and task != token_task(64, n_test=64)
    for arguments in ({"n": 10**30}, {"n_test": 10**30}, {"n": 10}, {"n_test": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(arguments))} "):
            token_task(**arguments)


def test_it_depends_on_its_seed_and_the_probes_do_not():
    a, same, b = token_task(64, seed=0), token_task(64, seed=0), token_task(64, seed=1)
    assert torch.equal(a.data.x, same.data.x) and not torch.equal(a.data.x, b.data.x)
    assert torch.equal(a.probe_x, b.probe_x) and torch.equal(a.probe_y, b.probe_y)
