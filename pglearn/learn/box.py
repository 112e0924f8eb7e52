"""The box: a student's notebook is run where it can reach and spoil nothing but a copy of its folder.

`run` starts this file as a program of its own. That program enters new namespaces (user, processes, network,
mounts), copies the folder into memory, forks, and watches; the child builds itself a file system of Python
and this copy alone, lets Landlock deny the rest once more, and executes the notebook in a kernel, which
inherits it all. What comes out is one file, `result.json`, written on the side of the notebook: believe
nothing in it. Not closed: AF_VSOCK, by which a virtual machine talks to its host.

Works for root and for an ordinary user, and imports nothing but the standard library before it is confined.
"""

import ctypes
import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["missing", "readable", "run"]

PROCESSES, THREADS = 64, 256
STUDENT = 1000  # the user in the box
NOBODY = 65534  # and on the machine, where root grades
FILES, BYTES = 500, 128 << 20  # of the folder
OUTPUT = 300_000  # characters of one cell
ROOM = 512 << 20  # memory that the machine keeps for itself


# ---------------------------------------------------------------------------------------- the grader's side
def missing() -> str | None:
    """Why there is no box on this machine, and what to do; None where there is one."""
    if sys.platform != "linux":
        return "needs Linux 5.13 or newer (Landlock): use a virtual machine or a Linux host"
    try:
        with tempfile.TemporaryDirectory() as folder:
            if run(Path(folder), 60, 1 << 32):
                what = "install it there, readable by all users, not by PYTHONPATH"
                return f"{sys.executable} cannot import pglearn in it: {what}"
    except RuntimeError as error:
        return str(error)
    return None


def run(folder: Path, seconds: float, memory: int) -> str | None:
    """Execute `folder`/notebook.ipynb in the box; `folder`/result.json then has each cell's `outputs`, and
    `at`, the number of the cell that was running, or of cells where all were.

    Seconds for the whole notebook, a quarter of it for one cell; bytes for all of its processes. Without a
    notebook only the library is imported. Returns why it was ended early, None where it was not.
    """
    call = [sys.executable, "-P", __file__, str(folder), str(seconds), str(memory)]
    done = subprocess.run(
        call, capture_output=True, text=True, cwd=folder, env=_clean(folder), errors="replace"
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it does not start"])[-1])
    return done.stdout.strip() or None


def readable() -> list[Path]:
    """What code in the box may read besides its folder: Python, libraries, this package, the system's."""
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    own = [sys.prefix, sys.base_prefix, *packages, str(Path(__file__).resolve().parents[1])]
    system = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ld.so.cache",
        "/etc/fonts",
        "/etc/localtime",
        "/etc/passwd",
    ]
    kernel = [
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/stat",
        "/sys/devices/system",
        "/dev/urandom",
        "/dev/null",
    ]
    paths = [Path(path) for path in [*own, *system, *kernel] if os.path.exists(path)]
    return list(dict.fromkeys(name for path in paths for name in (path, path.resolve())))


