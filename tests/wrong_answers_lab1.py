"""Named wrong answers to lab 1: each replaces the solution cell of its task, and must earn nothing."""

WRONG = {
    "1.1": {
        "stops are not part": """
rows, columns = touched(axis, top, height), touched(axis, left, width)
block = (rows[0], rows[1], columns[0], columns[1])
rows, columns = (touched(axis, 64 - side, side) for side in data["corner"])
corner = (rows[0], rows[1], columns[0], columns[1])
""",
        "columns before rows": """
rows, columns = touched(axis, top, height), touched(axis, left, width)
block = (columns[0], columns[1] - 1, rows[0], rows[1] - 1)
columns, rows = (touched(axis, 64 - side, side) for side in data["corner"])
corner = (rows[0], rows[1] - 1, columns[0], columns[1] - 1)
""",
        "the corner's window is as large as inside the image": """
rows, columns = touched(axis, top, height), touched(axis, left, width)
block = (rows[0], rows[1] - 1, columns[0], columns[1] - 1)
high, wide = (window_size(side, axis.size, axis.stride) for side in data["corner"])
corner = (axis.cells - high, axis.cells - 1, axis.cells - wide, axis.cells - 1)
""",
        "pixels by stride in the corner": """
rows, columns = touched(axis, top, height), touched(axis, left, width)
block = (rows[0], rows[1] - 1, columns[0], columns[1] - 1)
high, wide = (-(-side // 4) for side in data["corner"])
corner = (axis.cells - high, axis.cells - 1, axis.cells - wide, axis.cells - 1)
""",
        "the stride alone": """
block = (top // 4, (top + height - 1) // 4, left // 4, (left + width - 1) // 4)
corner = ((64 - data["corner"][0]) // 4, axis.cells - 1, (64 - data["corner"][1]) // 4, axis.cells - 1)
""",
    },
    "1.2": {
        "the kernel without its plus one": """
import itertools
wanted = [tuple(field) for field in data["measured"]]
fields = lambda c: receptive_field([Layer(*(layer or c)) for layer in data["known"]], 64).fields[:3]
missing = next(c for c in itertools.product(range(1, 9), range(1, 5), range(5)) if fields(c) == tuple(wanted))
missing = (missing[0] - 1, missing[1], missing[2])
""",
        "size and stride right, padding left out": """
import itertools
wanted = [tuple(field) for field in data["measured"]]
fields = lambda c: receptive_field([Layer(*(layer or c)) for layer in data["known"]], 64).fields[:3]
missing = next(c for c in itertools.product(range(1, 9), range(1, 5), range(5)) if fields(c) == tuple(wanted))
missing = (missing[0], missing[1], missing[2] + 1)
""",
        "kernel and stride swapped": """
import itertools
wanted = [tuple(field) for field in data["measured"]]
fields = lambda c: receptive_field([Layer(*(layer or c)) for layer in data["known"]], 64).fields[:3]
missing = next(c for c in itertools.product(range(1, 9), range(1, 5), range(5)) if fields(c) == tuple(wanted))
missing = (missing[1], missing[0], missing[2]) if missing[0] != missing[1] else (1, 1, 0)
""",
    },
    "1.3": {
        "counts the whole window": """
def reach(rows, columns, pixels):
    high = sum(any(a <= y < b for y, _ in pixels) for a, b in rows)
    wide = sum(any(a <= x < b for _, x in pixels) for a, b in columns)
    return high * wide, high, wide
""",
        "window without plus one": """
def reach(rows, columns, pixels):
    hit = [(i, j) for i, (a, b) in enumerate(rows) for j, (c, d) in enumerate(columns)
           if any(a <= y < b and c <= x < d for y, x in pixels)]
    if not hit:
        return 0, 0, 0
    i, j = [i for i, _ in hit], [j for _, j in hit]
    return len(hit), max(i) - min(i), max(j) - min(j)
""",
        "the stop of a field belongs to it": """
def reach(rows, columns, pixels):
    hit = [(i, j) for i, (a, b) in enumerate(rows) for j, (c, d) in enumerate(columns)
           if any(a <= y <= b and c <= x <= d for y, x in pixels)]
    if not hit:
        return 0, 0, 0
    i, j = [i for i, _ in hit], [j for _, j in hit]
    return len(hit), max(i) - min(i) + 1, max(j) - min(j) + 1
""",
        "rows and columns that are touched, not the window around them": """
def reach(rows, columns, pixels):
    hit = [(i, j) for i, (a, b) in enumerate(rows) for j, (c, d) in enumerate(columns)
           if any(a <= y < b and c <= x < d for y, x in pixels)]
    return len(hit), len({i for i, _ in hit}), len({j for _, j in hit})
""",
        "the bounding rectangle of the pixels": """
def reach(rows, columns, pixels):
    top, bottom = min(y for y, _ in pixels), max(y for y, _ in pixels)
    left, right = min(x for _, x in pixels), max(x for _, x in pixels)
    high = sum(a <= bottom and top < b for a, b in rows)
    wide = sum(a <= right and left < b for a, b in columns)
    return high * wide, high, wide
""",
    },
    "1.4": {
        "counts only where rows and columns both break": """
reached = [stop - first for first, stop in (touched(axis, at, patch) for at in range(64 - patch + 1))]
place = (reached.index(max(reached)), 0)
count = sum(high > mask and wide > mask for high in reached for wide in reached)
""",
        "forgets the last placement": """
reached = [stop - first for first, stop in (touched(axis, at, patch) for at in range(64 - patch))]
place = (reached.index(max(reached)), 0)
count = sum(high > mask or wide > mask for high in reached for wide in reached)
count -= count == sum(a > mask or b > mask for a in [*reached, 0] for b in [*reached, 0])
""",
        "a place that was tried": """
reached = [stop - first for first, stop in (touched(axis, at, patch) for at in range(64 - patch + 1))]
place = tuple(data["tried"][0])
count = sum(high > mask or wide > mask for high in reached for wide in reached)
""",
        "compares areas": """
reached = [stop - first for first, stop in (touched(axis, at, patch) for at in range(64 - patch + 1))]
place = (reached.index(max(reached)), reached.index(max(reached)))
count = sum(high * wide > mask * mask for high in reached for wide in reached)
""",
    },
    "1.5": {
        "one axis only": """
def half_grip(layers):
    counts = attention_counts([Layer(*layer) for layer in layers])
    for side in range(1, len(counts) + 1):
        if 2 * max(sum(counts[i : i + side]) for i in range(len(counts) - side + 1)) > sum(counts):
            return side
""",
        "half of the pixels": """
def half_grip(layers):
    size = len(attention_counts([Layer(*layer) for layer in layers]))
    return next(side for side in range(1, size + 1) if 2 * side**2 > size**2)
""",
        "in the corner of the field": """
def half_grip(layers):
    counts = attention_counts([Layer(*layer) for layer in layers])
    return next(side for side in range(1, len(counts) + 1) if 2 * sum(counts[:side]) ** 2 > sum(counts) ** 2)
""",
        "ignores the strides": """
def half_grip(layers):
    counts = attention_counts([Layer(layer[0]) for layer in layers])
    for side in range(1, len(counts) + 1):
        if 2 * max(sum(counts[i : i + side]) for i in range(len(counts) - side + 1)) ** 2 > sum(counts) ** 2:
            return side
""",
    },
}

