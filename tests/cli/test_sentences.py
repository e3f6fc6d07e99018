import jsonargparse
import pytest

from pyg_schnet.cli._sentences import is_of_parser, sentence_of
from pyg_schnet.models import SchNet
from pyg_schnet.train import PropertyTask


def reason(arguments):
    """What a parser of tasks says of arguments."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PropertyTask, "model")
    parser.set_defaults({"model": {"class_path": "pyg_schnet.train.PropertyTask"}})
    with pytest.raises((ValueError, jsonargparse.ArgumentError)) as found:
        parser.instantiate_classes(parser.parse_args(["--model.network=pyg_schnet.SchNet", *arguments]))
    return sentence_of(str(found.value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, whose older versions have one name only
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.lr=0"], "lr must be positive, got 0.0"),
        (["--model.lr=x"], "--model.lr: Expected a float. Got value: x"),
        (["--model.loss=x"], "--model.loss: Expected one of 'mse', 'mae', 'huber'. Got value: x"),
        (["--model.network.cutoff=-3"], "cutoff must be a positive length in Å, got -3.0"),
        (
            ["--model.network.readout=x"],
            "readout must be a module or one of sum, add, mean, max, dipole, spatial_extent, ",
        ),
        (["--model.network.foo=3"], "--model.network: Option 'foo' is not accepted"),
    ],
)
def test_the_reason_is_one_sentence(arguments, expected):
    found = reason(arguments)
    assert found.startswith(expected)
    assert "\n" not in found
    assert "Namespace" not in found
    assert "class '" not in found


def test_only_what_the_parser_has_tried_is_shortened():
    assert is_of_parser("Does not validate against any of the Union subtypes\nErrors:\n  - no")
    with pytest.raises(ValueError, match="cutoff") as found:
        SchNet(cutoff=-1.0)
    assert not is_of_parser(str(found.value))
