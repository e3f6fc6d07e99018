"""What the figure scripts share: their option, and how they say whether a claim holds."""

import argparse
from pathlib import Path


def parse(description, output, **paths):
    """Options of a figure script: where the picture goes, and files it needs, by name with their help."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(output), help="file of the picture")
    for name, text in paths.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    return parser.parse_args()


def finish(ax, options, claim, holds):
    """Save the picture and print the verdict."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(options.output)
    print(f"claim: {claim}: {'holds' if holds else 'does not hold'}")
    print(f"picture in {options.output}")
