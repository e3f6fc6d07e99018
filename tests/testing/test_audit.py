"""An audit finds mistakes that are planted, in models of three kinds, and nothing in sound ones."""

import json
import math

import ase.io
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from torch_geometric.data import Data
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import DTNN, InteractionGraph, SchNet
from pyg_schnet.cli import main
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.convert.like_pyg import SchNet as LikePyG
from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples
from pyg_schnet.testing import CHECKS, Report, Result, audit
from pyg_schnet.testing.structures import Case, crowd, default_cases

from .faults import CUTOFF, Calculated, Faulty, WrongStress

FAULTS = {  # mistake -> checks that find it
    "first 32": ("all neighbours", "many neighbours"),
    "closest 32": ("all neighbours", "many neighbours"),
    "no window": ("smooth energy",),
    "rising window": ("beyond the cutoff",),
    "images": ("supercell", "rewrapping"),
    "stress": ("stress",),
    "leak": ("batch",),
    "gradient leak": ("gradients across",),
    "nan": ("zero distance",),
    "detached": ("forces", "dynamics"),
    "noise": ("run to run",),
    "single": ("float32 energies",),
    "field": ("rotation", "reflection", "translation"),
    "order": ("permutation",),
    "mean": ("extensivity",),
}
OF_CALCULATORS = ("closest 32", "no window", "rising window", "images", "stress", "nan", "field", "order")
SMALL = {"hidden_channels": 8, "num_filters": 8, "num_interactions": 2, "num_gaussians": 10, "cutoff": CUTOFF}


def failed(model, checks, **options):
    return audit(model, checks=checks, **options).failed


@pytest.mark.parametrize("kind", ["ours", "pyg"])
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_mistakes_are_found(kind, fault):
    assert failed(Faulty(kind, fault), FAULTS[fault]) == FAULTS[fault]


@pytest.mark.parametrize("kind", ["ours", "pyg"])
@pytest.mark.parametrize("fault", OF_CALCULATORS)
def test_planted_mistakes_are_found_through_a_calculator(kind, fault):
    checks = [name for name in FAULTS[fault] if name != "all neighbours"]  # calculators take no edges
    assert failed(Calculated(Faulty(kind, fault)), checks) == tuple(checks)


@pytest.mark.parametrize(
    ("fault", "checks"),
    [("stale", ("batch", "run to run")), ("forces", ("forces", "dynamics")), ("voigt", ("stress",))],
)
def test_mistakes_of_calculators_are_found(fault, checks):
    looked_at = ["rotation", "batch", "forces", "stress", "run to run", *checks[1:]]
    assert set(failed(Calculated(Faulty("ours"), fault), looked_at)) >= set(checks)


def test_own_gradients_are_what_is_examined():
    torch.manual_seed(0)
    assert failed(WrongStress(**SMALL), ["forces", "stress"], structures=bulk("NaCl", "rocksalt", a=4.1)) == ("stress",)


@pytest.mark.parametrize("kind", ["ours", "pyg"])
def test_nothing_is_found_in_sound_models(kind):
    report = audit(Faulty(kind))
    assert report.failed == (() if kind == "ours" else ("beyond the cutoff",)), str(report)  # PyG's window rises again
    assert "n/a" not in {result.verdict for result in report.results}
    assert [result.check for result in report.results] == list(CHECKS)


def test_nothing_is_found_in_sound_calculators():
    torch.manual_seed(0)
    report = audit(SchNetCalculator(SchNet(**SMALL), unit="eV"))
    assert report.passed, str(report)
    reasons = {result.check: result.note for result in report.results if result.verdict == "n/a"}
    assert set(reasons) == {"all neighbours", "gradients across", "float32 energies", "float32 forces"}
    assert all(reasons.values())
    assert "cutoff 4 Å" in report.subject
    assert audit(
        SchNetCalculator(SchNet(**SMALL), unit="eV", dtype=torch.float32), checks=["rotation", "forces"]
    ).passed


@pytest.mark.parametrize("model", [DTNN(8, 8, 2, 10, CUTOFF, window="cosine"), LikePyG(8, 8, 2, 10, CUTOFF)])
def test_nothing_is_found_in_other_models(model):
    checks = [name for name in CHECKS if name not in ("dynamics", "many neighbours")]
    report = audit(model, [molecule("CH3CH2OH"), bulk("SiC", "zincblende", a=4.3)], checks=checks)
    assert report.passed, str(report)


