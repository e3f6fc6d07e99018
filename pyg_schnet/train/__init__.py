"""Training: what is learned (task), from what (data module), and the command line; needs ``pyg_schnet[train]``."""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.distilled import DistilledPotentialTask, DistilledTask
from pyg_schnet.train.ema import EMA
from pyg_schnet.train.last_checkpoint import LastCheckpoint
from pyg_schnet.train.muon import Muon
from pyg_schnet.train.potential import PotentialTask
from pyg_schnet.train.relaxed import RelaxedTask
from pyg_schnet.train.report import Errors, format_errors, report_units
from pyg_schnet.train.schedule import cosine_factor, warm_restart_factor
from pyg_schnet.train.task import PropertyTask

__all__ = [
    "EMA",
    "DistilledPotentialTask",
    "DistilledTask",
    "Muon",
    "PotentialTask",
    "PropertyTask",
    "RelaxedTask",
    "StructureDataModule",
]
