"""Evidence on disk: what is written is read, in batches too, and half a file is never left or accepted."""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pglearn import InputError
from pglearn.evidence import Evidence, EvidenceFile, EvidenceWriter, atomic, sha256
from pglearn.geometry import Axis, Geometry, Layer, receptive_field

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
SIGNED = [torch.int64, torch.int32, torch.int16, torch.int8]
DTYPES = [*FLOATS, *SIGNED, torch.uint64, torch.uint32, torch.uint16, torch.uint8]
ROOT = Path(__file__).parent.parent


def some(count: int = 7, dtype: torch.dtype = torch.float32) -> Evidence:
    generator = torch.Generator().manual_seed(count)
    maps = (torch.randn(count, 3, 4, 5, generator=generator) * 20).abs().to(dtype)
    rows, columns = (receptive_field([Layer(3), Layer(3)], size + 4) for size in (4, 5))
    return Evidence(
        maps,
        torch.randint(3, (count,), generator=generator),
        Geometry(rows, columns),
        "0.125",
        "16",
        False,
        {"model": "a small one", "note": "größer"},
        "0.5",
    )


def by_hand(path: Path, evidence: dict, data: bytes, labels: dict | None = None, **metadata: str) -> Path:
    """A safetensors file from its definition: length of the header, header, data."""
    header = {"__metadata__": metadata, "evidence": evidence} | ({"labels": labels} if labels else {})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "evidence.safetensors"


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(path, dtype):
    before = some(dtype=dtype)
    before.save(path)
    after = Evidence.load(path)
    assert after.maps.dtype == dtype
    assert torch.equal(after.maps.double(), before.maps.double())
    assert before.maps.double().count_nonzero() > 0
    assert torch.equal(after.labels, before.labels)
    for name in ("geometry", "step", "clip_high", "wrap", "provenance", "unit"):
        assert getattr(after, name) == getattr(before, name)
    assert torch.equal(load_file(path)["evidence"].double(), before.maps.double())  # anyone's reader
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_bare_file_says_little(path):
    save_file({"evidence": torch.ones(2, 2, 1, 1), "labels": torch.tensor([0, 1])}, path)
    found = Evidence.load(path)
    assert vars(found) | {"maps": 0, "labels": 0} == vars(Evidence(0, 0))
    assert (found.geometry, found.step, found.clip_high, found.unit) == (None,) * 4


def test_round_trip_of_what_a_file_may_lack(path):
    Evidence(torch.ones(2, 2, 1, 3), None, wrap=True).save(path)
    found = Evidence.load(path, unlabelled=True)
    assert (found.labels, found.wrap) == (None, True)
    with pytest.raises(InputError, match=r"^labels: not in the file, allowed: .* --unlabelled"):
        Evidence.load(path)


@pytest.mark.parametrize("by_file", [False, True])
def test_a_file_and_its_geometry_wrap_together(path, by_file):
    """Whoever says so, file or geometry: windows of a patch count around the border in both."""
    axes = some().geometry
    about = {"wrap": True} if by_file else {"geometry": replace(axes, wrap=True)}
    Evidence(torch.ones(2, 2, 4, 5), None, **{"geometry": axes, **about}).save(path)
    found = EvidenceFile(path, unlabelled=True)
    assert found.wrap
    assert found.geometry == replace(axes, wrap=True)


def test_labels_may_be_left_aside(path):
    save_file({"evidence": torch.ones(2, 2, 1, 1), "labels": torch.tensor([9.5])}, path)
    assert EvidenceFile(path, unlabelled=True).labels is None


def test_numbers_that_are_no_numbers_survive(path):
    maps = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30]).view(1, 4, 1, 1)
    Evidence(maps, torch.tensor([0])).save(path)
    assert torch.equal(Evidence.load(path).maps.view(torch.int32), maps.view(torch.int32))


