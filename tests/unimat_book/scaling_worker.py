"""What each of several processes does in the tests of ``unimat_book.scaling``.

    python scaling_worker.py FOLDER DEVICE [SETTING ...]

FOLDER holds ``table.parquet``; the first process leaves there what the settings came to. Then the
second process is killed in the third epoch of a training, after it has touched ``killed``.
"""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import torch

from unimat_book.scaling import loop as loop_module
from unimat_book.scaling.fit import fit_together
from unimat_book.scaling.group import open_group
from unimat_lib.crystals.parquet import load_table
from unimat_lib.model import UniMat, UniMatConfig
from unimat_lib.training.config import FitConfig
from unimat_lib.views.batch import build_views
from unimat_lib.views.grid import Grid

GRID = Grid(5.0, 90.0, 256)
SAME = {"grid": GRID, "fwhm": 0.6}
BOTH = ("structure", "xrd")
#: Setting: modalities, inputs, changes of the model, changes of the training.
SETTINGS = {
    "xrd": (("xrd",), ("xrd",), {}, {}),
    "structure": (("structure",), ("structure",), {}, {}),
    "aligned": (BOTH, ("structure",), {}, {"contrastive_weight": 0.5}),
    "siglip": (BOTH, BOTH, {"alignment": "siglip"}, {"contrastive_weight": 1.0}),
}


def make_views(folder, device="cpu"):
    table = load_table(Path(folder) / "table.parquet")
    return build_views(table, modalities=BOTH, device=device, **SAME)


def split_of(views):
    rows = torch.arange(len(views))
    return {"train": rows[:-12], "val": rows[-12:]}


def make_model(name, views, *, dropout=0.0, seed=0):
    modalities, inputs, changes, _ = SETTINGS[name]
    torch.manual_seed(seed)
    model = UniMat(
        UniMatConfig(
            modalities=modalities,
            inputs=inputs,
            dim=16,
            projection_dim=8,
            xrd={"width": 8, "depths": (1, 1), "position_channels": 4, "dropout": dropout},
            structure={"hidden": 8, "blocks": 1, "int_emb": 4, "out_emb": 8},
            **SAME,
            **changes,
        )
    )
    model.to(views.device).fit_scalers(views, split_of(views)["train"].to(views.device))
    return model


def make_config(name, **changes):
    # The norm of the gradient is above the limit of the clip, which is part of what is compared.
    same = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "clip_norm": 0.5}
    return FitConfig(**(same | SETTINGS[name][3] | changes))


def train(name, views, folder, group, **changes):
    model = make_model(name, views)
    given = {"config": make_config(name, **changes), "run_dir": Path(folder) / "runs"}
    given |= {"checkpoint_seconds": 0.0}
    result = fit_together(model, views, **split_of(views), **given, group=group)
    return result, model


def weights(model):
    return torch.cat([p.detach().flatten().double() for p in model.state_dict().values()])


def train_all(names, views, folder, group):
    found = {}
    for name in names:
        result, model = train(name, views, folder, group)
        every = group.objects(weights(model))
        assert all(torch.equal(one, every[0]) for one in every), name
        assert {type(m).__module__.split(".")[0] for m in model.modules()} & {
            "unimat_book"
        } == set()
        found[name] = {"history": result.history.to_dict("list"), "weights": weights(model)}
    model = make_model("xrd", views, seed=group.rank)
    config = make_config("xrd")
    where = {"run_dir": Path(folder) / "other", "group": group}
    for given in (config, dataclasses.replace(config, batch_size=9)):
        try:
            fit_together(model, views, **split_of(views), config=given, **where)
        except ValueError as error:
            found[f"error {given.batch_size}"] = str(error)
    if group.rank == 0:
        torch.save(found, Path(folder) / "equal.pt")


def be_killed(views, folder, group):
    epoch_of = loop_module.train_epoch

    def train_epoch(loop, epoch):
        if epoch == 2 and group.rank == 0:
            (Path(folder) / "saved").touch()  # what the epochs before have left
        if epoch == 2 and group.rank == 1:
            while not (Path(folder) / "saved").exists():
                time.sleep(0.01)
            (Path(folder) / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return epoch_of(loop, epoch)

    loop_module.train_epoch = train_epoch
    train("aligned", views, folder, group, epochs=4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, device, *names = sys.argv[1:]
    with open_group(device) as here:
        crystals = make_views(where, here.device)
        if names:
            train_all(names, crystals, where, here)
        be_killed(crystals, where, here)
