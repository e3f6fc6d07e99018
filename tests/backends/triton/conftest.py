"""Files that run in processes of their own, see test_triton.py."""

collect_ignore = ["interpreted.py", "compiled.py"]
