"""Label augmentation: the joint loss, the aggregated prediction, and a model that is fine-tuned, saved and loaded."""

import math
import shutil

import numpy as np
import pytest
import torch

from unlabeled.core import finetune, load_model, predict
from unlabeled.core.build import seeded
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.downstream.label_augmentation import LabelAugmentation, aggregated, joint_loss
from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.save import fingerprint
from unlabeled.core.nn.convnet import ConvNet

SPECS = {
    "x": InputSpec(layout="dense", channels=("a", "b"), units=("", ""), axes=("y", "x"), unit="px", spacing=(1.0, 1.0))
}
QUICK = {"steps": 4, "looks": 2, "lr": 0.01, "accelerator": "cpu"}


def model(classes=3):
    with seeded(0, "test"):
        encoder = ConvNet(SPECS, ConvNet.Options(channels=(8, 12), kernels=(3, 3), strides=(2, 1)))
        return LabelAugmentation(encoder, "classification", classes).double()


def images(n=5):
    values = torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Dense(values, torch.ones(n, 1, 8, 8, dtype=torch.bool), torch.ones(n, 2, dtype=torch.float64))


def test_an_undecided_head_costs_ln_of_classes_times_turns():
    m = model()
    torch.nn.init.zeros_(m.head.linear.weight)
    torch.nn.init.zeros_(m.head.linear.bias)
    loss = joint_loss(m.train()({"x": images()}), torch.tensor([0, 1, 2, 0, 1]), torch.ones(5))
    assert math.isclose(loss.item(), math.log(12), abs_tol=1e-6)  # 4 turns of 3 classes: 2.4849066; logits are float32
    assert torch.equal(m.eval()({"x": images()}), torch.zeros(5, 3))


def test_the_joint_label_is_the_class_and_the_turn():
    # the logit of (class 2, turn t) under turn t is 30, all others 0: the loss of class 2 is 11 e^-30, of class 1 it is 30
    joint = torch.zeros(2, 4, 3, 4, dtype=torch.float64)
    for t in range(4):
        joint[:, t, 2, t] = 30
    assert joint_loss(joint, torch.tensor([2, 2]), torch.ones(2)) < 1e-10
    assert math.isclose(joint_loss(joint, torch.tensor([2, 1]), torch.ones(2)).item(), 15, abs_tol=1e-10)
    joint[1] = torch.nan  # a row of weight 0 holds anything
    assert joint_loss(joint, torch.tensor([2, -1]), torch.tensor([1.0, 0.0])) < 1e-10


def test_the_prediction_is_the_mean_over_the_turns():
    m, x = model().eval(), images()
    plain = Model(m.encoder, "classification", 12).double().eval()
    plain.load_state_dict(m.state_dict())
    total = 0
    for t in range(4):
        turn = Dense(torch.rot90(x.values, t, (2, 3)), x.valid, x.spacing)
        total = total + plain({"x": turn}).view(5, 3, 4)[:, :, t]
    torch.testing.assert_close(m({"x": x}), total / 4, rtol=0, atol=1e-12)
    joint = m.train()({"x": x})
    assert joint.shape == (5, 4, 3, 4)
    m.eval()
    torch.testing.assert_close(aggregated(joint), joint[:, range(4), :, range(4)].mean(0), rtol=0, atol=1e-12)


def test_an_oblong_item_is_there_as_it_is_and_once():
    m, x = model(), images()
    x.valid[1, :, 6:] = False
    joint = m.train()({"x": x})
    assert joint[1, 1:].isnan().all() and joint[1, 0].isfinite().all() and joint[[0, 2, 3, 4]].isfinite().all()
    torch.testing.assert_close(aggregated(joint)[1], joint[1, 0, :, 0], rtol=0, atol=0)
    loss = joint_loss(joint, torch.zeros(5, dtype=torch.int64), torch.ones(5))
    rows = -joint.flatten(2).log_softmax(-1)[:, range(4), range(4)]
    kept = torch.cat([rows[[0, 2, 3, 4]].flatten(), rows[1, :1]])
    torch.testing.assert_close(loss, kept.mean(), rtol=0, atol=1e-12)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in m.parameters())


def test_it_learns_saves_loads_and_predicts_the_same(field, bundle, tmp_path):
    """Hilly or flat, by the spread of the heights: chance is a macro F1 of at most 0.5; 80 steps reach 0.8 and more."""
    settings = {**QUICK, "steps": 80, "batch_size": 16, "label_augmentation": True}
    out = finetune(bundle, field.data, field.labels("classes"), "classify", tmp_path / "m", **settings)
    loaded = load_model(out)
    assert isinstance(loaded, LabelAugmentation) and loaded.outputs == 8 and loaded.about.classes == ("flat", "hilly")
    assert loaded.about.settings["label_augmentation"] is True
    # what the loaded model says to the fixed input is what the fine-tuned one said
    np.testing.assert_allclose(fingerprint(loaded), loaded.about.fingerprint, rtol=0, atol=1e-6)
    assert loaded.about.score["macro_f1"].score.mean > 0.8
    first = predict(out, field.data, tmp_path / "a")
    again = predict(shutil.copytree(out, tmp_path / "moved"), field.data, tmp_path / "b")
    for one, other in zip(first.records, again.records, strict=True):
        assert one.prediction == other.prediction
        np.testing.assert_allclose(
            list(one.probabilities.values()), list(other.probabilities.values()), rtol=0, atol=1e-6
        )
        assert math.isclose(sum(one.probabilities.values()), 1, abs_tol=1e-9)
    right = sum(r.prediction == ("hilly" if int(r.key[-1]) % 2 else "flat") for r in first.records)
    assert right >= 20 and len(first.records) == 24


@pytest.mark.parametrize(
    ("task", "labels", "settings", "said"),
    [
        ("segment", "masks", {}, "only a classification has one class for an item, and segment is a segmentation"),
        ("regress", "values", {}, "and regress is a regression; leave it out"),
        ("classify", "classes", {"window": (8.0, 4.0)}, "it turns square items, and there are some of 16 x 8 cells"),
    ],
)
def test_what_cannot_be_turned_is_refused(field, bundle, tmp_path, task, labels, settings, said):
    with pytest.raises(RequestError, match=said):
        finetune(
            bundle, field.data, field.labels(labels), task, tmp_path / "m", label_augmentation=True, **QUICK, **settings
        )
    assert not (tmp_path / "m").exists()
