"""A python that has torch imported already: runs `python -m stages.<stage>` in a fork, seconds sooner than a cold one.

`python warm.py <socket>` is the server. It imports third-party packages only, never `stages`, so that each run takes
the package from its own working directory, as a cold python does. `Warm` starts one; `Warm.bin` holds a `python` which
hands its arguments to the server, so that `dvc repro` with this folder first on PATH runs every stage warm.
"""

import contextlib
import importlib
import json
import multiprocessing.context
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LONGEST = 300
"""Seconds after which a stage that hangs fails its test."""
PRELOADED = (
    "torch", "torch.optim", "transformers", "transformers.models.qwen3.modeling_qwen3", "transformers.models.auto",
    "transformers.modeling_utils", "transformers.generation.utils", "polars", "zarr", "numcodecs", "pydantic",
    "ruamel.yaml", "rich.progress",
    "jaxtyping", "tokenizers", "safetensors.torch", "huggingface_hub", "jinja2", "openai", "filelock",
    "torch.func", "torch._dynamo",
)  # fmt: skip
CLIENT = """#!{python} -SEs
import sys
sys.path.insert(0, {folder!r})
import os
import signal
from warm import ask
code = ask({socket!r}, sys.argv[1:], os.getcwd(), dict(os.environ)).wait()
if code < 0:  # killed: so is this
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@dataclass
class Run:
    """A stage that runs in a fork of the server. `pid`: the process that does the work."""

    connection: socket.socket
    pid: int

    def wait(self) -> int:
        """The exit status: negative for a signal."""
        answer = self.connection.makefile().readline()
        self.connection.close()
        return int(answer)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def ask(
    address: str, arguments: list[str], folder: str, environment: Mapping[str, str], output: int | None = None
) -> Run:
    """Has the server run `python <arguments>` in `folder`; output goes to the descriptor, or to this process's own."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LONGEST)
    connection.connect(address)
    message = json.dumps({"arguments": arguments, "folder": folder, "environment": dict(environment)}).encode()
    streams = [1, 2] if output is None else [output, output]
    socket.send_fds(connection, [len(message).to_bytes(4, "big")], streams)
    connection.sendall(message)
    pid = b""
    while not pid.endswith(b"\n"):
        piece = connection.recv(1)
        assert piece, "the warm server has gone"
        pid += piece
    return Run(connection, int(pid))


class Warm:
    """A server of its own; `hash_seed` is its PYTHONHASHSEED, which decides the order of sets of strings."""

    def __init__(self, folder: Path, hash_seed: int) -> None:
        folder.mkdir(parents=True)
        self.address = str(folder / "socket")
        self.bin = folder / "bin"
        self.bin.mkdir()
        client = self.bin / "python"
        client.write_text(CLIENT.format(python=sys.executable, folder=str(Path(__file__).parent), socket=self.address))
        client.chmod(0o755)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed), "HF_HUB_OFFLINE": "1"}
        environment |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}  # two threads on one core would else spin
        self.process = subprocess.Popen([sys.executable, __file__, self.address], cwd=folder, env=environment)
        while not Path(self.address).exists():
            assert self.process.poll() is None, "the warm server did not start"
            time.sleep(0.05)

    def start(self, root: Path, stage: str, *arguments: str, output: Path | None = None, **environment: str) -> Run:
        """Starts a stage in the repository `root`."""
        target = output or root.parent / f"{root.name}.log"
        with target.open("ab") as stream:
            return ask(
                self.address,
                ["-m", f"stages.{stage}", *arguments],
                str(root),
                os.environ | environment,
                stream.fileno(),
            )

    def run(self, root: Path, stage: str, *arguments: str, **environment: str) -> str:
        """Runs a stage to its end; returns its output. Fails the test if the stage fails."""
        log = root.parent / f"{root.name}.{stage}.log"
        log.unlink(missing_ok=True)
        code = self.start(root, stage, *arguments, output=log, **environment).wait()
        assert code == 0, f"{stage} {arguments}: exit {code}\n{log.read_text()}"
        return log.read_text()

    def close(self) -> None:
        """Stops the server."""
        self.process.kill()
        self.process.wait()


def serve(address: str) -> None:
    """Imports what stages import, then runs each request in a fork."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent.resolve()]
    server = socket.socket(socket.AF_UNIX)
    server.bind(address + ".new")
    server.listen(16)
    Path(address + ".new").rename(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    server.settimeout(5)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            connection, _ = server.accept()
            connection.setblocking(True)
            if os.fork() == 0:
                server.close()
                attend(connection)
                os._exit(0)
            connection.close()


def attend(connection: socket.socket) -> None:
    """Runs one request in a child of this process and tells its pid and then its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, *_ = socket.recv_fds(connection, 4, 2)
    message = b""
    while len(message) < int.from_bytes(size, "big"):
        message += connection.recv(65536)
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        connection.close()
        work(request, streams)
    connection.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:  # whoever asked has been killed
        os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def work(request: dict, streams: list[int]) -> None:
    """What `python -m <module>` does."""
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    flag, module, *rest = request["arguments"]
    assert flag == "-m", f"warm python runs modules only, not {request['arguments']}"
    sys.path[:0] = [request["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *rest]
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # A process that a stage starts is a fork, too, rather than a cold python. (Cold ones: tests/test_peers.py.)
    contexts = multiprocessing.context._concrete_contexts  # pyright: ignore[reportAttributeAccessIssue]
    contexts["spawn"] = contexts["fork"]
    if limit := os.environ.get("LARGEST_FILE"):  # as on a disk that is full: a write beyond this many bytes fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def warm(folder: Path, hash_seed: int) -> Iterator[Warm]:
    """A server for as long as the block lasts."""
    server = Warm(folder, hash_seed)
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    serve(sys.argv[1])
