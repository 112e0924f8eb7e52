"""Checks of chapter 8."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pglearn.certify import certify_units
from pglearn.defenses import WindowMask
from pglearn.geometry import all_windows
from pglearn.learn import Wrong, called, compare, exercise, plain

__all__: list[str] = []

Bounds = tuple[list[int], list[list[int]]]  # the label's least at each window, the others' most


def _most_reaching(least: list[int], reach: list[list[int]]) -> int:
    return max(sum(most >= keeps for most in mosts) for keeps, mosts in zip(least, reach, strict=True))


@exercise("8.1", stars=1, minutes=10)
def worst_rank(answer: Callable[[list[int], list[list[int]]], int]) -> None:
    rng = random.Random(1)
    cases: list[Bounds] = [
        ([10], [[9, 3, 1]]),
        ([10], [[10, 3, 1]]),
        ([10, 10], [[11, 3, 1], [3, 11, 1]]),
        ([10, 5], [[9, 9, 9], [4, 6, 1]]),
        ([0], [[0, 0, 0]]),
    ]
    for _ in range(200):
        count = rng.randint(1, 4)
        reach = [[rng.randint(0, 9) for _ in range(4)] for _ in range(count)]
        cases.append(([rng.randint(3, 12) for _ in range(count)], reach))
    compare(answer, lambda least, reach: 1 + _most_reaching(least, reach), cases)


@exercise("8.2", stars=2, minutes=15)
def pull_apart(answer: list[Bounds]) -> None:
    shape = "two tables (least, reach): two integers, and two lists of three integers, all from 0 to 9"
    if not isinstance(answer, (list, tuple)) or len(answer) != 2:
        raise Wrong(f"expected {shape}")
    rules = []
    for name, entry in zip(("first", "second"), answer, strict=True):
        if not isinstance(entry, (list, tuple)) or len(entry) != 2:
            raise Wrong(f"the {name} table is not a pair; expected {shape}")
        least, reach = entry
        rows = [least, *reach] if isinstance(reach, (list, tuple)) else []
        if [len(row) if isinstance(row, (list, tuple)) else 0 for row in rows] != [2, 3, 3]:
            raise Wrong(f"the {name} table has another shape; expected {shape}")
        if not all(type(x) is int and 0 <= x <= 9 for row in rows for x in row):
            raise Wrong(f"the {name} table holds something else; expected {shape}")
        reaching = [{c for c in range(3) if reach[w][c] >= least[w]} for w in range(2)]
        largest = sum(max(reach[0][c], reach[1][c]) >= min(least) for c in range(3))
        rules.append((max(map(len, reaching)) < 2, len(reaching[0] | reaching[1]) < 2, largest < 2))
    if not rules[0][0]:
        raise Wrong("in the first table two rivals reach in the same window: nothing may certify it")
    if rules[0][1]:
        raise Wrong("the first table is certified across windows too; two rivals must reach somewhere")
    if not rules[1][1]:
        raise Wrong("in the second table two rivals reach in some window or other; across windows refuses it")
    if rules[1][2]:
        raise Wrong("the second table is certified by the largest over windows too")


@exercise("8.3", stars=2, minutes=20)
def flood(answer: Callable[..., Any]) -> None:
    if not callable(answer):
        raise Wrong("expected a function")
    for maps, label, n, k, top in _floods():
        call = called(answer, (maps, label, n, k, top))
        found = plain(answer([list(row) for row in maps], label, n, k, top))
        if found is None:
            raise Wrong("nothing returned yet")
        windows = [all_windows(1, n, 1, len(maps[0]))]
        units = torch.tensor(maps)[None, :, None]
        sure = certify_units(units, torch.tensor([label]), WindowMask(1, n), windows, top, k)
        place = None if sure.certified else int(sure.worst[0, 1])
        _judge_flood(found, maps, label, n, k, top, call, place)


def _floods() -> Iterator[tuple[list[list[int]], int, int, int, int]]:
    rng = random.Random(3)
    yield [[2, 2, 2, 2], [2, 2, 0, 0]], 0, 1, 1, 2  # only a tie
    yield [[3, 4, 7, 7, 4, 8], [0, 0, 6, 0, 5, 0], [0, 0, 4, 0, 5, 0]], 0, 2, 1, 9  # only over the end
    for _ in range(80):
        n, label, top = rng.randint(1, 2), rng.randrange(4), rng.choice((3, 9))
        maps = [[rng.choice((0, rng.randint(0, top))) for _ in range(6)] for _ in range(4)]
        maps[label] = [rng.randint(top // 2, top) for _ in range(6)]
        for k in (1, 2, 3):
            yield maps, label, n, k, top


def _judge_flood(
    found: Any, maps: list[list[int]], label: int, n: int, k: int, top: int, call: str, place: int | None
) -> None:
    if not isinstance(found, (list, tuple)) or len(found) not in (0, len(maps)):
        raise Wrong(f"{call}: expected {len(maps)} strips or [], got {found!r:.60}")
    if not found:
        if place is not None:
            cells = f"cell {place}" if n == 1 else f"cells {place} to {place + n - 1}"
            raise Wrong(f"{call}: you found no attack, but there is one that changes {cells} only")
        return
    changed = set()
    for c, (before, after) in enumerate(zip(maps, found, strict=True)):
        if not isinstance(after, (list, tuple)) or len(after) != len(before):
            raise Wrong(f"{call}: class {c} should have {len(before)} cells, got {after!r:.60}")
        if not all(type(x) is int and 0 <= x <= top for x in after):
            raise Wrong(f"{call}: values are integers from 0 to {top}, class {c} has {list(after)}")
        changed |= {i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y}
    if changed and max(changed) - min(changed) >= n:
        raise Wrong(f"{call}: cells {sorted(changed)} changed, more than one window of {n}")
    scores = WindowMask(1, n).scores(torch.tensor([list(row) for row in found])[None, :, None])[0].tolist()
    reaching = sum(score >= scores[label] for score in scores) - 1
    if reaching < k:
        raise Wrong(f"{call}: the scores are {scores}, so only {reaching} others reach class {label}")


@exercise("8.4", stars=2, minutes=15)
def broken_short_list(answer: tuple[int, list[list[int]]]) -> None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise Wrong("the answer is a pair: the number of a step, and four strips of six integers")
    step, strips = answer
    good = isinstance(strips, (tuple, list)) and len(strips) == 4
    if not good or not all(isinstance(row, (tuple, list)) and len(row) == 6 for row in strips):
        raise Wrong(f"expected four strips of six integers, the label's first; got {strips!r:.60}")
    if not all(type(x) is int and 0 <= x <= 9 for row in strips for x in row):
        raise Wrong("the strips hold integers from 0 to 9")
    if type(step) is not int or not 1 <= step <= 5:
        raise Wrong(f"the steps are numbered 1 to 5; you name {step!r:.20}")
    units = torch.tensor([list(row) for row in strips])[None, :, None]
    mask, place = WindowMask(1, 2), all_windows(1, 2, 1, 6)
    honest = mask.scores(units)[0].tolist()
    listed = sorted((1, 2, 3), key=lambda c: -honest[c])[:2]
    in_list = []
    for a in place.columns:
        inside = torch.zeros(1, 6, dtype=torch.bool)
        inside[:, a : a + 2] = True
        low, high = mask.bounds(units, 9, inside)
        in_list.append(sum(bool(high[0, c] >= low[0, 0]) for c in listed))
    if max(in_list) >= 2:
        raise Wrong(
            f"both listed rivals, strips {listed[0]} and {listed[1]}, reach in the same window: the claim "
            "does not certify these strips, so they cannot break it"
        )
    if certify_units(units, torch.tensor([0]), mask, [place], 9, 2).certified:
        raise Wrong("the claim certifies your strips, and rightly: at no window do two rivals reach")
    if step != 3:
        raise Wrong(f"your strips break the claim, but not in step {step}: go through the steps with them")


@exercise("8.5", stars=3, minutes=25)
def certified_sharing(answer: Callable[[list[int], list[list[int]], int, int, int], bool]) -> None:
    def reference(least: list[int], outside: list[list[int]], cells: int, per_cell: int, k: int) -> bool:
        """Every way to vote, cell by cell."""
        if not least:
            return False
        for keeps, votes in zip(least, outside, strict=True):
            ballots = [b for b in itertools.product((0, 1), repeat=len(votes)) if sum(b) <= per_cell]
            reached = {tuple(votes)}
            for _ in range(cells):
                reached = {tuple(map(sum, zip(r, b, strict=True))) for r in reached for b in ballots}
            if any(sum(x >= keeps for x in r) >= k for r in reached):
                return False
        return True

    rng = random.Random(5)
    cases: list[tuple[list[int], list[list[int]], int, int, int]] = [
        ([5], [[3, 3, 0]], 2, 1, 1),
        ([5], [[3, 3, 0]], 2, 1, 2),
        ([5], [[3, 3, 0]], 2, 2, 2),
        ([5], [[3, 3, 3]], 2, 2, 3),
        ([5], [[2, 9, 0]], 2, 2, 2),
        ([5, 5], [[3, 0, 0], [0, 3, 0]], 2, 1, 2),
        ([4], [[2, 3, 9]], 3, 1, 3),
        ([5], [[9, 3, 3]], 2, 1, 3),
        ([5], [[9, 3, 4]], 2, 1, 3),
        ([], [], 2, 1, 1),
    ]
    for votes in sorted(set(itertools.permutations([1, 3, 3]))):  # the order of the rivals does not matter
        cases.append(([5], [list(votes)], 4, 1, 2))
    for votes in sorted(set(itertools.permutations([2, 3, 4, 4]))):
        cases.append(([5], [list(votes)], 3, 1, 2))
    for i in range(190):
        count, cells = rng.randint(1, 2), rng.randint(1, 3)
        outside = [[rng.randint(0, 5) for _ in range(3 if i < 160 else 4 + i % 2)] for _ in range(count)]
        least = [rng.randint(2, 7) for _ in range(count)]
        cases.append((least, outside, cells, rng.randint(1, 3), rng.randint(1, 3)))
    compare(answer, reference, cases)
