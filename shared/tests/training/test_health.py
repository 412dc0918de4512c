"""Health: the measures, the limits, the patience; state that is saved, and ranks that judge as one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.core.contracts import RequestError, RunFailed
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.recipe import Health, Recipe, dump, validated
from unlabeled.core.methods.base import Context
from unlabeled.core.testing.ranks import RankPool
from unlabeled.core.testing.toys import Denoiser, Waves, lines, loader, recipe
from unlabeled.core.training.fit import fit
from unlabeled.core.training.health import LIMITS, Monitor, measure


def test_measures_of_known_embeddings() -> None:
    # 4 unit vectors along the axes of 4 dimensions: orthogonal, so the mean cosine is 0 and the rank is 4. A coordinate
    # is 1 once in 4: variance (1 - 4 / 16) / 3 = 1/4, deviation 1/2, times sqrt(4) = 1
    axes = measure(torch.eye(4) * torch.tensor([1.0, 2, 3, 4])[:, None])
    assert axes["spread"] == pytest.approx(1, rel=1e-6)
    assert axes["cosine"] == pytest.approx(0, abs=1e-6)
    assert measure(torch.eye(4))["rank"] == pytest.approx(4, rel=1e-4)
    point = measure(torch.ones(4, 4) * torch.tensor([1.0, 2, 3, 4])[:, None])  # lengths do not count
    assert (point["spread"], point["cosine"]) == pytest.approx((0, 1), abs=1e-6)
    assert point["rank"] == pytest.approx(1, abs=1e-4)
    # two directions v, -v, half each: cosine -1 for n^2/2 of n(n-1) ordered pairs and 1 for the rest: -1 / (n - 1)
    pair = measure(torch.tensor([[1.0, 1], [-1, -1], [1, 1], [-1, -1]]))
    assert pair["cosine"] == pytest.approx(-1 / 3, abs=1e-6)


def monitor(batch_size: int = 64, **alarms: Any) -> Monitor:
    options = Health.model_validate({"patience": 2, **alarms})
    return Monitor(options, every=1, batch_size=batch_size, total=1000, prototypes=256)


def feed(m: Monitor, step: int, scale: float = 1.0, loss: float = 1.0, norm: float = 1.0, **vitals: float) -> list[str]:
    """One step and one look, with embeddings whose directions spread as `scale` says; causes of what was raised."""
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(step)) * scale + 1
    out = {
        "embedding": z, "weight": torch.ones(64), "loss": torch.tensor(loss), "grad_norm": torch.tensor(norm),
        "vitals": {k: torch.tensor(v) for k, v in vitals.items()},
    }  # fmt: skip
    m.keep(step, out)
    return [t.cause for t in m.look(step + 1, out)]


SHOWN: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    # cause -> (just not, just so), with the defaults, against a start of 1, 64 of 256 prototypes within reach
    "loss": ({"loss": 0.0051}, {"loss": 0.0049}),
    "target_std": ({"target_std": 0.11}, {"target_std": 0.09}),
    "prototype_use": ({"prototype_use": 0.25 * 0.26}, {"prototype_use": 0.25 * 0.24}),
    "teacher_gap": ({"teacher_gap": 0.99}, {"teacher_gap": 1.01}),
    "gradient_vanishes": ({"norm": 0.0011}, {"norm": 0.0009}),
    "gradient_explodes": ({"norm": 99.0}, {"norm": 101.0}),
    "spread": ({"scale": 0.3}, {"scale": 0.005}),
    "rank": ({"scale": 0.3}, {"scale": 1e-7}),
}


def test_every_limit_has_a_field_and_a_row_here() -> None:
    assert set(LIMITS) == set(SHOWN) == set(Health.model_fields) - {"patience"}


def test_a_loss_below_zero_is_no_collapse() -> None:
    # DCL's loss starts above 0 and has no floor
    m = monitor()
    assert [feed(m, s, loss=loss) for s, loss in enumerate([1.0, -0.5, -1.0, -2.0, -2.0])] == [[]] * 5


@pytest.mark.parametrize("cause", SHOWN)
def test_an_alarm_needs_its_limit_and_patience(cause: str) -> None:
    well, ill = SHOWN[cause]
    # the rank of 64 points around (1, ..., 1) falls from near 8 to 1, which is more than a tenth: a higher limit is set
    options: dict[str, Any] = {"rank": {"at": 0.3}} if cause == "rank" else {}
    m = monitor(**options)
    assert feed(m, 0) == []
    assert [feed(m, s, **well) for s in (1, 2, 3)] == [[], [], []]
    assert feed(m, 4, **ill) == []
    assert feed(m, 5, **well) == []  # not in a row
    assert cause not in feed(m, 6, **ill)
    raised = feed(m, 7, **ill)
    assert cause in raised
    record = next(a for a in m.alarms if a["cause"] == cause)
    assert record["step"] == 8 and record["action"] == getattr(Health(), cause).action
    assert "for 2 looks" in record["reason"] and record["reason"].count(". ") == 0
    again = feed(m, 8, **ill)
    assert (cause in again) == (record["action"] != "warn")  # a warning is said once, a stop again on every look


def test_where_to_go_back_to_is_before_it_first_showed() -> None:
    m = monitor(loss={"action": "roll back"})
    for s in range(4):
        feed(m, s)
    z = {
        "loss": torch.tensor(1e-4),
        "grad_norm": torch.tensor(1.0),
        "embedding": torch.zeros(1, 2),
        "weight": torch.ones(1),
    }
    for s in (4, 5):
        m.keep(s, z)
        troubles = m.look(s + 1, z)
    (trouble,) = [t for t in troubles if t.cause == "loss"]
    assert (trouble.before, trouble.action) == (4, "roll back")


def test_rows_of_weight_zero_and_nan_are_left_out() -> None:
    m = monitor()
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + 1
    weight = torch.ones(64)
    weight[:9] = 0
    spoiled = z.clone()
    spoiled[:9], spoiled[9] = torch.nan, torch.inf
    one = torch.tensor(1.0)
    m.keep(0, {"embedding": spoiled, "weight": weight, "loss": one, "grad_norm": one})
    m.look(1, {})
    assert m.values["rank"] == pytest.approx(measure(z[10:])["rank"], rel=1e-6)


def test_too_few_rows_say_nothing() -> None:
    m = monitor(batch_size=4)
    one = torch.tensor(1.0)
    m.keep(0, {"embedding": torch.ones(4, 8), "weight": torch.ones(4), "loss": one, "grad_norm": one})
    m.look(1, {})
    assert set(m.values) == {"loss", "gradient"}


def test_only_steps_before_a_look_are_held() -> None:
    # 256 rows are 4 batches of 64: of 10 steps the first 4 (the start) and the last 4 are held
    m = Monitor(Health(), every=10, batch_size=64, total=1000)
    one = torch.tensor(1.0)
    for step in range(10):
        z = torch.full((64, 2), float(step))
        m.keep(step, {"embedding": z, "weight": torch.ones(64), "loss": one, "grad_norm": one})
    state = m.state()
    assert [int(t[0, 0]) for t in state["first"]] == [0, 1, 2, 3]
    assert [int(t[0, 0]) for t in state["held"]] == [6, 7, 8, 9]


class Fading(Denoiser):
    """Its embeddings shrink to one point from step 20 on; the loss stays."""

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        out = super().step(batch, ctx)
        left = max(0.0, 1 - max(0, ctx.step - 20) / 5)
        return out | {
            "embedding": out["embedding"] * left + 1,
            "vitals": {"teacher_gap": out["loss"].detach() * 0 + 0.5},
        }


def fading(run: Path, steps: int = 60, resume: bool = False, **health: Any) -> dict[str, Any]:
    made = recipe(steps, log_every=5, save_every=10).model_copy(
        update={"batch_size": 16, "health": Health.model_validate({"patience": 3, **health})}
    )
    return fit(Fading(Denoiser.Options(dropout=0.0)), loader(Waves(64), batch_size=16), made, run, resume=resume).health


def test_values_are_in_the_lines_of_looks(tmp_path: Path) -> None:
    health = fading(tmp_path, spread={"action": "warn"})
    table = lines(tmp_path)
    assert [line["step"] for line in table if "health" in line] == [4, 9, 14, 19, 24, 29, 34, 39, 44, 49, 54, 59]
    last = table[-1]["health"]
    assert last == health["health"]
    assert last["teacher_gap"] == 0.5 and last["spread"] < 0.01 < health["start"]["spread"]
    (alarm,) = health["alarms"]
    # the looks after 25, 30 and 35 steps: at 25 the rows of the last 5 steps are half faded
    assert alarm["cause"] == "spread" and 35 <= alarm["step"] <= 45


@pytest.mark.parametrize("stop", [7, 22, 31])
def test_a_resumed_run_judges_as_an_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    whole = fading(tmp_path / "whole", spread={"action": "warn"})

    class Crash(Exception):
        pass

    original = Fading.step

    def crashing(self: Fading, batch: Batch, ctx: Context) -> dict[str, Any]:
        if ctx.step == stop:
            raise Crash
        return original(self, batch, ctx)

    Fading.step = crashing  # type: ignore[method-assign]
    try:
        with pytest.raises(Crash):
            fading(tmp_path / "parts", spread={"action": "warn"})
    finally:
        Fading.step = original  # type: ignore[method-assign]
    assert fading(tmp_path / "parts", resume=True, spread={"action": "warn"}) == whole
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def on_rank(run: Path, action: str) -> tuple[dict[str, Any] | None, str]:
    """What a rank's run said of its health, or the error that ended it."""
    try:
        return fading(run, spread={"action": action}), ""
    except RunFailed as error:
        return None, str(error)


