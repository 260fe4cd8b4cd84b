"""The loss looks at a teacher too: knowledge distillation (Hinton, Vinyals and Dean, 2015), with features as hints.

The teacher is no module of the recipe: every rank reads it from its file, nothing moves it and no checkpoint holds it.
The student is run once a step: what it answers inside the family's own loss is looked at there. With
`training.compile: off` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.models.recipe import Loss, Objective, Recipe
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.changes import RecipeChange

Pairs = Sequence[tuple[str, str]]
"""Names of modules, the student's and the teacher's."""
LEAST = 0.1
"""A row of numbers is as large as this share of its batch, at least: what is nearly nothing may not count endlessly."""


class Distilled(RecipeChange):
    """Each loss that asks the served network about a batch becomes (1 - share) of itself + share of the teacher's."""

    name = "distilled"

    class Params(BaseParams):
        """`plan` and `weights` are the teacher's; `features` pairs of module names, the student's and the teacher's."""

        plan: dict[str, Any] = Field(description="the teacher's NetworkPlan as plain data")
        weights: str = Field(description="its safetensors file, where every worker finds it")
        temperature: float = Field(gt=0, le=100, description="that softens the logits of both")
        share: float = Field(ge=0, le=1, description="of the teacher in the loss")
        features: Literal["auto"] | tuple[tuple[str, str], ...] = Field(
            default="auto",
            description="modules whose outputs are compared too; auto: the last before the output, where alike",
        )

    params: Params

    def apply(self, recipe: Recipe, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """See RecipeChange. Raises ValueError where teacher and student can't be compared."""
        given = self.params
        with torch.random.fork_rng(devices=[]):  # the student's own draws are those that it has without a teacher
            teacher = NetworkPlan.read(given.plan).load(task, Path(given.weights)).requires_grad_(False)
        pairs = feature_pairs(recipe.network, teacher, task, given.features)
        compare = partial(soft_targets, temperature=given.temperature) if task.signature().labels else regression
        distilling = _Distilling(teacher, compare, pairs, given.share, recipe.served)
        phases = tuple(
            replace(phase, objectives=tuple(
                distilling.around(objective, last=phase is recipe.phases[-1]) for objective in phase.objectives
            ))
            for phase in recipe.phases
        )  # fmt: skip
        return replace(recipe, phases=phases)


def soft_targets(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits [N, K] of both -> T^2 times KL(teacher || student) of their softmax at T, mean over rows, in nats.

    Hinton et al. (2015), section 2: with T^2 gradients are as large as those of the hard targets, whatever T. Their
    cross entropy is this and the teacher's entropy, which no weight of the student moves.
    """
    mine, theirs = (functional.log_softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def regression(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Outputs [N, ...] of both -> mean squared difference in the teacher's own unit, a number without one.

    A row's unit is the geometric mean of its teacher's root mean square and that of the batch, half way between rows
    that count alike and units that do.
    """
    mine, theirs = student.float().flatten(1), teacher.float().flatten(1)
    batch = theirs.square().mean().sqrt().clamp_min(1e-12)
    rows = theirs.square().mean(dim=1, keepdim=True).sqrt().clamp_min(LEAST * batch)
    return ((mine - theirs).square() / (rows * batch)).mean()


def feature_pairs(
    student: torch.nn.Module, teacher: torch.nn.Module, task: Task, asked: Literal["auto"] | Pairs = "auto"
) -> tuple[tuple[str, str], ...]:
    """The modules whose outputs are compared. Raises ValueError where they, or the networks, give other shapes.

    `auto`: what both have learned to make their outputs of, the last answer of a module that has not the shape of the
    output, if it has the same shape in both; a narrower student has none.
    """
    mine, theirs = _answers(student, task), _answers(teacher, task)
    for one, other in (("", ""), *(asked if asked != "auto" else ())):
        _require_alike(mine, theirs, one, other)
    if asked != "auto":
        return tuple(asked)
    before = [[name for name, answer in each.items() if answer.shape != each[""].shape] for each in (mine, theirs)]
    if not all(before):
        return ()
    one, other = (names[-1] for names in before)
    alike = mine[one].shape == theirs[other].shape and mine[one].requires_grad
    return ((one, other),) if alike else ()


def _require_alike(mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], one: str, other: str) -> None:
    for who, name, known in (("student", one, mine), ("teacher", other, theirs)):
        if name not in known:
            raise ValueError(
                f"found no module {name!r} of the {who} that gives a tensor; expected one of "
                f"{', '.join(filter(None, known))}; mend features"
            )
    first, second = (list(found.shape[1:]) for found in (mine[one], theirs[other]))
    if first != second:
        where, mend = (f" of {one!r} and {other!r}", "name others in features") if one else ("", "take another teacher")
        raise ValueError(f"found outputs{where} of {first} (student) and {second}; expected the same shape; {mend}")


def _answers(network: torch.nn.Module, task: Task) -> dict[str, torch.Tensor]:
    """What each module gives for two rows of zeros, by name, in the order in which they end; "" is the network."""
    (given,) = task.signature().inputs
    shape = (2, *(2 if size == -1 else size for size in given.shape))
    batch = torch.zeros(shape, dtype=getattr(torch, given.dtype))
    training, names = network.training, [name for name, _ in network.named_modules() if name]
    network.eval()
    with watching(network, names, batch) as seen:
        network(batch)
    network.train(training)
    assert seen.output is not None
    return {**seen.features, "": seen.output}


@dataclass
class Seen:
    """What a network gave for a batch, and what modules inside it did, by name."""

    output: torch.Tensor | None = None
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    inside: bool = False


@contextmanager
def watching(network: torch.nn.Module, names: Sequence[str], batch: torch.Tensor) -> Iterator[Seen]:
    """Look at a network's calls with just this batch, the last one of which counts; no hook is left behind."""
    seen = Seen()

    def enter(_: Any, given: Any) -> None:
        seen.inside = bool(given) and given[0] is batch

    def leave(_: Any, __: Any, answer: Any) -> None:
        if seen.inside:
            seen.output, seen.inside = answer, False

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, __: Any, answer: Any) -> None:
            if seen.inside and isinstance(answer, torch.Tensor):
                seen.features.pop(name, None)
                seen.features[name] = answer

        return hook

    handles = [network.register_forward_pre_hook(enter)]
    handles += [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    handles.append(network.register_forward_hook(leave))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Distilling:
    """A teacher in eval mode, and how a student is compared with it."""

    teacher: torch.nn.Module
    compare: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    pairs: Pairs
    share: float
    served: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def around(self, objective: Objective, last: bool) -> Objective:
        """The objective with the teacher in its loss, if it moves what is served."""
        if self.served not in objective.modules:
            return objective
        return replace(objective, loss=partial(self._loss, objective.loss, objective.name if last else None))

    def _loss(
        self, own: Loss, needed: str | None, modules: Mapping[str, torch.nn.Module], inputs: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """`needed` is the name of an objective of the last phase: it must ask the network."""
        with watching(modules[self.served], [name for name, _ in self.pairs], inputs) as student:
            loss = own(modules, inputs, targets)
        if student.output is None:
            if needed is not None:
                raise ValueError(
                    f"found that the loss {needed} never gives a whole batch to the network; expected a family whose "
                    "last phase does; distil another family"
                )
            return loss
        teacher = self._asked(inputs)
        assert teacher.output is not None
        found = self.compare(student.output, teacher.output)
        for mine, theirs in self.pairs:
            found = found + functional.mse_loss(student.features[mine].float(), teacher.features[theirs].float())
        return (1 - self.share) * loss + self.share * found

    def _asked(self, inputs: torch.Tensor) -> Seen:
        if self.device != inputs.device:
            self.teacher.to(inputs.device)
            self.device = inputs.device
        with torch.no_grad(), watching(self.teacher, [name for _, name in self.pairs], inputs) as seen:
            self.teacher(inputs)
        return seen
