"""Balanced k-means: clusters of equal size, as near to their centres as swapping rows can bring them.

The centre of a small cluster is drawn to each of its own rows, so assigning rows to the nearest centre moves almost
nothing once it has begun. Here the centres never appear. With equal sizes the inertia is a constant less
`Σ |S_c|² / n_c`, where `S_c` is the sum of a cluster's rows, and what a swap of two rows does to that is known exactly
from their products with each other and with the two sums: all of it from the Gram matrix. So clusters are

1. *grown*, all at once: from random rows, each takes in the row that its sum points to most, one row a turn;
2. *paired off* in tournaments: in each round every cluster meets another one, and the two swap rows as long as that
   helps; then all pairs are looked at, and those that could still gain meet again. A round is a few matrix operations
   over its pairs at once. It ends when no swap of two rows helps.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError

__all__ = ["balanced_kmeans", "inertia"]

TOURNAMENTS = 50  # a limit that no data has met: five to ten are usual
CHUNK = 1 << 20  # numbers that are looked at at once
GAIN = 1e-6  # the smallest gain of a swap, in mean squared row lengths: above rounding


@torch.inference_mode()
def balanced_kmeans(rows: Float[Tensor, "rows width"], clusters: int = 256, seed: int = 0) -> Int64[Tensor, " rows"]:
    """Clusters of equal size with a small inertia (Liu et al. 2024, §3, "Expert Construction").

    Runs where `rows` are, in float32 at least, and holds the Gram matrix: `rows²` numbers. No swap of two rows
    between two clusters makes the result better, nor, where sizes differ, moving a row to a smaller cluster.

    Args:
        rows: the points.
        clusters: how many, E.
        seed: of the rows that the clusters grow from. The same seed gives the same labels.

    Returns:
        The cluster of each row, from 0. Sizes are equal, or differ by one where E does not divide the rows.

    Raises:
        NeuroglotError: there are more clusters than rows, or a row is not finite.
    """
    count = rows.shape[0]
    if not 1 <= clusters <= count:
        raise NeuroglotError(f"{count} rows cannot fill {clusters} clusters; ask for 1 to {count}.")
    if not bool(torch.isfinite(rows).all()):
        raise NeuroglotError("The rows to cluster have values that are not numbers (NaN or infinite).")
    points = rows.to(torch.promote_types(rows.dtype, torch.float32))
    points = points - points.mean(0)  # which moves no distance, and leaves the products small
    gram = points @ points.T
    members = _grow(gram, clusters, seed)
    order = members[members < count]  # cluster by cluster, so that what is read together lies together
    place = torch.full((count + 1,), count, device=rows.device)
    place[order] = torch.arange(count, device=rows.device)
    members = _improve(gram[order][:, order], place[members])
    labels = torch.empty(count + 1, dtype=torch.int64, device=rows.device)
    labels[members.T] = torch.arange(clusters, device=rows.device)
    return labels[place[:count]]


def inertia(rows: Float[Tensor, "rows width"], labels: Int64[Tensor, " rows"]) -> float:
    """The sum of squared distances of the rows from the centres of their clusters."""
    rows = rows.to(torch.float64)
    sums = torch.zeros(int(labels.max()) + 1, rows.shape[1], dtype=rows.dtype, device=rows.device)
    centres = sums.index_add_(0, labels, rows) / labels.bincount().clamp_min(1)[:, None]
    return float((rows - centres[labels]).square().sum())


def _grow(gram: Tensor, clusters: int, seed: int) -> Int64[Tensor, "clusters slots"]:
    """Grow all clusters from random rows, one row a turn. A slot that stays empty holds the number of rows."""
    count = gram.shape[0]
    members = torch.full((clusters, -(-count // clusters)), count, dtype=torch.int64, device=gram.device)
    first = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:clusters]
    members[:, 0] = first.to(gram.device)
    scores = gram[members[:, 0]]  # products of the clusters' sums with every row
    scores[:, members[:, 0]] = -torch.inf
    for slot in range(1, members.shape[1]):
        cluster, row = _match(scores.clone())
        members[cluster, slot] = row
        scores[cluster] += gram[row]
        scores[:, row] = -torch.inf
    return members


def _match(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Give each cluster a row of its own, best scores first, until either runs out. Writes over `scores`."""
    wanted = min(scores.shape[0], int((scores[0] > -torch.inf).sum()))
    clusters: list[Tensor] = []
    rows: list[Tensor] = []
    while wanted:
        row = scores.argmax(1)
        cluster = scores.argmax(0)[row]
        own = torch.arange(len(row), device=row.device)
        chosen = ((cluster == own) & (scores[own, row] > -torch.inf)).nonzero().flatten()  # each is the other's best
        if not len(chosen):  # ties, broken in different ways by rows and by columns
            chosen = scores.amax(1).argmax()[None]
        clusters.append(chosen)
        rows.append(row[chosen])
        scores[chosen] = -torch.inf
        scores[:, row[chosen]] = -torch.inf
        wanted -= len(chosen)
    if not rows:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    return torch.cat(clusters), torch.cat(rows)


