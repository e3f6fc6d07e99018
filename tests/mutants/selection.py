"""Which tests a mistake in a module is shown to: those of the module first, then those of what is built on it."""

from __future__ import annotations

from pathlib import Path

from .mutant import Mutant

CONTRACT = ("physics", "test_derivatives.py")
"""The physics contract, which every model has to pass."""

_MORE = {  # beside the file of the same name
    "neighbors/search.py": ("neighbors/test_other_devices.py", "neighbors/test_radius.py"),
    "neighbors/criterion.py": ("neighbors/test_other_devices.py", "neighbors/test_radius.py"),
    "neighbors/backend.py": ("neighbors/test_periodic.py", "neighbors/test_errors.py"),
    "neighbors/_checks.py": ("neighbors/test_errors.py",),
    "neighbors/lattice.py": ("neighbors/test_periodic.py", "neighbors/test_other_devices.py"),
    "neighbors/vesin_backend.py": ("neighbors/test_periodic.py", "neighbors/test_radius.py"),
    "engine/cache.py": ("engine", "models/test_changed_parts.py"),
    "engine/eligibility.py": ("engine", "models/test_schnet_small.py"),
    "engine/frozen.py": ("engine/test_frozen.py",),
    "engine/plan.py": ("engine/test_plan.py", "engine/test_eligibility.py"),
    "engine/tables.py": ("engine", "ops/test_interactions.py"),
    "nn/versioned_cache.py": ("nn/test_versioned_cache.py", "nn/test_spline_kept.py"),
    "ops/filter_table.py": ("ops/test_contract.py", "nn/test_spline.py"),
    "ops/interactions.py": ("ops/test_contract.py", "ops/test_interactions.py"),
    "ops/potential.py": ("ops/test_contract.py", "models/test_schnet_small.py"),
    "models/base.py": ("models/test_schnet.py", "models/test_dtnn.py"),
    "models/graph.py": ("models/test_graph.py", "models/test_schnet.py"),
    "models/atomref.py": ("train/test_task.py", "test_potential.py"),
    "models/schnet.py": ("models/test_schnet_small.py", "models/test_schnet_spline.py"),
    "data/base.py": ("data/test_properties.py", "data/test_qm9.py"),
    "train/datamodule.py": ("train/test_errors.py",),
    "train/task.py": ("train/test_errors.py",),
    "train/potential.py": ("train/test_errors.py",),
    "train/derivative.py": ("train/test_potential.py", "train/test_relaxed.py"),
    "train/references.py": ("train/test_task.py",),
    "train/early_stopping.py": ("cli/test_commands.py",),
    "train/evaluation.py": ("train/test_errors.py", "cli/test_commands.py"),
    "cli/train.py": ("cli/test_commands.py",),
    "train/last_checkpoint.py": ("cli/test_commands.py",),
    "analysis/_model.py": ("analysis/test_model.py",),
    "analysis/_surroundings.py": ("analysis/test_probe.py", "analysis/test_surface.py"),
    "geometry.py": ("test_derivatives.py",),
    "interfaces/ase.py": ("interfaces/test_ase.py",),
}
_WIDER = {
    "neighbors": ("neighbors", "models/test_graph.py", *CONTRACT),
    "backends": ("backends", "ops", "models"),
    "ops": ("ops", "nn", "models"),
    "engine": ("engine", "models", "physics"),
    "nn": ("nn", "models", "physics"),
    "models": ("models", "physics", "interfaces"),
    "data": ("data", "train"),
    "train": ("train", "cli"),
    "cli": ("cli",),
    "analysis": ("analysis", "cli/test_analyze.py"),
    "interfaces": ("interfaces", "analysis/test_model.py"),
    "testing": ("testing", "physics"),
    "": (*CONTRACT, "test_units.py", "interfaces", "data"),
}


def stages(mutant: Mutant, root: Path) -> list[list[str]]:
    """Two lists of tests, the second one for what the first did not notice; paths below the root."""
    folder, name = mutant.file.rpartition("/")[::2]
    own = f"{folder}/test_{name.lstrip('_')}".lstrip("/")
    near = list(mutant.tests) or [own, *_MORE.get(mutant.file, ())]
    near = [test for test in dict.fromkeys(near) if (root / "tests" / test).exists()]
    wider = [test for test in _WIDER.get(folder.split("/")[0], ()) if test not in near]
    has_doctests = not mutant.is_kernel and "def test_" not in (root / mutant.path).read_text(encoding="utf-8")
    doctests = [mutant.path] if has_doctests else []  # functions called test_... would be taken for tests
    return [[f"tests/{test}" for test in near] + doctests, [f"tests/{test}" for test in wider]]
