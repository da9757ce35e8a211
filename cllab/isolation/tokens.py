"""A task on which experts can specialise: five kinds of token, each with a rule of its own.

A row is a token and the five cells written before it, each cell holding one of four values. Which cell gives
the answer depends on the token's kind, and on nothing else:

    digit     0 1 2 3 4 5 6 7                   answer = cell 0
    bracket   ( ) [ ] { } < >                   answer = cell 1
    word      cat dog sun rain ...              answer = cell 2    words with a meaning of their own
    code      += == != -> ...                   answer = cell 3
    language  the of and is ...                 answer = cell 4    words that hold a sentence together

A linear map of the row cannot do this, and a network that does all five must build five gates; a mixture of
experts can send each kind to an expert that reads one cell only.

The vectors are made like those of trained embeddings: tokens of one kind are close together, so that a linear
router can tell the kinds apart, but all of them share one large common part, so that at first it hardly does:
the same few experts win every token, and without a balance loss they keep most of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cllab import checks
from cllab.device import generator
from cllab.streams import Dataset, Stream, Task, split

KINDS = ("digit", "bracket", "word", "code", "language")
PER_KIND = 8
TOKENS = (
    *"01234567", *"()[]{}<>", "cat", "dog", "sun", "rain", "tree", "river", "bread", "song",
    "+=", "==", "!=", "->", "&&", "||", "::", "**", "the", "of", "and", "is", "to", "in", "that", "was",
)  # fmt: skip
"""PER_KIND of each kind, in the order of KINDS."""
N_VALUES = 4
"""Values of a cell, and classes of the task. There are as many cells as kinds."""
MAX_ROWS = 1_000_000
VECTOR = 8
"""Width of a token's vector; a row has VECTOR + len(KINDS) * N_VALUES = 28 features."""


@dataclass(frozen=True, eq=False)
class TokenTask:
    """Rows to train and test on, and one probe row per token.

    data                    `Dataset` with x [N, 28] and 4 classes.
    kind, kind_test         int64 [N]: index into KINDS for every row of data.x and data.x_test.
    probe_x, probe_y        [40, 28], int64 [40]: row p holds the token TOKENS[p] with some cells; the same
                            for every seed.
    probe_kind, probe_label the kind of each probe, int64 [40], and its text.
    """

    data: Dataset
    kind: Tensor
    kind_test: Tensor
    probe_x: Tensor
    probe_y: Tensor
    probe_kind: Tensor
    probe_label: tuple[str, ...]

    @property
    def stream(self) -> Stream:
        """All of it as a single task, for `fit`."""
        return split(self.data, self.data.n_classes)

    def stages(self, groups: Sequence[Sequence[str]]) -> Stream:
        """Kinds of token that arrive one group after another, as a domain-incremental stream.

        groups: names of KINDS, each at most once, such as [["digit", "bracket"], ["word"]].
        """
        named = [kind for group in groups for kind in group]
        for kind in named:
            checks.choice("each of groups", kind, KINDS)
        if not named or not all(groups) or len(set(named)) != len(named):
            raise ValueError(f"groups must name kinds of token, each once, got {groups}")
        data, tasks = self.data, []
        for group in groups:
            wanted = torch.tensor([KINDS.index(kind) for kind in group])
            rows, test = torch.isin(self.kind, wanted), torch.isin(self.kind_test, wanted)
            parts = (data.x[rows], data.y[rows], data.x_test[test], data.y_test[test])
            tasks.append(Task(*parts, tuple(range(N_VALUES)), ", ".join(group)))
        return Stream(tuple(tasks), "domain", N_VALUES, "kinds of token")


def token_task(n: int = 4096, seed: int = 0, n_test: int = 1024) -> TokenTask:
    """n training and n_test test rows, 64 to MAX_ROWS each; tokens and cells drawn uniformly from `seed`."""
    checks.integer("n", n, 64, MAX_ROWS)
    checks.integer("n_test", n_test, 64, MAX_ROWS)
    source = generator(seed, "token task")
    x, y, kind = _rows(torch.randint(len(TOKENS), (n,), generator=source), source)
    x_test, y_test, kind_test = _rows(torch.randint(len(TOKENS), (n_test,), generator=source), source)
    probe_x, probe_y, probe_kind = _rows(torch.arange(len(TOKENS)), generator(0, "probe cells"))
    data = Dataset(x, y, x_test, y_test, "tokens", (x.shape[1],))
    return TokenTask(data, kind, kind_test, probe_x, probe_y, probe_kind, TOKENS)


def token_rows(text: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(x [T, 28], y int64 [T], kind int64 [T]) for a text of tokens between blanks; cells are drawn from `seed`.

    ValueError for a text without tokens and for a token that is not in TOKENS.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    labels = text.split()
    for label in labels:
        checks.choice("each token of text", label, TOKENS)
    if not labels:
        raise ValueError("text must hold at least one token, got none")
    return _rows(torch.tensor([TOKENS.index(label) for label in labels]), generator(seed, "text cells"))


def token_ids(x: Tensor) -> Tensor:
    """The index into TOKENS of each row x [N, 28], int64 [N], read off its vector: what a hash or an owner needs."""
    checks.floats("x", x, 2)
    width = VECTOR + len(KINDS) * N_VALUES
    if x.shape[1] != width:
        raise ValueError(f"x must hold rows of the token task, [N, {width}], got {tuple(x.shape)}")
    return torch.cdist(x[:, :VECTOR], _vectors().to(x)).argmin(dim=1)


def _rows(token: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y, kind) for these tokens [N], with cells drawn from `source`."""
    kind = token // PER_KIND
    cells = torch.randint(N_VALUES, (len(token), len(KINDS)), generator=source)  # [N, 5]
    y = cells.gather(1, kind[:, None])[:, 0]
    return torch.cat([_vectors()[token], one_hot(cells, N_VALUES).flatten(1).float()], dim=1), y, kind


def _vectors() -> Tensor:
    """[40, VECTOR]: a part common to all tokens, one per kind, each on an axis, and the token's own."""
    kind = torch.arange(len(TOKENS)) // PER_KIND
    common = one_hot(torch.full_like(kind, VECTOR - 1), VECTOR)
    own = torch.randn(len(TOKENS), VECTOR, generator=generator(0, "token vectors"))
    return 8.0 * common + one_hot(kind, VECTOR) + 0.1 * own
