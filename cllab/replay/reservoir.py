"""Reservoir sampling: a fair sample of a stream whose length nobody knows.

Idea: keep K rows so that after n offers each of them is in memory with probability K / n.

    n <- n + 1;  if n <= K: slot n - 1;  else draw j uniform on {0, ..., n - 1}, slot j if j < K, else reject

Symbols: K = capacity, n = n_seen, offers so far, rejected ones included; j [B] one draw per offered row.
Source: Vitter 1985, Algorithm R. No departures. Drawing j from the count *before* the offer, as several public
implementations do, keeps newcomers too often: P = K / (n - 1) instead of K / n.
Slots are not random (the first row can only ever sit in slot 0): `sample` shuffles.
"""

import keyword
from collections import namedtuple

import torch
from torch import Tensor

from cllab import checks

MOST = 2**62
"""The longest stream: draws are 62 random bits."""


def reservoir_slots(n_seen: int, draws: Tensor, capacity: int) -> Tensor:
    """Slot of each offered row, -1 for rejected ones: int64 [B].

    n_seen: offers before these. draws: int64 [B], draws[i] uniform on {0, ..., n_seen + i}, the 0-based number of
    the row itself included; it decides only once the memory is full. Leading dimensions are separate streams.
    """
    checks.integer("n_seen", n_seen, 0)
    n = n_seen + torch.arange(1, draws.shape[-1] + 1)
    # fill the slots in order, then the drawn slot if there is one
    slot = torch.where(n <= capacity, n - 1, draws)
    return torch.where(slot < capacity, slot, -1)


def draw_below(high: Tensor, generator: torch.Generator) -> Tensor:
    """One integer per entry, uniform on {0, ..., high - 1}; one by one or in one go, the numbers are the same.

    62 random bits modulo `high`: the bias is below high / 2^62.
    """
    return torch.randint(2**62, high.shape, generator=generator) % high


class Reservoir:
    """A memory of at most `capacity` rows, each row ever offered being in it with the same probability.

    capacity: K >= 1. generator: CPU torch.Generator for the draws and for `sample`.
    Rows are kept as detached copies on the device of the first batch.
    """

    def __init__(self, capacity: int, generator: torch.Generator):
        self.capacity = checks.integer("capacity", capacity, 1, MOST)
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        self.generator = generator
        self.n_seen = 0
        self._columns: dict[str, Tensor] = {}
        self._stored = 0

    def add(self, x: Tensor, y: Tensor, **extras: Tensor) -> Tensor:
        """Offer B rows x [B, ...] with labels y int64 [B] and any further columns [B, ...] in order of arrival.

        Returns the slot each row went to, int64 [B], -1 where it was rejected. Raises before anything is stored
        when lengths, shapes, dtypes or columns differ from the rows already there, or a value is not finite.
        """
        offered = {"x": x, "y": y, **extras}
        self._check(offered)
        self._make_room(offered, min(self.capacity, self.n_seen + len(y)))
        draws = draw_below(torch.arange(self.n_seen + 1, self.n_seen + len(y) + 1), self.generator)
        slots = reservoir_slots(self.n_seen, draws, self.capacity)
        accepted = (slots >= 0).nonzero().flatten()
        last = dict(zip(slots[accepted].tolist(), accepted.tolist(), strict=True))
        if last:  # of two rows for one slot the later one stays
            into, rows = torch.tensor(list(last)), torch.tensor(list(last.values()))
            for name, values in offered.items():
                self._columns[name][into.to(values.device)] = values.detach()[rows.to(values.device)]
        self.n_seen += len(y)
        self._stored = min(self.n_seen, self.capacity)
        return slots

    def sample(self, n: int) -> tuple[Tensor, ...]:
        """`n` different stored rows in random order, all of them when fewer are stored: (x, y, *extras) by name."""
        checks.integer("n", n, 0)
        if not self._columns:
            raise ValueError("sample needs a memory that has been offered at least one row")
        rows = torch.randperm(self._stored, generator=self.generator)[:n]
        columns = [values[rows.to(values.device)] for values in self._columns.values()]
        return self._Rows(*columns)

    @property
    def x(self) -> Tensor:
        """Copies of the stored rows by slot, [len, ...]."""
        return self._column("x")

    @property
    def y(self) -> Tensor:
        """Copies of the stored labels by slot, int64 [len]."""
        return self._column("y")

    def __len__(self) -> int:
        return self._stored

    def state_dict(self) -> dict:
        """Stored columns, number of offers and the generator's state: the sequence continues after loading."""
        return {
            "columns": {k: v[: self._stored].clone() for k, v in self._columns.items()},
            "n_seen": self.n_seen, "generator": self.generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: dict, device: torch.device | str | None = None) -> None:
        """Take up the memory that `state_dict` described, on `device`; ValueError before anything is changed."""
        try:
            n_seen, columns = checks.integer("n_seen", state["n_seen"], 0), dict(state["columns"])
            torch.Generator().set_state(state["generator"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"state must come from state_dict of a Reservoir, this one does not: {error}") from error
        stored = min(n_seen, self.capacity)
        if any(len(values) != stored for values in columns.values()) or (stored and not {"x", "y"} <= set(columns)):
            raise ValueError(f"state must fit capacity {self.capacity} and its {n_seen} offers")
        self._columns = {}
        if columns:
            self._name(columns)
            self._columns = {name: values.to(device, copy=True) for name, values in columns.items()}
        self.n_seen, self._stored = n_seen, stored
        self.generator.set_state(state["generator"])

    def _make_room(self, like: dict[str, Tensor], rows: int) -> None:
        """Room for `rows` rows in every column, doubling: a memory larger than its stream costs what it holds."""
        if not self._columns:
            self._name(like)
        have = len(self._columns["x"]) if self._columns else 0
        if rows > have:
            size = min(self.capacity, max(rows, 2 * have))
            grown = {name: values.new_empty((size, *values.shape[1:])) for name, values in like.items()}
            for name, values in self._columns.items():
                grown[name][:have] = values
            self._columns = grown

    def _name(self, columns: dict[str, Tensor]) -> None:
        self._Rows = namedtuple("Rows", columns)

    def _column(self, name: str) -> Tensor:
        if not self._columns:
            raise ValueError(f"{name} is not defined before a row was offered")
        return self._columns[name][: self._stored].clone()

    def _check(self, offered: dict[str, Tensor]) -> None:
        n = len(checks.labels("y", offered["y"]))
        for name, values in offered.items():
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                raise ValueError(f"column {name!r} must be a plain name, so that samples can be read by it")
            if not isinstance(values, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(values).__name__}")
            if values.ndim == 0 or values.numel() == 0:
                raise ValueError(f"{name} must hold at least one row, got shape {tuple(values.shape)}")
            if values.is_floating_point():
                checks.floats(name, values)
            if len(values) != n:
                raise ValueError(f"{name} must have {n} rows like y, got {len(values)}")
        if self._columns and set(self._columns) != set(offered):
            raise ValueError(f"rows must have the columns {list(self._columns)}, got {list(offered)}")
        for name, kept in self._columns.items():
            if kept.shape[1:] != offered[name].shape[1:] or kept.dtype != offered[name].dtype:
                raise ValueError(
                    f"{name} must have rows of shape {tuple(kept.shape[1:])} and {kept.dtype}, "
                    f"got {tuple(offered[name].shape[1:])} and {offered[name].dtype}"
                )
