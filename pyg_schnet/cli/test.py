"""``pyg-schnet test``: error of a saved model on the test structures of its run."""

from __future__ import annotations

from pathlib import Path

from pyg_schnet.cli._options import run_function


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    run_function("test", evaluate_model, args, needs=["pyg_schnet.train.evaluation"])


def evaluate_model(
    model: str,
    *,
    target: str | None = None,
    config: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    batch_size: int = 250,
) -> None:
    """Error of a saved model on the test structures of its run; of a committee also that of its spread.

    Args:
        model: Model file, for example RUN_DIR/model.safetensors, or the name of a pretrained model.
        target: Which one of several properties that the model predicts; by default all of them.
        config: Configuration with data set and target; by default config.yaml beside the model, or the one stored in
            the model file.
        split: Saved split whose test structures are used; by default that of the run, which the model file stores.
            Structures that the model was trained on are refused.
        data_dir: Folder with the files of the data sets.
        batch_size: Structures in a batch.
    """
    from pyg_schnet.cli._options import of_configuration
    from pyg_schnet.models import SchNetCommittee, as_one, load
    from pyg_schnet.pretrained import find
    from pyg_schnet.train.evaluation import configuration_of, errors_of, split_of_run
    from pyg_schnet.train.files import CONFIG_FILE, SPLIT_FILE
    from pyg_schnet.train.report import format_errors

    loaded = load(model, target=target)
    network = as_one(loaded)
    folder = find(model).parent
    path = folder / CONFIG_FILE if config is None else Path(config)
    given = configuration_of(network, path, required=config is not None, model=model)
    beside = folder / SPLIT_FILE
    with of_configuration(f"the configuration of {model}" if config is None else config):
        chosen = split_of_run(network, given, split, beside if beside.is_file() else None)
        found = errors_of(network, given, chosen, data_dir, batch_size)
        print(format_errors(*found))
        if isinstance(loaded, SchNetCommittee) and loaded.card.get("calibration"):
            from pyg_schnet.cli._spread import say_spread

            say_spread(loaded, given, chosen, data_dir)
