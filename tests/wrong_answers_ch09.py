"""Plausible wrong answers to the exercises of chapter 9."""


def _runs(y, n):
    return [set(range(a, a + n)) for a in range(len(y) - n + 1)]


def _weights(y, c, t):
    return [min(a, t) - b for a, b in zip(y, c, strict=True)]


def one_window(y, c, n, alpha):
    def bound(t):
        w = _weights(y, c, t)
        return sum(w) - alpha * t - max(sum(w[i] for i in run) for run in _runs(y, n))

    return max(bound(t) for t in range(max(y) + 1))


def shared_cells_twice(y, c, n, alpha):
    def bound(t):
        w = _weights(y, c, t)
        return sum(w) - alpha * t - 2 * max(sum(w[i] for i in run) for run in _runs(y, n))

    return max(bound(t) for t in range(max(y) + 1))


def disjoint_only(y, c, n, alpha):
    pairs = [v | w for v in _runs(y, n) for w in _runs(y, n) if not v & w]

    def bound(t):
        w = _weights(y, c, t)
        return sum(w) - alpha * t - max(sum(w[i] for i in s) for s in pairs)

    return max(bound(t) for t in range(max(y) + 1))


def level_for_each_union(y, c, n, alpha):
    pairs = [v | w for v in _runs(y, n) for w in _runs(y, n)]

    def bound(s, t):
        w = _weights(y, c, t)
        return sum(w) - alpha * t - sum(w[i] for i in s)

    return min(max(bound(s, t) for t in range(max(y) + 1)) for s in pairs)


def forgets_the_mask(y, c, n, alpha):
    pairs = [v | w for v in _runs(y, n) for w in _runs(y, n)]
    w = _weights(y, c, max(y))
    return sum(w) - max(sum(w[i] for i in s) for s in pairs)


def _over(levels, extra=None):
    def answer(y, c, n, alpha):
        pairs = [v | w for v in _runs(y, n) for w in _runs(y, n)]
        alpha = extra(n) if extra else alpha

        def bound(t):
            w = _weights(y, c, t)
            return sum(w) - alpha * t - max(sum(w[i] for i in s) for s in pairs)

        return max(map(bound, levels(y)))

    return answer


def writes(cells, M, alpha, top):
    for i in M:
        cells[i] = 0
    least = _left(cells, alpha)
    for i in M:
        cells[i] = top
    return least, _left(cells, alpha)


def levels_that_occur(y, c, n, alpha):
    pairs = [v | w for v in _runs(y, n) for w in _runs(y, n)]

    def bound(t):
        w = _weights(y, c, t)
        return sum(w) - alpha * t - max(sum(w[i] for i in s) for s in pairs)

    return max(bound(t) for t in {0, *y})


def no_level(y, c, n, alpha):
    pairs = [v | w for v in _runs(y, n) for w in _runs(y, n)]
    w = _weights(y, c, max(y))
    return sum(w) - alpha * max(y) - max(sum(w[i] for i in s) for s in pairs)


def _left(cells, alpha):
    return sum(sorted(cells, reverse=True)[alpha:])


def _filled(cells, M, value):
    return [value if i in M else x for i, x in enumerate(cells)]


def _outside(cells, M):
    return [x for i, x in enumerate(cells) if i not in M]


def _largest(y, rivals, keeps, reaches):
    return max(
        (m for m in range(1, len(y)) if all(keeps(y, m) > reaches(c, m) for c in rivals)),
        default=0,
    )


WRONG = {
    "9.1": {
        "both sides grow": lambda p, gap, r, s: (-(-(2 * p + gap + r - 1) // s),) * 2,
        "forgets the gap": lambda p, gap, r, s: (-(-(p + r - 1) // s), -(-(2 * p + r - 1) // s)),
        "one sticker": lambda p, gap, r, s: (-(-(p + r - 1) // s), -(-(p + gap + r - 1) // s)),
        "two windows": lambda p, gap, r, s: (-(-(p + r - 1) // s), 2 * -(-(p + r - 1) // s) + gap),
        "rounds down": lambda p, gap, r, s: ((p + r - 1) // s, (2 * p + gap + r - 1) // s),
        "width first": lambda p, gap, r, s: (-(-(2 * p + gap + r - 1) // s), -(-(p + r - 1) // s)),
    },
    "9.2": {
        "the lemma, always": lambda cells, M, alpha, top: (
            _left(_outside(cells, M), alpha),
            _left(_outside(cells, M), max(0, alpha - len(M))),
        ),
        "the mask is the attack": lambda cells, M, alpha, top: (
            _left(cells, alpha),
            _left(_filled(cells, M, top), alpha),
        ),
        "out": lambda cells, M, alpha, top: (
            _left(_filled(cells, M, 0), alpha),
            sum(_outside(cells, M)),
        ),
        "no mask on the label": lambda cells, M, alpha, top: (
            sum(_outside(cells, M)),
            _left(_filled(cells, M, top), alpha),
        ),
        "most first": lambda cells, M, alpha, top: (
            _left(_filled(cells, M, top), alpha),
            _left(_filled(cells, M, 0), alpha),
        ),
        "writes into the cells it was given": writes,
        "the largest honest cell": lambda cells, M, alpha, top: (
            _left(_filled(cells, M, 0), alpha),
            _left(_filled(cells, M, max(cells)), alpha),
        ),
    },
    "9.3": {
        "attack or mask": lambda y, rivals: _largest(y, rivals, _left, lambda c, m: sum(sorted(c)[m:])),
        "the rival's heaviest": lambda y, rivals: _largest(y, rivals, lambda y, m: _left(y, 2 * m), _left),
        "the rival keeps all": lambda y, rivals: _largest(
            y, rivals, lambda y, m: _left(y, 2 * m), lambda c, m: sum(c)
        ),
        "ties win": lambda y, rivals: max(
            (m for m in range(1, len(y)) if all(_left(y, 2 * m) >= sum(sorted(c)[m:]) for c in rivals)),
            default=0,
        ),
        "the first rival only": lambda y, rivals: _largest(
            y, rivals[:1], lambda y, m: _left(y, 2 * m), lambda c, m: sum(sorted(c)[m:])
        ),
        "the label's lightest": lambda y, rivals: _largest(
            y, rivals, lambda y, m: sum(sorted(y)[2 * m :]), lambda c, m: sum(sorted(c)[m:])
        ),
    },
    "9.4": {
        "one window": one_window,
        "shared cells twice": shared_cells_twice,
        "disjoint windows only": disjoint_only,
        "the best level of each union": level_for_each_union,
        "forgets the mask": forgets_the_mask,
        "the highest level only": no_level,
        "only levels that occur": levels_that_occur,
        "without the highest level": _over(lambda y: range(max(y))),
        "without level 0": _over(lambda y: range(1, max(y) + 1)),
        "a mask of two windows": _over(lambda y: range(max(y) + 1), lambda n: 2 * n),
    },
    "9.5": {
        "the second step": (2, [9, 5, 0, 0, 0, 0]),
        "the conclusion": (4, [9, 5, 0, 0, 0, 0]),
        "no counterexample": (3, [5, 5, 0, 0, 0, 0]),
        "nothing to free": (3, [0, 0, 0, 0, 0, 0]),
        "too large": (3, [90, 50, 0, 0, 0, 0]),
        "too short": (3, [9, 5, 0, 0]),
        "only the step": 3,
    },
}
