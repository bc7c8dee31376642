"""What each key of the data, the model and the adapter does."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import timm
import torch
import yaml
from safetensors.numpy import load_file, save_file
from tests.backbones.dropped_by_hand import logits_by_hand
from tests.effects import of_training
from tests.effects.lab import FULL, STILL, Lab

from ftx.data.preprocess import Preprocess, load_pixels, normalise

PROJ = "blocks.5.attn.proj"
QKV = "blocks.5.attn.qkv"


def task(lab: Lab, value: str) -> None:
    plain, made = lab.train(), lab.train(f"task={value}")
    assert plain.manifest["labels"] == {"names": ["a", "b"], "groups": [["a", "b"]], "singles": [], "parents": {}}
    assert made.manifest["labels"] == {"names": ["a", "b"], "groups": [], "singles": ["a", "b"], "parents": {}}
    p_NC, _ = lab.scores(made, "val")
    assert np.abs(p_NC.sum(axis=1) - 1).min() > 1e-3  # sigmoids; the two of a softmax make 1
    assert (plain.said.json["metric"], made.said.json["metric"]) == ("accuracy", "mAP")


def tuned_thresholds(lab: Lab, value: str) -> None:
    """Of all thresholds the saved ones have the best F1 on the images that chose them, counted by hand."""
    run = lab.train(f"task={value}", "train.epochs=4", "train.batch_size=4", data="marks/table.csv")
    saved = run.manifest["thresholds"]["labels"]
    p_NC, y_NC = lab.scores(run, "val")
    for column, name in enumerate(run.manifest["labels"]["names"]):
        p_N, y_N = p_NC[:, column], y_NC[:, column] > 0
        called_TN = p_N[None] > np.array([saved[name], 0.5, *p_N])[:, None]
        f1_T = 2 * (called_TN & y_N).sum(axis=1) / (called_TN.sum(axis=1) + y_N.sum())
        assert f1_T[0] == f1_T.max()
    assert any(abs(threshold - 0.5) > 0.01 for threshold in saved.values())


def seed(lab: Lab, value: str) -> None:
    zero, other, again = (
        lab.train(STILL, f"seed={number}", *more) for number, *more in ((0,), (value,), (value, "data.classes=2"))
    )
    assert zero.tensors.keys() == other.tensors.keys()
    for name, tensor in zero.tensors.items():
        assert np.array_equal(again.tensors[name], other.tensors[name]), name
        if "lora_B" not in name:  # which begins at zero; A and the head are drawn
            assert np.abs(tensor - other.tensors[name]).max() > 1e-3, name
    # The images of each epoch are drawn as well.
    sampled = ("train.epochs=20", "train.patience=20", "train.balance=sampling")
    assert not np.array_equal(
        of_training.drawn(lab, *sampled, "seed=0"), of_training.drawn(lab, *sampled, f"seed={value}")
    )


def data_path(lab: Lab, value: str) -> None:
    made = lab.train(f"data.path={value}")
    assert made.manifest["labels"]["names"] == ["common", "rare"]
    assert made.manifest["data_root"].endswith(value)


def data_format(lab: Lab, value: str) -> None:
    """A format that is named needs datumaro, which says that these folders are none of it."""
    said = lab.call("train", "--config", "base.yaml", f"--set=data.format={value}", "--out", "never")
    assert said.status == (3 if find_spec("datumaro") is None else 2)
    assert "datumaro" in said.err


def follow_links(lab: Lab, value: str) -> None:
    words = ("train", "--config", "base.yaml", "--data", lab.linked(), "--dry-run")
    assert lab.call(*words).status == 2
    assert lab.call(*words, f"--set=data.follow_links={value}").status == 0


def image_size(lab: Lab, value: str) -> None:
    assert value == "48x32"
    made, plain = lab.train(f"data.image_size={value}", FULL, STILL), lab.train(FULL, STILL)
    assert (made.manifest["preprocess"]["height"], made.manifest["preprocess"]["width"]) == (48, 32)
    # Patches of 16 pixels, and the class token.
    assert made.tensors["pos_embed"].shape == (1, 3 * 2 + 1, 64)
    assert plain.tensors["pos_embed"].shape == (1, 2 * 2 + 1, 64)


def val_fraction(lab: Lab, value: str) -> None:
    assert lab.train(f"data.val_fraction={value}", data="unsplit").said.json["images"] == {"train": 10, "val": 10}
    assert lab.train(data="unsplit").said.json["images"] == {"train": 16, "val": 4}


def classes(lab: Lab, value: str) -> None:
    words = ("train", "--config", "base.yaml", "--out", "never", "--strict")
    said = lab.call(*words, f"--set=data.classes={value}")
    assert said.status == 2
    assert "data.classes must be 2" in said.err
    assert "data.classes is 3 in the recipe, but the data has 2 labels" in lab.train(f"data.classes={value}").said.err
    assert "data.classes is" not in lab.train("data.classes=2").said.err


def model_name(lab: Lab, value: str) -> None:
    made = lab.train(f"model.name={value}", FULL, STILL)
    assert made.manifest["architecture"] == value
    assert "reg_token" in made.tensors.keys() - lab.base.keys()


def _weights(lab: Lab) -> str:
    """A file of other weights: those of the base, doubled."""
    path = lab.root / "doubled.safetensors"
    if not path.exists():
        save_file({name: 2 * tensor for name, tensor in lab.base.items()}, path)
    return str(path)


def model_weights(lab: Lab, value: str) -> None:
    made = lab.train(f"model.weights={_weights(lab) if value == 'FILE' else value}", FULL, STILL)
    for name, tensor in lab.base.items():
        if not name.startswith("head."):  # a fresh one, of the recipe's seed
            np.testing.assert_allclose(made.tensors[name], 2 * tensor, rtol=0, atol=1e-29, err_msg=name)
    assert made.manifest["base_digest"] != lab.train(FULL, STILL).manifest["base_digest"]


def peft(lab: Lab, value: str) -> None:
    lora, made, full = lab.train(), lab.train(f"model.peft={value}"), lab.train(FULL)
    assert (lora.config["use_dora"], made.config["use_dora"]) == (False, True)
    assert made.tensors.keys() - lora.tensors.keys() == {
        name.replace("lora_A.weight", "lora_magnitude_vector") for name in lora.part("lora_A")
    }
    assert set(full.tensors) == set(lab.base)
    assert [one.manifest["method"] for one in (lora, made, full)] == ["lora", value, "full"]


def freeze_backbone(lab: Lab, value: str) -> None:
    made = lab.train(FULL, f"model.freeze_backbone={value}")
    assert set(made.tensors) == {"head.weight", "head.bias"}
    assert made.manifest["method"] == "linear"


def from_run(lab: Lab, value: str) -> None:
    """A rate that moves nothing leaves what the run before trained, and nothing of its own drawing."""
    before = lab.train()
    after = lab.train(STILL, f"model.from_run={before.path if value == 'RUN' else value}")
    assert before.tensors.keys() == after.tensors.keys()
    for name, tensor in before.tensors.items():
        assert np.array_equal(after.tensors[name], tensor), name
    assert after.manifest["begun_from"]["labels_kept"] == 2


def keep_tokens(lab: Lab, value: str) -> None:
    """The first loss is that of timm's network with patches dropped by hand."""
    made = lab.train(FULL, STILL, f"model.keep_tokens={value}")
    vit = timm.create_model("test_vit", num_classes=2, img_size=32).eval()
    vit.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in lab.base.items()})
    images, _ = made.images("train"), None
    pre = Preprocess(**made.manifest["preprocess"])
    x_N3HW = torch.from_numpy(normalise(np.stack([load_pixels(path, pre) for path, _ in images]), pre))
    names, losses = made.manifest["labels"]["names"], {}
    for shares in (yaml.safe_load(value), {}):
        with torch.inference_mode():
            p_NC = logits_by_hand(vit, x_N3HW, shares).softmax(dim=1).numpy()
        truth_N = [names.index(labels[0]) for _, labels in images]
        losses[bool(shares)] = -np.log(p_NC[range(len(truth_N)), truth_N]).mean()
    assert abs(made.log[0]["loss"] - losses[True]) < of_training.ROUNDING
    assert abs(losses[True] - losses[False]) > 100 * of_training.ROUNDING
    assert made.recipe["model"]["keep_tokens"] == yaml.safe_load(value)


