"""Checkpoints with spoilt bytes: one sentence, or what was saved; never other weights, and never another error."""

import io
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_schnet.train.last_checkpoint import read_checkpoint
from pyg_schnet.train.resuming import check_same_run

from ..train.small_runs import fit

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*", "ignore:.*many workers.*")
SENTENCE = r"^.*last\.ckpt (is no whole checkpoint of a run|is of another task or network|is of a training that)"


class Saved:
    """A checkpoint's bytes and what belongs to it; not shown in full by failing examples."""

    def __init__(self, content, task, data, folder):
        self.content, self.task, self.data, self.folder = content, task, data, folder

    def __repr__(self):
        return "Saved(...)"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole checkpoint, its task, and its data."""
    folder = tmp_path_factory.mktemp("run")
    task, trainer, *_ = fit(folder, max_epochs=1)
    return Saved((folder / "last.ckpt").read_bytes(), task, trainer.datamodule, folder)


def flat(value, name=""):
    """Everything in nested containers, with its place."""
    if isinstance(value, dict):
        for key in value:
            yield from flat(value[key], f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for key, one in enumerate(value):
            yield from flat(one, f"{name}.{key}")
    else:
        yield name, value.tolist() if isinstance(value, torch.Tensor) else value


def assert_refused_or_same(saved, content):
    path = saved.folder / "spoilt" / "last.ckpt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        found = read_checkpoint(path, saved.task)
        check_same_run(path, found, saved.data)
    except ValueError as error:
        said = str(error)
    else:
        said = None
    if said is not None:
        assert "last.ckpt" in said
        assert "\n" not in said
        return
    whole = torch.load(io.BytesIO(saved.content), weights_only=True)
    assert repr(dict(flat(found))) == repr(dict(flat(whole)))


spoilt = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@spoilt
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_byte_that_flips_changes_no_weight(saved, place, mask):
    content = bytearray(saved.content)
    content[int(place * len(content))] ^= mask
    assert_refused_or_same(saved, bytes(content))


@spoilt
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_is_refused(saved, place):
    path = saved.folder / "last.ckpt"
    path.write_bytes(saved.content[: int(place * len(saved.content))])
    with pytest.raises(ValueError, match=SENTENCE):
        read_checkpoint(path, saved.task)


@spoilt
@given(place=st.floats(0, 1), more=st.binary(min_size=1, max_size=64), times=st.integers(1, 200))
def test_bytes_in_between_are_noticed(saved, place, more, times):
    at = int(place * len(saved.content))
    assert_refused_or_same(saved, saved.content[:at] + more * times + saved.content[at:])


@spoilt
@given(content=st.binary(max_size=300))
def test_other_files_are_refused(saved, content):
    path = saved.folder / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=SENTENCE):
        read_checkpoint(path, saved.task)


VALUES = st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=4), st.just([]), st.just({}))


@spoilt
@given(data=st.data())
def test_entries_of_other_kinds_are_refused(saved, data):
    """A file that torch reads, but in which something is missing or is something else."""
    checkpoint = torch.load(io.BytesIO(saved.content), weights_only=True)
    names = ["state_dict", "loops", "epoch", "optimizer_states", "lr_schedulers", "callbacks", "StructureDataModule"]
    name, value = data.draw(st.sampled_from(names)), data.draw(VALUES)
    if data.draw(st.booleans()):
        del checkpoint[name]
    else:
        checkpoint[name] = value
    path = saved.folder / "last.ckpt"
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"last\.ckpt (is no whole|is of another|does not say)"):
        check_same_run(path, read_checkpoint(path, saved.task), saved.data)


def test_a_checkpoint_is_read_whole(saved):
    """The tests above can fail: the file is one that is accepted, and its records are what flips."""
    assert_refused_or_same(saved, saved.content)
    with zipfile.ZipFile(io.BytesIO(saved.content)) as file:
        assert sum(record.file_size for record in file.infolist()) > 0.3 * len(saved.content)
