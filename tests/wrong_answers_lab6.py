"""Plausible wrong answers to lab 6: each replaces the whole solution cell of its task."""

_FILLINGS = """
def fillings(m, window, top, kind=score):
    i, j, h, w = window
    empty, full = ([row[:] for row in m] for _ in range(2))
    for a in range(i, i + h):
        empty[a][j : j + w] = [0] * w
        full[a][j : j + w] = [top] * w
    return kind(empty, h, w), kind(full, h, w)
"""
_PLACES = """
def every_place(image, h, w):
    return [(i, j, h, w) for i in range(len(image[0]) - h + 1) for j in range(len(image[0][0]) - w + 1)]
"""

WRONG = {
    "6.1": {
        "none ever falls": """
falls = [None] * 4
""",
        "all fall": """
falls = [[[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 2]]] * 4
""",
        "a larger step": """
falls = [[[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 9]]] * 4
""",
        "lower and higher exchanged": """
falls = []
for name, k in data["proposals"]:
    pair = None
    for row in itertools.product((0, 1, 2, 4), repeat=6):
        raised = [*row[:5], row[5] + 1]
        if PROPOSALS[name](raised, k) < PROPOSALS[name](list(row), k):
            pair = [raised, list(row)]
    falls.append(pair)
""",
    },
    "6.2": {
        "the plain sum": """
def score(m, h, w):
    return sum(map(sum, m))
""",
        "robust masking": """
def score(m, h, w):
    return int(WindowMask(h, w).scores(torch.tensor(m)[None, None]))
""",
        "a constant": """
def score(m, h, w):
    return h * w
""",
        "a mean": """
def score(m, h, w):
    cells = sorted(x for row in m for x in row)[: -h * w]
    return sum(cells) / len(cells)
""",
        "dice": """
import random
def score(m, h, w):
    return sum(random.choice(row) for row in m)
""",
        "remembers": """
seen = []
def score(m, h, w):
    seen.append(m)
    return len(seen)
""",
    },
    "6.3": {
        "what it scores now": """
def bounds(m, window, top):
    return score(m, *window[2:]), score(m, *window[2:])
""",
        "a patch only takes away": _FILLINGS
        + """
def bounds(m, window, top):
    return fillings(m, window, top)[0], score(m, *window[2:])
""",
        "exchanged": _FILLINGS
        + """
def bounds(m, window, top):
    return fillings(m, window, top)[::-1]
""",
        "fillings of a score that falls": _FILLINGS
        + """
def score(m, h, w):
    return sum(x for row in m for x in row if x <= 60)

def bounds(m, window, top):
    return fillings(m, window, top, score)
""",
        "fillings of the honest kind": _FILLINGS
        + """
def bounds(m, window, top):
    return fillings(m, window, max(map(max, m)) // 2)
""",
    },
    "6.4": {
        "one window too few": _PLACES
        + """
def all_bounds(image, h, w, top):
    return [[list(bounds(m, place, top)) for m in image] for place in every_place(image, h, w)[:-1]]
""",
        "sound and useless": _PLACES
        + """
def all_bounds(image, h, w, top):
    return [[[0, 64 * top] for m in image] for place in every_place(image, h, w)]
""",
        "what it scores now": _PLACES
        + """
def all_bounds(image, h, w, top):
    return [[[score(m, h, w)] * 2 for m in image] for place in every_place(image, h, w)]
""",
        "the plain sum": _PLACES
        + """
def score(m, h, w):
    return sum(map(sum, m))

def all_bounds(image, h, w, top):
    return [[list(bounds(m, place, top)) for m in image] for place in every_place(image, h, w)]
""",
        "a defense that says nothing": _PLACES
        + """
def score(m, h, w):
    return 0

def all_bounds(image, h, w, top):
    return [[[0, 0] for m in image] for place in every_place(image, h, w)]
""",
    },
}

_FALLS = """
import numpy as np
strips, falls = [np.array(row) for row in itertools.product((0, 1, 2, 4), repeat=6)], []
for name, k in data["proposals"]:
    pairs = ((row, row + step) for row in strips for step in np.eye(6, dtype=int))
    fall = (p for p in pairs if PROPOSALS[name](p[1].tolist(), k) < PROPOSALS[name](p[0].tolist(), k))
    falls.append(next(fall, None))
"""

RIGHT = {
    "6.1": {"tuples of arrays": _FALLS},
    "6.2": {
        "an array's sum": """
import numpy as np
def score(m, h, w):
    return np.sort(np.minimum(np.array(m), 30), axis=None)[: len(m) * len(m[0]) - h * w].sum()
""",
    },
    "6.3": {
        "arrays, and a dictionary of windows": _FILLINGS
        + """
import numpy as np
def bounds(m, window, top):
    return np.array({window: fillings(m, window, top)}[window])
""",
    },
    "6.4": {
        "an array": _PLACES
        + """
import numpy as np
def all_bounds(image, h, w, top):
    return np.array([[bounds(m, place, top) for m in image] for place in every_place(image, h, w)])
""",
    },
}
"""Right answers in other styles than the master's: visible checks and grading take them."""

REFUSED = {"6.1": {"floats": _FALLS.replace("np.array(row)", "np.array(row) * 1.0")}}
"""Answers of a kind that grading does not take: the visible checks say so."""
