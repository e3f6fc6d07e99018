"""How jsonargparse's parsers print their help: defaults without types, and examples as they are written."""

from __future__ import annotations

import argparse

import jsonargparse

from pyg_schnet.cli._parser import Lines


class HelpFormatter(Lines, jsonargparse.DefaultHelpFormatter):
    """Names, explanations and defaults; types are seen from these, and errors name them."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "--help" in action.option_strings:
            return "show this help message and exit"
        shown = action.option_strings and action.default not in (None, argparse.SUPPRESS)
        return f"{text.removesuffix('.')} (default: %(default)s)" if shown else text
