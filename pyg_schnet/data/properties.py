"""What a data set can be trained on: named targets with unit, level and place in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import ConcatDataset
from torch_geometric.data import Batch, Data

from pyg_schnet.units import dimension


@dataclass(frozen=True)
class Property:
    """One target: where it is in a batch, and in which unit.

    Args:
        name: Name of the target, for example ``"U0"``.
        unit: Unit of the stored numbers, see :mod:`pyg_schnet.units`.
        level: ``"structure"`` for one value per structure, ``"atom"`` for one per atom.
        column: Column of ``attribute`` that holds the target; ``None`` if the attribute holds nothing else.
        attribute: Attribute of the batch, for example ``"y"``; empty means ``name``.
        description: Meaning of the number, in a few words.

    Raises:
        ValueError: If the unit or the level is unknown.

    Example:
        >>> Property("U0", "eV", column=7, attribute="y")
        Property(name='U0', unit='eV', level='structure', column=7, attribute='y', description='')
    """

    name: str
    unit: str
    level: Literal["structure", "atom"] = "structure"
    column: int | None = None
    attribute: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        dimension(self.unit)  # raises for an unknown unit, listing the known ones
        if self.level not in ("structure", "atom"):
            raise ValueError(f'level must be "structure" or "atom", got {self.level!r}')
        if not self.attribute:
            object.__setattr__(self, "attribute", self.name)


def _qm9_properties() -> dict[str, Property]:
    rows = [
        ("mu", "D", "dipole moment"),
        ("alpha", "a₀³", "isotropic polarizability"),
        ("homo", "eV", "energy of the highest occupied orbital"),
        ("lumo", "eV", "energy of the lowest unoccupied orbital"),
        ("gap", "eV", "lumo minus homo"),
        ("r2", "a₀²", "electronic spatial extent"),
        ("zpve", "eV", "zero-point vibrational energy"),
        ("U0", "eV", "internal energy at 0 K"),
        ("U", "eV", "internal energy at 298.15 K"),
        ("H", "eV", "enthalpy at 298.15 K"),
        ("G", "eV", "free energy at 298.15 K"),
        ("cv", "cal/(mol K)", "heat capacity at 298.15 K"),
        ("U0_atom", "eV", "U0 minus that of the free atoms"),
        ("U_atom", "eV", "U minus that of the free atoms"),
        ("H_atom", "eV", "H minus that of the free atoms"),
        ("G_atom", "eV", "G minus that of the free atoms"),
        ("A", "GHz", "rotational constant"),
        ("B", "GHz", "rotational constant"),
        ("C", "GHz", "rotational constant"),
    ]
    return {
        name: Property(name, unit, "structure", column, "y", text) for column, (name, unit, text) in enumerate(rows)
    }


#: The 19 columns of ``y`` in QM9, ours and PyG's alike, by name and in order.
QM9_PROPERTIES: dict[str, Property] = _qm9_properties()

#: PyG's MD17 stores what the files hold; it calls the forces ``force``.
PYG_MD17_PROPERTIES: dict[str, Property] = {
    "energy": Property("energy", "kcal/mol", "structure", None, "energy", "total energy"),
    "forces": Property("forces", "kcal/mol/Å", "atom", None, "force", "minus the gradient of the energy"),
}


def properties_of(dataset: Any) -> dict[str, Property]:
    """Targets of a data set by name: those of this package, and PyG's ``QM9`` and ``MD17``.

    Args:
        dataset: A data set, or a :class:`torch.utils.data.Subset` or
            :class:`~torch.utils.data.ConcatDataset` of some, which must have the same targets.

    Returns:
        The targets by name, in the order in which they are stored.

    Raises:
        ValueError: If the data set is of another class and has no ``properties``.

    Example:
        >>> from torch_geometric.datasets import QM9  # the class alone; nothing is downloaded
        >>> properties_of(QM9.__new__(QM9))["U0"].column
        7
    """
    found = getattr(dataset, "properties", None)
    if isinstance(found, Mapping):
        return dict(found)
    names = {cls.__name__ for cls in type(dataset).__mro__ if cls.__module__.startswith("torch_geometric.datasets")}
    if "QM9" in names:
        return dict(QM9_PROPERTIES)
    if "MD17" in names:
        return dict(PYG_MD17_PROPERTIES)
    if isinstance(dataset, ConcatDataset):
        return _common_properties(dataset)
    inner = getattr(dataset, "dataset", None)  # torch.utils.data.Subset, the dataset of a StructureLoader
    if inner is not None:
        return properties_of(inner)
    raise ValueError(
        f"the targets of a {type(dataset).__name__} are not known; give it an attribute `properties`, "
        "a dict of name to pyg_schnet.data.Property, or name the target by one: "
        'Property("y", "eV", column=0) instead of its name'
    )


def _common_properties(dataset: ConcatDataset) -> dict[str, Property]:
    first, *others = [properties_of(part) for part in dataset.datasets]
    for other in others:
        different = [name for name in first if other.get(name) != first[name]]
        if different:
            raise ValueError(
                f"data sets that are joined must have the same targets; {different[0]!r} is {first[different[0]]} in "
                f"one and {other.get(different[0])} in another"
            )
    return first


def find_property(dataset: Any, name: str | Property) -> Property:
    """The target ``name`` of a data set.

    Args:
        dataset: Data set, see ``properties_of``.
        name: Name of the target, or a :class:`Property`, for data sets whose targets have no names, such as those of
            PyTorch Geometric and lists of ``Data``.

    Raises:
        ValueError: If the data set has no such target; the message lists those it has.

    Example:
        >>> find_property([Data(y=1.0)], Property("gap", "eV", attribute="y")).unit
        'eV'
    """
    if isinstance(name, Property):
        return name
    known = properties_of(dataset)
    if name not in known:
        raise ValueError(f"{type(dataset).__name__} has no target {name!r}; it has {', '.join(known) or 'none'}")
    return known[name]


def find_properties(dataset: Any, names: str | Property | Sequence[str | Property]) -> list[Property]:
    """One or several targets of a data set, which need different names.

    Args:
        dataset: Data set, see ``properties_of``.
        names: One target or several, each as in :func:`find_property`.

    Raises:
        ValueError: If the data set has no such target, none is given, or two have the same name.

    Example:
        >>> import torch
        >>> columns = {"homo": 2, "lumo": 3}
        >>> targets = [Property(name, "eV", column=k, attribute="y") for name, k in columns.items()]
        >>> [target.name for target in find_properties([Data(y=torch.zeros(1, 19))], targets)]
        ['homo', 'lumo']
    """
    given = [names] if isinstance(names, (str, Property)) else list(names)
    found = [find_property(dataset, name) for name in given]
    if not found:
        raise ValueError("there is no target to learn; name at least one")
    twice = [target.name for k, target in enumerate(found) if target.name in {one.name for one in found[:k]}]
    if twice:
        raise ValueError(
            f"targets that are learned together need different names, {twice[0]!r} is there twice; columns of one "
            'attribute are named so: Property("gap", "eV", column=4, attribute="y")'
        )
    return found


def target_values(data: Data, target: Property) -> Tensor:
    """Values of a target in a batch (or a single structure), in ``target.unit``.

    Args:
        data: A ``Data`` or ``Batch``.
        target: Which target, from ``properties_of``.

    Returns:
        Shape ``[B]`` or ``[B, ...]`` for a structure target, ``[N]`` or ``[N, ...]`` for an atom target.

    Raises:
        ValueError: If the batch does not have the attribute, or not so many columns.

    Example:
        >>> import torch
        >>> data = Data(y=torch.arange(19.0).view(1, 19))
        >>> target_values(data, QM9_PROPERTIES["U0"])
        tensor([7.])
    """
    if target.attribute not in data:
        raise ValueError(
            f"target {target.name!r} is read from the attribute {target.attribute!r}, "
            f"which this batch does not have; it has {', '.join(sorted(data.keys()))}"
        )
    value = data[target.attribute]
    if not isinstance(value, Tensor):
        raise ValueError(
            f"target {target.name!r} is read from {target.attribute!r}, which must be a tensor, got a "
            f"{type(value).__name__}"
        )
    if target.level == "structure" and value.dim() == 1:
        value = _rows(value, data.num_graphs if isinstance(data, Batch) else 1, target.column is not None)
    if target.column is None:
        return value
    if value.dim() != 2 or not 0 <= target.column < value.size(1):
        raise ValueError(
            f"target {target.name!r} is column {target.column} of {target.attribute!r}, "
            f"which has shape {list(value.shape)}"
        )
    return value[:, target.column]


def _rows(value: Tensor, count: int, always: bool) -> Tensor:
    """One row for each structure of numbers that are ``[C]`` in each, which PyG joins to ``[B * C]``."""
    several = value.numel() != count and value.numel() % count == 0
    return value.view(count, -1) if several or (always and value.numel() == count) else value


def target_mask(data: Data, target: Property) -> Tensor | None:
    """Which structures have the target: ``has_<attribute>``, bool ``[B]``, or ``None`` where all have it.

    Structures without a label hold zeros in its place, so a loss has to leave them out. Where single columns of an
    attribute are missing, its mask has as many columns, ``[B, C]``.

    Example:
        >>> import torch
        >>> data = Data(energy=torch.zeros(2), has_energy=torch.tensor([True, False]))
        >>> target_mask(data, Property("energy", "eV"))
        tensor([ True, False])
        >>> data = Data(y=torch.zeros(1, 19), has_y=torch.arange(19).view(1, 19) != 7)  # all but U0
        >>> target_mask(data, QM9_PROPERTIES["U0"]), target_mask(data, QM9_PROPERTIES["gap"])
        (tensor([False]), tensor([True]))
    """
    mask = data.get(f"has_{target.attribute}")
    if target.column is None or not isinstance(mask, Tensor):
        return mask
    if mask.dim() == 1 and isinstance(data, Batch):  # of structures, or of all their columns, joined by PyG
        mask = _rows(mask, data.num_graphs, False)
    return mask[:, target.column] if mask.dim() == 2 else mask
