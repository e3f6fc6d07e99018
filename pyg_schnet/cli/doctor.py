"""``pyg-schnet doctor``: what is installed, how models are computed here, and roughly how fast.

Everything is imported when it is looked at, so that a broken or missing package is reported and not raised.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyg_schnet.cli._help import EXAMPLES
from pyg_schnet.cli._outputs import check_output
from pyg_schnet.cli._parser import Parser

_WIDTH = 15  # of the first column


def run(args: list[str]) -> None:
    """Run the command with its arguments; exits with 1 and a sentence if something essential is broken."""
    options = _parser().parse_args(args)
    path = None if options.json is None else check_output(options.json, endings=(".json",))
    found = examine(speed=options.speed == "true")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if found["problems"]:
        sys.exit("\n".join(f"pyg-schnet doctor: {problem}" for problem in found["problems"]))
    print("Everything that models need is there.")


def _parser() -> argparse.ArgumentParser:
    """Options, without jsonargparse, which is one of the packages that may be missing."""
    parser = Parser(
        "doctor",
        "Look at the installation: versions, threads, devices, backend, cache of compiled kernels, and a rough speed "
        "check of five seconds. Kernels that are not compiled yet are compiled, which takes a minute or two once.",
    )
    parser.add_argument("--speed", choices=("true", "false"), default="true", help="whether to check the speed")
    parser.add_argument("--json", metavar="FILE", help="file (.json) to write the report to")
    parser.epilog = EXAMPLES["doctor"]
    return parser


def examine(*, speed: bool = True) -> dict[str, Any]:
    """Look at the installation, and print each part as soon as it is known.

    Args:
        speed: Whether to compute something, which checks the kernels and measures the speed.

    Returns:
        What was found, as JSON can hold it; ``"problems"`` are sentences on what is essential and broken.
    """
    from pyg_schnet.cli import _installation as installation

    found: dict[str, Any] = {"problems": []}
    found["system"] = installation.system()
    print(f"pyg_schnet {found['system']['pyg_schnet']} in {found['system']['folder']}")
    _line("system", "{os}, {cores} cores, Python {python}".format(**found["system"]))
    found["packages"] = packages = installation.packages(installation.NEEDED)
    found["extras"] = {name: installation.packages(needs) for name, needs in installation.EXTRAS.items()}
    _wrapped("packages", [f"{name} {version}" for name, version in packages.items() if version])
    for extra, versions in found["extras"].items():
        _line(f"extra {extra}", installation.sentence_of_extra(extra, versions))
    found["problems"] += installation.problems_of_packages(packages)
    if found["problems"]:
        return found
    found["problems"] += installation.problems_of_torch()
    if found["problems"]:
        return found
    found["threads"] = installation.threads()
    _line("threads", ", ".join(f"{name} {number}" for name, number in found["threads"].items()))
    with installation.messages() as said:
        try:
            found["devices"] = installation.devices()
        except Exception as error:  # of a package that is damaged, or a variable that it cannot read
            found["problems"].append(f"kernels cannot be imported: {' '.join(str(error).split())}")
            return found
        for device in found["devices"]:
            reason = f", since {device['reason']}" if "reason" in device else ""
            _line("device", "{device} ({name}): backend {backend}".format(**device) + reason)
        found["kernels"] = installation.kernels(found["devices"])
        for kernels in found["kernels"]:
            _line("kernels", installation.sentence_of_kernels(kernels))
            found["problems"] += installation.problems_of_kernels(kernels)
        if speed:
            _measure(found, said)
    return found


def _measure(found: dict[str, Any], said: list[str]) -> None:
    """Check and time a model on the processor, and on the first other device.

    Args:
        found: What was found; gets ``"speed"``.
        said: What kernels have logged; those that are compiled say so.
    """
    found["speed"] = []
    for device in found["devices"][:2]:
        before = len(said)
        try:
            from pyg_schnet.cli import _speed

            check = _speed.Check(device["device"])
            seconds = check.warm_up()
        except Exception as error:  # nothing that is broken is allowed to hide the rest
            problem = f"a model cannot be computed on {device['device']}: {type(error).__name__}: {error}"
            found["problems"].append(" ".join(problem.split()))
            continue
        compiled = any("compiling kernels" in text for text in said[before:])
        if device["backend"] == "numba":
            _line("compiled", f"now, in {seconds:.0f} s; later calls find them" if compiled else "yes, found on disk")
        elif device["backend"] != "reference":  # whose compiler does not say what it finds on disk
            _line("compiled", f"first calls took {seconds:.1f} s, compilation included")
        if (disagreement := check.disagreement()) is not None:
            found["problems"].append(disagreement)
        result = check.measure() | {"compiled_now": compiled, "first_call_s": round(seconds, 2)}
        found["speed"].append(result)
        _print_speed(result)


def _print_speed(result: dict[str, Any]) -> None:
    print(
        "speed on {device}, roughly: a few seconds, on a machine that may have other work; SchNet of {channels} "
        "features and\n  {blocks} blocks, batches of {batch_size} molecules with {n_atoms:.0f} atoms on average; one "
        "molecule: program {program}".format(**result)
    )
    for name, label in (("energy_forces", "energies and forces"), ("training_step", "training steps")):
        row = result[name]
        print(
            f"  {label:<20} {row['structures_per_second']:>9,.0f} molecules/s, {row['gflops']:,.1f} GFLOP/s: "
            f"{100 * row['share']:.0f} % of matrix products"
        )
    print(
        f"  {'matrix products':<20} {result['matrix_product_gflops']:>9,.1f} GFLOP/s in float32, threads of torch: "
        f"{result['torch_threads']}"
    )


def _line(name: str, text: str) -> None:
    print(f"{name:<{_WIDTH}} {text}")


def _wrapped(name: str, words: list[str]) -> None:
    """A line of words that goes on below its second column."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 82:
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + word
    for k, line in enumerate(lines):
        _line("" if k else name, line + ("," if k < len(lines) - 1 else ""))
