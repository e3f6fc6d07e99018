"""Figure 7: what a model of formation energies has learned of the elements.

The network is not told which elements are related; it starts from random vectors and sees formation energies of
crystals. The paper finds that elements of a main group come to lie together. Here the statement is tested: a score of
how well groups cluster, against the same score with groups shuffled.

Run: python examples/figures/figure7_embedding.py
"""

from common import finish, parse

from pyg_schnet.analysis import embedding_map
from pyg_schnet.plotting import plot_embedding_map, style


def main():
    options = parse(__doc__, "figure7_embedding.png")
    result = embedding_map("mp-formation-energy", shuffles=5000)
    print(f"score of main groups {result.score:.3f}, p = {result.p_value:.2g}")
    print(f"with shuffled groups {result.null.mean():.3f} on average, {result.null.max():.3f} at most")
    with style():
        ax = plot_embedding_map(result)
    finish(ax, options, "elements of a main group lie together", result.p_value < 0.001)


if __name__ == "__main__":
    main()
