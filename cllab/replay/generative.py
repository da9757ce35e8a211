"""Generative replay: keep old tasks by training on rows that a generator makes up.

Idea: a scholar is a generator of inputs and a solver that answers them. The next scholar learns from the new task and
from the last scholar: its generator gives rows, its solver their labels. No row of an old task is kept.

    L_solver    = r L(x, y) + (1 - r) L(x', y'),     x' ~ old generator,  y' = old solver(x')
    L_generator = r L(x)    + (1 - r) L(x')

Symbols: r in (0, 1], importance of the new task, 1/t at task t = 1, 2, ... unless given; x' [B, D] as many made-up rows
as there are new ones; y' the old solver's answer among the classes it knew: the best one (hard labels), or the softmax
at temperature T of its logits (soft labels, whose loss is T^2 KL).
Source: Shin et al. 2017, "Continual learning with deep generative replay". Departures: a VAE or Gaussians in place of
the GAN, asked for a class rather than for anything; Gaussians of old classes stay as they were unless refit=True, so
that only a refitted generator drifts. Order: the solver is copied before the task, the generator learns after it.

Whose row it is: the generator is asked for a pair (task, class), each as often as it had rows, and the row keeps that
task and its mask. In the class-incremental scenario the old solver may answer with a class of another task: the row
then counts to the first task that has this class (all earlier tasks have the same mask there).
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab import checks
from cllab.device import generator as seeded
from cllab.replay.gmm import ClassGaussians, draw_index
from cllab.replay.soft_labels import scaled_divergence
from cllab.replay.vae import VAE
from cllab.training import Batch, Context, Method, Phase, evaluating, frozen_copy, masked, shuffled

DRIFT_ROWS = 200
"""Rows drawn of every class to measure the generator."""
SETTLE_ROWS = 500
"""Rows of the old VAE that tell the new one where the latents of an old class lie."""
REPORTS = 10
"""How often the VAE's training tells its loss, at most."""


