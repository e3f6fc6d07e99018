"""Figure 2: activation functions, and why SchNet has the shifted softplus.

Forces are derivatives of the network, and learning from forces takes another one. The paper therefore wants an
activation that can be differentiated any number of times and is zero at zero. This script compares the shifted softplus
with softplus and ELU, derivatives by autograd.

Run: python examples/figures/figure2_activations.py
"""

import numpy as np
from common import finish, parse

from pyg_schnet.analysis import activation_curves
from pyg_schnet.plotting import plot_activation_curves, style


def main():
    options = parse(__doc__, "figure2_activations.png")
    result = activation_curves()
    jumps = {name: largest_jump(second) for name, second in zip(result.names, result.second, strict=True)}
    shifted = list(result.names).index("shifted softplus")
    at_zero = float(np.interp(0.0, result.x, result.values[shifted]))
    print(f"shifted softplus at zero: {at_zero:.1e}")
    for name, jump in jumps.items():
        print(f"largest jump of the second derivative of {name}: {jump:.3f}")
    holds = abs(at_zero) < 1e-9 and jumps["shifted softplus"] < 0.02 < 0.5 < jumps["ELU"]
    with style():
        ax = plot_activation_curves(result)
    finish(ax, options, "the shifted softplus is zero at zero and smooth, ELU is not smooth", holds)


def largest_jump(y):
    """Largest change from one point of the curve to the next."""
    return float(np.abs(np.diff(y)).max())


if __name__ == "__main__":
    main()
