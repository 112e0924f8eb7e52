"""Named wrong answers to lab 3: each replaces the solution cell of its task, and must earn nothing."""

BETRAYERS = """
def betrayers(score, cells):
    found = []
    for i in range(len(cells)):
        for j in range(len(cells[0])):
            raised = [line[:] for line in cells]
            raised[i][j] += 1
            if score(raised) < score(cells):
                found.append((i, j))
    return found
"""  # right

WRONG = {
    "3.1": {
        "the mask turned by a quarter": """
masks, scores = [], []
for cells in maps:
    sums = box_sums(torch.tensor(cells), w, h)
    masks.append(divmod(int(sums.argmax()), sums.shape[1]))
    scores.append(sum(map(sum, cells)) - int(sums.max()))
""",
        "what the mask holds instead of what is left": """
masks, scores = [], []
for cells in maps:
    sums = box_sums(torch.tensor(cells), h, w)
    masks.append(divmod(int(sums.argmax()), sums.shape[1]))
    scores.append(int(sums.max()))
""",
        "one mask for all classes": """
sums = box_sums(torch.tensor(maps).sum(0), h, w)
shared = divmod(int(sums.argmax()), sums.shape[1])
masks = [shared] * 3
scores = [sum(map(sum, cells)) - int(box_sums(torch.tensor(cells), h, w)[shared]) for cells in maps]
""",
        "(column, row)": """
masks, scores = [], []
for cells in maps:
    sums = box_sums(torch.tensor(cells), h, w)
    masks.append(divmod(int(sums.argmax()), sums.shape[1])[::-1])
    scores.append(sum(map(sum, cells)) - int(sums.max()))
masks = masks if any(a != b for a, b in masks) else [(0, 0)] * 3
""",
    },
    "3.2": {
        "a tie is enough": """
inside = torch.zeros(5, 6, dtype=torch.bool)
inside[top : top + h, left : left + w] = True
true_map, rival_map = torch.tensor(maps[true]), torch.tensor(maps[rival])
price = int(true_map.sum() - rival_map[~inside].sum())
ceiling = WindowMask(h, w).scores(rival_map.masked_fill(inside, TOP)[None, None]).item()
floor = WindowMask(h, w).scores(true_map.masked_fill(inside, 0)[None, None]).item()
""",
        "what is written stays": """
inside = torch.zeros(5, 6, dtype=torch.bool)
inside[top : top + h, left : left + w] = True
true_map, rival_map = torch.tensor(maps[true]), torch.tensor(maps[rival])
price = int(true_map.sum() - rival_map[~inside].sum()) + 1
ceiling = int(rival_map.masked_fill(inside, TOP).sum())
floor = WindowMask(h, w).scores(true_map.masked_fill(inside, 0)[None, None]).item()
""",
        "robbed by the attacker alone": """
inside = torch.zeros(5, 6, dtype=torch.bool)
inside[top : top + h, left : left + w] = True
true_map, rival_map = torch.tensor(maps[true]), torch.tensor(maps[rival])
price = int(true_map.sum() - rival_map[~inside].sum()) + 1
ceiling = WindowMask(h, w).scores(rival_map.masked_fill(inside, TOP)[None, None]).item()
floor = int(true_map.masked_fill(inside, 0).sum())
""",
        "the honest evidence stays and is added to": """
inside = torch.zeros(5, 6, dtype=torch.bool)
inside[top : top + h, left : left + w] = True
true_map, rival_map = torch.tensor(maps[true]), torch.tensor(maps[rival])
price = int(true_map.sum() - rival_map.sum()) + 1 + int(rival_map[inside].sum() == 0)
ceiling = WindowMask(h, w).scores(rival_map[None, None]).item()
floor = WindowMask(h, w).scores(true_map.masked_fill(inside, 0)[None, None]).item()
""",
    },
    "3.3": {
        "both windows are chosen on the full map": """
def masked_twice(cells, height, width):
    held = box_sums(torch.tensor(cells), height, width).flatten().sort(descending=True).values
    return sum(map(sum, cells)) - int(held[:2].sum())
""",
        "only one mask": """
def masked_twice(cells, height, width):
    return WindowMask(height, width).scores(torch.tensor(cells)[None, None]).item()
""",
        "of several the last": """
def masked_twice(cells, height, width):
    left = torch.tensor(cells)
    for _ in range(2):
        sums = box_sums(left, height, width)
        row, column = divmod(int((sums == sums.max()).flatten().nonzero()[-1]), sums.shape[1])
        left[row : row + height, column : column + width] = 0
    return int(left.sum())
""",
        "the heaviest pair": """
def masked_twice(cells, height, width):
    board, places = torch.tensor(cells), []
    for row in range(len(cells) - height + 1):
        for column in range(len(cells[0]) - width + 1):
            inside = torch.zeros_like(board, dtype=torch.bool)
            inside[row : row + height, column : column + width] = True
            places.append(inside)
    return min(int(board[~(a | b)].sum()) for a in places for b in places)
""",
    },
    "3.4": {
        "raises without setting back": """
def betrayers(score, cells):
    found, raised = [], [row[:] for row in cells]
    for i in range(len(cells)):
        for j in range(len(cells[0])):
            before = score(raised)
            raised[i][j] += 1
            if score(raised) < before:
                found.append((i, j))
    return found
""",
        "cells that do not help": BETRAYERS.replace("score(raised) <", "score(raised) <="),
        "lowers the cells": BETRAYERS.replace("+= 1", "-= 1"),
        "(column, row)": BETRAYERS.replace("append((i, j))", "append((j, i))"),
    },
    "3.5": {
        "a share equal to T is masked": """
def winners(maps, height, width):
    found = [(Fraction(0), None)]
    for n in range(1, 100000):
        T = Fraction(n, 100000)
        left = [masked(cells, height, width, T) for cells in maps]
        winner = left.index(max(left))
        if winner != found[-1][1]:
            found.append((T, winner))
    return found[1:]


def masked(cells, height, width, T):
    total, held = sum(map(sum, cells)), int(box_sums(torch.tensor(cells), height, width).max())
    return total - held if held >= T * total else total
""".replace("100000", "1000"),
        "tells every T at which a mask comes off": """
def winners(maps, height, width):
    totals = [sum(map(sum, cells)) for cells in maps]
    heaviest = [int(box_sums(torch.tensor(cells), height, width).max()) for cells in maps]
    shares = [Fraction(m, t or 1) for m, t in zip(heaviest, totals)]
    found = []
    for T in sorted({Fraction(0), *(share for share in shares if share < 1)}):
        left = [t - m if share > T else t for t, m, share in zip(totals, heaviest, shares)]
        found.append((T, left.index(max(left))))
    return found
""",
        "of several the last": """
def winners(maps, height, width):
    totals = [sum(map(sum, cells)) for cells in maps]
    heaviest = [int(box_sums(torch.tensor(cells), height, width).max()) for cells in maps]
    shares = [Fraction(m, t or 1) for m, t in zip(heaviest, totals)]
    found = []
    for T in sorted({Fraction(0), *(share for share in shares if share < 1)}):
        left = [t - m if share > T else t for t, m, share in zip(totals, heaviest, shares)]
        winner = max(range(len(left)), key=lambda c: (left[c], c))
        if not found or winner != found[-1][1]:
            found.append((T, winner))
    return found
""",
        "all masks come off at once, at the smallest share": """
def winners(maps, height, width):
    totals = [sum(map(sum, cells)) for cells in maps]
    heaviest = [int(box_sums(torch.tensor(cells), height, width).max()) for cells in maps]
    left = [t - m for t, m in zip(totals, heaviest)]
    found = [(Fraction(0), left.index(max(left)))]
    T = min(Fraction(m, t or 1) for m, t in zip(heaviest, totals))
    if totals.index(max(totals)) != found[0][1]:
        found.append((T, totals.index(max(totals))))
    return found
""",
    },
}

RIGHT = {
    "3.5": {
        "first T as a float": """
def winners(maps, height, width):
    totals = [sum(map(sum, cells)) for cells in maps]
    heaviest = [int(box_sums(torch.tensor(cells), height, width).max()) for cells in maps]
    found = []
    for T in [0.0, *sorted({Fraction(m, t) for m, t in zip(heaviest, totals) if t and 0 < m < t})]:
        left = torch.tensor([t - m if m > T * t else t for t, m in zip(totals, heaviest)])
        winner = (left == left.max()).nonzero()[0, 0]
        if not found or winner != found[-1][1]:
            found.append([T, winner])
    return found
""",
    },
}
"""Right answers in other styles than the master's: visible checks and grading take them."""

REFUSED: dict[str, dict[str, str]] = {}
"""Answers of a kind that grading does not take: the visible checks say so."""
