"""Checks of chapter 12, and the false certificates that its exercises break."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pglearn.certify import certify_units
from pglearn.defenses import Sum, WindowMask, rectangles
from pglearn.geometry import all_windows
from pglearn.learn import Wrong, exercise, plain

__all__ = ["erasure_certified", "float_certified", "float_scores", "runner_up_certified"]


def window_sums(maps: Tensor, n: int) -> Tensor:
    """Sums of all n x n windows: (C, H, W) -> (C, P, Q)."""
    return maps.unfold(1, n, 1).unfold(2, n, 1).sum((-2, -1))


def runner_up_certified(image: Tensor, p: int) -> bool:
    """False: asks the second brightest color only. ``image`` (3, H, W), integers of 0 to 255."""
    totals, inside = image.sum((1, 2)), window_sums(image, p)
    first, second = totals.argsort(descending=True, stable=True)[:2]
    out = totals[:, None, None] - inside
    return bool((out[first] > out[second] + 255 * p * p).all())


def erasure_certified(maps: Tensor, label: int, defense: WindowMask, top: int, n: int = 1) -> bool:
    """False at T > 0: as if the worst for the label were to erase its n x n window. ``maps`` (C, H, W)."""
    height, width = maps.shape[1:]
    windows = torch.stack(list(rectangles(all_windows(n, n, height, width), height, width, maps.device)))
    erased = maps.masked_fill(windows[:, None], 0)  # (windows, C, H, W)
    most = erased.sum((2, 3)) + top * n * n  # no score exceeds the filled total
    most[:, label] = -1
    return bool((most.amax(1) < defense.scores(erased)[:, label]).all())


def float_scores(maps: Tensor, n: int) -> Tensor:
    """Robust masking at T = 0 by subtraction, in the type of ``maps`` (C, H, W)."""
    return maps.sum((1, 2)) - window_sums(maps, n).amax((1, 2))


def float_certified(maps: Tensor, n: int) -> bool:
    """False in float32: whether no n x n window lets a class reach class 0."""
    inside = window_sums(maps, n)
    out = maps.sum((1, 2))[:, None, None] - inside
    return not bool((out[1:].amax(0) >= out[0] - inside[0].amax()).any())


def _tensor(found: Any, like: Tensor, call: str) -> Tensor:
    """The answer as a tensor of that shape and type; ``Wrong`` for anything else."""
    if found is None:
        raise Wrong("nothing returned yet")
    if not isinstance(found, Tensor):
        raise Wrong(f"{call}: expected a tensor of shape {tuple(like.shape)}, got {found!r:.40}")
    if found.shape != like.shape or found.dtype != like.dtype:
        expected = f"{tuple(like.shape)} {like.dtype}"
        raise Wrong(f"{call}: expected a tensor {expected}, got {tuple(found.shape)} {found.dtype}")
    return found


def _within(before: Tensor, after: Tensor, n: int, call: str, low: float, high: float) -> None:
    """``Wrong`` unless only one n x n window changed, and all values are allowed."""
    changed = (before != after).flatten(0, -3).any(0).nonzero()
    if len(changed) and int((changed.amax(0) - changed.amin(0)).max()) >= n:
        first, last = changed.amin(0).tolist(), changed.amax(0).tolist()
        raise Wrong(f"{call}: changes run from {first} to {last}, more than one {n} x {n} window")
    if not bool(((after >= low) & (after <= high)).all()):
        raise Wrong(f"{call}: a value is not in {low:g} to {high:g}")


def _is_none(found: Any) -> bool:
    return isinstance(found, (list, tuple)) and len(found) == 0


def _function(answer: Any) -> None:
    if not callable(answer):
        raise Wrong("expected a function")


# ------------------------------------------------------------------------------------------ the third color
@exercise("12.1", stars=2, minutes=15)
def sticker(answer: Callable[[Tensor, int], Any]) -> None:
    _function(answer)
    for image, p in _pictures():
        kept, label = image.clone(), int(image.sum((1, 2)).argmax())
        found = answer(image, p)
        call = f"for {_described('a picture', kept)} and p = {p}"
        if not torch.equal(image, kept):
            raise Wrong(f"{call}: the picture that was given has changed; work on a clone")
        truth = certify_units(
            kept[None], torch.tensor([label]), Sum(), [all_windows(p, p, *kept.shape[1:])], 255
        )
        if _is_none(found):
            if not truth.certified[0]:
                place = tuple(truth.worst[0, :2].tolist())
                raise Wrong(f"{call}: you found no sticker, but one at {place} beats color {label}")
            continue
        attacked = _tensor(found, kept, call)
        _within(kept, attacked, p, call, 0, 255)
        scores = attacked.sum((1, 2)).tolist()
        if max(x for c, x in enumerate(scores) if c != label) < scores[label]:
            raise Wrong(f"{call}: color {label} still leads under your sticker, with totals {scores}")


def _described(what: str, maps: Tensor) -> str:
    """A case as a reader can rebuild it: its size, and its numbers where they are few."""
    size = f"{what} of {maps.shape[1]}x{maps.shape[2]}"
    return f"{size}, {maps.tolist()}," if maps.numel() <= 75 else size


_PICTURE = (
    ((76, 42, 0, 94), (126, 18, 77, 201), (56, 138, 130, 106)),
    ((166, 50, 109, 173), (167, 0, 26, 0), (54, 159, 24, 150)),
    ((102, 8, 221, 200), (149, 121, 140, 151), (15, 238, 115, 48)),
)
"""One sticker wins: not where the label has most, for there the third color has much too."""

_STICKER_SEEDS = (
    1052,
    1144,
    2456,
    2597,
    3757,
    7127,
    10917,
    11955,
    31563,
    38826,
    39363,
    41654,
    42338,
    43565,
    44433,
    47833,
    49171,
    52540,
    53325,
    66810,
    71398,
    76533,
    1008065,
    1020489,
)
"""Small pictures; most fall at one place only, some not where the label has most, two by a tie only."""


def _pictures() -> Iterator[tuple[Tensor, int]]:
    """Pictures that the runner-up proof certifies: some truly certified, some not, the label any color."""
    yield from _large_pictures()
    yield torch.tensor(_PICTURE), 1
    for image, p in map(_small_picture, _STICKER_SEEDS):
        if runner_up_certified(image, p):
            yield image, p


def _small_picture(seed: int) -> tuple[Tensor, int]:
    """3 to 4 pixels a side; each color has a ceiling of its own."""
    numbers = torch.Generator().manual_seed(seed)
    height, width, p = (_pick(numbers, *range_) for range_ in ((3, 5), (3, 5), (1, 3)))
    colors = [torch.randint(0, _pick(numbers, 60, 257), (height, width), generator=numbers) for _ in range(3)]
    return torch.stack(colors), p


def _large_pictures() -> Iterator[tuple[Tensor, int]]:
    """Planted: where the label has most, the runner-up has all it can have, the third color nothing."""
    numbers = torch.Generator().manual_seed(12)
    counts = {True: 0, False: 0}
    while min(counts.values()) < 5:
        height, width, p = (_pick(numbers, *range_) for range_ in ((4, 7), (4, 7), (1, 3)))
        i, j = (_pick(numbers, 0, side - p + 1) for side in (height, width))
        image = torch.randint(0, 30, (3, height, width), generator=numbers)
        image[0] += _pick(numbers, 120, 200)
        image[2] += _pick(numbers, 40, 110)
        image[:2, i : i + p, j : j + p] = 255
        image[2, i : i + p, j : j + p] = 0
        elsewhere = torch.ones(height, width, dtype=torch.bool)
        elsewhere[i : i + p, j : j + p] = False
        behind = int(image[2].sum() - image[1].sum())
        image[1][elsewhere] += max(0, behind // int(elsewhere.sum()) + 1)
        image = image[torch.randperm(3, generator=numbers)].clamp(0, 255)
        if not runner_up_certified(image, p):
            continue
        label, windows = image.sum((1, 2)).argmax()[None], [all_windows(p, p, height, width)]
        holds = bool(certify_units(image[None], label, Sum(), windows, 255).certified[0])
        if counts[holds] < 5:
            counts[holds] += 1
            yield image, p


def _pick(numbers: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to below high."""
    return int(torch.randint(low, high, (1,), generator=numbers))


