"""Plausible wrong answers to lab 5: each replaces the whole solution cell of its task."""

_FIRST = """
case = data["5.1"]
cells, n, top = len(case["label"][0]), -(-case["patch"] // case["stride"]), case["top"]
"""
_LEAST = """
case = data["{task}"]
h, w, top, label = case["h"], case["w"], case["top"], case["label"]
rows, columns = len(label), len(label[0])
least = {{v: score(fill(label, v, 0), h, w) for v in placements(h, w, rows, columns)}}
window = min(least, key=least.get)
zeros = [[0] * columns for _ in range(rows)]
"""

WRONG = {
    "5.1": {
        "a patch of n cells": _FIRST
        + """
before = [case["label"], [[0] * cells]]
after = [fill(before[0], (0, 0, 1, n), 0), fill(before[1], (0, 0, 1, n), top)]
answer_1 = {"start": 0, "before": before, "after": after}
""",
        "one cell too many": _FIRST
        + """
real = -(-(case["patch"] + case["field"] - 1) // case["stride"]) + 1
before = [case["label"], [[0] * cells]]
after = [fill(before[0], (0, 2, 1, real), 0), fill(before[1], (0, 2, 1, real), top)]
answer_1 = {"start": 2 * case["stride"] + case["field"] - 1, "before": before, "after": after}
""",
        "a rival that wins anyway": _FIRST
        + """
before = [case["label"], [[top] * cells]]
answer_1 = {"start": 0, "before": before, "after": [fill(before[0], (0, 0, 1, 1), 0), before[1]]}
""",
        "a label of its own": _FIRST
        + """
before = [[[9] * cells], [[0] * cells]]
answer_1 = {"start": 0, "before": before, "after": [[[0] * cells], [[top] * cells]]}
""",
    },
    "5.2": {
        "a window it does look at": _LEAST.format(task="5.2")
        + """
window = min((v for v in least if v[0] < rows - h and v[1] < columns - w), key=least.get)
rival = [row[:] for row in zeros]
cells = [(a, b) for a in range(rows) for b in range(columns)]
for k in range(least[window]):
    rival[cells[k % len(cells)][0]][cells[k % len(cells)][1]] += 1
answer_2 = {"before": [label, rival], "after": [fill(label, window, 0), fill(rival, window, top)]}
""",
        "no rival": _LEAST.format(task="5.2")
        + """
answer_2 = {"before": [label, zeros], "after": [fill(label, window, 0), fill(zeros, window, top)]}
""",
        "two windows": _LEAST.format(task="5.2")
        + """
far = max(least, key=lambda v: abs(v[0] - window[0]) + abs(v[1] - window[1]))
after = [fill(fill(label, window, 0), far, 0), fill(fill(zeros, window, top), far, top)]
answer_2 = {"before": [label, zeros], "after": after}
""",
        "nothing attacked": _LEAST.format(task="5.2")
        + """
answer_2 = {"before": [label, zeros], "after": [label, zeros]}
""",
    },
    "5.3": {
        "flood on nothing": _LEAST.format(task="5.3")
        + """
answer_3 = {"step": 4, "before": [label, zeros], "after": [fill(label, window, 0), fill(zeros, window, top)]}
""",
        "a broad rival": _LEAST.format(task="5.3")
        + """
rival = [[top] * columns for _ in range(rows)]
answer_3 = {"step": 4, "before": [label, rival], "after": [fill(label, window, 0), fill(rival, window, top)]}
""",
        "the heap under the window": _LEAST.format(task="5.3")
        + """
rival = fill(zeros, window, top)
answer_3 = {"step": 4, "before": [label, rival], "after": [fill(label, window, 0), rival]}
""",
        "cells of one more than top": _LEAST.format(task="5.3")
        + """
rival = fill(zeros, (0, 0, h, w), top + 1)
answer_3 = {"step": 4, "before": [label, rival], "after": [fill(label, window, 0), fill(rival, window, top)]}
""",
    },
    "5.4": {
        "the fillings": _LEAST.format(task="5.4")
        + """
rival = [[1] * columns for _ in range(rows)]
answer_4 = {"step": 2, "before": [label, rival], "after": [fill(label, window, 0), fill(rival, window, top)]}
""",
        "no rival": _LEAST.format(task="5.4")
        + """
answer_4 = {"step": 2, "before": [label, zeros], "after": [fill(label, window, top), zeros]}
""",
        "erased, not lured": _LEAST.format(task="5.4")
        + """
rival = [[int(i + j < 9) for j in range(columns)] for i in range(rows)]
answer_4 = {"step": 2, "before": [label, rival], "after": [fill(label, window, 0), rival]}
""",
    },
    "5.5": {
        "the fillings of the scaled map": _LEAST.format(task="5.5")
        + """
rival = [[0] * columns for _ in range(rows)]
answer_5 = {"step": 1, "before": [label, rival], "after": [fill(label, window, 0), fill(rival, window, 9)]}
""",
        "the wrong step": """
case = data["5.5"]
rival = [[case["top"] // 9 - 1] * 5 for _ in range(5)]
rival[0][0] = case["top"]
quiet = fill(rival, (0, 0, 1, 1), 0)
answer_5 = {"step": 2, "before": [case["label"], rival], "after": [case["label"], quiet]}
""",
        "a rival that is never certified": """
case = data["5.5"]
rival = [[1] * 5 for _ in range(5)]
loud = fill(case["label"], (0, 0, 1, 1), case["top"])
answer_5 = {"step": 1, "before": [case["label"], rival], "after": [loud, rival]}
""",
        "no dictionary": """
answer_5 = [data["5.5"]["label"], data["5.5"]["label"]]
""",
    },
}

_SCALED = """
import numpy as np
rival = np.full((5, 5), data["5.5"]["top"] // 9 - 1)
rival[0, 0] = data["5.5"]["top"]
quiet = rival.copy()
quiet[0, 0] = 0
label = tuple(map(tuple, data["5.5"]["label"]))
answer_5 = {"step": np.int64(1), "before": (label, rival), "after": (label, quiet)}
"""

RIGHT = {"5.5": {"tuples and arrays": _SCALED}}
"""Right answers in other styles than the master's: visible checks and grading take them."""

_LISTS = """
before, after = (np.array(answer_5[name]).tolist() for name in ("before", "after"))
answer_5 = {"step": 1, "before": before, "after": after, "cells": {(0, 0)}}
"""

REFUSED = {"5.5": {"an entry that is no JSON": _SCALED + _LISTS}}
"""Answers of a kind that grading does not take: the visible checks say so."""
