"""Balanced k-means: clusters of equal size, by assignment problems that are solved exactly.

The centre of a small cluster is drawn to each of its own rows, so assigning rows to the nearest centre moves almost
nothing once it has begun. Here the centres never appear. With equal sizes the inertia is a constant less
`Σ |S_c|² / n_c`, where `S_c` is the sum of a cluster's rows, and that is known from the Gram matrix. Clusters are

1. *grown*, all at once: from random rows, each takes in one row a turn, the rows given out by an assignment problem;
2. *reassigned*: one row is taken out of every cluster, and what each of them would add to each cluster does not depend
   on where the others go. So the best of all ways to put them back is an assignment problem again, solved exactly;
3. *swapped*: pairs of clusters exchange two rows, as many disjoint pairs at once as there are, until no swap helps.
   A bound finds the few swaps that could help; only those are looked at.

The rows are rounded to whole numbers that are small enough for their products to be exact in float64, in any order of
summation. So the labels do not depend on the number of threads, nor on the device. Work is done in few operations over
(clusters × rows), by one thread: many short ones on several threads wait for whatever else the cores are doing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import takes_numbers

__all__ = ["balanced_kmeans", "inertia"]

SWEEPS = 8  # of reassignment. More lower the inertia of real weights by less than 0.1 %
SHARE = 3  # one slot in so many is reassigned in a sweep: the rows that another cluster wants most
GROUP = 512  # clusters in one assignment problem, whose work grows with their cube
ROUNDS = 1000  # of swaps, a limit that no data has met: under a hundred are usual
GAIN = 1e-6  # the smallest gain of a change, in mean squared row lengths
CHUNK = 1 << 20  # numbers that are looked at at once
BITS = 29  # of a product of two rows; a sum or a difference of two fits into int32


@torch.inference_mode()
@takes_numbers
def balanced_kmeans(
    rows: Float[Tensor, "rows width"] | Float[np.ndarray, "rows width"], clusters: int = 256, seed: int = 0
) -> Int64[Tensor, " rows"]:
    """Clusters of equal size with a small inertia (Liu et al. 2024, §3, "Expert Construction").

    The partition with the least inertia is not known (the problem is NP-hard): growing the clusters is a heuristic,
    and what follows a local search. What is exact: a change is made only where it lowers the inertia, by more than a
    millionth of a row's mean squared length. At the end no swap of two rows between two clusters lowers it by that
    much, nor, where sizes differ, moving a row to a smaller cluster.

    The work is bounded: with `n` rows a cluster, `n` assignment problems to grow, at most `8 ⌈n / 3⌉` to reassign, and
    1,000 rounds of swaps, each of `clusters × rows` numbers and of the pairs of rows that a bound lets through, never
    more than all. If the last round still finds a swap, which no data has done, the search ends there, with clusters
    of equal size.

    Runs where `rows` are, on the CPU where their device has no float64, and holds the Gram matrix: `rows²` numbers of
    four bytes.

    Args:
        rows: the points.
        clusters: how many, E.
        seed: of the rows that the clusters grow from. The same rows and seed give the same labels, on any number of
            threads and on any device.

    Returns:
        The cluster of each row, from 0. Sizes are equal, or differ by one where E does not divide the rows.

    Raises:
        NeuroglotError: there are more clusters than rows, a row is not finite, or there are no rows of numbers.
    """
    rows = torch.as_tensor(rows)
    if rows.ndim != 2:
        raise NeuroglotError(f"Rows to cluster are (rows, width), not of shape {tuple(rows.shape)}.")
    count = rows.shape[0]
    if not 1 <= clusters <= count:
        raise NeuroglotError(f"{count} rows cannot fill {clusters} clusters; ask for 1 to {count}.")
    if not bool(torch.isfinite(rows).all()):
        raise NeuroglotError("The rows to cluster have values that are not numbers (NaN or infinite).")
    points = rows.cpu() if rows.device.type == "mps" else rows
    gram = _gram(points)
    with _one_thread():
        state = _grow(gram, clusters, torch.Generator().manual_seed(seed))
        _reassign(state)
        _swap(state)
    labels = torch.empty(count + 1, dtype=torch.int64, device=points.device)
    labels[state.members.T] = torch.arange(clusters, device=points.device)
    return labels[:count].to(rows.device)


def inertia(rows: Float[Tensor, "rows width"], labels: Int64[Tensor, " rows"]) -> float:
    """The sum of squared distances of the rows from the centres of their clusters."""
    rows = rows.to(torch.float64)
    sums = torch.zeros(int(labels.max()) + 1, rows.shape[1], dtype=rows.dtype, device=rows.device)
    centres = sums.index_add_(0, labels, rows) / labels.bincount().clamp_min(1)[:, None]
    return float((rows - centres[labels]).square().sum())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the operations of this block on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _whole(rows: Float[Tensor, "rows width"], bits: int) -> Float[Tensor, "rows width"]:
    """The rows in whole numbers of so many bits."""
    largest = rows.abs().amax()
    return (rows * (2.0**bits / torch.where(largest > 0, largest, 1.0))).round()


def _gram(rows: Float[Tensor, "rows width"]) -> Int32[Tensor, "spots spots"]:
    """Products of the rows with each other, the longest with itself 2²⁹; the last row and column are an empty slot.

    Every sum is of whole numbers below 2⁵³, so float64 adds them without rounding.
    """
    count, width = rows.shape
    bits = (53 - max(1, width - 1).bit_length()) // 2
    points = rows.to(torch.float64)
    middle = _whole(points, 52 - count.bit_length()).sum(0) / count
    largest = points.abs().amax()
    middle = middle * (torch.where(largest > 0, largest, 1.0) / 2.0 ** (52 - count.bit_length()))
    points = _whole(points - middle, bits)  # taking the mean away moves no distance, and leaves the products small
    longest = points.square().sum(1).amax()
    scale = 2.0**BITS / torch.where(longest > 0, longest, 1.0)
    gram = torch.zeros(count + 1, count + 1, dtype=torch.int32, device=rows.device)
    step = max(256, -(-count // 8))
    for start in range(0, count, step):
        stop = min(start + step, count)
        products = ((points[start:stop] @ points[start:].T) * scale).round().to(torch.int32)
        gram[start:stop, start:count] = products
        gram[start:count, start:stop] = products.T
    return gram


@dataclass
class _Clusters:
    """Clusters under way.

    Attributes:
        gram: products of the rows; the last row is an empty slot.
        members: the rows of each cluster.
        reach: products of the clusters' sums with the rows.
        least: the smallest gain that counts.
    """

    gram: Int32[Tensor, "spots spots"]
    members: Int64[Tensor, "clusters slots"]
    reach: Int64[Tensor, "clusters spots"]
    least: float

    @property
    def empty(self) -> int:
        return self.gram.shape[0] - 1

    def sizes(self) -> Float[Tensor, " clusters"]:
        return (self.members != self.empty).sum(1).to(torch.float64)

    def squares(self) -> Float[Tensor, " clusters"]:
        """|S|² of the clusters' sums."""
        return self.reach.gather(1, self.members).sum(1).to(torch.float64)

    def put(self, clusters: Tensor, slots: Tensor, rows: Tensor) -> None:
        """Put a row into one slot of each of some clusters."""
        before = self.members[clusters, slots]
        self.members[clusters, slots] = rows
        self.reach[clusters] += self.gram[rows] - self.gram[before]


