"""What the paper and other publications report, and which of our recipes is compared with it."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Schütt et al. 2020"
SCHNETPACK = "SchNetPack, Schütt et al. 2019"
KGCNN = "SchNet of kgcnn, Matbench v0.1"
ZUO = "SNAP, Zuo et al. 2020"
NO_SOURCE = "none, labels made here"


@dataclass(frozen=True)
class Experiment:
    """One number of a publication beside ours.

    Attributes:
        recipe: File in ``examples/recipes`` without its ending; the results are ``results/RECIPE-*.json``.
        row: What was learned, and from how much.
        quantity: Which of the errors of a result it is.
        unit: Unit of the numbers.
        published: Mean absolute error in the publication; ``None`` where there is none for this.
        source: The publication.
        merged: Whether it is the error of the mean of several runs, made one model by ``pyg-schnet merge``.
    """

    recipe: str
    row: str
    quantity: str
    unit: str
    published: float | None
    source: str = PAPER
    merged: bool = False

    @property
    def series(self) -> str:
        """Name of its results among all."""
        return series(self.recipe, self.merged)


def series(recipe: str, merged: bool) -> str:
    """Which results belong together: those of a recipe, or of models merged from its runs."""
    return f"{recipe} merged" if merged else recipe


EXPERIMENTS = [
    Experiment("qm9_u0", "QM9 U0, 110k, 5 Å", "U0", "kcal/mol", 0.218),
    Experiment("qm9_u0_3h", "QM9 U0, 110k, 5 Å, three hours", "U0", "kcal/mol", 0.218),
    Experiment("qm9_u0_muon", "QM9 U0, 110k, 5 Å, Muon", "U0", "kcal/mol", 0.218),
    Experiment("qm9_u0_muon", "QM9 U0, 110k, 5 Å, mean of the two above", "U0", "kcal/mol", 0.218, merged=True),
    Experiment("qm9_u0_no_cutoff", "QM9 U0, 110k, no cutoff", "U0", "kcal/mol", 0.259),
    Experiment("qm9_mu", "QM9 μ, 110k, 5 Å", "mu", "D", 0.017),
    Experiment("qm9_mu_no_cutoff", "QM9 μ, 110k, no cutoff", "mu", "D", 0.019),
    *(
        Experiment("qm9_twelve", f"QM9 {row}, 110k, 5 Å, one network for twelve", quantity, unit, published, SCHNETPACK)
        for row, quantity, unit, published in (
            ("μ", "mu", "D", 0.021),
            ("α", "alpha", "a₀³", 0.124),
            ("HOMO", "homo", "meV", 47.0),
            ("LUMO", "lumo", "meV", 39.0),
            ("gap", "gap", "meV", 74.0),
            ("⟨R²⟩", "r2", "a₀²", 0.158),
            ("ZPVE", "zpve", "meV", 1.62),
            ("U0", "U0", "meV", 12.0),
            ("U", "U", "meV", 12.0),
            ("H", "H", "meV", 12.0),
            ("G", "G", "meV", 13.0),
            ("c_v", "cv", "cal/(mol K)", 0.034),
        )
    ),
    Experiment("rmd17_aspirin", "aspirin, 1k, 5 Å, energy", "energy", "kcal/mol", 0.402),
    Experiment("rmd17_aspirin", "aspirin, 1k, 5 Å, forces", "forces", "kcal/mol/Å", 0.916),
    Experiment("rmd17_aspirin_no_cutoff", "aspirin, 1k, no cutoff, energy", "energy", "kcal/mol", 0.438),
    Experiment("rmd17_aspirin_no_cutoff", "aspirin, 1k, no cutoff, forces", "forces", "kcal/mol/Å", 1.359),
    *(
        Experiment(recipe, f"aspirin by GFN2-xTB, {size}, {reach}, {quantity}", quantity, unit, None, NO_SOURCE)
        for recipe, size, reach in (
            ("xtb_aspirin_1k", "1k", "5 Å"),
            ("xtb_aspirin_1k_no_cutoff", "1k", "no cutoff"),
            ("xtb_aspirin_50k", "50k", "5 Å"),
            ("xtb_aspirin_50k_no_cutoff", "50k", "no cutoff"),
        )
        for quantity, unit in (("energy", "kcal/mol"), ("forces", "kcal/mol/Å"))
    ),
    *(
        Experiment(
            "organic_gfn2",
            f"organic molecules, GFN2-xTB, 300 to 500 K, {runs}{quantity}",
            quantity,
            unit,
            None,
            NO_SOURCE,
            merged,
        )
        for runs, merged in (("", False), ("mean of the runs, ", True))
        for quantity, unit in (("energy", "kcal/mol"), ("forces", "kcal/mol/Å"))
    ),
    *(
        Experiment(f"mlearn_{element}", f"{name}, mlearn, 5 Å, {quantity}", error, unit, published, ZUO)
        for element, name, of_energy, of_forces in (("mo", "molybdenum", 17.4, 184.0), ("li", "lithium", 4.2, 27.3))
        for quantity, error, unit, published in (
            ("energy", "energy_per_atom", "meV/atom", of_energy),
            ("forces", "forces", "meV/Å", of_forces),
        )
    ),
    Experiment("mp_formation_energy", "Materials Project, 5 Å, cosine", "formation_energy", "meV/atom", 37.0),
    Experiment("mp_formation_energy_muon", "Materials Project, 5 Å, Muon", "formation_energy", "meV/atom", 37.0),
    Experiment("mp_formation_energy_hard", "Materials Project, 5 Å, hard", "formation_energy", "meV/atom", 39.0),
    Experiment("perovskites", "perovskites, 5 Å", "e_form", "meV", 34.2, KGCNN),
    Experiment("perovskites", "perovskites, 5 Å, mean of the runs", "e_form", "meV", 34.2, KGCNN, merged=True),
    Experiment("phonons", "phonon peaks, 5 Å", "last_phdos_peak", "cm-1", 38.96, KGCNN),
]
"""Rows of the table, in its order."""


@dataclass(frozen=True)
class Claim:
    """A statement of the paper: with ``better`` the error is smaller than with ``worse``.

    Attributes:
        text: The statement.
        better: Recipe that should have the smaller error.
        worse: Recipe that should have the larger one.
        quantity: Which error.
        measure: ``"mae"`` or ``"rmse"``.
        unit: Unit of the errors.
    """

    text: str
    better: str
    worse: str
    quantity: str
    measure: str
    unit: str


_FORCES = ("forces", "mae", "kcal/mol/Å")
_ENERGIES = ("energy", "mae", "kcal/mol")
_FORMATION = ("formation_energy", "rmse", "meV/atom")
CLAIMS = [
    Claim("a cutoff helps QM9's energies", "qm9_u0", "qm9_u0_no_cutoff", "U0", "mae", "kcal/mol"),
    Claim("a cutoff helps QM9's dipoles", "qm9_mu", "qm9_mu_no_cutoff", "mu", "mae", "D"),
    Claim("a cutoff helps with little data", "rmd17_aspirin", "rmd17_aspirin_no_cutoff", *_FORCES),
    Claim("the same with GFN2-xTB's forces", "xtb_aspirin_1k", "xtb_aspirin_1k_no_cutoff", *_FORCES),
    Claim("the same with its energies", "xtb_aspirin_1k", "xtb_aspirin_1k_no_cutoff", *_ENERGIES),
    Claim("no cutoff helps the forces with much data", "xtb_aspirin_50k_no_cutoff", "xtb_aspirin_50k", *_FORCES),
    Claim("the same for the energies", "xtb_aspirin_50k_no_cutoff", "xtb_aspirin_50k", *_ENERGIES),
    Claim("cosine beats hard in RMSE", "mp_formation_energy", "mp_formation_energy_hard", *_FORMATION),
]
"""What the paper says of cutoffs."""
