"""Lightning's Trainer as the driver: devices, ranks and launching are its work, the step and the state are ours."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from unlabeled.core.contracts.batch import Batch
from unlabeled.core.training.session import Session

# buffers are equal on all ranks already (norms reduce over ranks) and queues are large, so that they are not sent at
# every step; newer torch gave the option a new name
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers": False
}


class Driven(pl.LightningModule):
    """Hands each batch to the session, with Lightning's backward and optimiser step."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.session = session
        self.method = session.method

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.session.step.optimiser

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # the step moves it

    def on_train_start(self) -> None:
        self.session.begin(self.device)

    def training_step(self, batch: tuple[int, Batch], batch_idx: int) -> None:
        optimiser = self.optimizers()
        assert isinstance(optimiser, LightningOptimizer)
        if not self.session.advance(*batch, self.manual_backward, optimiser.step):
            self.trainer.should_stop = True


class Turns:
    """The session's batches with a length, so that Lightning asks for none ahead: a run that goes back would be handed a
    batch of the way it left. The length is no number of steps; `advance` says where the run ends.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def __len__(self) -> int:
        return 1 << 40

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self.session.batches()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's greetings, and without a warning that its own use of torch's pytree raises."""
    chatter = logging.getLogger("lightning.pytorch")
    level = chatter.level
    chatter.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
            yield
    finally:
        chatter.setLevel(level)


def drive(session: Session, kind: str) -> None:
    """Run the session to its end on devices of the `kind` "cpu" or "cuda"."""
    options = session.recipe.trainer
    devices = options.devices
    if devices == "auto":
        devices = torch.cuda.device_count() if kind == "cuda" else 1
    with quiet(), contextlib.closing(session):
        trainer = pl.Trainer(
            accelerator=kind,
            devices=devices,
            strategy=DDPStrategy(**KEEP_BUFFERS) if devices * options.nodes > 1 else "auto",
            num_nodes=options.nodes,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(Driven(session), Turns(session))
        if devices * options.nodes > 1:
            dist.destroy_process_group()  # Lightning leaves a gloo group open, whose threads abort the process at exit
