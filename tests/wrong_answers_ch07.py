"""Plausible wrong answers to the exercises of chapter 7."""

from fractions import Fraction
from math import ceil


def _corners(window, H, W, rows, columns, tops, lefts):
    return [(i, j) for i in tops for j in lefts if 0 <= i <= rows - H and 0 <= j <= columns - W]


def overlapping_masks(window, H, W, rows, columns):
    i, j, h, w = window
    return _corners(window, H, W, rows, columns, range(i - H + 1, i + h), range(j - W + 1, j + w))


def off_the_map(window, H, W, rows, columns):
    i, j, h, w = window
    return [(a, b) for a in range(i + h - H, i + 1) for b in range(j + w - W, j + 1)]


def only_the_top_left_on_the_map(window, H, W, rows, columns):
    return [(a, b) for a, b in off_the_map(window, H, W, rows, columns) if a >= 0 and b >= 0]


def one_too_few(window, H, W, rows, columns):
    i, j, h, w = window
    return _corners(window, H, W, rows, columns, range(i + h - H, i), range(j + w - W, j))


def transposed(window, H, W, rows, columns):
    i, j, h, w = window
    return _corners(window, W, H, rows, columns, range(i + h - W, i + 1), range(j + w - H, j + 1))


def _rest(row, a, n, m, starts):
    outside = [0 if a <= i < a + n else x for i, x in enumerate(row)]
    held = [sum(outside[v : v + m]) for v in range(len(row) - m + 1) if starts(v)]
    return sum(outside) - max(held), sum(outside)


def _covering(a, n, m):
    return lambda v: v <= a and a + n <= v + m


