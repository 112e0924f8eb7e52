"""Plausible wrong answers to lab 4: each replaces the whole solution cell of its task."""

AUDIT = """
def audit(claim):
    bank = Evidence.load(lab_file("shapes-bagnet-bank.safetensors"))
    windows, at = threat(bank, patch=[claim["patch"]]), claim["images"]
    logits = Logits(bank.step, bank.clip_high)
    found = certify_units(
        logits(bank.maps[at]), bank.labels[at], WindowMask.against(windows), windows, logits.top
    ).margin_units.tolist()
    return [a for a, said, m in zip(at, claim["margins"], found, strict=True) if said > m]
"""  # right

WRONG = {
    "4.1": {
        "the closed forms of a mask that fits": """
def bounds(m, window, mask, top):
    outside = fill(m, window, 0)
    out = sum(map(sum, outside))
    return out - max(weigh(outside, v) for v in placements(mask, mask, len(m), len(m[0]))), out
""",
        "the mask has the window's shape": """
def bounds(m, window, mask, top):
    def left(n):
        return sum(map(sum, n)) - max(weigh(n, v) for v in placements(*window[2:], len(m), len(m[0])))
    return left(fill(m, window, 0)), left(fill(m, window, top))
""",
        "the mask stays where it was": """
def bounds(m, window, mask, top):
    square = max(placements(mask, mask, len(m), len(m[0])), key=lambda v: weigh(m, v))
    rest = fill(m, square, 0)
    return sum(map(sum, fill(rest, window, 0))), sum(map(sum, fill(fill(m, window, top), square, 0)))
""",
        "the covering mask falls": """
def bounds(m, window, mask, top):
    i, j, h, w = window
    outside = fill(m, window, 0)
    squares = placements(mask, mask, len(m), len(m[0]))
    cover = [v for v in squares if v[0] <= i and i + h <= v[0] + mask]
    cover = [v for v in cover if v[1] <= j and j + w <= v[1] + mask]
    return score(outside, mask), sum(map(sum, outside)) - max(weigh(outside, v) for v in cover)
""",
    },
    "4.2": {
        "only the runner-up": """
def weakest(image, label, windows, mask, top):
    rival = max((c for c in range(len(image)) if c != label), key=lambda c: score(image[c], mask))
    true, wrong = image[label], image[rival]
    margins = [score(fill(true, w, 0), mask) - score(fill(wrong, w, top), mask) for w in windows]
    return [windows[margins.index(min(margins))], min(margins), rival]
""",
        "largest over windows": """
def weakest(image, label, windows, mask, top):
    least = [score(fill(image[label], w, 0), mask) for w in windows]
    others = [c for c in range(len(image)) if c != label]
    most = {c: max(score(fill(image[c], w, top), mask) for w in windows) for c in others}
    rival = max(most, key=most.get)
    return [windows[least.index(min(least))], min(least) - most[rival], rival]
""",
        "the heaviest window": """
def weakest(image, label, windows, mask, top):
    window = max(windows, key=lambda w: weigh(image[label], w))
    others = [c for c in range(len(image)) if c != label]
    most = {c: score(fill(image[c], window, top), mask) for c in others}
    rival = max(others, key=most.get)
    return [window, score(fill(image[label], window, 0), mask) - most[rival], rival]
""",
        "only lying": """
def weakest(image, label, windows, mask, top):
    found = None
    for window in [w for w in windows if w[2] <= w[3]]:
        most = {c: score(fill(m, window, top), mask) for c, m in enumerate(image) if c != label}
        rival = max(most, key=most.get)
        margin = score(fill(image[label], window, 0), mask) - most[rival]
        if found is None or margin < found[1]:
            found = [window, margin, rival]
    return found
""",
        "rivals keep what they have": """
def weakest(image, label, windows, mask, top):
    scores = [score(m, mask) if c != label else -1 for c, m in enumerate(image)]
    margins = [score(fill(image[label], w, 0), mask) - max(scores) for w in windows]
    return [windows[margins.index(min(margins))], min(margins), scores.index(max(scores))]
""",
    },
    "4.3": {
        "floods the label too": """
def attack(image, label, windows, mask, top):
    for window in windows:
        attacked = [fill(m, window, top) for m in image]
        scores = [score(m, mask) for m in attacked]
        if max(s for c, s in enumerate(scores) if c != label) >= scores[label]:
            return attacked
""",
        "only erases": """
def attack(image, label, windows, mask, top):
    for window in windows:
        attacked = [fill(m, window, 0) if c == label else m for c, m in enumerate(image)]
        scores = [score(m, mask) for m in attacked]
        if max(s for c, s in enumerate(scores) if c != label) >= scores[label]:
            return attacked
""",
        "each class at its own window": """
def attack(image, label, windows, mask, top):
    low = min(windows, key=lambda w: score(fill(image[label], w, 0), mask))
    attacked = [
        fill(m, low, 0)
        if c == label
        else fill(m, max(windows, key=lambda w: score(fill(m, w, top), mask)), top)
        for c, m in enumerate(image)
    ]
    scores = [score(m, mask) for m in attacked]
    return attacked if max(s for c, s in enumerate(scores) if c != label) >= scores[label] else None
""",
        "always an attack": """
def attack(image, label, windows, mask, top):
    window = min(windows, key=lambda w: score(fill(image[label], w, 0), mask))
    return [fill(m, window, 0 if c == label else top) for c, m in enumerate(image)]
""",
        "more than a cell can hold": """
def attack(image, label, windows, mask, top):
    return [fill(m, windows[0], 0 if c == label else 100 * top) for c, m in enumerate(image)]
""",
    },
    "4.4": {
        "erased": """
def lower(m, window, mask, T, top):
    return score(fill(m, window, 0), mask, Fraction(T))
""",
        "as at T = 0": """
def lower(m, window, mask, T, top):
    return score(fill(m, window, 0), mask)
""",
        "masks of the window's shape": """
def lower(m, window, mask, T, top):
    outside, out, (i, j, h, w) = fill(m, window, 0), sum(map(sum, fill(m, window, 0))), window
    masks = placements(h, w, len(m), len(m[0]))
    if all(weigh(outside, v) <= Fraction(T) * out for v in masks):
        masks = [v for v in masks if abs(v[0] - i) < h and abs(v[1] - j) < w]
    return out - max(weigh(outside, v) for v in masks)
""",
        "only masks that cover the window": """
def lower(m, window, mask, T, top):
    outside, (i, j, h, w) = fill(m, window, 0), window
    out, squares = sum(map(sum, outside)), placements(mask, mask, len(m), len(m[0]))
    if all(weigh(outside, v) <= Fraction(T) * out for v in squares):
        squares = [v for v in squares if v[0] <= i and i + h <= v[0] + mask]
        squares = [v for v in squares if v[1] <= j and j + w <= v[1] + mask]
    return out - max(weigh(outside, v) for v in squares)
""",
        "nothing at all": """
def lower(m, window, mask, T, top):
    return 0
""",
    },
    "4.5": {
        "every difference": AUDIT.replace("said > m", "said != m"),
        "only wrong verdicts": AUDIT.replace("said > m", "said > 0 >= m"),
        "pixels for cells": AUDIT.replace('patch=[claim["patch"]]', "window=[(3, 3)]"),
        "the bank's first images": AUDIT.replace("[at]", "[: len(at)]"),
    },
}