def test_maps_need_not_be_contiguous(path):
    maps = torch.arange(24.0).view(4, 3, 2, 1).transpose(0, 3)
    Evidence(maps, torch.tensor([0])).save(path)
    assert torch.equal(Evidence.load(path).maps, maps)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_batches_equal_the_whole(path, size):
    whole = some()
    whole.save(path)
    parts = list(EvidenceFile(path).batches(size))
    assert [len(maps) for maps, _ in parts] == [min(size, 7 - start) for start in range(0, 7, size)]
    assert torch.equal(torch.cat([maps for maps, _ in parts]), whole.maps)
    assert torch.equal(torch.cat([labels for _, labels in parts]), whole.labels)
    assert all(labels is None for _, labels in EvidenceFile(path, unlabelled=True).batches(size))


@pytest.mark.parametrize("dtype", DTYPES)
def test_written_in_batches_or_at_once_the_file_is_the_same(tmp_path, dtype):
    whole = some(dtype=dtype)
    whole.save(tmp_path / "whole")
    names = ("geometry", "step", "clip_high", "wrap", "provenance", "unit")
    about = {name: getattr(whole, name) for name in names}
    with EvidenceWriter(tmp_path / "batches", whole.maps.shape, dtype, **about) as writer:
        for start in (0, 3, 6):
            writer.write(whole.maps[start : start + 3], whole.labels[start : start + 3])
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "batches").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["batches", "whole"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (2, 3, 4)}, r"^maps: have shape \(2, 3, 4\), allowed: \(N, C, H, W\)"),
        ({"shape": (0, 3, 4, 5)}, r"^maps: have shape \(0, 3, 4, 5\)"),
        ({"dtype": torch.complex64}, "^dtype: torch.complex64 cannot be stored"),
        ({"dtype": torch.bool}, "^dtype: torch.bool cannot be stored"),
        ({"provenance": {"step": "1"}}, "^provenance: uses the reserved names"),
        ({"provenance": {"unit": "1"}}, r"^provenance: uses the reserved names \['unit'\]"),
    ],
)
def test_a_writer_refuses_what_no_file_holds(path, change, message):
    with pytest.raises(InputError, match=message):
        EvidenceWriter(path, **{"shape": (2, 3, 4, 5), **change})
    assert not path.exists()


@pytest.mark.parametrize(
    ("maps", "labels", "message"),
    [
        (torch.ones(2, 3, 4, 6), torch.tensor([0, 1]), "^maps: are "),
        (
            torch.ones(2, 3, 4, 5, dtype=torch.float64),
            torch.tensor([0, 1]),
            "^maps: are .*float64, allowed: .*float32",
        ),
        (torch.ones(2, 3, 4, 5), None, "^labels: "),
        (torch.ones(2, 3, 4, 5), torch.tensor([0]), "^labels: "),
        (torch.ones(1, 3, 4, 5), torch.tensor([0]), "^maps: 1 written, 2 declared"),
        (torch.ones(3, 3, 4, 5), torch.tensor([0, 1, 2]), "^maps: 3 written, 2 declared"),
    ],
)
def test_what_does_not_fit_the_declaration_leaves_no_file(path, maps, labels, message):
    def write():
        with EvidenceWriter(path, (2, 3, 4, 5)) as writer:
            writer.write(maps, labels)

    with pytest.raises(InputError, match=message):
        write()
    assert list(path.parent.iterdir()) == []


