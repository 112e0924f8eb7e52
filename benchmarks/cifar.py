"""All 10,000 test images of CIFAR-10, from JPEG files to certificates, on two threads.

``python -m benchmarks.cifar data/cifar10-masked.safetensors --data cifar10-jpg`` prints what decoding, the
network and the certificates take (window masking, T = 0, a native 5x5 patch), and how many are certified.
"""

import argparse
import sys
import time
from itertools import pairwise

import torch

from pglearn.certify import certify, rate
from pglearn.data import load
from pglearn.defenses import Defense, Logits, WindowMask
from pglearn.geometry import malicious_windows
from pglearn.models import evidence_batches, geometry, load_model

MOST = 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar", description=__doc__)
    parser.add_argument("MODEL", help="a file that pglearn train wrote")
    parser.add_argument("--data", default="cifar10-jpg")
    parser.add_argument("--patch", type=int, default=5, help="side in pixels (default 5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--repeat", type=int, default=1, help="how often to go through all images (default 1)"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for _ in range(args.repeat):
        times = [time.perf_counter()]
        images = load(args.data, "test")
        times.append(time.perf_counter())
        model, about = load_model(args.MODEL)
        seen = geometry(model, images.image_size)
        windows = malicious_windows(args.patch, args.patch, seen)
        defense = Defense(Logits(about["step"], about["clip_high"]), WindowMask.against(windows, seen.wrap))
        maps = torch.cat([part for _, part in evidence_batches(model, images.images, 250, progress=None)])
        times.append(time.perf_counter())
        found = certify(maps, images.labels, defense, windows)
        times.append(time.perf_counter())
        spent = [later - sooner for sooner, later in pairwise(times)]
        for name, seconds in zip(("decoding", "network", "certificates"), spent, strict=True):
            print(f"{name:<13} {seconds:6.2f} s {len(images) / seconds:12,.0f} images/s")
        print(f"{'together':<13} {sum(spent):6.2f} s {len(images) / sum(spent):12,.0f} images/s")
    for name, hits in (("clean", found.clean), ("certified", found.certified)):
        print(f"{name:<13} {rate(int(hits.sum()), len(images))}")
    if sum(spent) > MOST:
        sys.exit(f"slower than {MOST} s")


if __name__ == "__main__":
    main()
