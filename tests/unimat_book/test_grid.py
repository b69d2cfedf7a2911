"""The grid of fusion and order: what is trained, what is not, and that nothing is lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small import grid_settings

from unimat_book.grid import work as work_module
from unimat_book.grid.analysis import (
    BASE,
    cells_of,
    contrasts,
    convergence,
    effects,
    holm,
    intervals,
    ledger_rows_of_grid,
    verdict,
)
from unimat_book.grid.cells import (
    FUSIONS,
    KINDS,
    ORDERS,
    GridSettings,
    Job,
    all_jobs,
    cell_names,
    chosen_rate,
)
from unimat_book.grid.model import INPUTS, EarlyFusion
from unimat_book.grid.results import finished, load_published, pack
from unimat_book.grid.scores import (
    decode_errors,
    decode_flags,
    encode_errors,
    encode_flags,
    wrong_formulas,
)
from unimat_book.grid.train import Shared, make_model, stages, train_job
from unimat_book.grid.views import simulate_laboratory, strain_levels
from unimat_book.grid.work import Folder, work_through
from unimat_lib.training.loop import losses


@pytest.fixture(scope="module")
def settings() -> GridSettings:
    return grid_settings(seeds_grid=[0], draws_grid=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, settings, prototype_table) -> Folder:
    """All cells on both kinds of patterns, trained."""
    path = tmp_path_factory.mktemp("grid")
    done = Folder.of(path, settings, prototype_table.content_hash())
    work_through(done, prototype_table, device="cpu")
    return done


@pytest.fixture(scope="module")
def shared(folder, settings, prototype_table) -> Shared:
    return Shared(prototype_table, settings, device="cpu", structure=folder.structure)


def batch_of(shared: Shared, job: Job, n: int = 16):
    views = shared.views(job)
    names = (*(("structure",) if job.needs_structure else ()), *INPUTS)
    how = stages(job, shared.settings, rate=1e-3)[0].measurement
    generator = torch.Generator().manual_seed(0)
    return views.batch(shared.rows[0][:n], modalities=names, measurement=how, generator=generator)


# ---- what is to be done ---------------------------------------------------------------------


def test_every_cell_gets_the_same(settings):
    many = dataclasses.replace(settings, seeds=(0, 1, 2, 3, 4), rates=(1e-3, 2e-3), epochs=9)
    jobs = all_jobs(many)
    assert len({job.name for job in jobs}) == len(jobs)
    for kind in KINDS:
        for fusion, order in cell_names():
            mine = [j for j in jobs if (j.kind, j.fusion, j.order) == (kind, fusion, order)]
            assert sorted(j.seed for j in mine if j.purpose == "final") == [0, 1, 2, 3, 4]
            assert sorted(j.rate for j in mine if j.purpose == "tuning") == [0, 1]
            for job in mine:
                epochs = sum(c.epochs for c in stages(job, many, rate=1e-3))
                expected = {"tuning": many.epochs_tuning, "final": 9, "longer": 18}[job.purpose]
                assert epochs == max(expected, len(stages(job, many, rate=1e-3)))
    # A stop leaves both kinds with equal seeds; the laboratory's last come last.
    last = [j for j in jobs if j.purpose == "final"][-40:]
    assert {(j.kind, j.seed) for j in last} == {("laboratory", 3), ("laboratory", 4)}


def test_rate_of_the_smaller_loss(settings):
    two = dataclasses.replace(settings, rates=(1e-3, 2e-3))
    assert chosen_rate([0.5, 0.4], two) == 2e-3
    assert chosen_rate([0.5, None], two) == 1e-3
    with pytest.raises(ValueError, match="all trials"):
        chosen_rate([None, None], two)


# ---- models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_trained_and_what_is_aligned(shared, fusion, order):
    job = Job("final", "clean", fusion, order)
    model = make_model(job, shared.settings)
    model.fit_scalers(shared.views(job), shared.rows[0])
    batch = batch_of(shared, job)
    output = model(batch.views)
    assert output.cell.shape == (16, 9)
    torch.testing.assert_close(output.system_log_probs.exp().sum(1), torch.ones(16))
    aligned = {"none": set(), "fused": {"structure", "fused"}}.get(order, {"structure", *INPUTS})
    assert set(output.projections) == aligned
    assert not any("structure" in name for name, _ in model.encoders.named_parameters())
    # The structure holds the answer: it takes no part in the prediction.
    other = dict(batch.views)
    if "structure" in other:
        other["structure"] = torch.randn_like(other["structure"])
    with torch.random.fork_rng():
        model.eval()
        assert torch.equal(model(batch.views).cell, model(other).cell)
        model.train()
    for config in stages(job, shared.settings, rate=1e-3):
        model.aligning = config.cell_weight == 0
        model.zero_grad()
        losses(model, batch, config=config)["loss"].backward()
        parts = {name.split(".")[0] for name, p in model.named_parameters() if _moved(p)}
        if model.aligning:
            assert parts == {"encoders", "projections", "alignment"}
        else:
            both = {"projections", "alignment"} if config.contrastive_weight else set()
            assert parts == {"encoders", "fusion", "cell_head", "system_head"} | both
        for name in ("xrd", "composition"):
            steered = (
                fusion != "early" or name == "xrd" or model.aligning or order == "simultaneous"
            )
            # FiLM starts at zero and lets nothing of the formula through before its first step.
            assert any(map(_moved, model.encoders[name].parameters())) == steered, name


def _moved(parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_absent_views_have_no_influence(shared, fusion):
    job = Job("final", "clean", fusion, "none")
    model = make_model(job, shared.settings).eval()
    if isinstance(model.fusion, EarlyFusion):
        for film in model.fusion.films:
            torch.nn.init.normal_(film.tell.weight, std=0.1)
    views = batch_of(shared, job).views
    full = model(views).cell
    here = torch.arange(16) % 2 == 0
    for name, other in (("xrd", "composition"), ("composition", "xrd")):
        alone = model({other: views[other]}).cell
        mask = {name: here, other: torch.ones(16, dtype=torch.bool)}
        broken = dict(views) | {name: torch.where(here[:, None], views[name], 7.0)}
        mixed = model(broken, mask).cell
        torch.testing.assert_close(mixed[here], full[here], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mixed[~here], alone[~here], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(full, alone, atol=1e-3), f"{name} says nothing"


def test_late_weights_differ_between_crystals(shared):
    job = Job("final", "clean", "late", "none")
    model = make_model(job, shared.settings).eval()
    _, weights = model.fusion(torch.randn(16, 2, shared.settings.model["dim"]))
    torch.testing.assert_close(weights.sum(1), torch.ones(16))
    assert float(weights[:, 0].detach().std()) > 1e-3


# ---- views ----------------------------------------------------------------------------------


def test_strains_move_targets_and_structures_together(shared):
    assert strain_levels(shared.settings).tolist() == [0.0, -0.05, 0.05]
    for kind in KINDS:
        job = Job("final", kind, "concat", "simultaneous")
        views, rows = shared.views(job), shared.rows[0][:16]
        batch = batch_of(shared, job)
        ratio = batch.targets.lengths / views.targets.lengths[rows]
        level = (views.strains[:, None] + 1 - ratio.mean(1)).abs().argmin(0)
        assert len(set(level.tolist())) > 1
        torch.testing.assert_close(ratio, (1 + views.strains[level]).float()[:, None].expand(16, 3))
        assert torch.equal(batch.views["structure"], views.structure[level, rows].float())
        still = views.batch(rows, modalities=("structure",))
        assert torch.equal(still.targets.lengths, views.targets.lengths[rows])


def test_laboratory_is_fixed_and_unlike_clean(shared):
    train, val, test = shared.rows
    job = Job("final", "laboratory", "concat", "none")
    views, clean = shared.views(job), shared.views(dataclasses.replace(job, kind="clean"))
    again = simulate_laboratory(
        shared.table, shared.settings, train=train, others=torch.cat([val, test]), device="cpu"
    )
    assert torch.equal(again.fixed, views.laboratory.fixed)
    assert torch.isfinite(again.drawn).all() and float(again.drawn.amax()) <= 1
    one, other = (v.batch(test, modalities=("xrd",)).views["xrd"] for v in (views, clean))
    assert float(one.amin()) >= 0
    torch.testing.assert_close(one.amax(1), torch.ones(len(test)), atol=1e-3, rtol=0)
    alike = torch.nn.functional.cosine_similarity(one, other)
    assert 0.2 < float(alike.mean()) < 0.95
    shifted = torch.nn.functional.cosine_similarity(one, other.roll(1, 0))
    assert float(alike.mean()) > float(shifted.mean()) + 0.2
    assert views.content_hash != clean.content_hash


def test_an_even_number_of_strains_is_refused(settings):
    with pytest.raises(ValueError, match="odd number"):
        strain_levels(dataclasses.replace(settings, strain_levels=4))


# ---- scores and files -----------------------------------------------------------------------


def test_codes_keep_means_and_order():
    rng = np.random.default_rng(0)
    errors = np.exp(rng.normal(-3, 1.2, 5000))
    back = decode_errors(encode_errors(errors), mean=errors.mean())
    assert back.mean() == pytest.approx(errors.mean())
    half = rng.random(5000) < 0.5
    assert back[half].mean() == pytest.approx(errors[half].mean(), rel=0.01)
    middle = (errors > 2e-3) & (errors < 10)
    assert np.abs(np.log(back / errors))[middle].max() < 0.2
    assert np.array_equal(decode_flags(encode_flags(half), 5000), half)


def test_wrong_formulas_are_wrong_by_one_neighbour():
    from pymatgen.core import Composition

    formulas = ["TiO2", "NaCl", "Fe", "CaTiO3", "H2", "PuO2"]
    for before, after in zip(formulas, wrong_formulas(formulas), strict=True):
        a, b = (Composition(x) for x in (before, after))
        (lost,), (new,) = set(a) - set(b), set(b) - set(a)
        assert abs(lost.Z - new.Z) == 1 and new.Z <= 94
        assert b[new] == a[lost]
        assert wrong_formulas([before]) == wrong_formulas([before])


def test_all_cells_are_trained_and_packed_small(folder, settings, prototype_table, tmp_path):
    jobs = all_jobs(settings)
    assert all(map(folder.done, jobs)) and not any(map(folder.failed, jobs))
    assert not list((folder.path / "runs").glob("*/*")), "checkpoints are removed"
    results = folder.results()
    paths = pack(results, tmp_path)
    assert {p.stem for p in paths} == {*KINDS, "trials"}
    back = finished(tmp_path, settings, prototype_table.content_hash())
    assert back == results
    crystals = prototype_table.content_hash()
    loaded = load_published(tmp_path, settings, crystals, made_by="this")
    assert {r.job.name for r in loaded} == set(results)
    other = dataclasses.replace(settings, epochs=7)
    with pytest.raises(ValueError, match=r"epochs was 2, is 7(.|\n)*this"):
        load_published(tmp_path, other, crystals, made_by="this")
    with pytest.raises(FileNotFoundError, match="this"):
        load_published(tmp_path / "nowhere", settings, crystals, made_by="this")
    for r in loaded:
        assert r.device and r.versions["torch"]
        assert "val_supervised" in r.scores or r.job.purpose == "structure"
        if r.job.purpose == "final":
            assert len(r.history) == settings.epochs
            assert ("recall_at_1" in r.scores) == (r.job.order != "none")
            assert len(r.codes["scaled_both"]) == 32


def test_resumed_gives_the_same(folder, shared, tmp_path, monkeypatch):
    job = Job("final", "laboratory", "gated", "before")
    before = folder.results()[job.name]
    again = train_job(job, shared, rate=before.rate, run_dir=tmp_path / "runs")
    assert again.scores == before.scores and again.codes == before.codes
    # What is finished is not done again; what is missing is.
    calls = []
    monkeypatch.setattr(work_module, "_do", lambda folder, job, shared: calls.append(job))
    path = folder.result(job)
    kept = path.read_bytes()
    path.unlink()
    try:
        monkeypatch.setattr(Folder, "done", lambda self, j: j != job or bool(calls))
        work_through(folder, shared.table, device="cpu")
    finally:
        path.write_bytes(kept)
    assert calls == [job]


def test_a_failure_stops_nothing_else(settings, prototype_table, tmp_path, monkeypatch):
    folder = Folder.of(tmp_path, settings, prototype_table.content_hash())
    said = []

    def do(folder, job, shared):
        if job.fusion == "late" or job.purpose == "structure":
            raise ArithmeticError("no luck")
        folder.result(job).parent.mkdir(parents=True, exist_ok=True)
        folder.result(job).touch()

    monkeypatch.setattr(work_module, "_do", do)
    work_through(folder, prototype_table, device="cpu", say=said.append)
    jobs = all_jobs(settings)
    for job in jobs:
        if job.purpose == "structure" or job.fusion == "late" or job.needs_structure:
            assert folder.failed(job)  # without structures nothing can be aligned
        else:
            assert folder.done(job)
    late = Job("final", "clean", "late", "none")
    assert sum(text.startswith(f"{late.name} FAILED") for text in said) == work_module.ATTEMPTS
    assert "no luck" in (folder.path / "errors" / f"{late.name}.txt").read_text()
    folder.forget_failures()
    assert not folder.failed(late)


# ---- analysis -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up(folder):
    """Results of three seeds in which fused alignment and gates help; types of the crystals."""
    rng = np.random.default_rng(1)
    systems = np.arange(400) % 7
    hard = np.exp(rng.normal(-2.5, 0.6, 400))
    results, base = [], next(iter(folder.results().values()))
    for kind in KINDS:
        for fusion, order in cell_names():
            for seed in (0, 1, 2):
                factor = 1 - 0.3 * (order == "fused") - 0.01 * (order == "simultaneous")
                errors = hard * factor * (1 + 0.002 * rng.normal(size=400))
                right = rng.random(400) < 0.9
                names = "scaled_length_mae", "length_mae"
                scores = {f"{m}_{c}": float(errors.mean()) for m in names
                          for c in ("both", "no_formula", "no_pattern", "typo")}  # fmt: skip
                scores |= {f"{m}_{c}": 100 * float(right.mean()) for m in ("system", "macro_system")
                           for c in ("both", "no_formula", "no_pattern", "typo")}  # fmt: skip
                scores |= {"val_supervised": float(errors.mean()) + 0.01 * (fusion != "gated")}
                code, flags = encode_errors(errors), encode_flags(right)
                codes = dict.fromkeys(("scaled_both", "length_both"), code)
                for c in ("both", "no_formula", "no_pattern", "typo"):
                    codes |= {f"scaled_{c}": code, f"right_{c}": flags}
                if order != "none":
                    codes["found"], scores["recall_at_1"] = flags, 100 * float(right.mean())
                job = Job("final", kind, fusion, order, seed)
                results.append(dataclasses.replace(base, job=job, scores=scores, codes=codes))
    types = [f"t{k // 4}" for k in range(400)]
    return results, systems, types


def test_effects_that_were_put_in_are_found(made_up):
    results, systems, types = made_up
    cells = cells_of(results, "clean", systems)
    assert cells.seeds == [0, 1, 2] and cells.chosen == ("gated", "fused")
    assert all(abs(w.sum()) < 1e-12 for w in contrasts(cells).values())
    found = effects(cells, types, "scaled_length_mae").set_index("effect")
    assert found.loc[ORDERS["fused"], "verdict"] == "better"
    assert found.loc[ORDERS["simultaneous"], "verdict"] == "no difference"
    assert found.loc[FUSIONS["early"], "verdict"] == "no difference"
    base = cells.means["scaled_length_mae"][list(cell_names()).index(BASE)].mean()
    assert found.loc[ORDERS["fused"], "change"] == pytest.approx(-0.3 * base, rel=0.05)
    frame = intervals(cells, types)
    assert len(frame) == 20 * 11 - 5  # nothing to retrieve without alignment
    row = frame[(frame["metric"] == "scaled_length_mae")].iloc[0]
    assert row["ci_low"] < row["mean"] < row["ci_high"]
    assert row["types_low"] < row["mean"] < row["types_high"]
    rows = ledger_rows_of_grid(frame, "clean")
    assert rows[0]["setting"] == "fusion_early_none" and len(rows[0]["ci95_types"]) == 2


def test_cells_share_their_seeds(made_up):
    results, systems, _ = made_up
    last = Job("final", "clean", "late", "fused", 2)
    fewer = [r for r in results if r.job != last]
    assert cells_of(fewer, "clean", systems).seeds == [0, 1]
    none = [r for r in results if (r.job.fusion, r.job.order) != ("late", "fused")]
    with pytest.raises(ValueError, match="late"):
        cells_of(none, "clean", systems)


def test_a_verdict_needs_the_size():
    look = {"margin": 1.0, "lower_is_better": True}
    assert verdict(-3, -2, 0.001, **look) == "better"
    assert verdict(-3, -0.5, 0.001, **look) == "better, size open"
    assert verdict(-0.5, 0.5, 0.9, **look) == "no difference"
    assert verdict(-0.9, -0.1, 0.001, **look) == "no difference"  # there, and too small to matter
    assert verdict(-3, 2, 0.5, **look) == "open"
    assert verdict(-3, -2, 0.2, **look) == "open"  # one of many comparisons
    assert verdict(2, 3, 0.001, margin=1.0, lower_is_better=False) == "better"


def test_holm():
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])


def test_convergence_compares_with_twice_the_epochs(folder):
    frame = convergence(list(folder.results().values()))
    assert len(frame) == 6 and set(frame["kind"]) == set(KINDS)
    assert np.isfinite(frame["change"]).all()


def test_results_go_on_elsewhere_with_the_same_structure_encoder(
    folder, settings, prototype_table, tmp_path
):
    crystals, out = prototype_table.content_hash(), tmp_path / "out"
    folder.hand_over(out, structure=True)
    there = Folder.of(tmp_path / "there", settings, crystals)
    there.take_over(out, crystals)
    jobs = [job for job in all_jobs(settings) if job.purpose != "structure"]
    assert all(map(there.done, jobs)) and not there.done(Job("structure"))
    work_through(there, prototype_table, device="cpu")  # only embeds again
    scores = [f.results()["structure"].scores["val_recall_at_1"] for f in (folder, there)]
    assert scores[0] == scores[1]
    for name in ("structure_model.json", "structure_model.safetensors"):
        (out / name).unlink()
    # Without it another one will be trained, so what was aligned with the first does not count.
    apart = Folder.of(tmp_path / "apart", settings, crystals)
    apart.take_over(out, crystals)
    assert {job.needs_structure for job in jobs if not apart.done(job)} == {True}
    assert {job.needs_structure for job in jobs if apart.done(job)} == {False}


def test_structure_encoders_are_not_mixed(folder, settings, prototype_table, tmp_path):
    results = folder.results()
    name = "final-clean-late-fused-seed0"
    results[name] = dataclasses.replace(results[name], structure="another")
    pack(results, tmp_path)
    with pytest.raises(ValueError, match="2 structure encoders"):
        load_published(tmp_path, settings, prototype_table.content_hash(), made_by="this")
