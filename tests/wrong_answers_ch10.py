"""Plausible wrong answers to the exercises of chapter 10."""

from itertools import product


def _classical(enough, delta=lambda patch, band, width: min(width, patch + band - 1)):
    def answer(votes, label, patch, band, width):
        most = delta(patch, band, width)
        return all(enough(votes[label] - n, most) for c, n in enumerate(votes) if c != label)

    return answer


def runner_up_of_all(votes, label, patch, band, width):
    first, second = sorted(votes)[-1:-3:-1]
    return first - second > 2 * min(width, patch + band - 1)


def flat(start, patch, band, width):
    return [j for j in range(width) if j < start + patch and start < j + band]


def from_the_patch_on(start, patch, band, width):
    return sorted({j % width for j in range(start, start + patch + band - 1)})


def one_short(start, patch, band, width):
    return sorted({j % width for j in range(start - band + 2, start + patch)})


def one_long(start, patch, band, width):
    return sorted({j % width for j in range(start - band, start + patch)})


def not_sorted(start, patch, band, width):
    return list(dict.fromkeys(j % width for j in range(start - band + 1, start + patch)))


def twice(start, patch, band, width):
    return sorted(j % width for j in range(start - band + 1, start + patch))


def _search(step, falls=lambda low, high: high < low):
    def answer(score, n, top):
        for row in product(range(top + 1), repeat=n):
            for i in range(n):
                higher = step(list(row), i)
                if max(higher) <= top and falls(score(list(row)), score(higher)):
                    return list(row), higher
        return []

    return answer


def _raised(row, i, by=1):
    return [x + by * (i == j) for j, x in enumerate(row)]


def only_the_fillings(score, n, top):
    low, high = [0] * n, [top] * n
    return (low, high) if score(high) < score(low) else []


def first_cell_only(score, n, top):
    for row in product(range(top + 1), repeat=n):
        if row[0] < top and score(_raised(row, 0)) < score(list(row)):
            return list(row), _raised(row, 0)
    return []


def from_zeros(score, n, top):
    for i in range(n):
        for x in range(top):
            low, high = ([y * (i == j) for j in range(n)] for y in (x, x + 1))
            if score(high) < score(low):
                return low, high
    return []


def right_but_turned(score, n, top):
    found = _search(_raised)(score, n, top)
    return found and (found[1], found[0])


def _one_vote(lacking, wrap=True, tie=True, first=None):
    def answer(rows, label, n, k):
        width = len(rows[label])
        for a in range(width if wrap else width - n + 1):
            owned = {(a + i) % width for i in range(n)}
            out = [sum(x for j, x in enumerate(row) if j not in owned) for row in rows]
            lacks = sorted(out[label] - votes + (not tie) for c, votes in enumerate(out) if c != label)
            if lacking([max(0, x) for x in lacks], k, n):
                return False
        return True

    return answer


def surplus_is_shared(rows, label, n, k):
    for owned, out in _owned(rows, n):
        lacks = sorted(out[label] - votes for c, votes in enumerate(out) if c != label)
        if sum(lacks[:k]) <= len(owned):
            return False
    return True


def _owned(rows, n):
    width = len(rows[0])
    for a in range(width):
        owned = {(a + i) % width for i in range(n)}
        yield owned, [sum(x for j, x in enumerate(row) if j not in owned) for row in rows]


def weakest_against_best(rows, label, n, k):
    outs = [out for _, out in _owned(rows, n)]
    least, most = min(out[label] for out in outs), [max(votes) for votes in zip(*outs, strict=True)]
    lacks = sorted(max(0, least - votes) for c, votes in enumerate(most) if c != label)
    return sum(lacks[:k]) > n


def heaviest_window_only(rows, label, n, k):
    _, out = min(_owned(rows, n), key=lambda pair: pair[1][label])
    lacks = sorted(max(0, out[label] - votes) for c, votes in enumerate(out) if c != label)
    return sum(lacks[:k]) > n


def first_by_honest_votes(rows, label, n, k):
    order = sorted((c for c in range(len(rows)) if c != label), key=lambda c: -sum(rows[c]))
    return all(sum(max(0, out[label] - out[c]) for c in order[:k]) > n for _, out in _owned(rows, n))


def hanging_over(rows, label, n, k):
    for a in range(len(rows[label])):
        out = [sum(row) - sum(row[a : a + n]) for row in rows]
        lacks = sorted(max(0, out[label] - votes) for c, votes in enumerate(out) if c != label)
        if sum(lacks[:k]) <= n:
            return False
    return True