def test_two_ranks_see_what_one_sees_and_act_together(two_ranks: RankPool, tmp_path: Path) -> None:
    one, _ = on_rank(tmp_path / "one", "warn")
    (both, _), _ = two_ranks.run(f"{__file__}:on_rank", tmp_path / "two", "warn")
    assert one is not None and both is not None
    assert both["health"] == pytest.approx(one["health"], rel=1e-4, abs=1e-5)
    assert [(a["step"], a["cause"]) for a in both["alarms"]] == [(a["step"], a["cause"]) for a in one["alarms"]]
    (_, why), (_, other) = two_ranks.run(f"{__file__}:on_rank", tmp_path / "stop", "stop")
    assert why == other and "the spread of the embeddings is" in why
    _, again = on_rank(tmp_path / "alone", "stop")
    assert again.partition(", against")[0].rpartition(" is ")[0] == why.partition(", against")[0].rpartition(" is ")[0]


def test_a_section_given_in_part_keeps_the_rest_and_is_dumped() -> None:
    health = Health.model_validate({"rank": {"at": 0.5}, "loss": {"action": "warn"}})
    assert (health.rank.at, health.rank.action) == (0.5, "warn")
    assert (health.loss.at, health.loss.action) == (Health().loss.at, "warn")
    text = dump(recipe())
    assert "  spread:  # spread of the embeddings" in text and "    action: stop  # warn; stop:" in text
    with pytest.raises(RequestError, match=r"health.rank.acton: 'acton' is unknown, did you mean 'action'"):
        validated(Recipe, {"health": {"rank": {"acton": "stop"}}}, "recipe")
