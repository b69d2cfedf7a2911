"""Training on smoothed labels: the loss, what is left of it, and whose checkpoint it is."""

from __future__ import annotations

import copy

import pytest
import torch

from unimat_book.experiments import split_rows, train_seeds
from unimat_book.smoothing import smoothed_labels
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.evaluation.predict import predict
from unimat_lib.model import UniMat, UniMatConfig, load_model, save_model
from unimat_lib.training.config import FitConfig
from unimat_lib.training.loop import losses
from unimat_lib.views.batch import CrystalViews, build_views
from unimat_lib.views.grid import Grid

FORMULA = ("composition",)


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    """Each system keeps most of its label, the rest goes to its neighbour."""
    kept = 0.9 * torch.eye(7)
    kept[torch.arange(7), (torch.arange(7) + 1) % 7] += 0.1
    return kept


@pytest.fixture(scope="module")
def views(prototype_table: CrystalTable) -> CrystalViews:
    return build_views(prototype_table, grid=Grid(5.0, 90.0, 64), fwhm=2.0, modalities=FORMULA)


@pytest.fixture
def model(views: CrystalViews, prototype_table: CrystalTable) -> UniMat:
    torch.manual_seed(0)
    config = UniMatConfig(
        modalities=FORMULA, inputs=FORMULA, dim=16, projection_dim=8, grid=views.grid, fwhm=2.0
    )
    network = UniMat(config)
    network.fit_scalers(views, split_rows(prototype_table)[0])
    return network


def test_the_loss_in_training_is_the_cross_entropy_with_soft_labels(model, views, labels):
    batch = views.batch(torch.arange(32), modalities=FORMULA)
    config = FitConfig(epochs=1)
    with smoothed_labels(model, labels):
        torch.manual_seed(1)  # of the dropout
        loss = losses(model.train(), batch, config=config)["system"]
        torch.manual_seed(1)
        average = copy.deepcopy(model)  # hooks and buffers go with a copy, as in training
        assert torch.equal(losses(average, batch, config=config)["system"], loss)
        plainly = losses(model.eval(), batch, config=config)["system"]
    torch.manual_seed(1)
    log_probs = model.train()(batch.views).system_log_probs
    soft = -(labels[batch.targets.crystal_system] * log_probs).sum(1).mean()
    torch.testing.assert_close(loss, soft)
    # Validation and predictions know the labels as they are.
    assert torch.equal(plainly, losses(model.eval(), batch, config=config)["system"])


def test_nothing_is_left_afterwards(model, labels):
    before = list(model.state_dict())
    with smoothed_labels(model, labels):
        assert set(model.state_dict()) - set(before) == {"soft_labels"}
    assert list(model.state_dict()) == before
    assert not model._forward_hooks
    with smoothed_labels(model, None):
        assert list(model.state_dict()) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(torch.eye(6), r"labels \[7, 7\], got \[6, 6\]"), (2 * torch.eye(7), "sum to one")],
)
def test_what_is_no_matrix_of_labels_is_refused(model, wrong, message):
    with pytest.raises(ValueError, match=message), smoothed_labels(model, wrong):
        pass


def test_a_run_with_smoothed_labels_is_another_run_and_leaves_a_plain_model(
    model, views, prototype_table, labels, tmp_path
):
    shared = dict(config=FitConfig(epochs=2, batch_size=64), seeds=[0], run_dir=tmp_path / "runs")
    runs = [
        train_seeds(model.config, views, prototype_table, labels=matrix, **shared)
        for matrix in (None, labels, torch.eye(7), labels)
    ]
    folders = [run.fits[0].run_dir for run in runs]
    assert len(set(folders)) == 3
    assert folders[3] == folders[1]
    plain, smooth = runs[0].model, runs[1].model
    assert type(smooth) is UniMat
    assert smooth.state_dict().keys() == plain.state_dict().keys()
    # Labels that stay as they are train the same model, though in a folder of its own.
    for name, value in runs[2].model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])
    assert not torch.equal(smooth.system_head(torch.ones(16)), plain.system_head(torch.ones(16)))
    # It is written, read, asked and started from like any other.
    again = load_model(save_model(smooth, tmp_path / "model.safetensors"))
    rows = torch.arange(20)
    asked = [predict(each, views, prototype_table, rows) for each in (smooth, again)]
    assert asked[0].equals(asked[1])
    further = train_seeds(
        model.config, views, prototype_table, labels=labels, start=[smooth], **shared
    )
    assert further.fits[0].run_dir not in folders