def label_keeps_its_votes(rows, label, n, k):
    width = len(rows[label])
    for a in range(width):
        owned = {(a + i) % width for i in range(n)}
        out = [sum(x for j, x in enumerate(row) if j not in owned) for row in rows]
        out[label] = sum(rows[label])
        lacks = sorted(max(0, out[label] - votes) for c, votes in enumerate(out) if c != label)
        if sum(lacks[:k]) <= n:
            return False
    return True


def classical_share(rows, label, n, k):
    votes = [sum(row) for row in rows]
    lacks = sorted(max(0, votes[label] - v - n) for c, v in enumerate(votes) if c != label)
    return sum(lacks[:k]) > n


WRONG = {
    "10.1": {
        "a tie is enough": _classical(lambda lead, most: lead >= 2 * most),
        "once Delta": _classical(lambda lead, most: lead > most),
        "forgets that bands are all": _classical(
            lambda lead, most: lead > 2 * most, lambda patch, band, width: patch + band - 1
        ),
        "patch plus band": _classical(
            lambda lead, most: lead > 2 * most, lambda patch, band, width: min(width, patch + band)
        ),
        "only the patch": _classical(
            lambda lead, most: lead > 2 * most, lambda patch, band, width: min(width, patch)
        ),
        "any winner": runner_up_of_all,
    },
    "10.2": {
        "does not wrap": flat,
        "bands that start in the patch or after": from_the_patch_on,
        "one band short": one_short,
        "one band more": one_long,
        "not sorted": not_sorted,
        "some bands twice": twice,
    },
    "10.3": {
        "runner-up reaches": [[9, 9, 5, 5, 5, 5], [9, 9, 0, 0, 0, 0], [0, 0, 4, 4, 4, 4]],
        "third cannot reach": [[9, 9, 9, 9, 9, 9], [4, 4, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]],
        "third is second": [[9, 9, 5, 5, 5, 5], [0, 0, 1, 2, 2, 1], [4, 4, 0, 0, 0, 0]],
        "label is not first": [[4, 4, 0, 0, 0, 0], [9, 9, 5, 5, 5, 5], [0, 0, 1, 2, 2, 1]],
        "a tie for second": [[9, 9, 5, 5, 5, 5], [4, 2, 0, 0, 0, 0], [0, 0, 1, 2, 2, 1]],
        "too large": [[90, 90, 50, 50, 50, 50], [40, 40, 0, 0, 0, 0], [0, 0, 10, 20, 20, 10]],
        "too short": [[9, 9, 5], [4, 4, 0], [0, 0, 4]],
        "one strip": [9, 9, 5, 5, 5, 5],
    },
    "10.4": {
        "only the fillings": only_the_fillings,
        "only the first cell": first_cell_only,
        "the others at 0": from_zeros,
        "in the other order": right_but_turned,
        "steps of 2": _search(lambda row, i: _raised(row, i, 2)),
        "also where it stays": _search(_raised, lambda low, high: high <= low),
        "beyond the top": lambda score, n, top: _search(_raised)(score, n, top + 1),
        "not to the top": lambda score, n, top: _search(_raised)(score, n, top - 1),
        "never": lambda score, n, top: [],
    },
    "10.5": {
        "each rival alone": _one_vote(lambda lacks, k, n: lacks[k - 1] <= n),
        "any one of k": _one_vote(lambda lacks, k, n: lacks[0] <= n),
        "all rivals": _one_vote(lambda lacks, k, n: sum(lacks) <= n),
        "a tie does not reach": _one_vote(lambda lacks, k, n: sum(lacks[:k]) <= n, tie=False),
        "windows hang over the edge": hanging_over,
        "does not wrap": _one_vote(lambda lacks, k, n: sum(lacks[:k]) <= n, wrap=False),
        "the hardest rivals": _one_vote(lambda lacks, k, n: sum(lacks[-k:]) <= n),
        "strictly dearer": _one_vote(lambda lacks, k, n: sum(lacks[:k]) < n),
        "the label keeps its votes": label_keeps_its_votes,
        "without windows": classical_share,
        "a surplus helps the next rival": surplus_is_shared,
        "the label's weakest window, the rivals' best": weakest_against_best,
        "the heaviest window only": heaviest_window_only,
        "the rivals with most honest votes": first_by_honest_votes,
    },
}
