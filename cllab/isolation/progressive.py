"""Progressive neural networks: never touch old weights, give each task a fresh column that reads the older ones.

    h_i^(k) = f( W_i^(k) h_{i-1}^(k) + b_i^(k) + sum_{j<k} U_i^(k:j) h_{i-1}^(j) )                      linear laterals
    h_i^(k) = f( W_i^(k) h_{i-1}^(k) + b_i^(k) + U_i^(k) relu(V_i^(k) [alpha_j h_{i-1}^(j)]_{j<k}) )    adapters

Symbols: column k = 0, 1, ... in order of arrival, layer i = 1 .. L; h_i^(k) [N, n_i], h_0 = x; f = relu, nothing after
the last layer; U_i^(k:j) [n_i, n_{i-1}]; V_i^(k) [m, k n_{i-1}] reads the older columns at once and narrows them to
m = `width`; alpha_j, a learned scalar for each column read. The first layer has no laterals, and no lateral has a bias.

Old columns are frozen, so old answers stay as they are, bit for bit. The price is in column_growth.py.
Source: Rusu et al. 2016, "Progressive neural networks", equations 1 and 2. Departures: U starts at zero, so that a new
column begins as the network that it would be without laterals, and learns whatever it takes from the others; alpha
starts at 1 (there a small random value). Without `width`, m = n_{i-1} as there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator
from cllab.isolation.column_growth import ColumnGrowth, layer_sizes
from cllab.isolation.isolating import Isolating
from cllab.isolation.switch import Key, Switch
from cllab.models import MLP, linear
from cllab.training import Context


def lateral_sum(h: Sequence[Tensor], U: Sequence[Tensor]) -> Tensor:
    """What linear laterals add to a layer: h[j] [N, n] and U[j] [n', n] for each older column j -> [N, n']."""
    # sum_{j<k} U^(k:j) h^(j)
    return sum(h_j @ U_j.T for h_j, U_j in zip(h, U, strict=True))


def lateral_adapter(h: Sequence[Tensor], alpha: Tensor, V: Tensor, U: Tensor) -> Tensor:
    """What an adapter adds to a layer: h[j] [N, n] for each older column j, alpha [k], V [m, k n], U [n', m]."""
    # [alpha_j h^(j)]_{j<k}
    read = torch.cat([a_j * h_j for a_j, h_j in zip(alpha, h, strict=True)], dim=1)
    # U relu(V [...])
    return (read @ V.T).relu() @ U.T


class Lateral(nn.Module):
    """What one layer reads of the `k` older columns: h[j] [N, n] -> [N, n']. Adds nothing before it is trained."""

    def __init__(self, n: int, out: int, k: int, kind: str, width: int | None, source: torch.Generator):
        super().__init__()
        self.kind = kind
        if kind == "linear":
            self.U = nn.ParameterList(torch.zeros(out, n) for _ in range(k))
        else:
            m = width or n
            self.alpha = nn.Parameter(torch.ones(k))
            self.V = linear(k * n, m, source).weight
            self.U = nn.Parameter(torch.zeros(out, m))

    def forward(self, h: Sequence[Tensor]) -> Tensor:
        return lateral_sum(h, self.U) if self.kind == "linear" else lateral_adapter(h, self.alpha, self.V, self.U)


class Column(nn.Module):
    """One task's layers, and what each but the first reads of the `k` older columns."""

    def __init__(self, layers, k: int, kind: str, width: int | None, source: torch.Generator):
        super().__init__()
        self.layers = nn.ModuleList(linear(n, out, source) for n, out in layers)
        read = layers[1:] if k > 0 and kind != "none" else []
        self.laterals = nn.ModuleList(Lateral(n, out, k, kind, width, source) for n, out in read)

    def forward(self, i: int, own: Tensor, older: Sequence[Tensor]) -> Tensor:
        """Layer i (from 0) before its relu: own [N, n], older[j] [N, n] come out of layer i - 1 -> [N, n']."""
        # W h^(k) + b
        z = self.layers[i](own)
        # + what the laterals add
        return z + self.laterals[i - 1](older) if i > 0 and self.laterals else z


class ProgressiveNet(nn.Module):
    """A column of layers per task: x [N, ...] -> logits [N, C] of one column and what it reads of those before it.

    in_features: D. hidden: widths of the hidden layers. n_classes: C, the outputs of every column. laterals: "linear",
    "adapter", or "none" for columns that do not see each other. width: m of the adapters. task: the key of the column
    it starts with. seed: decides the weights of every column.

    columns: a `Switch` with a `Column` for each task. A key is whatever names the task, an int or a str.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int], n_classes: int, laterals: str = "linear",
        width: int | None = None, task: Key = 0, seed: int = 0,
    ):  # fmt: skip
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise TypeError(f"hidden must be a list of widths such as [64], got {hidden!r}")
        super().__init__()
        self.sizes = (in_features, *hidden, n_classes)
        layer_sizes(self.sizes, laterals, width)
        self.laterals, self.width, self.seed = laterals, width, checks.integer("seed", seed, 0)
        self.columns = Switch()
        self.add_column(task)

    @property
    def tasks(self) -> list[Key]:
        """The keys of the columns, in order of arrival."""
        return self.columns.tasks

    def add_column(self, task: Key) -> None:
        """A column for a new task, which reads all others. They are frozen. ValueError when the key is taken."""
        k = len(self.tasks)
        source = generator(self.seed, f"column {k}")
        column = Column(layer_sizes(self.sizes, self.laterals, self.width), k, self.laterals, self.width, source)
        if self.tasks:
            weight = next(self.parameters())
            column.to(weight.device, weight.dtype)
        self.columns.add(task, column.train(self.training))

    def drop_columns(self, keep: int) -> None:
        """Remove all columns but the first `keep`. What was frozen stays frozen."""
        checks.integer("keep", keep, 1, len(self.tasks))
        del self.columns.parts[keep:], self.columns.tasks[keep:]
        self.columns.use(self.tasks[-1])

    def forward(self, x: Tensor, task: Key | None = None) -> Tensor:
        """x [N, ...] -> logits [N, C] of the column of `task`. None: the one in use, at first the newest."""
        *older, own = self.activations(x, task)[-1]
        return self.columns.parts[self._number(task)](len(self.sizes) - 2, own, older)

    def activations(self, x: Tensor, task: Key | None = None) -> list[list[Tensor]]:
        """h[i][j], what hidden layer i of column j answers [N, n_i], for the columns that an answer for `task` runs.

        h[0][j] is x for every column. The last of a row belongs to the column of `task`, which without laterals runs
        alone.
        """
        k = self._number(task)
        if x[:1].numel() != self.sizes[0]:
            raise ValueError(f"x must have rows of {self.sizes[0]} features, got shape {tuple(x.shape)}")
        columns = [*self.columns.parts][k if self.laterals == "none" else 0 : k + 1]
        h = [[x.flatten(1)] * len(columns)]
        for i in range(len(self.sizes) - 2):
            # h_i^(j) = f(W h_{i-1}^(j) + b + laterals from h_{i-1}^(0) .. h_{i-1}^(j-1))
            h.append([column(i, h[i][j], h[i][:j]).relu() for j, column in enumerate(columns)])
        return h

    def plain_column(self, task: Key) -> MLP:
        """The column of `task` with its laterals cut: a copy of its own layers as an ordinary network."""
        column = self.columns.part(task)
        first = column.layers[0].weight
        plain = MLP(self.sizes[0], self.sizes[1:-1], self.sizes[-1]).to(first.device, first.dtype)
        with torch.no_grad():
            for new, own in zip(plain.parameters(), column.layers.parameters(), strict=True):
                new.copy_(own)
        return plain

    def growth(self) -> ColumnGrowth:
        """The parameters there are, counted."""
        columns = sum(p.numel() for column in self.columns.parts for p in column.layers.parameters())
        total = sum(p.numel() for p in self.parameters())
        scalars = sum(p.numel() for name, p in self.named_parameters() if name.endswith("alpha"))
        return ColumnGrowth(columns, total - columns - scalars, scalars, total)

    def _number(self, task: Key | None) -> int:
        """Which column, from 0."""
        if task is None:
            if len(self.columns.active) > 1:
                raise ValueError(f"tasks must be one task or none: a row gets one column, got {self.columns.active}")
            task = self.columns.active[0] if self.columns.active else self.tasks[-1]
        self.columns.part(task)
        return self.tasks.index(task)


class Progressive(Isolating):
    """Gives a `ProgressiveNet` a column for each task of the stream, and answers each task with its own.

    The net's first column, when its key is 0, learns the first task; a column with any other key (one that was trained
    elsewhere and is called "pre-trained", say) is kept as it is and read. All columns have all outputs, so there is no
    MultiHead. A task that has no column yet is answered by the newest.
    """

    def start_run(self, ctx: Context) -> None:
        net = ctx.model
        if not isinstance(net, ProgressiveNet):
            raise TypeError(f"model must be a ProgressiveNet for Progressive, got {type(net).__name__}")
        self._check_run(ctx)
        outputs, needed = net.sizes[-1], ctx.stream.n_classes
        if outputs < needed:
            raise ValueError(f"model must have at least {needed} outputs for this stream, got {outputs}")
        known = net.tasks[: self.given] if net is self.model else net.tasks
        if any(task in range(len(ctx.stream)) for task in known) and known != [0]:
            raise ValueError(
                f"model must have no columns for tasks of this stream but one for task 0, it has {known}: give a fresh "
                "model, or the method that added them"
            )
        if self.selector is not None:
            self.selector.forget()
        if net is self.model:
            net.drop_columns(self.given)
        self._undo(net)
        self.model, self.given, self.newest = net, len(net.tasks), -1

    def start_task(self, ctx: Context) -> None:
        self.newest = ctx.task_index
        if ctx.task_index not in ctx.model.tasks:
            self.freeze([parameter for parameter in ctx.model.parameters() if parameter.requires_grad])
            ctx.model.add_column(ctx.task_index)