# ------------------------------------------------------------------------------------------------- praise
@exercise("12.2", stars=2, minutes=20)
def praise(answer: Callable[[Tensor, int, WindowMask, int], Any]) -> None:
    _function(answer)
    for maps, label, defense, top, win in _praised():
        kept = maps.clone()
        found = answer(maps, label, defense, top)
        mask = f"mask {defense.height}x{defense.width}, T = {defense.threshold}"
        call = f"for {_described('maps', kept)} label {label}, {mask}, top = {top}"
        if not torch.equal(maps, kept):
            raise Wrong(f"{call}: the maps that were given have changed; work on a clone")
        if _is_none(found):
            if win is not None:
                cell, content, scores = win
                raise Wrong(
                    f"{call}: you found no attack, but {content} in cell {cell}, one number a class, "
                    f"makes the scores {scores}"
                )
            continue
        attacked = _tensor(found, kept, call)
        _within(kept, attacked, 1, call, 0, top)
        scores = defense.scores(attacked[None])[0].tolist()
        if max(x for c, x in enumerate(scores) if c != label) < scores[label]:
            raise Wrong(f"{call}: class {label} still leads under your attack, with scores {scores}")


_Win = tuple[tuple[int, int], list[int], list[int]]


def _win(maps: Tensor, label: int, defense: WindowMask, top: int) -> _Win | None:
    """The first cell, with content and scores, where a class reaches the label; None where there is none.

    Every content of every cell is tried: classes do not share scores, so each has its own best value.
    """
    classes, height, width = maps.shape
    cells, values = torch.arange(height * width), torch.arange(top + 1)
    tried = maps.flatten(1).repeat(len(cells), top + 1, 1, 1)  # (cells, values, C, H * W)
    tried[cells, :, :, cells] = values[:, None].expand(len(cells), -1, classes)
    scores = defense.scores(tried.view(-1, classes, height, width)).view(len(cells), -1, classes)
    best, at = scores.max(1)
    best[:, label], at[:, label] = scores[:, :, label].min(1)
    wins = ((best >= best[:, [label]]).sum(1) > 1).nonzero()
    if not len(wins):
        return None
    cell = int(wins[0])
    return divmod(cell, width), at[cell].tolist(), best[cell].tolist()


