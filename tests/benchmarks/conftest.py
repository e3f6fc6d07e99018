"""A file that runs in a process of its own, see test_gpu.py."""

collect_ignore = ["gpu_interpreted.py"]
