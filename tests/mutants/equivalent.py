"""Survivors that are no mistakes: nothing that a test could see changes.

The lines are written without their indentation, and found wherever they move to.
"""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""File, old line and new line to the reason."""
