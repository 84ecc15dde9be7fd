"""A network of timm's, cut into stages that can be run and frozen one after the other."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# timm's groups of layers are united to at most so many stages, as our own large networks have.
MAX_STAGES = 5
# A last stage with less than this share of the weights is joined to the one before it.
SMALLEST_LAST = 0.005
# Of what comes before the first unit, when there is such a part.
_BEFORE_ALL = -1


def split_into_stages(net: Any, x: Tensor, expected: Tensor) -> list[nn.Module] | None:
    """Return stages that give exactly what the network gives, or None where it cannot be cut.

    A network's units are the parts that it calls one after the other. Where each takes what the
    one before gave, they can be run on their own. What comes before the first of them (patches,
    tokens, positions) is a copy of the network with the units taken out; the pooling is a copy of
    which only ``forward_head`` is used. Units are put together to stages by the network's own
    ``group_matcher``.

    Args:
        net: a network of timm's without a classifier, in evaluation mode; its parts become those
            of the stages.
        x: (1, 3, S, S), a probe.
        expected: what the network makes of it.
    """
    try:
        with torch.no_grad():
            units, has_prefix = _chain(net, x)
            if not units:
                return None
            head, in_head = _pooling(net, units[-1].made)
            groups = _groups(net, [unit.path for unit in units])
            parts: list[nn.Module] = [unit.module for unit in units]
            if has_prefix:
                parts.insert(0, _prefix(net, units, in_head))
                groups.insert(0, _BEFORE_ALL)
            stages = _unite(parts, groups)
            stages[-1] = nn.Sequential(*stages[-1].children(), head)
            found = nn.Sequential(*stages).eval()(x)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError):
        return None  # it is built in another way than most
    is_whole = _num_weights(stages) == _num_weights([net])
    return stages if is_whole and torch.equal(found, expected) else None


@dataclass(frozen=True)
class _Unit:
    """A part of a network, what it was given while the probe went through, and what it made."""

    path: str
    module: nn.Module
    given: Tensor
    made: Tensor


class _Prefix(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, S, S) to what the first unit takes."""
        result: Tensor = self.net.forward_features(x)
        return result


class _Pooling(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map the maps or tokens of the last unit to (N, num_features), as the network does."""
        result: Tensor = self.net.forward_head(x)
        return result


def _chain(net: Any, x: Tensor) -> tuple[list[_Unit], bool]:
    """Return the units at the end of the network that form a chain, and whether any part precedes.

    Each takes one tensor, and that is what the unit before it made.
    """
    called: list[_Unit] = []

    def note(path: str, module: nn.Module, given: Any, extra: Any, made: Any) -> None:
        # Some are called with settings; those that are None are no tensors of another part.
        alone = all(value is None for value in extra.values())
        if len(given) == 1 and alone and all(isinstance(t, Tensor) for t in (*given, made)):
            called.append(_Unit(path, module, given[0], made))

    with _hooks() as hooks:
        for path, module in _candidates(net, ""):
            hook = lambda m, given, extra, made, p=path: note(p, m, given, extra, made)  # noqa: E731
            hooks.append(module.register_forward_hook(hook, with_kwargs=True))
        features = net.forward_features(x)
    paths = [unit.path for unit in called]
    chain: list[_Unit] = []
    wanted = features
    for unit in reversed(called):
        if unit.made is not wanted or paths.count(unit.path) > 1:
            break
        chain.insert(0, unit)
        wanted = unit.given
    return chain, wanted is not x


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    """Yield a list of hooks, which are removed at the end."""
    hooks: list[Any] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()


def _candidates(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children of a module by path; of plain sequences and lists, theirs."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        is_sequence = type(child).forward is nn.Sequential.forward and len(list(child.children()))
        if is_sequence or isinstance(child, nn.ModuleList):
            yield from _candidates(child, inner)
        else:
            yield inner, child


def _pooling(net: Any, features: Tensor) -> tuple[nn.Module, set[str]]:
    """Return what follows the last unit, and the names of the network's children it uses."""
    used: set[str] = set()
    with _hooks() as hooks:
        for name, child in net.named_children():
            for part in child.modules():
                hook = lambda *_, n=name: used.add(n)  # noqa: E731
                hooks.append(part.register_forward_hook(hook))
        net.forward_head(features)
    head = copy.deepcopy(net)
    for name, _ in list(head.named_children()):
        if name not in used:
            setattr(head, name, nn.Identity())
    for name, _ in [*head.named_parameters(recurse=False), *head.named_buffers(recurse=False)]:
        setattr(head, name, None)
    return _Pooling(head), used


def _prefix(net: Any, units: Sequence[_Unit], in_head: set[str]) -> nn.Module:
    """Return what comes before the first unit: the network without its units and its pooling."""
    rest = copy.deepcopy(net)
    for unit in units:
        parent, _, name = unit.path.rpartition(".")
        setattr(rest.get_submodule(parent), name, nn.Identity())
    for name in in_head:
        setattr(rest, name, nn.Identity())
    return _Prefix(rest)


def _groups(net: Any, paths: Sequence[str]) -> list[int]:
    """Return the group of each unit by the network's matcher, never below that of one before."""
    from timm.models import group_parameters

    try:
        matcher = net.group_matcher(coarse=True)
    except AssertionError:  # some name only their single layers, such as rdnet
        matcher = net.group_matcher(coarse=False)
    of_weight = group_parameters(net, matcher, reverse=True)
    groups: list[int] = []
    for path in paths:
        own = [group for name, group in of_weight.items() if name.startswith(f"{path}.")]
        groups.append(max([*own[:1], *groups[-1:]], default=0))
    return groups


def _unite(parts: Sequence[nn.Module], groups: Sequence[int]) -> list[nn.Module]:
    """Put parts of one group into one stage; with many groups, all but the first evenly."""
    distinct = sorted(set(groups))
    stage_of = {group: index for index, group in enumerate(distinct)}
    if len(distinct) > MAX_STAGES:
        later = len(distinct) - 1
        for index, group in enumerate(distinct[1:]):
            stage_of[group] = 1 + index * (MAX_STAGES - 1) // later
    stages: list[list[nn.Module]] = [[] for _ in range(max(stage_of.values()) + 1)]
    for part, group in zip(parts, groups, strict=True):
        stages[stage_of[group]].append(part)
    # A last group that is one normalisation is nothing to freeze on its own.
    if len(stages) > 1 and _num_weights(stages[-1]) < SMALLEST_LAST * _num_weights(parts):
        last = stages.pop()
        stages[-1] += last
    return [nn.Sequential(*stage) for stage in stages]


def _num_weights(modules: Sequence[nn.Module]) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())