def rank(lab: Lab, value: str) -> None:
    made = lab.train(f"adapter.rank={value}")
    assert made.config["r"] == 3
    assert made.tensors[f"{PROJ}.lora_A.weight"].shape == (3, 64)
    assert made.tensors[f"{PROJ}.lora_B.weight"].shape == (64, 3)
    assert made.tensors[f"{QKV}.lora_A.weight"].shape == (9, 64)  # of q, k and v


def _change(lab: Lab, *overrides: str) -> tuple[np.ndarray, np.ndarray]:
    """W' - W of a merged layer, and B·A of the files. Shape: [O, I] both."""
    made = lab.train(*overrides)
    lab.done("merge", made.path)
    name = f"{PROJ}.weight"
    merged = load_file(made.path / "dense" / "model.safetensors")[name].astype(float)
    A, B = (made.tensors[f"{PROJ}.lora_{factor}.weight"].astype(float) for factor in "AB")
    assert np.abs(B @ A).max() > 1e-3
    return merged - lab.base[name], B @ A


# Rounding of a weight below 0.5 to f32, once.
WEIGHT_ROUNDING = 3e-8


def alpha(lab: Lab, value: str) -> None:
    """W' = W + (alpha / r) B A (arXiv:2106.09685, section 4.1), and peft is told both numbers."""
    change, product_OI = _change(lab, f"adapter.alpha={value}")
    np.testing.assert_allclose(change, 10 / 4 * product_OI, rtol=0, atol=WEIGHT_ROUNDING)
    change, product_OI = _change(lab)
    np.testing.assert_allclose(change, 6 / 4 * product_OI, rtol=0, atol=WEIGHT_ROUNDING)
    config = lab.train(f"adapter.alpha={value}").config
    assert (config["r"], config["lora_alpha"]) == (4, 10)
    # q, k and v of rank 4 each are one adapter of rank 12, whose alpha / r is the same.
    assert set(config["rank_pattern"].values()) == {12}
    assert set(config["alpha_pattern"].values()) == {30}