def _bound(rest, out, T, n, top):
    return min(rest // (1 - Fraction(T)), out + n * top)


def lemma_1(row, a, n, m, T, top):
    _, out = _rest(row, a, n, m, _covering(a, n, m))
    return _bound(out, out, T, n, top)


def pretended(row, a, n, m, T, top):
    outside = [0 if a <= i < a + n else x for i, x in enumerate(row)]
    starts = [v for v in range(len(row) - m + 1) if v <= a and a + n <= v + m]
    worst = max(sum(outside) - sum(outside[v : v + m]) for v in starts)
    return _bound(worst, sum(outside), T, n, top)


def heaviest_anywhere(row, a, n, m, T, top):
    rest, out = _rest(row, a, n, m, lambda v: True)
    return _bound(rest, out, T, n, top)


def heaviest_overlapping(row, a, n, m, T, top):
    rest, out = _rest(row, a, n, m, lambda v: v < a + n and a < v + m)
    return _bound(rest, out, T, n, top)


def without_the_share(row, a, n, m, T, top):
    rest, out = _rest(row, a, n, m, _covering(a, n, m))
    return min(rest, out + n * top)


def without_the_ceiling(row, a, n, m, T, top):
    rest, _ = _rest(row, a, n, m, _covering(a, n, m))
    return rest // (1 - Fraction(T))


def in_floats(row, a, n, m, T, top):
    rest, out = _rest(row, a, n, m, _covering(a, n, m))
    return min(int(rest / (1 - float(T))), out + n * top)


def rounded_up(row, a, n, m, T, top):
    rest, out = _rest(row, a, n, m, _covering(a, n, m))
    return min(ceil(rest / (1 - Fraction(T))), out + n * top)


def not_rounded(row, a, n, m, T, top):
    rest, out = _rest(row, a, n, m, _covering(a, n, m))
    return min(rest / (1 - Fraction(T)), Fraction(out + n * top))


def honest_window_counts(row, a, n, m, T, top):
    rest = min(sum(row) - sum(row[v : v + m]) for v in range(len(row) - m + 1) if v <= a and a + n <= v + m)
    return min(rest // (1 - Fraction(T)), sum(row) + n * top)


def _partial(row, a, n, m):
    outside = [0 if a <= i < a + n else x for i, x in enumerate(row)]
    best, partial = 0, []
    for v in range(len(row) - m + 1):
        missed = sum(not v <= i < v + m for i in range(a, a + n))
        held = sum(outside[v : v + m])
        if missed:
            partial.append((held, missed))
        else:
            best = max(best, held)
    return best, partial


def ties_count(row, a, n, m):
    best, partial = _partial(row, a, n, m)
    return max([0] + [(held - best) // missed for held, missed in partial])


def all_cells_missed(row, a, n, m):
    best, partial = _partial(row, a, n, m)
    return max([0] + [(held - best - 1) // n for held, _ in partial])


def one_cell_missed(row, a, n, m):
    best, partial = _partial(row, a, n, m)
    return max([0] + [held - best - 1 for held, _ in partial])


def only_apart(row, a, n, m):
    best, partial = _partial(row, a, n, m)
    return max([0] + [(held - best - 1) // missed for held, missed in partial if missed == n])


def negative(row, a, n, m):
    best, partial = _partial(row, a, n, m)
    return max([(held - best - 1) // missed for held, missed in partial] or [0])


def ignores_covering(row, a, n, m):
    _, partial = _partial(row, a, n, m)
    return max([0] + [(held - 1) // missed for held, missed in partial])


def of_five_by_seven(window, H, W, rows, columns):
    return [(i, j) for i, j in off_the_map(window, H, W, 5, 7) if 0 <= i <= 5 - H and 0 <= j <= 7 - W]


WRONG = {
    "7.1": {
        "overlapping": overlapping_masks,
        "off the map": off_the_map,
        "off the map below": only_the_top_left_on_the_map,
        "one too few": one_too_few,
        "transposed": transposed,
        "a map of 5 by 7": of_five_by_seven,
        "a set": lambda *given: set(off_the_map(*given)),
        "all masks": lambda window, H, W, rows, columns: [
            (i, j) for i in range(rows - H + 1) for j in range(columns - W + 1)
        ],
    },
    "7.2": {
        "lemma 1": lemma_1,
        "pretending": pretended,
        "heaviest anywhere": heaviest_anywhere,
        "heaviest that overlaps": heaviest_overlapping,
        "without the share": without_the_share,
        "without the ceiling": without_the_ceiling,
        "floats": in_floats,
        "rounds up": rounded_up,
        "not rounded": not_rounded,
        "the window's honest evidence": honest_window_counts,
    },
    "7.3": {
        "a tie is enough": ties_count,
        "every mask misses all": all_cells_missed,
        "every mask misses one": one_cell_missed,
        "only masks apart": only_apart,
        "negative": negative,
        "no covering mask": ignores_covering,
        "never": lambda row, a, n, m: 0,
    },
    "7.4": {
        "both certify": ([9, 9, 9, 9, 9, 9], [0, 0, 0, 0, 0, 0]),
        "neither certifies": ([3, 3, 3, 3, 3, 3], [9, 9, 0, 0, 0, 0]),
        "only the smaller": ([4, 4, 4, 4, 4, 4], [3, 3, 3, 0, 0, 0]),
        "too loud": ([40, 40, 40, 40, 40, 40], [99, 99, 0, 0, 0, 0]),
        "too long": ([4, 4, 4, 4, 4, 4, 4], [9, 9, 0, 0, 0, 0, 0]),
        "swapped": ([9, 9, 0, 0, 0, 0], [4, 4, 4, 4, 4, 4]),
    },
    "7.5": {
        "the whole stride": lambda p, r, s: s - 1,
        "to the next": lambda p, r, s: (-(-(p + r - 1) // s)) * s - r + 2 - p,
        "the largest patch": lambda p, r, s: (-(-(p + r - 1) // s)) * s - r + 1,
        "rounds down": lambda p, r, s: ((p + r - 1) // s) * s - r + 1 - p,
        "patch alone": lambda p, r, s: -p % s,
    },
}
