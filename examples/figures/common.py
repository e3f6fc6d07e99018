"""What the figure scripts share: their options, and how they say whether a claim holds."""

import argparse
from pathlib import Path


def parse(description, output, **options):
    """Options of a figure script: where the picture goes, and others, by name with what ``add_argument`` takes."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(output), help="file of the picture")
    parser.add_argument("--dpi", type=int, default=150, help="dots per inch of the picture")
    for name, arguments in options.items():
        parser.add_argument(f"--{name}", **arguments)
    return parser.parse_args()


def finish(ax, options, claim, holds):
    """Save the picture and print the verdict."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(options.output, dpi=options.dpi)
    print(f"claim: {claim}: {'holds' if holds else 'does not hold'}")
    print(f"picture in {options.output}")
