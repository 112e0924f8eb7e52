"""Plausible wrong answers to the exercises of chapter 8."""


def _score(row, n):
    return sum(row) - max(sum(row[i : i + n]) for i in range(len(row) - n + 1))


def _flooded(maps, label, a, n, top, lifted=None):
    lifted = range(len(maps)) if lifted is None else lifted
    return [
        row[:a] + ([0] * n if c == label else [top] * n if c in lifted else row[a : a + n]) + row[a + n :]
        for c, row in enumerate(maps)
    ]


def _reaching(maps, label, n):
    scores = [_score(row, n) for row in maps]
    return sum(score >= scores[label] for score in scores) - 1


def _search(maps, label, n, k, top, enough, lifted=None):
    for a in range(len(maps[0]) - n + 1):
        attacked = _flooded(maps, label, a, n, top, lifted)
        if enough(attacked):
            return attacked
    return []


def right(maps, label, n, k, top):
    return _search(maps, label, n, k, top, lambda m: _reaching(m, label, n) >= k)


def loses_ties(maps, label, n, k, top):
    def enough(m):
        scores = [_score(row, n) for row in m]
        return sum(score > scores[label] for score in scores) >= k

    return _search(maps, label, n, k, top, enough)


def one_too_many(maps, label, n, k, top):
    return _search(maps, label, n, k, top, lambda m: _reaching(m, label, n) > k)


def counts_itself(maps, label, n, k, top):
    return _search(maps, label, n, k, top, lambda m: _reaching(m, label, n) + 1 >= k)


def short_list(maps, label, n, k, top):
    others = sorted((c for c in range(len(maps)) if c != label), key=lambda c: -_score(maps[c], n))
    return _search(maps, label, n, k, top, lambda m: _reaching(m, label, n) >= k, others[:k])


def spares_the_label(maps, label, n, k, top):
    for a in range(len(maps[0]) - n + 1):
        attacked = _flooded(maps, label, a, n, top)
        attacked[label] = list(maps[label])
        if _reaching(attacked, label, n) >= k:
            return attacked
    return []


def over_the_end(maps, label, n, k, top):
    for a in range(len(maps[0])):
        attacked = _flooded(maps, label, a, n, top)
        if _reaching(attacked, label, n) >= k:
            return attacked
    return []


def window_for_each_rival(maps, label, n, k, top):
    others = [c for c in range(len(maps)) if c != label]
    best, attacked = {}, [list(row) for row in maps]
    for c in others:
        for a in range(len(maps[0]) - n + 1):
            pair = _flooded(maps, label, a, n, top)
            if _score(pair[c], n) >= _score(pair[label], n):
                best[c] = pair
    if len(best) < k:
        return []
    for c, pair in best.items():
        attacked[c], attacked[label] = pair[c], pair[label]
    return attacked


def sharing(least, outside, cells, per_cell, k, fits=None, short=None):
    short = short or (lambda keeps, x: max(0, keeps - x))
    fits = fits or (lambda needs: max(needs) <= cells and sum(needs) <= per_cell * cells)
    return bool(least) and not any(
        fits(sorted(short(keeps, x) for x in votes)[:k]) for keeps, votes in zip(least, outside, strict=True)
    )


def greedy_sharing(least, outside, cells, per_cell, k, order):
    for keeps, votes in zip(least, outside, strict=True):
        left, helped = per_cell * cells, 0
        for need in order(max(0, keeps - x) for x in votes):
            if need <= min(cells, left):
                left, helped = left - need, helped + 1
        if helped >= k:
            return False
    return bool(least)


