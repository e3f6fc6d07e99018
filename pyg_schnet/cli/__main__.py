"""``python -m pyg_schnet.cli``, the command ``pyg-schnet``."""

from pyg_schnet.cli import main

main()