def _clean(folder: Path) -> dict[str, str]:
    """Nothing of the grader's environment but the language."""
    here = {
        name: str(folder) for name in ("HOME", "TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    }
    return here | {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "USER": "student",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


# ---------------------------------------------------------------------------------------- the program's side
def _main(folder: Path, seconds: float, memory: int) -> None:
    _call("prctl", 1, signal.SIGKILL)  # ends with the grader
    os.umask(0o022)
    _enter()
    _cover(folder)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _confine(folder, memory)
        os.write(write, b"confined")  # fails where the watcher has ended before it could take us with it
        os.closerange(3, 256)
        _call("prctl", 4, 0, 0, 0, 0)  # to be traced by nobody in the box, which ends with this process
        if worker := os.fork():
            os._exit(_ended(worker))
        _call("prctl", 4, 1, 0, 0, 0)  # its memory is counted, which takes leave to trace
        if (folder / "notebook.ipynb").exists():
            try:
                _execute(folder, max(1, round(seconds / 4)))
            except OSError as error:
                os._exit(error.errno or 1)
        else:  # a trial, of what every notebook begins with
            import pglearn.learn.labs  # noqa: F401
        os._exit(0)
    os.close(write)
    if os.read(read, 8) != b"confined":
        sys.exit(3)
    print(_watch(child, seconds, memory) or "")
    _deliver(folder)


def _ended(worker: int) -> int:
    """Wait for the worker, and for orphans, which the first process adopts; the exit code of the worker."""
    while True:
        process, status = os.wait()
        if process == worker:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _enter() -> None:
    """New namespaces, of one user; for root of two, as the kernel lets root have any number of processes."""
    program, user, group = os.getpid(), os.getuid(), os.getgid()
    read, write = os.pipe()
    mapper = os.fork()
    if mapper == 0:  # stays outside: only there may one map other users than oneself
        os.close(write)
        if not os.read(read, 1):  # no namespaces here
            os._exit(1)
        try:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{program}/{name}").write_text(f"0 0 1\n{STUDENT} {NOBODY} 1")
        except OSError:
            os._exit(1)
        os._exit(0)
    _call("unshare", 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x20000)  # see clone(2)
    os.write(write, b"!")
    if os.waitpid(mapper, 0)[1]:
        for name, text in {
            "setgroups": "deny",
            "uid_map": f"{STUDENT} {user} 1",
            "gid_map": f"{STUDENT} {group} 1",
        }.items():
            try:
                Path(f"/proc/self/{name}").write_text(text)
            except OSError as error:
                sys.exit(f"{_HELP['unshare']}; and grade as an ordinary user ({error})")
    with suppress(OSError):  # read-only in some containers
        Path("/proc/sys/user/max_user_namespaces").write_text("0")  # below this one


def _cover(folder: Path) -> None:
    """Lay a file system of limited size over the folder, which remains our working directory beneath it."""
    _call("mount", None, b"/", None, 0x44000, None)  # recursive, private
    _call("mount", b"none", bytes(folder), b"tmpfs", 0, f"size={BYTES},nr_inodes={FILES}".encode())
    shutil.copytree(".", folder, symlinks=True, dirs_exist_ok=True)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, STUDENT, STUDENT, follow_symlinks=False)


def _deliver(folder: Path) -> None:
    """Copy the result, if there is one, to the folder beneath."""
    try:
        file = os.open(folder / "result.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(file, "rb") as stream:
            result = stream.read(BYTES)
    except OSError:  # none, or the student's link or folder
        return
    Path("result.json").write_bytes(result)


def _watch(child: int, seconds: float, memory: int) -> str | None:
    """Wait for the child; end it, and with it every process of the box, when it takes too much."""
    end, shared = time.monotonic() + seconds, _known("Shmem")
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.1)
        if time.monotonic() > end:
            reason = f"stopped after {seconds:.0f} s"
        else:
            reason = _excess(child, memory, shared)
        if reason:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return reason
    code = os.waitstatus_to_exitcode(ended[1])
    if code == errno.ENOSPC:
        return f"stopped: more than {BYTES >> 20} MiB or {FILES} files written"
    return f"the box ended with status {code}" if code else None


def _excess(child: int, memory: int, shared: int) -> str:
    """Of what the box's processes take too much, as a reason; empty where of nothing."""
    family = _family(child)
    if len(family) > PROCESSES or sum(family.values()) > THREADS:
        return f"stopped: more than {PROCESSES} processes or {THREADS} threads"
    if _known("MemAvailable") < ROOM:
        return "stopped: this machine is out of memory"
    # what is shared need not be any process's: a memfd
    if max(sum(map(_memory, family)), _known("Shmem") - shared) > memory:
        return f"stopped: more than {memory / 2**30:.3g} GiB of memory"
    return ""


def _family(root: int) -> dict[int, int]:
    """The number of threads of the process and of each of its descendants: orphans are adopted by `root`, the
    first of its namespace.
    """
    children: dict[int, list[int]] = {}
    threads: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if stat := _read(f"/proc/{name}/stat"):
            fields = stat.rpartition(")")[2].split()  # from the third on, see proc_pid_stat(5)
            children.setdefault(int(fields[1]), []).append(int(name))
            threads[int(name)] = int(fields[17])
    found = [root]
    for process in found:
        found += children.get(process, [])
    return {process: threads.get(process, 0) for process in found}


def _memory(process: int) -> int:
    """Bytes of a process, its share of what it has in common with others."""
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:  # it has just ended
        return 0
    # a thread that has ended, be it the first, knows nothing
    texts = (_read(f"/proc/{process}/task/{thread}/smaps_rollup") for thread in threads)
    lines = next(filter(None, texts), "").splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def _known(name: str) -> int:
    """Bytes that the machine has of this kind of memory."""
    lines = _read("/proc/meminfo").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # it has just ended
        return ""


def _confine(folder: Path, memory: int) -> None:
    """Never to be undone: for this process and all that it starts."""
    import resource

    for limit, value in {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: BYTES // 2,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_NPROC: THREADS + PROCESSES,  # what a fork bomb has until it is seen
        resource.RLIMIT_CORE: 1,  # 0 would not keep a crash from the system's handler
    }.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    os.nice(10)
    _rebuild(folder)
    if os.getuid() == 0:  # of the two users that root has mapped
        os.setgroups([])
        os.setresgid(STUDENT, STUDENT, STUDENT)
        os.setresuid(STUDENT, STUDENT, STUDENT)
    # a keyring of its own; where there are none, or are forbidden, they are for the student too
    _call(
        "syscall", 250 if platform.machine() == "x86_64" else 219, 1, None, fine=(errno.ENOSYS, errno.EPERM)
    )
    _call("prctl", 1, signal.SIGKILL)  # not before: another user would be without it
    _call("prctl", 38, 1, 0, 0, 0)  # no new privileges
    _landlock(folder)
    for mode, streams in {os.O_RDONLY: [0], os.O_WRONLY: [1, 2]}.items():
        for stream in streams:
            os.dup2(os.open("/dev/null", mode), stream)


def _rebuild(folder: Path) -> None:
    """A file system of `readable` and the folder alone, read-only but for the folder: no files of others, no
    sockets of the system's services.
    """
    root = folder / ".root"
    root.mkdir()
    _call("mount", b"none", bytes(root), b"tmpfs", 0, None)
    for path in [*readable(), folder]:
        place = root / path.relative_to("/")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir() if path.is_dir() else place.touch()
        _call("mount", bytes(path), bytes(place), None, 0x1000 if path == folder else 0x5000, None)  # bind
    _call("syscall", 442, -100, bytes(root), 0x8000, (ctypes.c_uint64 * 4)(1, 0, 0, 0), 32)  # all read-only
    _call("syscall", 442, -100, bytes(place), 0, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)  # but the folder
    os.chdir(root)
    _call("mount", b".", b"/", None, 0x2000, None)  # move
    os.chroot(".")
    os.chdir(folder)


def _landlock(folder: Path) -> None:
    """Deny all files but `readable` and the folder, all TCP, and signals to processes outside."""
    version = _call("syscall", 444, None, 0, 1)
    everything = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    wanted = (ctypes.c_uint64 * 3)(everything, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = _call("syscall", 444, wanted, 24, 0)
    rules = {path: 0b1101 if path.is_dir() else 0b101 for path in readable()}  # execute, read; list
    rules |= {Path(__file__).resolve().parents[2]: 0b1000}  # list where this package lies, for its import
    rules |= {Path("/dev/null"): 0b110, folder: everything & ~(1 << 6 | 1 << 11)}  # no devices
    for path, access in rules.items():
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = access.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
        _call("syscall", 445, ruleset, 1, rule, 0)
        os.close(place)
    _call("syscall", 446, ruleset, 0)
    os.close(ruleset)


_HELP = {
    "unshare": "user namespaces are off: as root `sysctl kernel.apparmor_restrict_unprivileged_userns=0 "
    "kernel.unprivileged_userns_clone=1`; in a container start it with --security-opt seccomp=unconfined",
    "syscall": "needs Linux 5.13 or newer with Landlock: boot it, or start the kernel with lsm=landlock,...",
    "mount": "cannot mount: in a container start it with --security-opt seccomp=unconfined",
}


def _call(name: str, *arguments: Any, fine: tuple[int, ...] = ()) -> int:
    given = [ctypes.c_long(x) if isinstance(x, int) else x for x in arguments]
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*given)
    if result < 0 and ctypes.get_errno() not in fine:
        sys.exit(f"{_HELP.get(name, name)} ({os.strerror(ctypes.get_errno())})")
    return result


def _execute(folder: Path, seconds: int) -> None:
    """Run every cell; where one kills the kernel or cannot be interrupted, begin again without it."""
    import nbformat
    from nbclient.client import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    class Client(NotebookClient):
        """Takes plain outputs alone, and of each cell `OUTPUT` characters."""

        written = 0

        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] in ("stream", "display_data", "execute_result", "error"):
                before, self.written = self.written, self.written + len(str(msg["content"]))
                if before > OUTPUT:
                    return None
                if self.written > OUTPUT:
                    failed(cell, f"printed more than {OUTPUT:,} characters")
                    return None
            elif msg["msg_type"] not in ("status", "clear_output"):
                return None
            return super().process_message(msg, cell, cell_index)

    def failed(cell: Any, why: str) -> None:
        cell.outputs.append(nbformat.v4.new_output("error", ename="Stopped", evalue=why, traceback=[why]))

    def ended(cell: Any, execute_reply: Any, **_: Any) -> None:
        reply = execute_reply["content"]
        silent = all(out.output_type != "error" for out in cell.outputs)
        if reply["status"] == "error" and (silent or reply["evalue"] == late):
            failed(cell, late if reply["evalue"] == late else f"{reply['ename']}: {reply['evalue']}")

    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    late = f"took longer than {seconds} s"
    lost: dict[int, str] = {}  # cells that the kernel did not survive

    def attempt() -> bool:
        client = Client(
            notebook,
            timeout=seconds,
            interrupt_on_timeout=True,
            error_on_timeout={"ename": "Stopped", "evalue": late, "traceback": [late]},
            allow_errors=True,
            raise_on_iopub_timeout=True,
            record_timing=False,
            coalesce_streams=True,
            kernel_name="python3",
            shutdown_kernel="immediate",
            on_cell_executed=ended,
            config=Config({"ConnectionFileMixin": {"transport": "ipc"}}),
        )
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                cell.outputs, client.written = [], 0
                save(index)
                if index in lost:
                    failed(cell, lost[index])
                    continue
                try:
                    client.execute_cell(cell, index)
                except DeadKernelError:
                    lost[index] = "ended Python"
                except CellTimeoutError:
                    lost[index] = f"{late} and could not be interrupted"
                except Exception:  # what the kernel says can be anything
                    lost[index] = "broke the kernel"
                if index in lost:
                    return False
        save(len(notebook.cells))
        return True

    def save(at: int) -> None:
        part = folder / "result.part"
        part.write_text(
            json.dumps({"at": at, "outputs": [cell.get("outputs", []) for cell in notebook.cells]})
        )
        part.rename(folder / "result.json")

    while not attempt():
        pass


if __name__ == "__main__":
    _main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
