"""Plausible mistakes in the exercises of chapter 11: every one must be told why it is wrong."""

from fractions import Fraction
from itertools import combinations


def _visible(fields, image):
    return [(max(a, 0), min(b, image)) for a, b in fields]


def in_order(fields, image):
    seen = _visible(fields, image)
    return max(1, seen[-1][0] - seen[0][1] + 2)


def by_eq_1(fields, image):
    (start, stop), *others = sorted(fields)
    stride = others[0][0] - start if others else 1
    return max(1, len(others) * stride - (stop - start) + 2)


def one_pixel_short(fields, image):
    seen = _visible(fields, image)
    return max(1, max(a for a, _ in seen) - min(b for _, b in seen) + 1)


def whole_fields(fields, image):
    seen = _visible(fields, image)
    return max(b for _, b in seen) - min(a for a, _ in seen)


def may_be_nothing(fields, image):
    seen = _visible(fields, image)
    return max(a for a, _ in seen) - min(b for _, b in seen) + 2


def every_place(fields, image):
    seen = _visible(fields, image)
    return max(1, max(a for a, _ in seen) + 1, image - min(b for _, b in seen) + 1)


def counts(scores, labels, lowest, fair, ours):
    total = [0, Fraction(0), 0]
    for row, label in zip(scores, labels, strict=True):
        leaders = [c for c, score in enumerate(row) if score == max(row)]
        for i, rule in enumerate((lowest, fair, ours)):
            total[i] += rule(leaders, label)
    return tuple(total)


def low(leaders, label):
    return label == leaders[0]


def even(leaders, label):
    return Fraction(label in leaders, len(leaders))


def strict(leaders, label):
    return leaders == [label]


def _changed(a, b):
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def pairs(strips, p, joined):
    every = combinations(range(len(strips)), 2)
    return [(a, b) for a, b in every if joined(_changed(strips[a], strips[b]), p)]


def one_patch(changed, p):
    return changed[-1] - changed[0] < p


def a_count(changed, p):
    return len(changed) <= 2 * p


def one_long_patch(changed, p):
    return changed[-1] - changed[0] < 2 * p


def both_ends(changed, p):
    return all(i < changed[0] + p - 1 or i > changed[-1] - p + 1 for i in changed)


def three_patches(changed, p):
    for _ in range(3):
        changed = [i for i in changed if i >= changed[0] + p]
        if not changed:
            return True
    return False


def apart(strips, p):
    starts = range(len(strips[0]) - p + 1)
    places = [{*range(i, i + p), *range(j, j + p)} for i in starts for j in starts if j >= i + p]
    return pairs(strips, p, lambda changed, p: any({*changed} <= place for place in places))


def sorts(fields, image):
    fields.sort()
    return max(1, fields[-1][0] - min(stop for _, stop in fields) + 2)


def sorts_both(rows, columns):
    for fields in (rows, columns):
        fields.sort(key=lambda field: field[1])
    return greedy(rows) * greedy(columns)


def greedy(fields):
    chosen = []
    for start, stop in sorted(fields, key=lambda field: field[1]):
        if not chosen or chosen[-1] < start:
            chosen.append(stop - 1)
    return len(chosen)


def by_start(fields):
    chosen = []
    for start, stop in sorted(fields):
        if not chosen or chosen[-1] < start:
            chosen.append(stop - 1)
    return len(chosen)


def touching(fields):
    chosen = []
    for start, stop in sorted(fields, key=lambda field: field[1]):
        if not chosen or chosen[-1] < start:
            chosen.append(stop)
    return len(chosen)


WRONG = {
    "11.1": {
        "first and last of the list": in_order,
        "Eq. 1 for any fields": by_eq_1,
        "one pixel short": one_pixel_short,
        "covers all fields": whole_fields,
        "zero or negative patches": may_be_nothing,
        "at every place": every_place,
        "all of the image": lambda fields, image: image,
        "sorts the fields it was given": sorts,
    },
    "11.2": {
        "ties are right": lambda s, y: counts(s, y, low, even, lambda leaders, label: label in leaders),
        "the highest number": lambda s, y: counts(s, y, lambda who, c: c == who[-1], even, strict),
        "a fair die of all classes": lambda s, y: counts(
            s, y, low, lambda who, c: Fraction(c in who, len(s[0]) if len(who) > 1 else 1), strict
        ),
        "ties never right for the die": lambda s, y: counts(s, y, low, strict, strict),
        "shares, not counts": lambda s, y: tuple(x / len(y) for x in counts(s, y, low, even, strict)),
        "only two": lambda s, y: counts(s, y, low, even, strict)[:2],
    },
    "11.3": {
        "one patch": lambda strips, p: pairs(strips, p, one_patch),
        "counts the pixels": lambda strips, p: pairs(strips, p, a_count),
        "one patch of twice the size": lambda strips, p: pairs(strips, p, one_long_patch),
        "off by one": lambda strips, p: pairs(strips, p, both_ends),
        "patches that may not overlap": apart,
        "three patches": lambda strips, p: pairs(strips, p, three_patches),
        "the others": lambda strips, p: [
            pair
            for pair in combinations(range(len(strips)), 2)
            if pair not in pairs(strips, p, lambda c, p: not three_patches(c, p))
        ],
    },
    "11.4": {
        "certified twice": [[9, 9, 9, 9, 9, 9], [0, 0, 0, 0, 0, 0]],
        "certified never": [[3, 0, 3, 0, 3], [2, 0, 0, 0, 1]],
        "lost for good": [[2, 2, 2, 2, 2, 2], [3, 0, 0, 0, 0, 0]],
        "not even clean": [[0, 0, 1, 0, 0], [5, 5, 5, 5, 5]],
        "the wrong way round": [[0, 1, 1, 1, 0], [3, 0, 3, 0, 3]],
        "too short": [[3, 0, 3], [0, 1, 0]],
        "too loud": [[30, 0, 30, 0, 30], [0, 10, 10, 10, 0]],
        "one strip": [3, 0, 3, 0, 3],
    },
    "11.5": {
        "one axis": lambda rows, columns: greedy(rows),
        "the sum": lambda rows, columns: greedy(rows) + greedy(columns),
        "a pixel a cell": lambda rows, columns: len(rows) * len(columns),
        "sorted by start": lambda rows, columns: by_start(rows) * by_start(columns),
        "sorts the fields it was given": sorts_both,
        "stop is inside": lambda rows, columns: touching(rows) * touching(columns),
    },
}