def test_hard_cutoffs_are_not_smooth():
    torch.manual_seed(0)
    report = audit(SchNet(**SMALL, window="hard"), checks=["smooth energy", "forces", "dynamics", "many neighbours"])
    assert report.failed == ("smooth energy", "dynamics", "many neighbours")
    assert "hard cutoff" in report["smooth energy"].note


def test_the_cosine_window_jumps_in_curvature_by_what_it_should():
    """Close to the cutoff the window is (pi / 2 cutoff)² (cutoff - d)²."""

    def one_edge(z, pos, batch):
        return torch.stack([_pair_sum(pos[batch == k]) for k in range(int(batch.max()) + 1)])

    def _pair_sum(pos):
        dist = torch.pdist(pos) if len(pos) > 1 else pos.new_zeros(0)
        return torch.where(dist < CUTOFF, 0.5 * (torch.cos(torch.pi * dist / CUTOFF) + 1.0), 0.0).sum()

    result = audit(one_edge, molecule("H2O"), cutoff=CUTOFF, checks=["smooth curvature"])["smooth curvature"]
    assert result.verdict == "ok"
    assert result.deviation == pytest.approx(0.5 * (torch.pi / CUTOFF) ** 2, rel=1e-3)
    assert "finite jump" in result.note


def test_pyg_has_a_quota_and_no_window():
    torch.manual_seed(0)
    checks = ["all neighbours", "many neighbours", "beyond the cutoff", "rotation", "supercell", "zero distance"]
    report = audit(PyGSchNet(8, 8, 2, 10, CUTOFF), checks=checks)
    if any("radius_graph cannot run here" in note for note in report.notes):
        assert report.failed == ("all neighbours", "many neighbours", "beyond the cutoff", "zero distance")
        assert "max_num_neighbors=32, is emulated by a graph" in report.notes[0]
    assert report["all neighbours"].note.endswith("neighbours are missing where an atom has more than 32")
    assert report["rotation"].verdict == "ok"
    assert report["supercell"].note == "it takes no cell and pbc"
    complete = audit(PyGSchNet(8, 8, 2, 10, CUTOFF, interaction_graph=InteractionGraph(CUTOFF)), checks=checks)
    assert complete.failed == ("beyond the cutoff",)


def test_the_given_model_is_not_changed():
    torch.manual_seed(0)
    model = PyGSchNet(8, 8, 2, 10, CUTOFF).train()
    before, graph = {key: value.clone() for key, value in model.state_dict().items()}, model.interaction_graph
    audit(model, molecule("H2O"), checks=["all neighbours", "float32 energies"])
    assert model.training
    assert model.interaction_graph is graph
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_potentials_that_diverge_are_no_mistake():
    lj = LennardJones(sigma=1.5, rc=CUTOFF, ro=0.8 * CUTOFF, smooth=True)
    report = audit(lj, molecule("H2O"), cutoff=CUTOFF, checks=["zero distance", "smooth energy", "smooth force"])
    assert report.passed, str(report)
    assert "diverges" in report["zero distance"].note
    rough = audit(LennardJones(sigma=1.5, rc=CUTOFF), molecule("H2O"), cutoff=CUTOFF, checks=["smooth force"])
    assert rough.failed == ("smooth force",)


def test_means_and_other_properties():
    torch.manual_seed(0)
    assert audit(SchNet(**SMALL, readout="mean"), checks=["extensivity", "supercell", "forces", "stress"]).passed
    dipole = audit(SchNet(**SMALL, readout="dipole"), checks=["extensivity", "rotation", "forces", "supercell"])
    assert [result.verdict for result in dipole.results] == ["n/a", "ok", "n/a", "n/a"]
    largest = audit(SchNet(**SMALL, readout="max"), checks=["extensivity", "supercell", "stress"])
    assert [result.verdict for result in largest.results] == ["ok", "ok", "n/a"]


