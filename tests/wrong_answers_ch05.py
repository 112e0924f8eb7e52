"""Plausible wrong answers to the exercises of chapter 5."""

from fractions import Fraction
from math import ceil, floor


def _outside(row, a, n):
    return [0 if a <= i < a + n else x for i, x in enumerate(row)]


def _parts(row, a, n):
    outside = _outside(row, a, n)
    return sum(outside), [sum(outside[i : i + n]) for i in range(len(row) - n + 1)]


def all_masks(row, a, n, T, top):
    out, parts = _parts(row, a, n)
    return out - max(parts)


def without_the_clip(row, a, n, T, top):
    out, parts = _parts(row, a, n)
    if max(parts) <= Fraction(T) * out:
        parts = [part for i, part in enumerate(parts) if abs(i - a) < n]
    return out - max(parts)


def without_lures(row, a, n, T, top):
    out, parts = _parts(row, a, n)
    return out - max(parts) if max(parts) > Fraction(T) * out else out


def bait_not_in_the_total(row, a, n, T, top):
    out, parts = _parts(row, a, n)
    baits = [top * max(0, n - abs(i - a)) for i in range(len(parts))]
    return out - max(
        [p for p, bait in zip(parts, baits, strict=True) if p + bait > Fraction(T) * out], default=0
    )


def bait_in_one_cell(row, a, n, T, top):
    out, parts = _parts(row, a, n)
    baits = [top * (abs(i - a) < n) for i in range(len(parts))]
    falls = [p for p, bait in zip(parts, baits, strict=True) if p + bait > Fraction(T) * (out + bait)]
    return out - max(falls, default=0)


def a_tie_falls(row, a, n, T, top):
    out, parts = _parts(row, a, n)
    baits = [top * max(0, n - abs(i - a)) for i in range(len(parts))]
    falls = [p for p, bait in zip(parts, baits, strict=True) if p + bait >= Fraction(T) * (out + bait)]
    return out - max(falls, default=0)


def exact(row, a, n, T, top, share=Fraction):
    out, parts = _parts(row, a, n)
    baits = [top * max(0, n - abs(i - a)) for i in range(len(parts))]
    falls = [p for p, bait in zip(parts, baits, strict=True) if p + bait > share(T) * (out + bait)]
    return out - max(falls, default=0)


def _score(row, n, T):
    heaviest = max(sum(row[i : i + n]) for i in range(len(row) - n + 1))
    return sum(row) - heaviest if heaviest > Fraction(T) * sum(row) else sum(row)


def _contents(row, a, n, top):
    patches = [[]]
    for _ in range(n):
        patches = [[*patch, x] for patch in patches for x in range(top + 1)]
    return [row[:a] + patch + row[a + n :] for patch in patches]


def _best(true, wrong, a, n, T, top):
    low = min(_contents(true, a, n, top), key=lambda row: _score(row, n, T))
    high = max(_contents(wrong, a, n, top), key=lambda row: _score(row, n, T))
    return low, high


def fillings(true, wrong, a, n, T, top):
    low, high = _outside(true, a, n), [top if a <= i < a + n else x for i, x in enumerate(wrong)]
    return (low, high) if _score(high, n, T) >= _score(low, n, T) else []


def loses_ties(true, wrong, a, n, T, top):
    low, high = _best(true, wrong, a, n, T, top)
    return (low, high) if _score(high, n, T) > _score(low, n, T) else []


def always_a_pair(true, wrong, a, n, T, top):
    return _best(true, wrong, a, n, T, top)


def search(true, wrong, a, n, T, top, erase=False):
    """With the fault that its arguments name; a float T is compared as a float."""

    def score(row):
        heaviest = max(sum(row[i : i + n]) for i in range(len(row) - n + 1))
        share = T if isinstance(T, float) else Fraction(T)
        return sum(row) - heaviest if heaviest > share * sum(row) else sum(row)

    low = _outside(true, a, n) if erase else min(_contents(true, a, n, top), key=score)
    high = max(_contents(wrong, a, n, top), key=score)
    return (low, high) if score(high) >= score(low) else []


def next_window(true, wrong, a, n, T, top):
    a = (a + 1) % (len(true) - n + 1)
    low, high = _best(true, wrong, a, n, T, top)
    return (low, high) if _score(high, n, T) >= _score(low, n, T) else []