class GenerativeReplay(Method):
    """Replay rows from a generator that learns task after task.

    generator: "gmm", Gaussians per class, or "vae" (rows in [0, 1]). r: importance of the new task, default 1/t; 1
    replays nothing. labels: "hard" or "soft". refit: fit the Gaussians of old classes to their own samples after each
    task. temperature: T of soft labels. components, eps: of `ClassGaussians`. hidden, latent: width of the VAE's
    hidden layer on either side and of z. beta: weight of its KL divergence, 1 for the bound of the paper. epochs,
    batch_size, lr: of the VAE's training with Adam after each task.
    """

    def __init__(
        self, generator: str = "gmm", r: float | None = None, *, labels: str = "hard", refit: bool = False,
        temperature: float = 2.0, components: int = 1, eps: float = 1e-4,
        hidden: int = 400, latent: int = 16, beta: float = 0.3, epochs: int = 10, batch_size: int = 128,
        lr: float = 1e-3,
    ):  # fmt: skip
        self.kind = checks.choice("generator", generator, ("gmm", "vae"))
        self.r = None if r is None else checks.number("r", r, 0.0, 1.0)
        if self.r == 0.0:
            raise ValueError("r must be above 0: nothing would be learned of the new task")
        self.labels = checks.choice("labels", labels, ("hard", "soft"))
        self.refit = checks.flag("refit", refit)
        if self.refit and self.kind == "vae":
            raise ValueError("refit must be False for a VAE: it always learns from its own samples")
        self.temperature = checks.number("temperature", temperature, 1e-6)
        self.components = checks.integer("components", components, 1)
        self.eps = checks.number("eps", eps, 0.0)
        self.hidden, self.latent = checks.integer("hidden", hidden, 1), checks.integer("latent", latent, 1)
        self.beta = checks.number("beta", beta, 0.0)
        self.epochs, self.batch_size = checks.integer("epochs", epochs, 1), checks.integer("batch_size", batch_size, 1)
        self.lr = checks.number("lr", lr, 0.0)
        self.sampler: ClassGaussians | VAE | None = None

    def __repr__(self) -> str:
        # the argument `generator` says which model; the attribute is the random generator that every method has
        return super().__repr__().replace("(", f"(generator={self.kind!r}, ", 1)

    def start_run(self, ctx: Context) -> None:
        if sum(isinstance(method, GenerativeReplay) for method in ctx.methods) > 1:
            raise ValueError("methods must hold one GenerativeReplay at most: a scholar has one generator")
        others = [type(m).__name__ for m in ctx.methods if type(m).task_loss is not Method.task_loss]
        if others and self.labels == "soft":
            raise ValueError(f"labels must be 'hard' beside {others[0]}, which replaces the task loss")
        first = ctx.stream[0].x
        pairs = [(t, c) for t, task in enumerate(ctx.stream) for c in sorted(task.classes)]
        self.tasks, self.classes = torch.tensor(pairs, device=ctx.device).T
        # pair_of[t, c] is the number of the pair (t, c), -1 where task t lacks class c
        self.pair_of = torch.full((len(ctx.stream), ctx.stream.n_classes), -1, device=ctx.device)
        self.pair_of[self.tasks, self.classes] = torch.arange(len(pairs), device=ctx.device)
        self.first_task = (self.pair_of >= 0).int().argmax(dim=0)
        if self.kind == "vae":
            low = min(float(task.x.min()) for task in ctx.stream)
            high = max(float(task.x.max()) for task in ctx.stream)
            if low < 0 or high > 1:
                raise ValueError(f"generator 'vae' needs rows in [0, 1], got values from {low:g} to {high:g}")
            sampler = VAE(first[0].numel(), len(pairs), [self.hidden], self.latent, seed=ctx.seed)
            self.sampler = sampler.to(ctx.device, first.dtype)
        else:
            self.sampler = ClassGaussians(self.components, self.eps)
        self.row_shape, self.device = first.shape[1:], ctx.device
        self.solver, self.solver_bytes = None, 0
        self.count = torch.zeros(len(pairs), dtype=torch.int64, device=ctx.device)
        self.mean = first.new_zeros(len(pairs), first[0].numel())
        self.variance = first.new_zeros(len(pairs))

    def start_task(self, ctx: Context) -> None:
        if ctx.task_index > 0:
            self.solver = frozen_copy(ctx.model)
            self.solver_bytes = sum(t.nbytes for t in ctx.model.state_dict().values())

    def replay(self, ctx: Context, batch: Batch) -> list[Batch]:
        r = self._importance(ctx)
        if ctx.task_index == 0 or r == 1.0:
            return []
        pair = self._pairs(len(batch.y))
        x = self.sampler.draw(pair, self.generator).unflatten(1, self.row_shape)
        task = self.tasks[pair]
        with torch.no_grad():
            scores = masked(self.solver(x), ctx.allowed(task, ctx.task_index - 1))
        # y' = argmax of the old solver among the classes that it knew
        y = scores.argmax(dim=1)
        self.targets = (scores / self.temperature).softmax(dim=1)
        task = torch.where(self.pair_of[task, y] >= 0, task, self.first_task[y])
        ctx.info["replayed"] = ctx.info.get("replayed", 0) + len(y)
        # new rows weigh 1, so this ratio makes the shares r and 1 - r
        return [Batch.of("generated", x, y, task, ctx.allowed(task), (1 - r) / r)]

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        rows = batch.rows("generated")
        if self.labels == "hard" or rows.start == rows.stop:
            return {}
        logits, allowed = outputs[rows], batch.allowed[rows]
        soft = scaled_divergence(logits, self.targets, allowed, self.temperature)
        hard = F.cross_entropy(masked(logits, allowed), batch.y[rows])
        share = next(p.weight for p in batch.parts if p.source == "generated") / sum(p.weight for p in batch.parts)
        # the task loss holds share * hard: with this term it is share * soft instead
        return {"soft labels": share * (soft - hard)}

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        x, pair = ctx.task.x.flatten(1), self.pair_of[ctx.task_index, ctx.task.y]
        if self.kind == "vae":
            yield from self._train(ctx, x, pair)
        else:
            if self.refit and ctx.task_index > 0:
                own = torch.arange(len(self.count), device=self.device).repeat_interleave(self.count)
                self.sampler.fit(self.sampler.draw(own, self.generator), own, self.generator)
            self.sampler.fit(x, pair, self.generator)
        for p in pair.unique().tolist():
            rows = x[pair == p]
            self.mean[p], self.variance[p] = rows.mean(dim=0), rows.var(dim=0, correction=0).sum()
        self.count += pair.bincount(minlength=len(self.count))
        yield self._drift(ctx)
        self.solver = None

    def memory_bytes(self) -> int:
        """The generator, what its drift is measured against, and the solver's copy while a later task is trained."""
        if self.sampler is None:
            return 0
        return self.sampler.nbytes + self.mean.nbytes + self.variance.nbytes + self.solver_bytes

    def state_dict(self) -> dict:
        solver = None if self.solver is None else self.solver.state_dict()
        measured = {"count": self.count, "mean": self.mean, "variance": self.variance}
        return {"sampler": self.sampler.state_dict(), "solver": solver, **measured}

    def load_state_dict(self, state: dict) -> None:
        if self.kind == "vae":
            self.sampler.load_state_dict(state["sampler"])
        else:
            self.sampler.load_state_dict(state["sampler"], self.device)
        if state["solver"] is None:
            self.solver = None
        else:
            self.solver.load_state_dict(state["solver"])
        for name in ("count", "mean", "variance"):
            setattr(self, name, state[name].to(self.device, copy=True))

    def _importance(self, ctx: Context) -> float:
        return 1 / (ctx.task_index + 1) if self.r is None else self.r

    def _pairs(self, n: int) -> Tensor:
        """n pairs (task, class) of earlier tasks by number, each as often as it had rows."""
        return draw_index(self.count.tolist(), len(self.count), n, self.generator).to(self.device)

    def _train(self, ctx: Context, x: Tensor, pair: Tensor) -> Iterator[Phase]:
        """The VAE learns the new rows x [N, D] of these pairs, and as many of its own from before this task."""
        r, old = self._importance(ctx), frozen_copy(self.sampler)
        optimizer = torch.optim.Adam(self.sampler.parameters(), lr=self.lr)
        batches = [rows for _ in range(self.epochs) for rows in shuffled(len(x), self.batch_size, self.generator)]
        every = max(1, len(batches) // REPORTS)
        self.sampler.train()
        for step, rows in enumerate(batches, start=1):
            rows = rows.to(self.device)
            n, shown, wanted, weight = len(rows), x[rows], pair[rows], x.new_full((len(rows),), 1 / len(rows))
            if ctx.task_index > 0 and r < 1:
                old_pairs = self._pairs(n)
                shown = torch.cat([shown, old.draw(old_pairs, self.generator)])
                wanted = torch.cat([wanted, old_pairs])
                weight = torch.cat([r * weight, (1 - r) * weight])
            reconstruction, kl = self.sampler.losses(shown, wanted, self.generator)
            # L_generator = r L(x) + (1 - r) L(x'), each L a mean over its n rows
            loss = (weight * (reconstruction + self.beta * kl)).sum()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"the VAE's loss is no longer finite at step {step} of its training after task {ctx.task_index}: "
                    f"lower GenerativeReplay's lr, now {self.lr:g}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % every == 0 or step == len(batches):
                new = {"reconstruction": reconstruction[:n].mean().item(), "kl": kl[:n].mean().item()}
                yield Phase("training the generator", {"step": step, "steps": len(batches), **new})
        self.sampler.eval()
        known = self.count.nonzero().flatten().repeat_interleave(SETTLE_ROWS)
        if len(known):
            self.sampler.settle(old.draw(known, self.generator), known)
        self.sampler.settle(x, pair)

    @torch.no_grad()
    def _drift(self, ctx: Context) -> Phase:
        """Samples of every pair known by now against its own rows, and whether the solver sees the class asked for."""
        source = seeded(ctx.seed, f"drift {ctx.task_index}")  # measuring leaves the run's own draws alone
        told = {"task": [], "class": [], "mean_shift": [], "variance_ratio": [], "agreement": []}
        for p in self.count.nonzero().flatten().tolist():
            x = self.sampler.draw(torch.full((DRIFT_ROWS,), p, device=self.device), source)
            allowed = ctx.allowed(int(self.tasks[p]))
            with evaluating(ctx.model):
                answer = masked(ctx.model(x.unflatten(1, self.row_shape)), allowed).argmax(dim=1)
            total = x.var(dim=0, correction=0).sum()
            told["task"].append(int(self.tasks[p]))
            told["class"].append(int(self.classes[p]))
            told["mean_shift"].append(float((x.mean(dim=0) - self.mean[p]).abs().mean()))
            told["variance_ratio"].append(float(total / self.variance[p]) if self.variance[p] > 0 else None)
            told["agreement"].append(float((answer == self.classes[p]).double().mean()))
        return Phase("generator drift", told)