RIGHT = {
    "1.3": {
        "sets and dictionaries of pairs": """
def reach(rows, columns, pixels):
    sticker, at = set(pixels), [{field: k for k, field in enumerate(axis)} for axis in (rows, columns)]
    hit = {
        (at[0][r], at[1][c])
        for r in at[0]
        for c in at[1]
        if any((y, x) in sticker for y in range(*r) for x in range(*c))
    }
    ys, xs = zip(*hit) if hit else ([0], [1])
    return (n for n in (len(hit), *(max(k) - min(k) + 1 if hit else 0 for k in (ys, xs))))
""",
    },
    "1.4": {
        "arrays": """
import numpy as np
reached = np.array([stop - first for first, stop in (touched(axis, at, patch) for at in range(65 - patch))])
place = np.array([reached.argmax(), 0])
count = (np.maximum.outer(reached, reached) > mask).sum()
""",
    },
    "1.5": {
        "remembers stacks": """
import functools
@functools.cache
def _grip(layers):
    counts = torch.tensor(attention_counts([Layer(*layer) for layer in layers]))
    held = [counts.unfold(0, side, 1).sum(1).max() for side in range(1, len(counts) + 1)]
    return 1 + torch.tensor([2 * most**2 > counts.sum() ** 2 for most in held]).int().argmax()
def half_grip(layers):
    return _grip(tuple(layers))
""",
    },
}
"""Right answers in other styles than the master's: visible checks and grading take them."""

REFUSED = {
    "1.4": {
        "floats": """
reached = [stop - first for first, stop in (touched(axis, at, patch) for at in range(64 - patch + 1))]
place = (float(reached.index(max(reached))), 0.0)
count = sum(high > mask or wide > mask for high in reached for wide in reached)
""",
    },
}
"""Answers of a kind that grading does not take: the visible checks say so."""