def _assign(gains: Float[Tensor, "clusters rows"]) -> tuple[Tensor, Tensor]:
    """Clusters and the row of each, with the largest sum of gains of all ways to give each a row of its own."""
    from scipy.optimize import linear_sum_assignment

    clusters, rows = linear_sum_assignment(gains.cpu().numpy(), maximize=True)
    return torch.from_numpy(clusters).to(gains.device), torch.from_numpy(rows).to(gains.device)


def _grow(gram: Tensor, clusters: int, generator: torch.Generator) -> _Clusters:
    """Grow all clusters from random rows, one row a turn."""
    count = gram.shape[0] - 1
    slots = -(-count // clusters)
    least = GAIN * float(gram.diagonal().sum(dtype=torch.int64)) / count
    order = torch.randperm(count, generator=generator).to(gram.device)
    members = torch.full((clusters, slots), count, device=gram.device)
    members[:, 0] = order[:clusters]
    state = _Clusters(gram, members, gram[members[:, 0]].to(torch.int64), least)
    rest = order[clusters:]
    for slot in range(1, slots):
        for some in torch.arange(clusters, device=gram.device).split(GROUP):
            chosen, at = _assign(state.reach[some[:, None], rest].to(torch.float64))
            state.put(some[chosen], torch.full_like(chosen, slot), rest[at])
            left = torch.ones(len(rest), dtype=torch.bool, device=gram.device)
            left[at] = False
            rest = rest[left]
    return state


def _reassign(state: _Clusters) -> None:
    """Take a row out of every cluster and put them all back in the best way, those first that others want most."""
    clusters, slots = state.members.shape
    device = state.members.device
    if clusters == 1 or slots == 1:
        return
    for sweep in range(SWEEPS):
        changed = False
        wanted = _wanted(state).sort(dim=1, descending=True, stable=True).indices
        mixed = torch.randperm(clusters, generator=torch.Generator().manual_seed(sweep)).to(device)
        for place in range(-(-slots // SHARE)):
            for some in mixed.split(GROUP):
                slot = wanted[some, place]
                gains = _gains(state, some, slot)
                own, at = _assign(gains)
                moved = own != at
                if float(gains[own, at].sum()) > state.least:
                    rows = state.members[some, slot][at]
                    state.put(some[moved], slot[moved], rows[moved])
                    changed = True
        if not changed:
            break


def _wanted(state: _Clusters) -> Float[Tensor, "clusters slots"]:
    """How much more the mean of another cluster is like each row than that of its own cluster without it."""
    sizes = state.sizes()[:, None]
    means = state.reach / sizes
    own = means.gather(1, state.members)
    means.scatter_(1, state.members, -torch.inf)
    return means.amax(0)[state.members] - own + state.gram.diagonal()[state.members] / sizes


def _gains(state: _Clusters, clusters: Tensor, slots: Tensor) -> Float[Tensor, "clusters clusters"]:
    """What each cluster gains by each of the rows in these slots, in place of its own: exact, whatever others do."""
    rows = state.members[clusters, slots]
    lengths = state.gram.diagonal()[rows].to(torch.float64)
    held = state.reach[clusters[:, None], rows]
    products = (held - state.gram[rows[:, None], rows]).to(torch.float64)  # of the sums without their row
    square = state.squares()[clusters] - 2 * held.diagonal().to(torch.float64) + lengths
    full = (rows != state.empty).to(torch.float64)
    rest = state.sizes()[clusters] - full
    sums = square[:, None] + 2 * products + lengths
    values = sums / (rest[:, None] + full).clamp_min(1)
    gains = values - values.diagonal()[:, None]
    short = rest < state.members.shape[1] - 1  # has an empty slot already
    gains[short[:, None] & (full == 0)] = -torch.inf
    return gains


def _swap(state: _Clusters) -> None:
    """Swap rows between pairs of clusters, many pairs a round, until no swap helps."""
    if state.members.shape[0] == 1:
        return
    lowest = state.gram[:-1, :-1].amin(1).to(torch.float64)
    for _ in range(ROUNDS):
        gains, pairs, slots = _helpful(state, lowest)
        used: set[int] = set()
        chosen = []
        meeting = pairs.tolist()
        for index in gains.sort(descending=True, stable=True).indices.tolist():
            if used.isdisjoint(meeting[index]):
                used.update(meeting[index])
                chosen.append(index)
        if not chosen:
            break
        picked = torch.tensor(chosen)
        pairs, slots = (each[picked].to(state.members.device) for each in (pairs, slots))
        rows = state.members[pairs, slots].flip(1)
        state.put(pairs.flatten(), slots.flatten(), rows.flatten())


def _helpful(
    state: _Clusters, lowest: Float[Tensor, " rows"]
) -> tuple[Float[Tensor, " swaps"], Int64[Tensor, "swaps 2"], Int64[Tensor, "swaps 2"]]:
    """For each row and other cluster with a swap that helps, the best: its gain, the clusters and their slots.

    The gain is what the two rows gain by moving, less their product, which is at least the row's `lowest`.
    """
    clusters, slots = state.members.shape
    device = state.members.device
    labels = torch.empty(state.empty + 1, dtype=torch.int64, device=device)
    labels[state.members.T] = torch.arange(clusters, device=device)
    seats = torch.empty_like(labels)
    seats[state.members] = torch.arange(slots, device=device)
    labels, seats = labels[:-1], seats[:-1]
    share = 1 / state.sizes()
    lengths = state.gram.diagonal()[:-1].to(torch.float64)
    towards = state.reach[:, :-1] * (2 * share)[:, None]
    alone = lengths * share[labels] - towards.gather(0, labels[None])[0]
    moving = torch.full((clusters, state.empty + 1), -torch.inf, dtype=torch.float64, device=device)
    moving[:, :-1] = towards + share[:, None] * lengths + alone
    moving[:, :-1].scatter_(0, labels[None], -torch.inf)
    # what a cluster's rows (second) gain at most in moving to another cluster (first)
    best = moving.index_select(1, state.members.flatten()).unflatten(1, state.members.shape).amax(2)
    bound = best.T.contiguous().index_select(1, labels)
    bound += moving[:, :-1]
    bound += (-2 * lowest).clamp_min(0) * share.max() - 2 * lowest * share[labels]
    # each pair of clusters once
    bound.masked_fill_(labels <= torch.arange(clusters, device=device)[:, None], -torch.inf)
    other, row = (bound > state.least).nonzero(as_tuple=True)
    found = []
    for target, one in zip(other.split(CHUNK // slots + 1), row.split(CHUNK // slots + 1), strict=True):
        own, theirs = labels[one], state.members[target]
        apart = 2 * (share[own] + share[target])[:, None] * state.gram[one[:, None], theirs]
        gains, at = (moving[target, one][:, None] + moving[own[:, None], theirs] - apart).max(1)
        helps = gains > state.least
        found.append(torch.stack([gains, own, target, seats[one], at], 1)[helps].cpu())
    if state.empty % clusters:
        found.append(_moves(state, labels, seats).cpu())
    swaps = torch.cat(found) if found else torch.empty(0, 5, dtype=torch.float64)
    whole = swaps[:, 1:].to(torch.int64)
    return swaps[:, 0], whole[:, :2], whole[:, 2:]


def _moves(state: _Clusters, labels: Int64[Tensor, " rows"], seats: Int64[Tensor, " rows"]) -> Float[Tensor, "moves 5"]:
    """Moves of a row into a cluster with an empty slot that help: gain, the clusters and their slots."""
    sizes, squares = state.sizes(), state.squares()
    reach = state.reach[:, :-1].to(torch.float64)
    lengths = state.gram.diagonal()[:-1].to(torch.float64)
    joined = (squares[:, None] + 2 * reach + lengths) / (sizes + 1)[:, None] - (squares / sizes)[:, None]
    held = reach.gather(0, labels[None])[0]
    rest = sizes[labels] - 1
    gains = joined + (squares[labels] - 2 * held + lengths) / rest.clamp_min(1) - squares[labels] / sizes[labels]
    room: Bool[Tensor, " clusters"] = sizes < state.members.shape[1]
    gains[~room] = -torch.inf
    gains[:, room[labels]] = -torch.inf
    target, row = (gains > state.least).nonzero(as_tuple=True)
    slot = (state.members == state.empty).to(torch.int64).argmax(1)[target]
    return torch.stack([gains[target, row], labels[row], target, seats[row], slot], 1)
