"""Pieces of work shared among processes, one a GPU: each rank makes whole pieces, and nothing is gathered but files.

A stage that finds several GPUs starts itself once for each (`launch`); under torchrun it joins the ranks that torchrun
started, on this machine or on several that share a file system:

  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m stages.gradients geography

Rank r of n makes the pieces r, r + n, r + 2n, ... and rank 0 writes the output once all are there. A piece is a file in
Scratch that appears whole or not at all, so that the pieces of a rank that died are made on the next run, and by the
same arithmetic: the stores are the same bytes however many ranks there were.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count, islice
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from . import packed

PATIENCE = timedelta(days=7)
"""How long a rank waits for the slowest one."""
GRACE = 10.0
"""Seconds that the other ranks are given to end once one has died."""
LOST = 75
"""Exit code of a rank that lost the others while it waited for them."""
CHILD = "STAGES_RANK_OF_LAUNCH"
Piece = TypeVar("Piece")
_times = count()


class RanksError(ValueError):
    """Ranks that ended before their pieces were made. `ranks`: which."""

    def __init__(self, codes: dict[int, int]) -> None:
        self.ranks = sorted(codes)
        named = ", ".join(f"rank {rank} ({_reason(code)})" for rank, code in sorted(codes.items()))
        super().__init__(f"{named} ended before the work was done: its pieces are made when the stage is run again")


def _reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def devices() -> int:
    """Processes that a stage is worth on this machine: one a GPU, one where there are none."""
    return max(1, torch.cuda.device_count())


def rank() -> int:
    """This process's rank; 0 outside of a launch."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many ranks there are; 1 outside of a launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched(module: str, ranks: int | None = None) -> bool:
    """Starts this command once for each GPU and waits, where that is worth it and has not been done.

    Args:
        module: what `python -m` is given.
        ranks: how many processes; None: `devices()`.

    Returns:
        Whether the work was done by ranks started here: the caller has nothing left to do. False where this process is
        to work by itself (one device) or as a rank.

    Raises:
        RanksError: a rank died; the others were ended.
    """
    wanted = devices() if ranks is None else ranks
    if wanted < 2 or "RANK" in os.environ:
        return False
    launch([sys.executable, "-m", module, *sys.argv[1:]], wanted)
    return True


def launch(command: Sequence[str], ranks: int) -> None:
    """Runs a command as `ranks` processes with torchrun's variables set, and waits for all of them.

    Raises:
        RanksError: one ended with another code than 0; the others are asked to end (their finished pieces are kept).
    """
    with _meeting_point() as port:
        common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), CHILD: "1"}
        started = [
            subprocess.Popen(command, env={**os.environ, **common, "RANK": str(index), "LOCAL_RANK": str(index)})
            for index in range(ranks)
        ]
        try:
            _wait(started)
        finally:
            _end(started)
    failed = {index: process.returncode for index, process in enumerate(started) if process.returncode}
    # A rank that was asked to end, or that lost the one it waited for, is not what went wrong.
    died = {index: code for index, code in failed.items() if code not in (LOST, -signal.SIGTERM)}
    if failed:
        raise RanksError(died or failed)


@contextmanager
def _meeting_point() -> Iterator[int]:
    """A rendezvous that lives in this process; yields its port."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    try:
        yield store.port
    finally:
        del store


def _wait(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Until all have ended well or one has not."""
    while any(process.poll() is None for process in processes):
        if any(process.returncode for process in processes):
            return
        time.sleep(0.1)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def joined() -> Iterator[None]:
    """Within the block this process is a rank among the others, or alone where there are none.

    All ranks compute with the kind of linear layer that rank 0 has found faster, so that the pieces do not depend on
    who makes them.
    """
    if world() == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store = None
    if CHILD in os.environ:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A prefix of its own for each time that a process joins.
        meeting = TCPStore(address, port, is_master=False, timeout=PATIENCE)
        store = PrefixStore(f"joined {next(_times)}", meeting)
    named: dict[str, Any] = {} if store is None else {"store": store, "rank": rank(), "world_size": world()}
    # Nothing but a word passes between ranks, so that gloo will do on any device.
    distributed.init_process_group("gloo", timeout=PATIENCE, **named)
    try:
        choice: list[Any] = [packed.faster() if rank() == 0 else None]
        distributed.broadcast_object_list(choice, src=0)
        packed.decide(choice[0])
        yield
    finally:
        distributed.destroy_process_group()


def own(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """This rank's share of the pieces."""
    return islice(pieces, rank(), None, world())


def finished() -> bool:
    """Waits until every rank has come here; whether this is the rank that goes on (writes the output).

    Ends the process where another rank has died.
    """
    if world() > 1:
        try:
            distributed.barrier()
        except RuntimeError:
            print(
                f"rank {rank()}: another rank has ended; finished pieces are kept: run the stage again", file=sys.stderr
            )
            sys.exit(LOST)
    return rank() == 0
