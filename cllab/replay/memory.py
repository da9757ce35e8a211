"""What every memory shares: columns of rows by slot, checks, sampling, the state for a checkpoint.

Idea: a memory is a table of slots. A buffer decides one thing only, the slot of each offered row (`_slots`); all
else is the same for all of them and stands here. A row written to a slot that is taken replaces the row in it.

Symbols: K = capacity, rows at most; B = rows offered in one call; n = n_seen, offers so far, rejected ones included.
Balanced sampling takes n rows in rounds, one row of every class per round as long as the class has any, so that
the classes' shares differ by more than one only where a class has no rows left.
"""

import copy
import keyword
from abc import ABC, abstractmethod
from collections import namedtuple

import torch
from torch import Tensor

from cllab import checks
from cllab.device import given_generator

MOST = 2**62
"""The longest stream: draws are 62 random bits."""


class Memory(ABC):
    """At most `capacity` rows. Subclasses say in `_slots` where rows go; this class keeps them.

    capacity: K >= 1. generator: CPU torch.Generator for all draws; generator(0) when left out.
    Rows are kept as detached copies on the device of the first batch.
    """

    def __init__(self, capacity: int, generator: torch.Generator | None = None):
        self.capacity = checks.integer("capacity", capacity, 1, MOST)
        self.generator = given_generator(generator)
        self.n_seen = 0
        self._columns: dict[str, Tensor] = {}
        self._used = 0

    @abstractmethod
    def _slots(self, y: Tensor) -> Tensor:
        """Slot of each offered row, int64 [B] on the CPU, -1 for rejected ones.

        New slots are taken in the order 0, 1, 2, ... Must raise, where it has to, before it changes any state.
        """

    def _held(self) -> Tensor:
        """The slots that hold a row, int64 [len], rising."""
        return torch.arange(min(self.n_seen, self.capacity))

    def _most_rows(self, y: Tensor) -> int:
        """How many slots rows with labels `y` may lead to; raises ValueError if they cannot be taken at all."""
        return self.capacity

    def add(self, x: Tensor, y: Tensor, **extras: Tensor) -> Tensor:
        """Offer B rows x [B, ...] with labels y int64 [B] and any further columns [B, ...] in order of arrival.

        Returns the slot each row went to, int64 [B], -1 where it was rejected. Raises before anything is stored
        when lengths, shapes, dtypes or columns differ from the rows already there, or a value is not finite.
        """
        offered = {"x": x, "y": y, **extras}
        self._check(offered)
        self._make_room(offered, min(self._most_rows(y), self._used + len(y)))
        slots = self._slots(y)
        accepted = (slots >= 0).nonzero().flatten()
        last = dict(zip(slots[accepted].tolist(), accepted.tolist(), strict=True))
        if last:  # of two rows for one slot the later one stays
            into, rows = torch.tensor(list(last)), torch.tensor(list(last.values()))
            for name, values in offered.items():
                self._columns[name][into.to(values.device)] = values.detach()[rows.to(values.device)]
            self._used = max(self._used, 1 + max(last))
        self.n_seen += len(y)
        return slots

    def sample(self, n: int, balanced: bool = False) -> tuple[Tensor, ...]:
        """`n` different stored rows in random order, all of them when fewer are stored: (x, y, *extras) by name.

        balanced: as many rows of every stored class as possible, instead of every row with the same chance; which
        classes get one row more than the others is drawn, and so is which rows.
        """
        checks.integer("n", n, 0)
        checks.flag("balanced", balanced)
        if not self._columns:
            raise ValueError("sample needs a memory that has been offered at least one row")
        held = self._held()
        if balanced:
            labels = self._columns["y"].cpu()[held]
            rows = held[balanced_rows(labels, n, self.generator)]
        else:
            rows = held[torch.randperm(len(held), generator=self.generator)[:n]]
        return self._Rows(*(values[rows.to(values.device)] for values in self._columns.values()))

    @property
    def x(self) -> Tensor:
        """Copies of the stored rows in the order of their slots, [len, ...]; empty slots are left out."""
        return self._column("x")

    @property
    def y(self) -> Tensor:
        """Copies of the stored labels in the order of their slots, int64 [len]."""
        return self._column("y")

    @property
    def nbytes(self) -> int:
        """Bytes of the stored rows, all columns together: len times the bytes of a row."""
        return len(self) * sum(values[:1].nbytes for values in self._columns.values())

    def __len__(self) -> int:
        return len(self._held())

    def state_dict(self) -> dict:
        """Stored columns, number of offers and the generator's state: the sequence continues after loading."""
        held = self._held()
        return {
            **self._settings(), "n_seen": self.n_seen, "slots": held,
            "columns": {name: values[held.to(values.device)] for name, values in self._columns.items()},
            "generator": self.generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: dict, device: torch.device | str | None = None) -> None:
        """Take up the memory that `state_dict` described, on `device`; ValueError before anything is changed."""
        read = copy.copy(self)  # a state that does not fit is found out on this copy
        try:
            read._take(state, device)
            if not torch.equal(read._held(), state["slots"]):
                raise ValueError(f"state must hold rows in the slots that {state['n_seen']} offers fill")
            torch.Generator().set_state(state["generator"])
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            kind = type(self).__name__
            raise ValueError(f"state must come from state_dict of a {kind}, this one does not: {error}") from error
        self.__dict__.update(read.__dict__)
        self.generator.set_state(state["generator"])

    def _settings(self) -> dict:
        """What a state must have been saved with to be loaded here."""
        return {"kind": type(self).__name__, "capacity": self.capacity}

    def _take(self, state: dict, device: torch.device | str | None) -> None:
        """Read a state into this memory; ValueError, KeyError or TypeError if it does not fit. May do half of it."""
        mine = self._settings()
        if {key: state[key] for key in mine} != mine:
            raise ValueError(f"state must be of a memory with {mine}, got { {key: state[key] for key in mine} }")
        self.n_seen = checks.integer("n_seen", state["n_seen"], 0)
        slots, columns = state["slots"], dict(state["columns"])
        whole = all(len(values) == len(slots) for values in columns.values())
        if not whole or len(slots) > self.n_seen or (self.n_seen and not {"x", "y"} <= set(columns)):
            raise ValueError(f"state must have columns of {len(slots)} rows for {self.n_seen} offers")
        self._used = int(slots.max()) + 1 if len(slots) else 0
        self._columns = {}
        for name, values in columns.items():
            column = values.new_empty((self._used, *values.shape[1:]), device=device or values.device)
            column[slots.to(column.device)] = values.to(column.device)
            self._columns[name] = column
        if columns:
            self._name(columns)

    def _slots_by_class(self, state: dict) -> dict[int, list[int]]:
        """state["where"], {class: its slots}, if these are the slots that hold rows of that class."""
        where = {c: list(own) for c, own in state["where"].items()}
        if sorted(slot for own in where.values() for slot in own) != state["slots"].tolist():
            raise ValueError("state must name every slot that holds a row under one class")
        if any(bool((self._columns["y"][own] != c).any()) for c, own in where.items() if own):
            raise ValueError("state must name slots under the label of their row")
        return where

    def _make_room(self, like: dict[str, Tensor], rows: int) -> None:
        """Room for `rows` rows in every column, doubling: a memory larger than its stream costs what it holds."""
        if not self._columns:
            self._name(like)
        have = len(self._columns["x"]) if self._columns else 0
        if rows > have:
            size = min(self._most_rows(like["y"]), max(rows, 2 * have))
            grown = {name: values.new_empty((size, *values.shape[1:])) for name, values in like.items()}
            for name, values in self._columns.items():
                grown[name][:have] = values
            self._columns = grown

    def _name(self, columns: dict[str, Tensor]) -> None:
        self._Rows = namedtuple("Rows", columns)

    def _column(self, name: str) -> Tensor:
        if not self._columns:
            raise ValueError(f"{name} is not defined before a row was offered")
        values = self._columns[name]
        return values[self._held().to(values.device)]

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


def balanced_rows(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Indices of `n` rows spread over the classes in `labels` int64 [N], in random order: int64 [min(n, N)].

    Each class is shuffled; its r-th row comes up in round r. Rounds are taken in turn, and of the last one, which n
    may cut short, a random part.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    _, of_class, counts = labels[shuffled].unique(return_inverse=True, return_counts=True)
    by_class = of_class.argsort(stable=True)
    first = counts.cumsum(0) - counts
    # round of a row = its place among the shuffled rows of its class
    round_of = torch.empty_like(of_class)
    round_of[by_class] = torch.arange(len(labels)) - first[of_class[by_class]]
    lots = torch.randperm(len(labels), generator=generator)
    chosen = shuffled[(round_of * len(labels) + lots).argsort()[:n]]
    return chosen[torch.randperm(len(chosen), generator=generator)]