def _improve(gram: Tensor, members: Tensor) -> Tensor:
    """Let clusters meet, tournament after tournament, until no two of them have a swap that helps."""
    clusters, slots = members.shape
    least = GAIN * float(gram.diagonal().mean())
    gram = torch.nn.functional.pad(gram, (0, 1, 0, 1))  # an empty slot is a row of zeros
    seats = torch.arange(clusters + clusters % 2, device=gram.device)  # of an odd number, one sits out
    half = len(seats) // 2
    promising = torch.zeros(len(seats), len(seats), dtype=torch.bool, device=gram.device)
    promising[:clusters, :clusters] = True
    for _ in range(TOURNAMENTS):
        reach = torch.stack([gram[rows].sum(0) for rows in members])  # products of the clusters' sums with rows
        changed = torch.zeros(clusters, dtype=torch.bool, device=gram.device)
        for _ in range(len(seats) - 1):
            pairs = torch.stack([seats[:half], seats.flip(0)[:half]], 1)
            pairs = pairs[promising[pairs[:, 0], pairs[:, 1]]]
            while len(pairs):
                at, gains = _best_swap(gram, reach, members, pairs)
                pairs, at = pairs[gains > least], at[gains > least]
                rows = members[pairs, at]
                members[pairs, at] = rows.flip(1)
                reach[pairs] += gram[rows.flip(1)] - gram[rows]
                changed[pairs] = True
            seats = torch.cat([seats[:1], seats[-1:], seats[1:-1]])
        promising[:] = False
        news = (changed[:, None] | changed).triu(1).nonzero()
        for pairs in news.split(max(1, CHUNK // slots**2)):
            helps = _best_swap(gram, reach, members, pairs)[1] > least
            promising[pairs[:, 0], pairs[:, 1]] = promising[pairs[:, 1], pairs[:, 0]] = helps
        if not bool(promising.any()):
            break
    return members


def _best_swap(
    gram: Float[Tensor, "rows rows"],
    reach: Float[Tensor, "clusters rows"],
    members: Int64[Tensor, "clusters slots"],
    pairs: Int64[Tensor, "pairs 2"],
) -> tuple[Int64[Tensor, "pairs 2"], Float[Tensor, " pairs"]]:
    """The best slots to swap for each pair of clusters, and by how much that lowers the inertia."""
    rows = members[pairs]
    slots, empty = rows.shape[2], gram.shape[0] - 1
    one, other = rows[:, 0, :, None], rows[:, 1, None, :]
    lengths = gram.diagonal()
    apart = lengths[one] + lengths[other] - 2 * gram[one, other]  # squared distances, (pairs, slots, slots)
    products = reach[pairs[:, :, None, None], rows[:, None]]  # (pairs, sum, cluster, slot)
    square = products.diagonal(dim1=1, dim2=2).sum(1)  # |S|² of the two sums
    won = products[:, :, 1, None, :] - products[:, :, 0, :, None]  # what a swap does to the products of the two sums
    full = (rows != empty).to(gram.dtype)
    size = full.sum(2)
    moved = full[:, 1, None, :] - full[:, 0, :, None]  # by how many rows the first cluster grows
    gain = torch.zeros_like(apart)
    allowed = moved.abs() <= 1
    for side, sign in ((0, 1), (1, -1)):
        before = size[:, side, None, None]
        after = before + sign * moved
        gain += (square[:, side, None, None] + 2 * sign * won[:, side] + apart) / after.clamp_min(1)
        gain -= (square[:, side] / size[:, side])[:, None, None]
        allowed &= after >= max(1, slots - 1)
    best, at = torch.where(allowed, gain, -torch.inf).flatten(1).max(1)
    return torch.stack([at // slots, at % slots], 1), best