@pytest.mark.parametrize("atoms", [bulk("C"), bulk("Al"), bulk("Si", cubic=True)], ids=str)
def test_forces_that_vanish_by_symmetry_are_not_taken_for_exact(atoms):
    checks = [name for name in CHECKS if name not in ("dynamics", "many neighbours", "all neighbours")]
    torch.manual_seed(0)
    for model in (SchNet(**SMALL), DTNN(8, 8, 2, 10, CUTOFF, window="cosine")):
        report = audit(model, atoms, checks=checks)
        assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qm9-u0", ()),
        ("qm9-mu", ()),
        ("rmd17-aspirin", ()),
        ("rmd17-aspirin-no-cutoff", ("smooth energy", "smooth force", "dynamics")),
        ("mp-formation-energy", ()),
        ("perovskites", ()),
        ("phonons", ()),
    ],
)
def test_pretrained_models(name, expected):
    report = audit(name)
    assert report.failed == expected, str(report)
    assert not any(result.deviation is not None and math.isnan(result.deviation) for result in report.results)


def test_structures_may_be_given_as_they_are():
    water = molecule("H2O")
    data = Data(z=torch.tensor(water.numbers), pos=torch.tensor(water.positions))
    torch.manual_seed(0)
    model = SchNet(**SMALL)
    assert audit(model, data, checks=["rotation"])["rotation"].note == "3 atoms"
    report = audit(model, [water, bulk("NaCl", "rocksalt", a=5.64), water], checks=["rotation", "supercell"])
    assert report.structures == ("H2O (number 0)", "ClNa", "H2O (number 2)")
    assert report["supercell"].verdict == "ok"
    assert audit(model, water, checks=["supercell"])["supercell"].note == "none of the structures is periodic"


def test_functions_are_audited():
    def spring(z, pos, batch):
        return torch.stack([torch.pdist(pos[batch == k]).square().sum() for k in range(int(batch.max()) + 1)])

    report = audit(spring, molecule("CH4"), unit="kcal/mol", checks=["forces", "float32 energies", "all neighbours"])
    assert report["forces"].verdict == "ok"
    assert report["forces"].unit == "kcal/mol/Å"
    assert report["float32 energies"].note == "a function has no weights that could be float32"
    assert report["all neighbours"].note == "the cutoff is not known; state it"
    assert "cutoff not known" in str(report)


def test_what_a_model_does_not_take_is_said():
    from ase.calculators.emt import EMT

    report = audit(EMT(), [molecule("H2O"), molecule("CH3Cl")], checks=["rotation"])
    assert report.structures == ("H2O",)
    assert report.notes == ("CH3Cl left out: EMT: No EMT-potential for Cl",)
    with pytest.raises(ValueError, match=r"takes none of the structures; CH3Cl left out: EMT: No EMT-potential for Cl"):
        audit(EMT(), molecule("CH3Cl"))


def test_a_model_that_fails_on_the_way_has_failed():
    torch.manual_seed(0)
    model = SchNet(**SMALL)

    def shy(z, pos, batch):
        if batch.max() > 0:
            raise RuntimeError("one structure only")
        return model.double()(z, pos, batch)

    report = audit(shy, molecule("H2O"), checks=["rotation", "batch"])
    assert report.failed == ("batch",)
    assert report["batch"].note == "RuntimeError: one structure only"
    assert report["batch"].deviation is None


def test_numbers_that_are_not_finite_fail(tmp_path):
    torch.manual_seed(0)
    model = SchNet(**SMALL)
    model.readout.scale.fill_(float("nan"))
    checks = [name for name in CHECKS if name not in ("dynamics", "many neighbours")]
    report = audit(model, molecule("H2O"), checks=checks)
    assert set(report.failed) >= {"all neighbours", "rotation", "batch", "extensivity", "forces", "zero distance"}
    assert "ok" not in {result.verdict for result in report.results}
    json.loads(report.write_json(tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (3, {}, TypeError, r"expected a model with the call \(z, pos, batch\), .* got int"),
        (SchNet, {}, TypeError, "got the class SchNet; make an object of it"),
        ("no-such", {}, FileNotFoundError, "no model file at no-such"),
        (lambda z: z, {}, ValueError, "takes none of the structures; water, ethanol"),
        (lambda z, pos, batch: pos, {}, ValueError, r"must return one \w+ for each structure.*got \[3, 3\]"),
        (SchNet(**SMALL), {"checks": ["rotaton"]}, ValueError, "unknown check 'rotaton'; there are all neighbours"),
        (SchNet(**SMALL), {"checks": []}, ValueError, "checks is empty"),
        (SchNet(**SMALL), {"structures": []}, ValueError, "structures is empty"),
        (SchNet(**SMALL), {"structures": [7]}, TypeError, "a structure must be ase.Atoms or a Data .* got int"),
        (SchNet(**SMALL), {"cutoff": -1.0}, ValueError, "cutoff must be a positive length in Å, got -1.0"),
        (LennardJones(), {"unit": "Hartree"}, ValueError, "calculators of ASE give eV, got unit='Hartree'"),
    ],
)
def test_what_cannot_be_audited(model, options, error, message):
    with pytest.raises(error, match=message):
        audit(model, **options)