LOWER = """
def lower(m, window, mask, T, top):
    outside, (i, j, h, w) = {window: fill(m, window, 0)}[window], window
    out, squares = sum(map(sum, outside)), placements(mask, mask, len(m), len(m[0]))
    if all(weigh(outside, v) <= Fraction(T) * out for v in squares):
        squares = [v for v in squares if v[0] < i + h and i < v[0] + mask]
        squares = [v for v in squares if v[1] < j + w and j < v[1] + mask]
    return KIND(out - max(weigh(outside, v) for v in squares))
"""
ATTACK = """
def attack(image, label, windows, mask, top):
    found = {v: [fill(m, v, 0 if c == label else top) for c, m in enumerate(image)] for v in windows}
    for attacked in found.values():
        scores = [score(m, mask) for m in attacked]
        if max(s for c, s in enumerate(scores) if c != label) >= scores[label]:
            return torch.tensor(attacked).KIND()
"""

RIGHT = {
    "4.1": {
        "tensors, and a dictionary of windows": """
def bounds(m, window, mask, top):
    ends = {window: [score(fill(m, window, value), mask) for value in (0, top)]}
    return torch.tensor(ends[window])
""",
    },
    "4.2": {
        "a dictionary of windows": """
def weakest(image, label, windows, mask, top):
    least = {v: score(fill(image[label], v, 0), mask) for v in windows}
    most = {v: [score(fill(m, v, top), mask) for m in image] for v in windows}
    for v in windows:
        most[v][label] = -1
    window = min(windows, key=lambda v: least[v] - max(most[v]))
    margin, rival = least[window] - max(most[window]), most[window].index(max(most[window]))
    return [torch.tensor(window), torch.tensor(margin), torch.tensor(rival)]
""",
    },
    "4.3": {"a dictionary of windows, an array": ATTACK.replace("KIND", "numpy")},
    "4.4": {"a dictionary of windows, a tensor": LOWER.replace("KIND", "torch.tensor")},
    "4.5": {
        "an array": AUDIT.replace("def audit", "def _audit")
        + "\ndef audit(claim): return torch.tensor(_audit(claim)).numpy()\n",
    },
}
"""Right answers in other styles than the master's: visible checks and grading take them."""

REFUSED = {
    "4.3": {"floats": ATTACK.replace("KIND", "double")},
    "4.4": {"a fraction": LOWER.replace("KIND", "Fraction"), "a float": LOWER.replace("KIND", "float")},
    "4.5": {
        kind: AUDIT.replace("def audit", "def _audit") + f"\ndef audit(claim): return {kind}(_audit(claim))\n"
        for kind in ("set", "(lambda found: found[::-1])")
    },
}
"""Answers of a kind that grading does not take: the visible checks say so."""