_MAPS = (
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
    ((0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (0, 0, 0, 0, 0), (1, 0, 0, 2, 2)),
    ((2, 2, 1, 1, 1), (0, 0, 2, 0, 1), (0, 2, 2, 0, 0), (1, 2, 1, 2, 2)),
)
"""With label 2, T = 0.59 and top 8, the rival wins with 5 in a cell; with 8 its own mask would fall."""

_PRAISE_SEEDS = (
    20,
    60,
    120,
    200,
    325,
    349,
    368,
    1433,
    3047,
    3241,
    3521,
    3889,
    5153,
    7719,
    9395,
    9442,
    11209,
    12597,
    1000598,
    1001275,
    1008732,
    2003457,
    2007512,
    3000621,
    3008423,
    3008734,
    4006590,
    5006733,
    10016687,
    10048814,
)
"""Small maps; most fall only to a value of the rival's between 0 and top, and at few cells."""


def _praised() -> Iterator[tuple[Tensor, int, WindowMask, int, _Win | None]]:
    """Maps that the erasure proof certifies: some fall to one cell, some do not."""
    fixed = torch.tensor(_MAPS), 2, WindowMask(3, 3, "0.59"), 8
    for case in chain(_planted_praise(), [fixed], map(_small_praise, _PRAISE_SEEDS)):
        if erasure_certified(*case):
            yield *case, _win(*case)


def _small_praise(seed: int) -> tuple[Tensor, int, WindowMask, int]:
    """4 to 5 cells a side; each class has a largest value of its own, the label the largest sum."""
    numbers = torch.Generator().manual_seed(seed)
    height, width, top, share = (_pick(numbers, *range_) for range_ in ((4, 6), (4, 6), (4, 9), (20, 95)))
    classes = [torch.randint(0, _pick(numbers, 1, 5), (height, width), generator=numbers) for _ in range(3)]
    maps = torch.stack(classes)
    return maps, int(maps.sum((1, 2)).argmax()), WindowMask(3, 3, f"{share / 100:.2f}"), top


def _planted_praise() -> Iterator[tuple[Tensor, int, WindowMask, int]]:
    """The label has a heavy window, and T is just above its share: five fall, three do not."""
    numbers = torch.Generator().manual_seed(7)
    counts = {True: 0, False: 0}
    while counts[True] < 5 or counts[False] < 3:
        height, width, top = (_pick(numbers, *range_) for range_ in ((4, 7), (5, 7), (6, 10)))
        maps = torch.randint(0, 3, (3, height, width), generator=numbers)
        i, j = (_pick(numbers, 0, side - 2) for side in (height, width))
        maps[0, i : i + 3, j : j + 3] = torch.randint(2, 6, (3, 3), generator=numbers)
        label = _pick(numbers, 0, 3)
        maps = maps.roll(label, 0)
        share = float(window_sums(maps, 3)[label].max() / maps[label].sum())
        case = maps, label, WindowMask(3, 3, f"{min(0.9, share + 0.05):.2f}"), top
        if not erasure_certified(*case):
            continue
        falls = _win(*case) is not None
        if counts[falls] < (5 if falls else 3):
            counts[falls] += 1
            yield case


# --------------------------------------------------------------------------------------------- lost digits
@exercise("12.3", stars=2, minutes=15)
def forge(answer: Callable[[Tensor, int], Any]) -> None:
    _function(answer)
    generator = torch.Generator().manual_seed(3)
    for classes, height, width, n in ((2, 5, 5, 2), (3, 6, 4, 1), (4, 6, 6, 2), (3, 7, 5, 3)):
        maps = 3 * torch.rand(classes, height, width, generator=generator)
        maps[0] += 20
        kept = maps.clone()
        assert float_certified(maps, n)
        found = answer(maps, n)
        call = f"for maps of {classes}x{height}x{width} and n = {n}"
        if found is None:
            raise Wrong("nothing returned yet")
        if not torch.equal(maps, kept):
            raise Wrong(f"{call}: the maps that were given have changed; work on clones")
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise Wrong(f"{call}: expected a pair (drowned, forged), got {found!r:.40}")
        for name, each in zip(("drowned", "forged"), found, strict=True):
            attacked = _tensor(each, kept, f"{call}, {name}")
            _within(
                kept.nan_to_num(), attacked.nan_to_num(nan=-1.5), n, f"{call}, {name}", -torch.inf, torch.inf
            )
            scores = float_scores(attacked, n)
            if bool((scores[0] > scores[1:]).all()):
                raise Wrong(
                    f"{call}, {name}: class 0 still leads, by {float(scores[0] - scores[1:].max()):.6g}"
                )
            if name == "drowned" and not bool(attacked.isfinite().all()):
                raise Wrong(f"{call}, {name}: a value is not finite; that is for the second one")
            if name == "forged" and not float_certified(attacked, n):
                raise Wrong(f"{call}, {name}: the proof does not certify it; which comparison is never true?")


# --------------------------------------------------------------------------------------- audit a certifier
Certifier = Callable[[Tensor, int, int, int], bool]


@exercise("12.4", stars=3, minutes=25)
def audit(answer: Callable[[Certifier], Any]) -> None:
    _function(answer)
    for name, certifier, sound in _certifiers():
        found = answer(certifier)
        if found is None:
            raise Wrong("nothing returned yet")
        if _is_none(found):
            if not sound:
                raise Wrong(f"you found nothing against the certifier that {name}")
            continue
        if not isinstance(found, (tuple, list)) or len(found) != 5:
            raise Wrong(f"expected (maps, label, n, top, attacked) or [], got {found!r:.40}")
        maps, attacked = found[0], found[4]
        label, n, top = plain(found[1:4])
        if not all(type(x) is int for x in (label, n, top)) or n < 1 or top < 1:
            raise Wrong(
                f"label, n and top are whole numbers, n and top at least 1; got {(label, n, top)!r:.60}"
            )
        if not isinstance(maps, Tensor) or maps.ndim != 3 or maps.dtype != torch.int64 or len(maps) < 2:
            raise Wrong("maps are an int64 tensor (C, H, W) of two classes or more")
        call = f"against the certifier that {name}"
        _within(maps, maps, n, call, 0, top)
        _within(maps, _tensor(attacked, maps, call), n, call, 0, top)
        if not 0 <= label < len(maps):
            raise Wrong(f"{call}: label {label} of {len(maps)} classes")
        if not certifier(maps, label, n, top):
            raise Wrong(f"{call}: it does not certify your image")
        scores = _masked(attacked, n).tolist()
        if max(x for c, x in enumerate(scores) if c != label) < scores[label]:
            raise Wrong(f"{call}: class {label} still leads under your attack, with scores {scores}")


def _masked(maps: Tensor, n: int) -> Tensor:
    """Robust masking at T = 0: scores (C,); a mask larger than the map covers all of it."""
    return WindowMask(min(n, maps.shape[1]), min(n, maps.shape[2])).scores(maps[None])[0]


def _certifiers() -> list[tuple[str, Certifier, bool]]:
    def certifier(
        rows: Callable[[int, int], range] = lambda side, n: range(max(1, side - n + 1)),
        columns: Callable[[int, int], range] = lambda side, n: range(max(1, side - n + 1)),
        tie: bool = False,
        shift: int = 0,
        margin: int = 0,
    ) -> Certifier:
        def run(maps: Tensor, label: int, n: int, top: int) -> bool:
            for i in rows(maps.shape[1], n + shift):
                for j in columns(maps.shape[2], n + shift):
                    empty, full = maps.clone(), maps.clone()
                    empty[:, i : i + n, j : j + n], full[:, i : i + n, j : j + n] = 0, top
                    least, most = _masked(empty, n)[label] - margin, _masked(full, n)
                    most[label] = -1
                    if most.max() > least or (most.max() == least and not tie):
                        return False
            return True

        return run

    def places(side: int, n: int) -> range:
        return range(side - n + 1)

    return [
        ("is right", certifier(), True),
        ("loops over the windows that fit", certifier(places, places), False),
        ("cuts the window to the map and lets ties pass", certifier(tie=True), False),
        (
            "looks at every other window",
            certifier(columns=lambda side, n: range(0, max(1, side - n + 1), 2)),
            False,
        ),
        ("forgets the last row", certifier(lambda side, n: range(max(1, side - n))), False),
        ("is right, and careful", certifier(margin=2), True),
    ]


# ------------------------------------------------------------------------------------- enlarged afterwards
@exercise("12.5", stars=2, minutes=15)
def spill(answer: Callable[[Callable[[Tensor], Tensor], Tensor, int], Any]) -> None:
    _function(answer)
    for side, scale, p, field in ((16, 4, 3, 8), (16, 6, 5, 8), (12, 6, 2, 4), (20, 3, 4, 4)):
        network = _network(side * scale, field)
        mask = WindowMask(nominal := -(-(p * scale + field - 1) // field), nominal)

        def scores(images: Tensor, network: Any = network, mask: WindowMask = mask) -> Tensor:
            return mask.scores(network(images))

        image = torch.full((1, 1, side, side), 0.5, dtype=torch.float64)
        units = network(image)
        windows = [all_windows(nominal, nominal, *units.shape[2:])]
        assert certify_units(units, torch.tensor([0]), mask, windows, 10**6).certified[0]
        call = f"for {side} pixels enlarged {scale} times and p = {p}"
        kept = image.clone()
        attacked = _tensor(answer(scores, image, p), kept, call)
        if not torch.equal(image, kept):
            raise Wrong(f"{call}: the picture that was given has changed; work on a clone")
        _within(kept, attacked, p, call, 0, 1)
        label, rival = scores(attacked)[0].tolist()
        if rival < label:
            raise Wrong(f"{call}: class 0 still leads under your patch, {label} to {rival}")


def _network(size: int, field: int) -> Callable[[Tensor], Tensor]:
    """Images (N, 1, S, S), enlarged to ``size`` -> units (N, 2, cells, cells): 1 everywhere for class 0; for
    class 1 a thousand times the contrast of each field.
    """

    def units(images: Tensor) -> Tensor:
        big = F.interpolate(images.double(), size=(size, size), mode="bicubic", align_corners=False)
        contrast = F.max_pool2d(big, field) + F.max_pool2d(-big, field)
        return torch.cat([torch.ones_like(contrast), 1000 * contrast], 1).round().long()

    return units


# ---------------------------------------------------------------------------------------- evidence of what
_SHOWN = (
    ("P", "a sound certificate and a winning attack cannot both exist, and here the defense itself decided"),
    ("A", "whoever owns every pixel can show another picture: an attack that fails even there is broken"),
    ("N", "it falls in evidence; whether pixels can write that evidence, a failed attack does not say"),
    ("N", "a relaxation only steers; the defense as it is was not beaten"),
    ("A", "a stronger attack exists, so what the gradient left standing was no evidence of robustness"),
    ("N", "no patch could have won, so their failing tells nothing about attack or proof"),
)


@exercise("12.6", stars=1, minutes=8)
def evidence_of_what(answer: str) -> None:
    if not isinstance(answer, str) or len(answer) != 6 or set(answer) - set("PAN"):
        raise Wrong(f"the answer is a string of six letters, each P, A or N; got {answer!r:.40}")
    for at, (given, (right, why)) in enumerate(zip(answer, _SHOWN, strict=True), 1):
        if given != right:
            raise Wrong(f"outcome {at} is not {given}: {why}")
