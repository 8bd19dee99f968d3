"""What an augmentation takes of what is left: within a budget, oldest sources first or most wanted values first.

Bucket by bucket, in columns. What cannot come into the selection any more is dropped on the way, so that memory holds
a few buckets and what the budget lets through.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline.augment_spec import Budget
from pipeline.backlog import Backlog, Left
from pipeline.balance import Balance, Value, Values
from pipeline.estimate import Workload
from pipeline.storage import in_threads

_BUCKETS_AT_ONCE = 8
_SLACK_KEYS = 1 << 16
"""That a group may hold beyond twice what fits, before it is cut again."""


@dataclass(frozen=True)
class Limit:
    """What is left of a budget; None: no limit. gpu_hours: what work takes, asked for only where hours are limited."""

    images: int | None = None
    edits: int | None = None
    hours: float | None = None
    gpu_hours: Callable[[Workload], float] = lambda work: 0.0

    @classmethod
    def of(cls, budget: Budget, spent: Workload, hours: float, gpu_hours: Callable[[Workload], float]) -> "Limit":
        """A budget without what is spent of it."""
        return cls(
            None if budget.images is None else budget.images - spent.images,
            None if budget.edits is None else budget.edits - spent.edits,
            None if budget.gpu_hours is None else budget.gpu_hours - hours,
            gpu_hours,
        )

    def fits(self, work: Workload) -> bool:
        """Whether this much may be taken; nothing always may, and more never fits where less does not."""
        if not work.edits:
            return True
        counts = ((self.images, work.images), (self.edits, work.edits))
        if any(limit is not None and count > limit for limit, count in counts):
            return False
        return self.hours is None or (self.hours > 0 and self.gpu_hours(work) <= self.hours)


@dataclass(frozen=True)
class Selection:
    """What is taken: images (rows of the listing) and edits, and of these what costs work.

    new_images, new_edits: what was left before, this included.
    """

    new_images: int = 0
    new_edits: int = 0
    images: int = 0
    edits: int = 0
    work: Workload = field(default_factory=Workload)
    keys: Mapping[str, np.ndarray] | None = field(default=None, repr=False, compare=False)
    """bucket -> places in what its rows ask, in order; None: all that is left."""


def select_all(backlog: Backlog) -> Selection:
    """All that is left."""

    def count(bucket: str) -> tuple[int, int, Workload]:
        left = backlog.left(bucket)
        mask = np.zeros(len(left.asked.row), bool)
        mask[left.key] = True
        return len(np.unique(left.row)), len(left.key), left.asked.workload(mask)

    counts = in_threads(count, backlog.buckets)
    images, edits = sum(its for its, _, _ in counts), sum(its for _, its, _ in counts)
    return Selection(images, edits, images, edits, sum((work for _, _, work in counts), Workload()))


def select(backlog: Backlog, limit: Limit, balance: Balance, counts: Mapping[Value, int]) -> Selection:
    """What fits of what is left; counts: how often each value is there before.

    Rows with a problem are all taken. Others come by turns of the groups that bring equal values: see `balance`. A
    group whose next edit does not fit has no more turns.
    """
    images = edits = 0
    groups: _Groups = {}
    kept: Counter[Values | None] = Counter()
    latest: dict[Values | None, float] = {}
    for start in range(0, len(backlog.buckets), _BUCKETS_AT_ONCE):
        names = backlog.buckets[start : start + _BUCKETS_AT_ONCE]
        for its_images, its_edits, parts in in_threads(partial(_grouped, backlog, balance, latest), names):
            images += its_images
            edits += its_edits
            for name, keys in parts.items():
                group = groups[name] + keys if name in groups else keys
                if name is not None and len(group) > 2 * kept[name] + _SLACK_KEYS:
                    before, group = len(group), group.oldest(limit)
                    kept[name] = len(group)
                    if len(group) < before:
                        latest[name] = group.modified.max(initial=-np.inf)
                groups[name] = group
    free = groups.pop(None, None)
    fitting = {name: keys.oldest(limit) for name, keys in groups.items() if name is not None}
    taken = _by_turns(fitting, limit, balance, counts)
    work = taken.work() if taken is not None else Workload()
    both = [keys for keys in (free, taken) if keys is not None and len(keys)]
    if not both:
        return Selection(images, edits, keys={})
    chosen = both[0] if len(both) == 1 else both[0] + both[1]
    return Selection(images, edits, len(np.unique(chosen.place)), len(chosen), work, chosen.by_bucket())


@dataclass(frozen=True)
class _Keys:
    """(image, edit)s of one group, as columns of one length.

    modified: float64, seconds; bucket, key: int32, key being a place in what the bucket's rows ask; place: int64, one
    for each image; pairs: int64 (N, width), one for each target of an image, -1 where an edit has fewer.
    """

    modified: np.ndarray
    bucket: np.ndarray
    key: np.ndarray
    place: np.ndarray
    pairs: np.ndarray

    def __len__(self) -> int:
        return len(self.key)

    def where(self, chosen: np.ndarray | slice) -> "_Keys":
        return _Keys(*(column[chosen] for column in (self.modified, self.bucket, self.key, self.place, self.pairs)))

    def __add__(self, other: "_Keys") -> "_Keys":
        width = max(self.pairs.shape[1], other.pairs.shape[1])
        pairs = [
            np.pad(its.pairs, ((0, 0), (0, width - its.pairs.shape[1])), constant_values=-1) for its in (self, other)
        ]
        names = ("modified", "bucket", "key", "place")
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return _Keys(**columns, pairs=np.concatenate(pairs))

    def work(self) -> Workload:
        return Workload(len(np.unique(self.place)), len(np.unique(self.pairs[self.pairs >= 0])), len(self))

    def oldest(self, limit: Limit) -> "_Keys":
        """As many as fit, oldest source first, then by sample id and in the order of its edits."""
        ordered = self.where(np.lexsort((self.key, self.bucket, self.modified)))
        images, targets = _new_ones(ordered.place[:, None]), _new_ones(ordered.pairs)
        low, high = 0, len(self)
        while low < high:
            middle = (low + high + 1) // 2
            fits = limit.fits(Workload(int(images[middle - 1]), int(targets[middle - 1]), middle))
            low, high = (middle, high) if fits else (low, middle - 1)
        return ordered.where(slice(low))

    def by_bucket(self) -> dict[str, np.ndarray]:
        ordered = self.where(np.lexsort((self.key, self.bucket)))
        buckets, starts = np.unique(ordered.bucket, return_index=True)
        parts = np.split(ordered.key, starts[1:])
        return {f"{bucket:02x}": keys for bucket, keys in zip(buckets.tolist(), parts, strict=True)}


def _new_ones(values: np.ndarray) -> np.ndarray:
    """How many different values >= 0 the rows of (N, width) hold up to each."""
    flat = values.ravel()
    first = np.zeros(len(flat), bool)
    first[np.unique(flat, return_index=True)[1]] = True
    first &= flat >= 0
    return np.cumsum(first.reshape(values.shape).sum(1))


_Groups = dict[Values | None, _Keys]
"""By the values that edits bring; None: of rows with a problem, which become failure rows and cost no work."""


def _grouped(
    backlog: Backlog, balance: Balance, latest: Mapping[Values | None, float], bucket: str
) -> tuple[int, int, _Groups]:
    """How many images of a bucket have edits left, how many these are, and these in groups, without those that come
    after the `latest` of their group that fits."""
    left = backlog.left(bucket)
    if not len(left.key):
        return 0, 0, {}
    numbers: dict[Values, int] = {}
    values = np.array([numbers.setdefault(balance.values_of(edit), len(numbers)) for edit in left.asked.edits])
    ends = np.array([latest.get(name, np.inf) for name in numbers])[values]
    near = Left(left.asked, left.key[left.broken | (left.modified <= ends[left.edit])])
    group, keys = np.where(near.broken, -1, values[near.edit]), _keys(near, int(bucket, 16))
    parts: _Groups = {name: keys.where(group == number) for name, number in numbers.items()}
    parts[None] = keys.where(group == -1)
    groups = {name: part for name, part in parts.items() if len(part)}
    return len(np.unique(left.row)), len(left.key), groups


def _keys(left: Left, bucket: int) -> _Keys:
    # 8 bits of the bucket, 24 of a row in it, 31 of a target among the bucket's.
    place = bucket << 24 | left.row
    targets = left.asked.targets[left.edit]
    pairs = np.where(targets >= 0, targets << 32 | place[:, None], -1)
    bucket_of_each = np.full(len(left.key), bucket, np.int32)
    return _Keys(left.modified, bucket_of_each, left.key.astype(np.int32), place, pairs)


def _by_turns(
    groups: Mapping[Values, _Keys], limit: Limit, balance: Balance, counts: Mapping[Value, int]
) -> _Keys | None:
    """The groups' first ones, as many of each as come before it no more fits."""
    if len(groups) <= 1:
        return next(iter(groups.values()), None)
    there, turns = Counter(dict(counts)), Counter[Values]()
    images, pairs = set[int](), set[int]()
    places = {name: keys.place.tolist() for name, keys in groups.items()}
    targets = {name: keys.pairs.tolist() for name, keys in groups.items()}
    going = sorted(groups)
    while going:
        name = min(going, key=lambda name: balance.urgency(name, there))
        turn = turns[name]
        if turn < len(groups[name]):
            more_images, more_pairs = {places[name][turn]} - images, {*targets[name][turn]} - pairs - {-1}
            work = Workload(len(images) + len(more_images), len(pairs) + len(more_pairs), turns.total() + 1)
            if limit.fits(work):
                images |= more_images
                pairs |= more_pairs
                turns[name] += 1
                there.update(name)
                continue
        going.remove(name)
    first, *others = (keys.where(slice(turns[name])) for name, keys in groups.items())
    for keys in others:
        first = first + keys
    return first
