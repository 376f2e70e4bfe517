"""Pieces of work shared among processes, one a GPU: each rank makes whole pieces, and nothing is gathered but files.

A stage that finds several GPUs starts itself once for each by torch.distributed.run's own launcher; under torchrun it
joins the ranks that torchrun started, on this machine or on several that share a file system:

  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m stages.gradients geography

Rank r of n makes the pieces r, r + n, r + 2n, ... and rank 0 writes the output once all are there. A piece is a file in
Scratch that appears whole or not at all, so that the pieces of a rank that died are made on the next run, and by the
same arithmetic: the stores are the same bytes however many ranks there were.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count, islice
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed
from torch.distributed import PrefixStore, rendezvous  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ..run.errors import InputError
from ..run.params import Section
from ..run.scratch import code
from .opening import fits_one_card, read_card

PATIENCE = timedelta(days=7)
"""How long a rank waits for the slowest one."""
GRACE = 10
"""Seconds that the other ranks are given to end once one has died."""
LOST = 75
"""Exit code of a rank that says nothing: another has said what is wrong, or died while this one waited for it."""
Piece = TypeVar("Piece")
_times = count()


def rank() -> int:
    """This process's rank; 0 outside of a launch."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many ranks there are; 1 outside of a launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shared(module: str, params: Section, work: Callable[[], None]) -> None:
    """Calls `work` in one process a GPU: in ranks started here (`python -m module`), or in this process.

    In this process where there is one device, where it is a rank already, or takes all GPUs for one model. `params`:
    what the stage reads of params.yaml. `work`: makes this rank's pieces (`own`), and the output where `finished` says
    so.

    Raises:
        InputError: see `launch` and `joined`.
    """
    devices = torch.cuda.device_count()
    if devices > 1 and "RANK" not in os.environ and fits_one_card(read_card().weights()):
        launch([sys.executable, "-m", module, *sys.argv[1:]], devices)
    else:
        with joined(params):
            work()


def launch(command: Sequence[str], ranks: int) -> None:
    """Runs a command as `ranks` processes under torchrun's agent, and waits for all of them.

    Ends this process with exit code 1 where a rank has said what is wrong; the other ranks are ended, finished pieces
    are kept.

    Raises:
        InputError: a rank was killed; names it.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id="stage",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(os.devnull),
        signals_to_handle="SIGTERM,SIGHUP",
        shutdown_timeout=GRACE,
    )
    logging.disable()  # the agent's log says again, at length, what a rank has said
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as error:
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        codes = {index: failure.exitcode for index, failure in error.failures.items()}
        if any(code > 0 and code != LOST for code in codes.values()):
            sys.exit(1)
        # A rank that the agent has ended is not what went wrong.
        killed = {index: code for index, code in codes.items() if code not in (LOST, -signal.SIGTERM)} or codes
        named = ", ".join(f"rank {rank} (signal {-code})" for rank, code in sorted(killed.items()))
        raise InputError(
            f"{named} ended before the work was done: its pieces are made when the stage is run again"
        ) from None
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def joined(params: Section) -> Iterator[None]:
    """Within the block this process is a rank among the others, or alone where there are none.

    Of several ranks with an error, the first raises its own and the others end without a word.

    Raises:
        InputError: this rank has other code or other params than rank 0; names what differs.
    """
    if world() == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # A prefix for each time that they join. Nothing but a word passes between ranks: gloo will do on any device.
    store = PrefixStore(f"joined {next(_times)}", next(rendezvous("env://", timeout=PATIENCE))[0])
    distributed.init_process_group("gloo", store=store, rank=rank(), world_size=world(), timeout=PATIENCE)
    try:
        _agree(store, params)
        yield
    except Exception:
        if store.add("failed", 1) > 1:
            _step_back()
        raise
    finally:
        distributed.destroy_process_group()


def _agree(store: PrefixStore, params: Section) -> None:
    """Compares code, versions and params with rank 0's."""
    own = {**code(), **_flat(params.model_dump(mode="json"), "params")}
    if rank() == 0:
        store.set("first", json.dumps(own))
    first = json.loads(store.get("first"))
    differing = sorted(name for name in {*own, *first} if own.get(name) != first.get(name))
    if differing:
        raise InputError(
            f"rank {rank()}: found {', '.join(differing)} other than rank 0's, wanted the same code, packages and "
            "params on all ranks: bring the machines to one commit and run the stage again"
        )
    finished()


def _flat(value: Any, name: str) -> dict[str, Any]:
    """Nested keys as one level, with dots between."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, below in value.items() for key, leaf in _flat(below, f"{name}.{part}").items()}


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
            _step_back()
    return rank() == 0


def _step_back() -> NoReturn:
    """Ends this rank, after the one that knows what is wrong: the agent ends all once the first has ended."""
    time.sleep(GRACE)
    sys.exit(LOST)
