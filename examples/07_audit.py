"""Audit PyTorch Geometric's SchNet, ours with the same weights, and a model that comes with the package.

Run: python examples/07_audit.py            all checks, a minute
     python examples/07_audit.py --checks rotation "all neighbours"
"""

import argparse

import torch
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import SchNet
from pyg_schnet.testing import CHECKS, audit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", nargs="+", choices=list(CHECKS), metavar="NAME", help=f"of {', '.join(CHECKS)}")
    parser.add_argument("--pretrained", default="qm9-u0", help="name of a pretrained model")
    options = parser.parse_args()

    torch.manual_seed(0)
    theirs = PyGSchNet(hidden_channels=32, num_filters=32, num_interactions=3, num_gaussians=50, cutoff=6.0)
    ours = SchNet.from_pyg(theirs)
    reports = [audit(model, checks=options.checks) for model in (theirs, ours, options.pretrained)]
    for report in reports:
        print(report, end="\n\n")
    print("failed: " + "; ".join(f"{report.subject.split(';')[0]}: {report.failed or 'none'}" for report in reports))


if __name__ == "__main__":
    main()