def rslora(lab: Lab, value: str) -> None:
    """alpha / √r (arXiv:2312.03732, eq. 3)."""
    change, product_OI = _change(lab, f"adapter.rslora={value}")
    np.testing.assert_allclose(change, 6 / 2 * product_OI, rtol=0, atol=WEIGHT_ROUNDING)
    config = lab.train(f"adapter.rslora={value}").config
    assert (config["use_rslora"], config["r"], config["lora_alpha"]) == (True, 4, 6)
    assert abs(config["alpha_pattern"][r"blocks\.5\.attn\.qkv"] / 12**0.5 - 3) < 1e-6


def targets(lab: Lab, value: str) -> None:
    made = lab.train(f"adapter.targets={value}")
    assert {name.split(".lora")[0].split(".", 2)[-1] for name in made.part("lora_")} == {"attn.qkv", "mlp.fc2"}
    B_OR = made.tensors[f"{QKV}.lora_B.weight"]
    assert B_OR.shape == (192, 4)
    rows = [bool(np.abs(part).max() > 0) for part in (B_OR[:64], B_OR[64:128], B_OR[128:])]
    assert rows == [False, False, True]  # of q, k and v


def blocks(lab: Lab, value: str) -> None:
    adapted = {name.split(".")[1] for name in lab.train(f"adapter.blocks={value}").part("lora_A")}
    assert adapted == {"4", "5"}
    assert {name.split(".")[1] for name in lab.train().part("lora_A")} == set("012345")


def layers(lab: Lab, value: str) -> None:
    adapted = {name.removesuffix(".lora_A.weight") for name in lab.train(f"adapter.layers={value}").part("lora_A")}
    assert adapted == {"blocks.0.mlp.fc1", "blocks.3.mlp.fc1"}


def init(lab: Lab, value: str) -> None:
    """s·B·A begins as the weight's best approximation of rank r, and changes nothing (arXiv:2404.02948, eq. 2, 3)."""
    made = lab.train(f"adapter.init={value}", STILL)
    weight_OI = lab.base[f"{PROJ}.weight"].astype(float)
    U, sigma, V = np.linalg.svd(weight_OI)
    A, B = (made.tensors[f"{PROJ}.lora_{factor}.weight"].astype(float) for factor in "AB")
    principal_OI = (U[:, :4] * sigma[:4]) @ V[:4]
    np.testing.assert_allclose(6 / 4 * B[:, :4] @ A[:4], principal_OI, rtol=0, atol=1e-7)  # f32 of the factors
    # The files hold a plain adapter of twice the rank, whose other half takes the beginning away.
    assert (made.config["r"], made.config["lora_alpha"]) == (8, 12)
    np.testing.assert_allclose(B @ A, 0, atol=1e-7)
    plain = lab.train(STILL)
    assert np.abs(plain.tensors[f"{PROJ}.lora_B.weight"]).max() < 1e-29
    assert abs(made.log[0]["loss"] - plain.log[0]["loss"]) < 2e-6


def dropout(lab: Lab, value: str) -> None:
    """What is dropped is the adapter's input: while B is 0 nothing hangs on it, from the second step on it does."""
    two = ("train.epochs=2",)
    made, plain = lab.train(*two, f"adapter.dropout={value}"), lab.train(*two)
    assert made.config["lora_dropout"] == 0.5
    first, second = (abs(one - other) for one, other in zip(made.column("loss"), plain.column("loss"), strict=True))
    assert first < 2e-6  # the products are summed in another order
    assert second > 1e-4
    assert not np.array_equal(*(one.tensors[f"{PROJ}.lora_B.weight"] for one in (made, plain)))
