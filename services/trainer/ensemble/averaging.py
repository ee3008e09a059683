"""The average of what shards have learnt, weighted by their sizes. r rank, K shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import digits
from typing import Final

import torch
from torch import Tensor

from shared.diffusion.checkpoints import State

LEARNT: Final = ("modules", "average")  # the parts of a run's state that are averaged; optimiser, rates and streams stay a shard's own
FLATTEST: Final = 0.1  # of the largest: what a direction of A has at least, so that its B stays of its size


def average_states(states: Iterable[tuple[State, int]], *, factored: bool) -> State:
    """The weights, and their running averages, of runs whose shards have these sizes; equal ones come out bit for bit.

    `factored`: the parameters are pairs A_i, B_i of low-rank updates B_i A_i, and it is the updates that are averaged, for the product
    of averages is not the average of products.
    """
    learnt = (({name: x for name, x in state.tensors.items() if name.split("/")[0] in LEARNT}, size) for state, size in states)
    return State(_averaged_pairs(list(learnt)) if factored else _averaged(learnt))


def with_average(own: State, averaged: State) -> State:
    """A run's own state with the averaged weights in the place of its own."""
    return State(own.tensors | averaged.tensors, own.facts)


def _averaged(states: Iterable[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    """A running mean, x ← x + (n/Σn)(x_k − x): one state at a time, and nothing moves where all are equal."""
    mean: dict[str, Tensor] = {}
    total = 0
    for tensors, size in states:
        total += size
        for name, x in tensors.items():
            if name not in mean:
                mean[name] = x.clone()
            elif x.is_floating_point():
                mean[name] += (x - mean[name]) * (size / total)
            elif not torch.equal(x, mean[name]):
                raise ValueError(f"{name} is counted in whole numbers and differs between shards; it has no average")
    return mean


def _averaged_pairs(states: Sequence[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    """Each pair's update averaged; numbers 2i and 2i + 1 of a list of parameters are a pair A (r×in), B (out×r), and all are small."""
    sizes = [size for _, size in states]
    mean: dict[str, Tensor] = {}
    for name in states[0][0]:
        stem = name.rstrip(digits)
        number = int(name.removeprefix(stem))
        if number % 2 == 0:
            other = f"{stem}{number + 1}"
            mean[name], mean[other] = average_update([(tensors[name], tensors[other]) for tensors, _ in states], sizes)
    return mean


def average_update(pairs: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A (r×in) and B (out×r) whose product is the nearest of rank r to Σ_k w_k B_k A_k; pairs that are equal come out bit for bit.

    Of all such factors those are taken whose A is nearest to the mean of the A_k: shards begin a round from the same factors, and so
    moments of the optimiser, and averages that follow A and B each by itself, still mean what they meant.
    """
    first_A, first_B = pairs[0]
    if all(torch.equal(A, first_A) and torch.equal(B, first_B) for A, B in pairs[1:]):
        return first_A.clone(), first_B.clone()
    rank, weights = len(first_A), [size / sum(sizes) for size in sizes]
    A_Kr = torch.cat([A.double() for A, _ in pairs])
    B_Kr = torch.cat([w * B.double() for w, (_, B) in zip(weights, pairs, strict=True)], dim=1)
    # Σ w B A = (Q_B R_B)(Q_A R_A)ᵀ, whose singular values are those of the small R_B R_Aᵀ.
    Q_A, R_A = torch.linalg.qr(A_Kr.T)
    Q_B, R_B = torch.linalg.qr(B_Kr)
    U, S, Vt = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    U, S, V = Q_B @ U[:, :rank], S[:rank], Q_A @ Vt[:rank].T
    mean_A = torch.stack([w * A.double() for w, (A, _) in zip(weights, pairs, strict=True)]).sum(0)
    P, D, Rt = torch.linalg.svd(mean_A @ V, full_matrices=False)  # A = (P D Rᵀ) Vᵀ is the mean's part in the rows of the update
    D = D.clamp(min=FLATTEST * float(D[0]))
    return ((P * D) @ Rt @ V.T).to(first_A), (((U * S) @ Rt.T / D) @ P.T).to(first_B)