WRONG = {
    "8.1": {
        "a tie does not reach": lambda least, reach: (
            1 + max(sum(m > x for m in r) for x, r in zip(least, reach, strict=True))
        ),
        "a count, not a rank": lambda least, reach: max(
            sum(m >= x for m in r) for x, r in zip(least, reach, strict=True)
        ),
        "across windows": lambda least, reach: (
            1 + len({c for x, r in zip(least, reach, strict=True) for c, m in enumerate(r) if m >= x})
        ),
        "largest over windows": lambda least, reach: (
            1 + sum(m >= min(least) for m in map(max, zip(*reach, strict=True)))
        ),
        "in every window": lambda least, reach: (
            1 + sum(all(m >= x for m, x in zip(ms, least, strict=True)) for ms in zip(*reach, strict=True))
        ),
        "the best window": lambda least, reach: (
            1 + min(sum(m >= x for m in r) for x, r in zip(least, reach, strict=True))
        ),
        "the smallest least": lambda least, reach: 1 + max(sum(m >= min(least) for m in r) for r in reach),
    },
    "8.2": {
        "the same table twice": [([5, 5], [[6, 1, 1], [1, 6, 1]])] * 2,
        "turned round": [([3, 7], [[1, 1, 1], [6, 6, 1]]), ([5, 5], [[6, 1, 1], [1, 6, 1]])],
        "all certify": [([9, 9], [[1, 1, 1], [1, 1, 1]])] * 2,
        "not certified": [([5, 5], [[6, 6, 1], [1, 1, 1]]), ([3, 7], [[1, 1, 1], [6, 6, 1]])],
        "the second too tame": [([5, 5], [[6, 1, 1], [1, 6, 1]]), ([3, 7], [[1, 1, 1], [6, 1, 1]])],
        "too large": [([50, 50], [[60, 1, 1], [1, 60, 1]]), ([3, 7], [[1, 1, 1], [6, 6, 1]])],
        "one window": [([5], [[6, 1, 1]]), ([3, 7], [[1, 1, 1], [6, 6, 1]])],
        "one table": ([5, 5], [[6, 1, 1], [1, 6, 1]]),
    },
    "8.3": {
        "loses ties": loses_ties,
        "one too many": one_too_many,
        "counts the label": counts_itself,
        "the clean runners-up only": short_list,
        "spares the label": spares_the_label,
        "a window for each rival": window_for_each_rival,
        "never": lambda maps, label, n, k, top: [],
        "always": lambda maps, label, n, k, top: _flooded(maps, label, 0, n, top),
        "over the end": over_the_end,
        "windows side by side": lambda maps, label, n, k, top: next(
            (
                attacked
                for a in range(0, len(maps[0]) - n + 1, n)
                if _reaching(attacked := _flooded(maps, label, a, n, top), label, n) >= k
            ),
            [],
        ),
        "above the top": lambda maps, label, n, k, top: right(maps, label, n, k, top + 1),
    },
    "8.4": {
        "the conclusion": (5, [[3] * 6, [1] * 6, [0, 0, 0, 9, 9, 0], [0, 0, 0, 9, 9, 0]]),
        "the first step": (1, [[3] * 6, [1] * 6, [0, 0, 0, 9, 9, 0], [0, 0, 0, 9, 9, 0]]),
        "no second rival": (3, [[3] * 6, [1] * 6, [0, 0, 0, 9, 9, 0], [0, 0, 0, 0, 0, 0]]),
        "not certified by the claim": (3, [[1] * 6, [3] * 6, [3] * 6, [0] * 6]),
        "label last": (3, [[1] * 6, [0, 0, 0, 9, 9, 0], [0, 0, 0, 9, 9, 0], [3] * 6]),
        "too large": (3, [[30] * 6, [1] * 6, [0, 0, 0, 90, 90, 0], [0, 0, 0, 90, 90, 0]]),
        "three strips": (3, [[3] * 6, [0, 0, 0, 9, 9, 0], [0, 0, 0, 9, 9, 0]]),
        "only the step": 3,
    },
    "8.5": {
        "classes do not compete": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, k, lambda needs: max(needs) <= cells
        ),
        "only the sum": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, k, lambda needs: sum(needs) <= per_cell * cells
        ),
        "one vote a cell": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, k, lambda needs: sum(needs) <= cells
        ),
        "more than the label": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, k, short=lambda keeps, x: max(0, keeps + 1 - x)
        ),
        "a lead pays for others": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, k, short=lambda keeps, x: keeps - x
        ),
        "a lead of one pays": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, k, short=lambda keeps, x: max(-1, keeps - x)
        ),
        "vacuous": lambda least, outside, cells, per_cell, k: (
            not least or sharing(least, outside, cells, per_cell, k)
        ),
        "every rival needed": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, len(outside[0]) if outside else k
        ),
        "k more than it says": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, k + 1
        ),
        "top-1 always": lambda least, outside, cells, per_cell, k: sharing(
            least, outside, cells, per_cell, 1
        ),
        "rivals unsorted": lambda *case: greedy_sharing(*case, list),
        "dearest rivals first": lambda *case: greedy_sharing(*case, lambda needs: sorted(needs)[::-1]),
    },
}