def test_an_exception_leaves_the_file_that_was_there(path):
    path.write_bytes(b"what was there")

    def write():
        with EvidenceWriter(path, (2, 3, 4, 5)) as writer:
            writer.write(torch.ones(1, 3, 4, 5), torch.tensor([0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"what was there"
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_writer_leaves_the_file_that_was_there(path):
    path.write_bytes(b"what was there")
    program = """
        import sys, torch
        from pglearn.evidence import EvidenceWriter
        with EvidenceWriter(sys.argv[1], (4000, 3, 40, 50)) as writer:
            writer.write(torch.ones(1000, 3, 40, 50), torch.zeros(1000, dtype=torch.int64))
            print("half", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half\n"
        writer.kill()
    assert path.read_bytes() == b"what was there"
    some().save(path)  # and nothing that it left stands in the way
    assert len(Evidence.load(path).maps) == 7


@pytest.fixture
def little_space():
    """At most so many bytes in one file: what a full disk is to a writer."""
    resource = pytest.importorskip("resource", reason="no limits on this system")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("space", [100, 20_000])
def test_a_full_disk_is_one_line_and_leaves_the_file_that_was_there(path, little_space, space):
    path.write_bytes(b"what was there")
    evidence = some(100)
    little_space(space)
    with pytest.raises(InputError) as error:
        evidence.save(path)
    little_space(2**40)
    assert str(error.value) == f"{path}: cannot be written: File too large"
    assert path.read_bytes() == b"what was there"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written: No such file or directory"):
        some().save(tmp_path / "nowhere" / "evidence.safetensors")


def test_atomic_shows_nothing_before_it_is_done(path):
    with atomic(path) as write:
        write(b"ab")
        write(b"c")
        assert not path.exists()
    assert path.read_bytes() == b"abc"


F32 = {"dtype": "F32", "shape": [1, 2, 1, 2], "data_offsets": [0, 16]}
ONE_LABEL = {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]}


def refused(path: Path, message: str, **options: bool) -> None:
    with pytest.raises(InputError, match=message) as error:
        EvidenceFile(path, **options)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_cut_while_it_is_read_is_refused(path):
    some(100).save(path)
    file = EvidenceFile(path)
    os.truncate(path, 20_000)
    with pytest.raises(InputError, match=r"^FILE: .* became shorter while it was read"):
        list(file.batches(10))


def test_the_file_made_by_hand_is_read(path):
    by_hand(path, F32, struct.pack("<4fq", 1, 2, 3, 4, 1), ONE_LABEL, wrap="true", step="0.5")
    found = Evidence.load(path)
    assert found.maps.tolist() == [[[[1, 2]], [[3, 4]]]]
    assert (found.labels.tolist(), found.wrap, found.step) == ([1], True, "0.5")


def test_what_is_no_complete_file_is_refused(path, tmp_path):
    refused(path, "^FILE: .* is not a file")
    refused(tmp_path, "^FILE: .* is not a file")
    whole = by_hand(path, F32, struct.pack("<4fq", 1, 2, 3, 4, 1), ONE_LABEL).read_bytes()
    for content in (b"", b"PK\x03\x04" * 9, b"\xff" * 64, b"[1, 2]\n" * 30, struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(content)
        refused(path, "^FILE: .* is no complete safetensors file")
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "^FILE: .* is no complete safetensors file")
    path.write_bytes(whole + b"x")
    refused(path, "^FILE: .* is no complete safetensors file")
    some(100).save(path)
    os.truncate(path, path.stat().st_size - 1)
    refused(path, "^FILE: .* is no complete safetensors file")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"maps": torch.ones(1, 2, 1, 1)}, r"^FILE: no tensor named evidence \(found: maps\)"),
        ({}, r"^FILE: no tensor named evidence \(found: none\)"),
        ({"evidence": torch.ones(1, 2, 1)}, r"^evidence: has shape \(1, 2, 1\), allowed: \(N, C, H, W\)"),
        ({"evidence": torch.ones(())}, r"^evidence: has shape \(\)"),
        ({"evidence": torch.ones(1, 2, 1, 1, 1)}, r"^evidence: has shape \(1, 2, 1, 1, 1\)"),
        (
            {"evidence": torch.ones(0, 2, 1, 1)},
            r"^evidence: has shape \(0, 2, 1, 1\), allowed: .* none of them 0",
        ),
        ({"evidence": torch.ones(1, 0, 1, 1)}, r"^evidence: has shape \(1, 0, 1, 1\)"),
        ({"evidence": torch.ones(1, 2, 0, 1)}, r"^evidence: has shape \(1, 2, 0, 1\)"),
        (
            {"evidence": torch.ones(1, 2, 1, 1).bool()},
            "^evidence: is of type BOOL, allowed: F64, F32",
        ),
        ({"evidence": torch.ones(1, 2, 1, 1).cfloat()}, "^evidence: is of type C64, allowed: F64"),
        ({"evidence": torch.ones(1, 2, 1, 1)}, "^labels: not in the file, allowed: "),
        ({"labels": torch.tensor([0, 1])}, r"^labels: are \(2,\) I64, allowed: \(1,\) I64"),
        ({"labels": torch.tensor([[0]])}, r"^labels: are \(1, 1\) I64, allowed: \(1,\) I64"),
        (
            {"labels": torch.tensor([0], dtype=torch.int32)},
            r"^labels: are \(1,\) I32, allowed: \(1,\) I64",
        ),
        ({"labels": torch.tensor([0.0])}, r"^labels: are \(1,\) F32"),
        ({"labels": torch.tensor([2])}, "^labels: run from 2 to 2, allowed: 0 to 1"),
        ({"labels": torch.tensor([-1])}, "^labels: run from -1 to -1, allowed: 0 to 1"),
    ],
)
def test_tensors_that_are_no_evidence_are_refused(path, tensors, message):
    if "labels" in tensors:
        tensors = {"evidence": torch.ones(1, 2, 1, 1), **tensors}
    save_file(tensors, path)
    refused(path, message)
    if "label" not in message:
        refused(path, message, unlabelled=True)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"wrap": "yes"}, "^wrap: is 'yes' in the file, allowed: true, false"),
        ({"geometry": "round"}, "^geometry: "),
        ({"geometry": "{}"}, "^geometry: "),
        ({"geometry": '{"rows": {"image": 3, "fields": [[0, 3]]}}'}, "^geometry: "),
        (
            {"geometry": Geometry(*[receptive_field([Layer(3)], 4)] * 2).to_json()},
            "^geometry: describes 2x2 features, the evidence has 1x1",
        ),
    ],
)
def test_metadata_that_contradict_the_evidence_are_refused(path, metadata, message):
    save_file({"evidence": torch.ones(1, 2, 1, 1), "labels": torch.tensor([0])}, path, metadata)
    refused(path, message)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the memory in use from")
def test_a_file_larger_than_memory_streams(path):
    """Six batches are certified in the room of four; all at once they would not fit, which is tried too."""
    images, batch = 6 * 2**10, 2**24 * 4  # 2^14 cells an image, 2^10 images a batch
    shape = [images, 4, 64, 64]
    size = 4 * images * 2**14
    by_hand(
        path,
        {"dtype": "F32", "shape": shape, "data_offsets": [0, size]},
        b"",
        {"dtype": "I64", "shape": [images], "data_offsets": [size, size + 8 * images]},
    )
    os.truncate(path, path.stat().st_size + size + 8 * images)  # zeros that take no disk
    program = """
        import re, resource, sys, torch
        from pglearn.certify import certify_file
        from pglearn.defenses import Defense, Logits, WindowMask
        from pglearn.evidence import EvidenceFile
        from pglearn.geometry import Windows

        file, defense = EvidenceFile(sys.argv[1]), Defense(Logits(), WindowMask(2, 2))
        base = int(re.search(r"VmData:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
        room = base + 4 * int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))
        found = certify_file(file, defense, [Windows(2, 2, (0, 50), (0, 50))])
        assert len(found.margin_units) == file.shape[0] and not found.certified.any()
        try:
            file.load().maps.clone()
        except (RuntimeError, MemoryError):
            print("streamed")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path), str(batch)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "streamed\n"), done.stderr


@pytest.mark.parametrize(("own", "geometry"), [(True, False), (False, True), (True, True), (False, False)])
def test_evidence_and_its_geometry_wrap_together(own, geometry):
    axis = Axis(6, tuple((column, column + 2) for column in range(6)))
    evidence = Evidence(torch.zeros(1, 2, 1, 6), None, Geometry(Axis(4, ((0, 4),)), axis, geometry), wrap=own)
    assert (evidence.wrap, evidence.geometry.wrap) == (own or geometry, own or geometry)