WRONG = {
    "5.1": {
        "floats": lambda out, cells, T, top: min(floor(out / (1 - float(T))), out + top * cells),
        "forgets the clip": lambda out, cells, T, top: floor(out / (1 - Fraction(T))),
        "forgets the share": lambda out, cells, T, top: out,
        "rounds up": lambda out, cells, T, top: min(ceil(out / (1 - Fraction(T))), out + top * cells),
        "one plus T": lambda out, cells, T, top: min(floor(out * (1 + Fraction(T))), out + top * cells),
        "one cell at the top": lambda out, cells, T, top: min(floor(out / (1 - Fraction(T))), out + top),
        "a fraction": lambda out, cells, T, top: min(out / (1 - Fraction(T)), out + top * cells),
        "true division": lambda out, cells, T, top: float(
            min(floor(out / (1 - Fraction(T))), out + top * cells)
        ),
    },
    "5.2": {
        "the total stays": lambda held, out, T: max(0, floor(Fraction(T) * out - held) + 1),
        "a tie is enough": lambda held, out, T: max(0, ceil((Fraction(T) * out - held) / (1 - Fraction(T)))),
        "negative": lambda held, out, T: floor((Fraction(T) * out - held) / (1 - Fraction(T))) + 1,
        "floats": lambda held, out, T: max(0, floor((float(T) * out - held) / (1 - float(T))) + 1),
        "rounds": lambda held, out, T: max(0, round((Fraction(T) * out - held) / (1 - Fraction(T))) + 1),
    },
    "5.3": {
        "every mask": all_masks,
        "without the clip": without_the_clip,
        "without lures": without_lures,
        "bait not in the total": bait_not_in_the_total,
        "bait in one cell": bait_in_one_cell,
        "a tie falls": a_tie_falls,
        "floats": lambda *given: exact(*given, float),
        "the top of the first strip": lambda row, a, n, T, top: exact(row, a, n, T, 6),
        "the largest value is the top": lambda row, a, n, T, top: exact(row, a, n, T, max(row) or 1),
        "erased or filled": lambda row, a, n, T, top: min(
            _score(row[:a] + [x] * n + row[a + n :], n, T) for x in (0, top)
        ),
    },
    "5.4": {
        "a tie does not reach": lambda least, reach, k: (
            bool(least) and max(sum(m > x for m in r) for x, r in zip(least, reach, strict=True)) < k
        ),
        "k rivals are allowed": lambda least, reach, k: (
            bool(least) and max(sum(m >= x for m in r) for x, r in zip(least, reach, strict=True)) <= k
        ),
        "all windows together": lambda least, reach, k: (
            bool(least)
            and len({c for x, r in zip(least, reach, strict=True) for c, m in enumerate(r) if m >= x}) < k
        ),
        "the smallest bound of all": lambda least, reach, k: (
            bool(least) and max(sum(m >= min(least) for m in r) for r in reach) < k
        ),
        "vacuous": lambda least, reach, k: all(
            sum(m >= x for m in r) < k for x, r in zip(least, reach, strict=True)
        ),
        "one good window": lambda least, reach, k: any(
            sum(m >= x for m in r) < k for x, r in zip(least, reach, strict=True)
        ),
        "top-1 always": lambda least, reach, k: (
            bool(least) and all(max(r) < x for x, r in zip(least, reach, strict=True))
        ),
    },
    "5.5": {
        "the conclusion": (4, [9, 0, 0, 0, 0, 9]),
        "the second step": (2, [9, 0, 0, 0, 0, 9]),
        "no counterexample": (3, [9, 0, 0, 0, 0, 0]),
        "only a tie": (3, [4, 5, 0, 0, 0, 5]),
        "too large": (3, [50, 0, 0, 0, 0, 50]),
        "too short": (3, [9, 0, 0, 9]),
        "only the step": 3,
    },
    "5.6": {
        "fillings at any T": fillings,
        "loses ties": loses_ties,
        "always a pair": always_a_pair,
        "another window": next_window,
        "never": lambda true, wrong, a, n, T, top: [],
        "one below the top": lambda true, wrong, a, n, T, top: search(true, wrong, a, n, T, top - 1),
        "the threshold of the first strips": lambda true, wrong, a, n, T, top: search(
            true, wrong, a, n, "0.4", top
        ),
        "the top of the first strips": lambda true, wrong, a, n, T, top: search(true, wrong, a, n, T, 5),
        "floats": lambda true, wrong, a, n, T, top: search(true, wrong, a, n, float(T), top),
        "erases the true class": lambda true, wrong, a, n, T, top: search(
            true, wrong, a, n, T, top, erase=True
        ),
        "unchanged": lambda true, wrong, a, n, T, top: (true, wrong),
    },
}
