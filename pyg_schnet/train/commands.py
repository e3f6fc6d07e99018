"""Commands by their names; every option is a parameter of a function or class, and explained there."""

from __future__ import annotations

import os

import jsonargparse
import torch

from pyg_schnet.train.evaluation import evaluate_model
from pyg_schnet.train.fitting import train_model
from pyg_schnet.train.merging import merge_runs
from pyg_schnet.train.prediction import predict_file
from pyg_schnet.train.sentences import is_of_parser, sentence_of


def run(command: str, args: list[str]) -> None:
    """Run one command with its arguments."""
    torch.set_float32_matmul_precision("high")
    if (cores := os.cpu_count()) is not None and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)  # OMP_NUM_THREADS may be anything; more threads than cores wait for each other
    try:
        if command == "train":
            train_model(args)
        else:
            function = {"test": evaluate_model, "predict": predict_file, "merge": merge_runs}[command]
            # not auto_cli, whose own --config would take the place of that of a function
            parser = jsonargparse.ArgumentParser(prog=f"pyg-schnet {command}", exit_on_error=False)
            parser.add_function_arguments(function, as_positional=True)
            function(**parser.parse_args(args).as_dict())
    except jsonargparse.ArgumentError as error:
        raise ValueError(f"{sentence_of(str(error))}; pyg-schnet {command} --help explains the options") from error
    except ValueError as error:  # of a class that was given options out of range
        if not is_of_parser(str(error)):
            raise
        raise ValueError(sentence_of(str(error))) from error