def test_report_as_table_and_json(tmp_path):
    results = (
        Result("first", 1e-14, 1e-12, "eV", "ok", "water"),
        Result("second", float("nan"), 0.0, "numbers", "FAIL", "forces"),
        Result("third", None, None, "", "n/a", "it has none"),
    )
    report = Report("a model", ("water",), results, ("a note",))
    assert not report.passed
    assert report.failed == ("second",)
    table = str(report).splitlines()
    assert table[:3] == ["a model", "structures: water", "note: a note"]
    assert table[4].split() == ["check", "deviation", "bound", "unit", "verdict"]
    assert table[5].split() == ["first", "1.0e-14", "1.0e-12", "eV", "ok", "water"]
    assert table[-1] == "1 ok, 1 failed, 1 not applicable"
    read = json.loads(report.write_json(tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert read["passed"] is False
    assert [row["deviation"] for row in read["results"]] == [1e-14, "nan", None]


def test_command(tmp_path, capsys):
    torch.manual_seed(0)
    for window in ("cosine", "hard"):
        SchNet(**SMALL, window=window).save(tmp_path / f"{window}.safetensors", unit="eV")
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    words = [str(tmp_path / "water.xyz"), "--checks", "rotation", "smooth energy", f"--json={tmp_path / 'report.json'}"]
    with pytest.raises(SystemExit) as stop:
        main(["audit", str(tmp_path / "cosine.safetensors"), *words])
    assert stop.value.code == 0
    assert "2 ok, 0 failed, 0 not applicable" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["audit", str(tmp_path / "hard.safetensors"), *words])
    assert stop.value.code == 1
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["passed"] is False
    with pytest.raises(SystemExit, match="pyg-schnet audit: unknown check 'rotaton'"):
        main(["audit", str(tmp_path / "hard.safetensors"), "--checks", "rotaton"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rmd17-aspirin", "no-such.xyz"], "no-such.xyz"),
        (["rmd17-aspirin", "--json=report.txt"], r"output must end in \.json, got report\.txt"),
        (["rmd17-aspirin", "--cutoff=far"], "argument --cutoff: invalid float value: 'far'"),
        (["rmd17-aspirin", "--cutoff=nan"], "cutoff must be a positive length in Å, got nan"),
        ([], "the following arguments are required: model"),
    ],
)
def test_command_says_what_does_not_fit(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"pyg-schnet audit: .*{message}"):
        main(["audit", *words])


def test_cards_are_not_trusted():
    torch.manual_seed(0)
    model = SchNet(**SMALL)
    model.card = {"unit": "e\x1b[2JV", "elements": ["H", 7, "Xx"], "trained_on": ["nothing"]}
    report = audit(model, molecule("H2"), checks=["rotation"])
    assert report.passed
    assert "\x1b" not in str(report)


@pytest.mark.parametrize("case", default_cases(), ids=lambda case: case.name)
def test_pairs_are_those_of_brute_force(case):
    lattice = {} if case.cell is None else {"cell": case.cell, "pbc": case.pbc}
    assert edge_tuples(*case.neighbors(3.7)) == edge_tuples(*brute_radius_graph(case.pos, 3.7, **lattice))


def test_default_structures_have_the_elements_that_are_known():
    for elements in ([1, 6, 8], [14], [11, 17]):
        assert {int(z) for case in default_cases(elements) for z in case.z} <= set(elements)
    assert audit("rmd17-aspirin", checks=["rotation"]).passed


def test_atoms_of_a_crowd_see_each_other():
    for count in (9, 81, 151):
        dist = torch.pdist(crowd([6, 1], count, 4.0).pos)
        assert dist.max() < 4.0
        assert dist.min() > 0.3
        assert len(set(dist.tolist())) == len(dist)
    case = Case.of(molecule("H2O"), "water")
    assert Case.of(case, "other") is case
