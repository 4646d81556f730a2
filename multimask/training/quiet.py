"""What Lightning says that helps nobody here, silenced while a run goes."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
HARMLESS = (
    ".*does not have many workers.*",  # the number of workers is the user's choice
    ".*have no `val_dataloader`.*",
    ".*smaller than the logging interval.*",
    ".*exists and is not empty.*",
    ".*your dataloader is not resumable.*",  # ours is: the sampler has no state
    ".*in eval mode at the start of training.*",  # teachers are, always
    ".*lr_scheduler.step.*before.*optimizer.step.*",  # fp16 skips steps that overflow
    ".*treespec, LeafSpec.*",
    ".*sync_dist=True.*",  # what is logged is reduced already
)


@contextmanager
def quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in HARMLESS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
