"""Molecules from SMILES, by RDKit."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from pyg_schnet.data.reference.frames import Molecule


def from_smiles(smiles: str | Sequence[str], conformers: int = 1, seed: int = 0) -> list[Molecule]:
    """Conformers of molecules, embedded by distance geometry (ETKDG) and relaxed by the force field MMFF94.

    Args:
        smiles: SMILES, several, or files with one in the first word of each line.
        conformers: Number of conformers of each; RDKit may find fewer.
        seed: Of the embedding.

    Raises:
        ImportError: If RDKit is not installed.
        ValueError: If a text is no SMILES, RDKit finds no geometry for it, or it has a charge or unpaired electrons.
    """
    try:
        chem, all_chem = (importlib.import_module(f"rdkit.Chem{name}") for name in ("", ".AllChem"))
    except ImportError as error:
        raise ImportError("SMILES are read by RDKit: pip install 'pyg_schnet[smiles]'") from error
    if conformers < 1:
        raise ValueError(f"conformers must be at least 1, got {conformers}")
    found = []
    for text in _texts([smiles] if isinstance(smiles, str) else smiles):
        read = chem.MolFromSmiles(text)
        if read is None:
            raise ValueError(f"{text!r} is neither SMILES nor a file of them")
        if chem.GetFormalCharge(read) or any(atom.GetNumRadicalElectrons() for atom in read.GetAtoms()):
            raise ValueError(f"{text!r} has a charge or unpaired electrons; only neutral molecules are made here")
        full = chem.AddHs(read)
        places = list(all_chem.EmbedMultipleConfs(full, numConfs=conformers, randomSeed=seed + 1))
        if not places:
            raise ValueError(f"RDKit finds no geometry for {text!r}; give it as a file of positions")
        if all_chem.MMFFHasAllMoleculeParams(full):
            all_chem.MMFFOptimizeMoleculeConfs(full)
        numbers = [atom.GetAtomicNum() for atom in full.GetAtoms()]
        for number, place in enumerate(places):
            name = text if number == 0 else f"{text} #{number}"
            found.append(molecule_of(name, numbers, full.GetConformer(place).GetPositions()))
    return found


def molecule_of(name: str, numbers: Sequence[int], positions: Sequence[Sequence[float]]) -> Molecule:
    """A molecule of plain lists.

    Args:
        name: Its name.
        numbers: Atomic numbers.
        positions: Positions in Å.
    """
    import numpy as np

    return Molecule(name, np.array(numbers, dtype=np.int64), np.array(positions, dtype=float))


def _texts(smiles: Sequence[str]) -> list[str]:
    found: list[str] = []
    for text in smiles:
        if Path(text).suffix in (".smi", ".txt", ".csv") or (len(text) < 200 and Path(text).is_file()):
            lines = Path(text).read_text(encoding="utf-8").splitlines()
            found += [line.replace(",", " ").split()[0] for line in lines if line.strip()]
        else:
            found.append(text)
    return found
