"""A side of a row in a process of its own: neither finds what a library, or we, keep or set for a whole process."""

from __future__ import annotations

import gc
import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection

import torch

from bench.row import Work
from bench.rows import row


def apart(name: str, side: int, device: torch.device, tiny: bool, threads: int) -> Work:
    """Ours (0) or the peer (1) of a row: each call does its work once, over there, and waits for its end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, name, side, device, tiny, threads)).start()
    there.close()

    def work() -> None:
        here.send("once more")
        try:
            here.recv()
        except EOFError:
            raise RuntimeError(
                f"{name}: the process of {('ours', 'the peer')[side]} ended; its error is above"
            ) from None

    return work


def _serve(calls: Connection, name: str, side: int, device: torch.device, tiny: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    make = row(name).make
    assert make is not None
    work = make(device, tiny)[side]
    gc.collect()
    gc.disable()
    with suppress(EOFError):  # the other end is closed when everything is measured
        while True:
            calls.recv()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            calls.send("done")
