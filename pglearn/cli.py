"""``pglearn …``: a thin face over the library. Bad input ends with exit code 2 and one line."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from pglearn.errors import InputError

if TYPE_CHECKING:
    from pglearn.data import ImageSet
    from pglearn.defenses import Defense

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _shape(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", text)):
        raise argparse.ArgumentTypeError(f"is {text!r}, allowed: HEIGHTxWIDTH, such as 5x5")
    return int(match[1]), int(match[2])


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        raise argparse.ArgumentTypeError(f"is {text!r}, allowed: a whole number")
    return int(text)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _places(text: str) -> tuple[str, int] | tuple[int, int]:
    if match := re.fullmatch(r"([0-9]{1,9}),([0-9]{1,9})", text):
        return int(match[1]), int(match[2])
    if match := re.fullmatch(r"(evidence|gradient|random|grid):([1-9][0-9]{0,8})", text):
        return match[1], int(match[2])
    raise argparse.ArgumentTypeError(
        f"is {text!r}, allowed: evidence:N, gradient:N, random:N, grid:STEP, or ROW,COLUMN"
    )


def _class(text: str, classes: Sequence[str]) -> int:
    if text in classes:
        return classes.index(text)
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) < len(classes):
        return int(text)
    known = ", ".join(classes[:10]) + ", ..." * (len(classes) > 10)
    raise InputError(f"--target: is {text!r}, allowed: 0 to {len(classes) - 1}, or a name: {known}")


def _described(name: str, defense: Defense, k: int) -> str:
    from pglearn.defenses import TopMask, WindowMask

    transform, aggregate = defense.transform, defense.aggregate
    parts = [f"{name} over {type(transform).__name__.lower()}"]
    if isinstance(aggregate, WindowMask):
        parts += [f"mask {_by((aggregate.height, aggregate.width))}", f"T = {aggregate.threshold}"]
    if isinstance(aggregate, TopMask):
        parts.append(f"alpha = {aggregate.alpha}")
    if threshold := getattr(transform, "vote_threshold", None):
        parts.append(f"threshold {threshold}")
    return ", ".join([*parts, f"top-{k}"])


def _certify(args: argparse.Namespace) -> None:
    import torch

    from pglearn.certify import certify_file, rate, threat
    from pglearn.defenses import TopMask, WindowMask, make_defense
    from pglearn.distributed import place
    from pglearn.evidence import EvidenceFile, sha256

    file = EvidenceFile(args.FILE, unlabelled=args.unlabelled)
    shapes: list[tuple[int, int]] = args.window or args.patch
    patches = args.patches
    if args.within:
        if args.defense != "mask":
            raise InputError(
                f"--within: not used by {args.defense}, which takes any number of patches anywhere, "
                "allowed: only with --defense mask"
            )
        if patches < 2:
            raise InputError("--within: holds several patches, allowed: only with --patches 2 or more")
        if any(h > args.within[0] or w > args.within[1] for h, w in shapes):
            raise InputError(
                f"--within: is {_by(args.within)}, allowed: at least as large as each patch or window"
            )
        shapes, patches = [args.within], 1
    if args.mask and not all(1 <= side <= most for side, most in zip(args.mask, file.shape[2:], strict=True)):
        raise InputError(f"mask: {_by(args.mask)}, allowed: from 1x1 to the map's {_by(file.shape[2:])}")
    windows = threat(file, **{"window" if args.window else "patch": shapes})
    named = ("mask", "detection_threshold", "step", "clip_high", "vote_threshold")
    options = {name: getattr(args, name) for name in named}
    defense = make_defense(args.defense, windows, patches, args.transform, file, **options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    certificate = certify_file(file, defense, windows, args.top_k, device, patches)
    if place()[0]:  # the first process of several speaks for all
        return
    if args.patch and file.geometry and (warning := file.geometry.warning()):
        print(f"pglearn: {warning}", file=sys.stderr)
    if any(window.height == file.shape[2] and window.width == file.shape[3] for window in windows):
        print("pglearn: a malicious window is the whole map: nothing can be certified", file=sys.stderr)
    transform, aggregate = defense.transform, defense.aggregate
    mask = _by((aggregate.height, aggregate.width)) if isinstance(aggregate, WindowMask) else None
    alpha = aggregate.alpha if isinstance(aggregate, TopMask) else None
    parameters = {
        "defense": args.defense,
        "transform": type(transform).__name__.lower(),
        "step": transform.step,
        "clip_high": getattr(transform, "clip_high", None),
        "vote_threshold": getattr(transform, "vote_threshold", None),
        "unit": file.unit,
        "patch": [_by(shape) for shape in args.patch] if args.patch else None,
        "window": sorted({_by((w.height, w.width)) for w in windows}),
        "placements": sum(map(len, windows)),
        "patches": args.patches,
        "within": _by(args.within) if args.within else None,
        "mask": mask,
        "alpha": alpha,
        "detection_threshold": aggregate.threshold if isinstance(aggregate, WindowMask) else None,
        "top_k": args.top_k,
        "unlabelled": args.unlabelled,
        "wrap": file.wrap,
    }
    images, clean, certified = file.shape[0], int(certificate.clean.sum()), int(certificate.certified.sum())
    if args.json:
        report = {
            "schema": "pglearn.certify/1",
            "parameters": parameters,
            "evidence_sha256": sha256(args.FILE),
            "images": images,
            "clean": clean,
            "certified": certified,
            "per_image": {
                "prediction": certificate.prediction.tolist(),
                "clean": certificate.clean.tolist(),
                "certified": certificate.certified.tolist(),
                "margin": certificate.margin,
            },
        }
        print(json.dumps(report))
        return
    several = f"{args.patches} patches within" if args.within else f"{args.patches} patches, each"
    attacker = "one patch of" if args.patches == 1 else several
    size = " or ".join(map(_by, shapes)) + (" pixels" if args.patch else " features")
    print(f"evidence   {args.FILE}: {images} images, {file.shape[1]} classes, {_by(file.shape[2:])} features")
    print(
        f"attacker   {attacker} {size}, anywhere, any content: "
        f"{parameters['placements']} windows of {', '.join(parameters['window'])} features"
    )
    print(f"defense    {_described(args.defense, defense, args.top_k)}")
    for name, count in (("clean", clean), ("certified", certified)):
        print(f"{name:<10} {rate(count, images)}")


def _compare(args: argparse.Namespace) -> None:
    from pglearn.evidence import atomic
    from pglearn.reports import compare, markdown, write

    kind = "window" if args.window else "patch"
    named = [os.path.realpath(name) for name in (*args.FILE, args.out, args.markdown) if name]
    if len(set(named)) < len(named):
        raise InputError("FILE, --out, --markdown: one file is named twice, allowed: different files")
    results = compare(
        args.FILE, args.window or args.patch, kind, args.defense, args.top_k, args.patches, progress=True
    )
    write(args.out, results)
    text = markdown(results)
    if args.markdown:
        with atomic(args.markdown) as file:
            file(text.encode())
    print(text, end="")


def _images(args: argparse.Namespace, split: str) -> ImageSet:
    from pglearn.data import load

    return load(args.data, split, root=args.root, size=args.size, download=args.download, seed=args.data_seed)


def _train(args: argparse.Namespace) -> None:
    import torch

    from pglearn.distributed import place
    from pglearn.training import fit

    if args.minutes is not None and not args.minutes >= 0:
        raise InputError(f"--minutes: is {args.minutes}, allowed: 0 or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    began = time.perf_counter()
    images = _images(args, "train")
    log = fit(
        images,
        args.model,
        args.out,
        objective=args.objective,
        patch=args.patch,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        shift=args.shift,
        seed=args.seed,
        minutes=None if args.minutes is None else args.minutes - (time.perf_counter() - began) / 60,
        about={"data": args.data},
    )
    minutes = (time.perf_counter() - began) / 60
    if place()[0]:
        return
    if log and (done := int(log[-1]["epoch"])) < args.epochs:
        print(f"stopped after epoch {done} of {args.epochs}, {minutes:.1f} minutes: the same command goes on")
        return
    print(f"{args.out}: {len(images)} images, {args.epochs} epochs, {minutes:.1f} minutes")


def _evaluate(args: argparse.Namespace) -> None:
    from pglearn.certify import rate
    from pglearn.distributed import place
    from pglearn.evaluation import evaluate, per_class

    images = _images(args, "test")
    if args.per_class:
        images = per_class(images, args.per_class)
    about = {
        "data": args.data,
        "selection": f"first {args.per_class} of each class" if args.per_class else "all",
    }
    found = evaluate(args.MODEL, images, args.out, args.patch, args.fixed_point, about=about)
    if place()[0]:
        return
    print(f"{args.out}: evidence of {found.images} images")
    for name, count in (("undefended", found.undefended), (f"mask {_by(found.mask)}, T = 0", found.defended)):
        print(f"{name:<18} {rate(count, found.images)}")
    print(f"{'latency':<18} {found.milliseconds:.1f} ms a defended prediction, one image at a time")


def _attack(args: argparse.Namespace) -> int:
    from pglearn.attacks import load_victim
    from pglearn.certify import rate
    from pglearn.evaluation import fitting_model
    from pglearn.trials import ellipse, first_images, new_folder, save, trial

    if args.target is not None and args.top_k > 1:
        raise InputError(
            f"--target: with --top-k {args.top_k} a label may stand where it wins, allowed: top-k 1"
        )
    options: dict[str, Any] = {"steps": (200 if args.universal else 40) if args.steps is None else args.steps}
    if not args.universal:
        options |= {"method": args.method, "restarts": args.restarts}
    elif (args.method, args.restarts) != ("gradient", 1):
        raise InputError("--universal: climbs gradients, once, allowed: without --method and --restarts")
    with nullcontext() if args.out is None else new_folder(args.out) as folder:
        images = _images(args, "test")
        model, _ = fitting_model(args.MODEL, images)
        target = None if args.target is None else _class(args.target, images.classes)
        named = ("patches", "mask", "detection_threshold", "vote_threshold")
        victim, windows = load_victim(
            args.MODEL,
            args.patch,
            args.defense,
            args.transform,
            images.image_size,
            args.top_k,
            **{name: getattr(args, name) for name in named},
        )
        ranked = victim.defense is not None and args.patches == 1
        places = args.places or ("evidence" if ranked else "gradient", 4)
        found = trial(
            victim,
            windows,
            images,
            first_images(images, args.images, target),
            args.patch,
            places,
            patches=args.patches,
            one_for_all=args.universal,
            seed=args.seed,
            target=target,
            stencil=ellipse(*args.patch) if args.shape == "ellipse" else None,
            progress="attack",
            **options,
        )
        many = "one patch" if args.patches == 1 else f"{args.patches} patches"
        aim = ", one for all images" * args.universal
        aim += "" if target is None else f", target {images.classes[target]}"
        print(f"model      {args.MODEL}: {model.name}, {len(images.classes)} classes")
        print(f"images     {args.images} of {len(images)} of {args.data}, {_by(images.image_size)} pixels")
        where = (":" if isinstance(places[0], str) else ",").join(map(str, places))
        print(
            f"attacker   {many} of {_by(args.patch)} pixels, {args.shape}{aim}: {args.method}, "
            f"{options['steps']} steps, restarts {args.restarts}, places {where}, seed {args.seed}"
        )
        read = "none" if victim.defense is None else _described(args.defense, victim.defense, args.top_k)
        print(f"defense    {read}")
        count = args.images
        print(f"clean      {rate(int(found.attacked.clean.sum()), count)}")
        print(f"attacked   {rate(int(found.attacked.robust.sum()), count)}")
        proved = "nothing, without a defense"
        if found.certificate is not None:
            proved = rate(int(found.certificate.certified.sum()), count)
        print(f"certified  {proved}")
        print(
            f"patches    {found.attacked.patches:,} tried, {found.attacked.steps:,} patches x steps in "
            f"{found.seconds:.1f} s, {found.attacked.steps / found.seconds:,.0f} a second"
        )
        if found.impossible:
            print(
                f"pglearn: CERTIFIED IMAGES FELL: {', '.join(map(str, found.impossible))}. This is a bug: "
                "please report it, with this command and what it writes into --out DIR",
                file=sys.stderr,
            )
        if folder:
            save(found, folder)
    if args.out:
        print(f"{args.out}: log.csv, worst.png and, pixel by pixel, the images that fell")
    return 1 if found.impossible else 0


def _reproduce(args: argparse.Namespace) -> None:
    from pglearn.reports import write
    from pglearn.reproduce import SHIPPED, TABLES, bagnets, banks_of, retrain

    if args.minutes is not None and (not args.retrain or not args.minutes >= 0):
        raise InputError(f"--minutes: is {args.minutes}, allowed: 0 or more, with --retrain")
    cards = bagnets(args.data or SHIPPED)
    if args.retrain:

        def run(words: Sequence[str]) -> None:
            command = _parser().parse_args(words)
            command.run(command)

        if not retrain(cards, args.retrain, run, args.minutes):
            print(f"{args.retrain} is not complete yet: the same command goes on")
            return
    text, results = TABLES[args.TABLE](banks_of(cards, args.retrain or args.data or SHIPPED))
    if args.out:
        write(args.out, results)
    print(text, end="")


def _joined(args: argparse.Namespace) -> AbstractContextManager[None]:
    from pglearn.distributed import joined

    if "stopped" not in args:
        raise InputError("torchrun: starts several processes, allowed: for train, evaluate and certify")
    return joined(args.stopped.format(**vars(args)))


def _progress(args: argparse.Namespace) -> None:
    from pglearn.learn import exercises
    from pglearn.learn.progress import folder, forget, report, solved, table

    known = exercises()
    done = solved() & known.keys()
    if args.reset:
        count = f"{len(done)} of {len(known)} exercises"
        if done and not args.yes:
            question = f"Forget what is solved, {count}, in {folder()}? [y/N] "
            print(question, end="", flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise InputError("--reset: nothing was forgotten, allowed: the answer y, or --yes")
        forget(done)
        print(f"forgotten: {count}")
        return
    if args.yes:
        raise InputError("--yes: is given alone, allowed: with --reset")
    found = report(known, done)
    print(json.dumps(found) if args.json else table(found, known))


def _labs_release(args: argparse.Namespace) -> None:
    from pathlib import Path

    from pglearn.learn.course import read_students, release

    count = release(Path(args.DIR), read_students(Path(args.students)), args.labs)
    print(f"{count} copies in {args.DIR}/release; give each student release/STUDENT and nothing else")


def _labs_grade(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pglearn.learn.course import FAILED, grade

    if not (args.seconds >= 10 and args.memory >= 1):
        raise InputError("--seconds, --memory: too little for any notebook, allowed: 10 and 1 or more")
    rows = grade(Path(args.DIR), args.seconds, int(args.memory * 2**30))
    waiting = sum(row["by_hand"] > 0 for row in rows)
    print(f"{len(rows)} submissions: marks and reasons in {args.DIR}/marks.csv, pages in {args.DIR}/feedback")
    if waiting:
        where = f"jupyter lab, started in {args.DIR}, page /formgrader"
        print(f"{waiting} wait for marks by hand: {where}; then this command again")
    if failed := sum(row["reason"].startswith(FAILED) for row in rows):
        where = f"{args.DIR}/marks.csv names the logs; then this command again"
        print(f"pglearn: labs grade: {failed} not graded, {FAILED}: {where}", file=sys.stderr)
    return int(failed > 0)


def _doctor(args: argparse.Namespace) -> int:
    from pglearn.doctor import main

    return main()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pglearn", description="Provable defenses against adversarial patches.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    about = "Certify evidence maps: which predictions no patch can change."
    certify = commands.add_parser("certify", help=about, description=about)
    certify.add_argument(
        "FILE", help="safetensors: evidence (N, C, H, W) of any real type, labels (N,) int64"
    )
    certify.add_argument(
        "--defense",
        required=True,
        metavar="NAME",
        help="mask: clipped logits, heaviest window masked; features: the heaviest single features masked; "
        "clip: tanh, summed (CBN); vote: votes, summed (DS)",
    )
    certify.add_argument(
        "--transform",
        metavar="NAME",
        help="logits, confidence, prediction or tanh (default: the defense's own)",
    )
    threat = certify.add_mutually_exclusive_group(required=True)
    threat.add_argument(
        "--window",
        type=_shape,
        action="append",
        metavar="HxW",
        help="malicious window in feature positions; repeatable: any of them",
    )
    threat.add_argument(
        "--patch",
        type=_shape,
        action="append",
        metavar="HxW",
        help="the same in image pixels, through the file's geometry",
    )
    certify.add_argument(
        "--mask",
        type=_shape,
        metavar="HxW",
        help="what the defense masks (default: the smallest that covers each window); features: P*H*W cells "
        "(default: of the largest window)",
    )
    certify.add_argument(
        "--detection-threshold",
        metavar="T",
        help="mask: share of its class's evidence above which a window is masked (default 0)",
    )
    certify.add_argument(
        "--vote-threshold", metavar="C", help="prediction: confidence from which a cell votes (default 0.2)"
    )
    certify.add_argument(
        "--top-k",
        type=_whole,
        default=1,
        metavar="K",
        help="fewer than K other classes may reach the label (default 1)",
    )
    certify.add_argument(
        "--patches",
        type=_whole,
        default=1,
        metavar="P",
        help="number of patches, anywhere (mask: needs --within)",
    )
    certify.add_argument(
        "--within",
        type=_shape,
        metavar="HxW",
        help="mask: region that holds all patches, in the same measure",
    )
    certify.add_argument("--step", help="transformed evidence of one unit (default: the file's, else 2^-10)")
    certify.add_argument(
        "--clip-high", metavar="C", help="logits are clipped to [0, C] (default: the file's, else 64)"
    )
    certify.add_argument(
        "--unlabelled",
        action="store_true",
        help="certify the defended prediction itself; labels are not read",
    )
    certify.add_argument("--json", action="store_true", help="one JSON object with a verdict for every image")
    certify.set_defaults(run=_certify, stopped="there is no report, the same command begins anew")

    about = "Compare defenses on evidence files: every defense, patch, number of patches and k, as one table."
    compare = commands.add_parser("compare", help=about, description=about)
    compare.add_argument("FILE", nargs="+", help="evidence files, as for certify")
    sizes = compare.add_mutually_exclusive_group(required=True)
    for name, measure in (("--patch", "image pixels"), ("--window", "feature positions")):
        sizes.add_argument(
            name, type=_shape, nargs="+", metavar="HxW", help=f"attackers, in {measure}: one row each"
        )
    compare.add_argument(
        "--defense",
        nargs="+",
        default=["mask", "features", "clip", "vote", "mask:confidence"],
        metavar="NAME",
        help="defenses, NAME or NAME:TRANSFORM (default: mask features clip vote mask:confidence)",
    )
    compare.add_argument("--top-k", type=_whole, nargs="+", default=[1], metavar="K", help="(default 1)")
    compare.add_argument(
        "--patches", type=_whole, nargs="+", default=[1], metavar="P", help="(default 1; window masks take 1)"
    )
    compare.add_argument("--out", required=True, metavar="FILE", help="where the results go (CSV)")
    compare.add_argument("--markdown", metavar="FILE", help="where the table goes, besides being printed")
    compare.set_defaults(run=_compare)

    about = "Train a network with a small receptive field, or an ordinary one; resumes if it was stopped."
    train = commands.add_parser("train", help=about, description=about)
    train.add_argument(
        "--model",
        required=True,
        help="bagnet-small-32, bagnet-small-64, bagnet17, ds-small-64, ... (any name), or a file of weights "
        "to go on from",
    )
    train.add_argument(
        "--out", required=True, metavar="FILE", help="where the trained model goes (safetensors)"
    )
    train.add_argument(
        "--objective",
        default="masked",
        metavar="NAME",
        help="masked (App. A, the default), margin (of the certificate), plain, or softmax (de-randomized "
        "smoothing)",
    )
    train.add_argument("--epochs", type=_whole, default=10)
    train.add_argument("--batch-size", type=_whole, default=128)
    train.add_argument("--lr", type=float, default=4e-3, help="peak learning rate of the one-cycle schedule")
    train.add_argument(
        "--shift", type=_whole, default=1, help="images are moved by up to so many pixels (default 1)"
    )
    train.add_argument("--seed", type=_whole, default=0)
    train.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="stop cleanly after an epoch when the next would not end within M minutes; the same command "
        "goes on",
    )
    train.add_argument("--threads", type=_whole, default=0, help="CPU threads (default: all)")
    train.set_defaults(
        run=_train,
        stopped="epochs that were finished are in {out}.checkpoint, the same command goes on from there",
    )

    about = (
        "Run a trained model over test images: evidence file, clean accuracy, latency of defended inference."
    )
    evaluate = commands.add_parser("evaluate", help=about, description=about)
    evaluate.add_argument("MODEL", help="a file that pglearn train wrote")
    evaluate.add_argument(
        "--out", required=True, metavar="FILE", help="where the evidence goes (safetensors)"
    )
    evaluate.add_argument(
        "--per-class", type=_whole, default=0, metavar="N", help="only the first N images of each class"
    )
    evaluate.add_argument(
        "--fixed-point", action="store_true", help="write integers, rounded as the defense does"
    )
    evaluate.set_defaults(
        run=_evaluate,
        stopped="parts that were finished lie beside {out}, the same command goes on from there",
    )

    about = "Attack images with patches: what is right before, still right after, and certified."
    attack = commands.add_parser("attack", help=about, description=about)
    attack.add_argument("MODEL", help="a file that pglearn train wrote")
    attack.add_argument(
        "--images",
        type=_whole,
        default=256,
        metavar="N",
        help="test images, the first of each class in turn (default 256)",
    )
    attack.add_argument("--patches", type=_whole, default=1, metavar="P", help="patches at once (default 1)")
    attack.add_argument(
        "--shape",
        choices=["rectangle", "ellipse"],
        default="rectangle",
        help="of the patch (default rectangle)",
    )
    attack.add_argument(
        "--defense", default="mask", metavar="NAME", help="as for certify, or none (default mask)"
    )
    attack.add_argument("--transform", metavar="NAME", help="as for certify")
    attack.add_argument("--mask", type=_shape, metavar="HxW", help="as for certify")
    attack.add_argument("--detection-threshold", metavar="T", help="as for certify")
    attack.add_argument("--vote-threshold", metavar="C", help="as for certify")
    attack.add_argument("--top-k", type=_whole, default=1, metavar="K", help="as for certify")
    attack.add_argument(
        "--method",
        choices=["gradient", "search"],
        default="gradient",
        help="(default gradient; search needs none)",
    )
    attack.add_argument(
        "--places",
        type=_places,
        metavar="WHERE",
        help="evidence:N, the N windows that the certificate finds worst; gradient:N; random:N; grid:STEP, "
        "every STEP pixels; or ROW,COLUMN (default evidence:4, gradient:4 where there is no certificate of "
        "one patch)",
    )
    attack.add_argument("--steps", type=_whole, metavar="N", help="(default 40; universal 200)")
    attack.add_argument("--restarts", type=_whole, default=1, metavar="N", help="at each place (default 1)")
    attack.add_argument(
        "--target",
        metavar="CLASS",
        help="name or number of the class that shall win, images of which are left out",
    )
    attack.add_argument("--universal", action="store_true", help="one content for all images")
    attack.add_argument("--seed", type=_whole, default=0)
    attack.add_argument(
        "--out", metavar="DIR", help="new folder for a log, pictures of the worst patch and images that fell"
    )
    attack.set_defaults(run=_attack)

    for command in (train, evaluate, attack):
        command.add_argument(
            "--data",
            required=True,
            metavar="NAME",
            help="shapes, cifar10, imagenette, ..., or a class-per-folder tree",
        )
        command.add_argument(
            "--root", metavar="DIR", help="folder that holds the data (default: $PGLEARN_DATA)"
        )
        command.add_argument("--size", type=_whole, metavar="PIXELS", help="resize and crop to this side")
        command.add_argument("--download", action="store_true", help="let torchvision fetch the data set")
        command.add_argument(
            "--data-seed", type=_whole, default=0, metavar="SEED", help="draws the embedded set"
        )
        command.add_argument(
            "--patch",
            type=_shape,
            required=True,
            metavar="HxW",
            help="size of the attacker's patch, in pixels",
        )

    about = "Print a table or figure of the paper, ours beside it, and every difference in setting."
    reproduce = commands.add_parser("reproduce", help=about, description=about)
    reproduce.add_argument("TABLE", choices=["table14", "table15", "figure8"], help="which one")
    reproduce.add_argument("--data", metavar="DIR", help="cards, banks and weights (default: those shipped)")
    reproduce.add_argument(
        "--retrain",
        metavar="DIR",
        help="train anew from images, by the commands of the cards, into DIR; goes on where it was stopped",
    )
    reproduce.add_argument("--minutes", type=float, metavar="M", help="stop training after so many minutes")
    reproduce.add_argument("--out", metavar="FILE", help="where our results go (CSV)")
    reproduce.set_defaults(run=_reproduce)

    about = "Show which exercises of the book are solved on this machine, and the next one."
    progress = commands.add_parser("progress", help=about, description=about)
    progress.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    progress.add_argument("--reset", action="store_true", help="forget what is solved; asks before")
    progress.add_argument("--yes", action="store_true", help="with --reset: do not ask")
    progress.set_defaults(run=_progress)

    about = "Hand out the six labs of the book, and mark what comes back."
    labs = commands.add_parser("labs", help=about, description=about)
    steps = labs.add_subparsers(metavar="STEP", required=True, parser_class=_Parser)
    about = (
        "Make a course: DIR/release/STUDENT/LAB holds a notebook without solutions and hidden tests, data of "
        "this student's own, and the files it needs. More students or labs later: the same command again."
    )
    step = steps.add_parser("release", help="make each student's copies", description=about)
    step.add_argument("DIR", help="the course's folder, new or made by this command; keep it to yourself")
    step.add_argument(
        "--students", required=True, metavar="FILE", help="one id a line, or a CSV with a column id"
    )
    step.add_argument("--labs", type=_whole, nargs="+", default=[], metavar="N", help="(default: all)")
    step.set_defaults(run=_labs_release, stopped="the same command goes on")
    about = (
        "Mark every new or changed DIR/submitted/STUDENT/LAB/LAB.ipynb through nbgrader, offline, each in a "
        "box: no network, no files but its own, limits of time and memory. Writes DIR/marks.csv and "
        "DIR/feedback. What has marks is left alone: remove DIR/marks/STUDENT/LAB.json to mark it again. "
        "Linux only."
    )
    step = steps.add_parser("grade", help="mark what students handed in", description=about)
    step.add_argument("DIR", help="the course's folder")
    step.add_argument(
        "--seconds",
        type=float,
        default=180.0,
        metavar="S",
        help="for a notebook; a quarter of it for one cell (default 180)",
    )
    step.add_argument("--memory", type=float, default=4.0, metavar="GIB", help="for a notebook (default 4)")
    step.set_defaults(run=_labs_grade, stopped="what was graded is kept, the same command goes on")

    about = "Say what works on this machine and how to mend the rest."
    commands.add_parser("doctor", help=about, description=about).set_defaults(run=_doctor)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0; after one line on stderr 2 on bad input, 130 on Ctrl-C; 1 where what
    should work does not, or a certified image fell.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # torchrun says how many processes there are
    try:
        args = _parser().parse_args(arguments)
        with nullcontext() if alone else _joined(args):
            return args.run(args) or 0
    except KeyboardInterrupt:
        left = f": {args.stopped.format(**vars(args))}" if "stopped" in args else ""
        print(f"pglearn: stopped{left}", file=sys.stderr)
        return 130
    except InputError as error:
        line = f"pglearn: {str(error).splitlines()[0]}"
    except UnicodeError as error:  # a name that cannot be printed or written
        line = f"pglearn: {error}"[:300]
    except OSError as error:  # a file name that no system takes, an output that is full or closed
        line = f"pglearn: {error.strerror or error}: {error.filename or 'output'}"[:300]
    if alone:
        print(line, file=sys.stderr)
    else:
        from pglearn.distributed import speak

        speak(line)
    return 2
