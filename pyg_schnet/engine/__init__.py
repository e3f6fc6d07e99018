"""Choice of the program that computes a model (eligibility, plan), and cached or frozen data for it (cache, frozen)."""

from pyg_schnet.engine.frozen import FrozenModel, freeze
from pyg_schnet.engine.plan import Plan

__all__ = ["FrozenModel", "Plan", "freeze"]
