"""A plan decides everything, once, and changes nothing."""

from __future__ import annotations

import torch
from tests.training.plans import facts, planned

from ftx.adapters.trainable_model import prepare
from ftx.backbones.dropped_patches import DroppedPatches
from ftx.core.progress import SILENT
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Compile, FrozenRuntime
from ftx.training.compiling import StepShape
from ftx.training.head_start import bytes_to_fit
from ftx.training.machine_timer import MachineTimer
from ftx.training.plan import resolve

TINY = {"name": "test_vit", "weights": "none", "image_size": 32, "peft": "lora", "blocks": 2}


class Noting:
    """A timer that notes what it is to time, and finds what nobody would expect."""

    def __init__(self) -> None:
        self.noted: list[tuple[object, ...]] = []

    def frozen_runtime(self, kept_blocks: int, *, bf16: bool) -> FrozenRuntime:
        self.noted.append((kept_blocks, bf16))
        return "openvino"

    def compiles(self, images: int, steps: StepShape) -> Compile:
        self.noted.append((images, steps))
        return "blocks"


def timed(recipe: Recipe, images: int, **more: object) -> tuple[Recipe, list[tuple[object, ...]]]:
    timer = Noting()
    plan = resolve(recipe, prepare(recipe, 2), facts(images, **more), timer)
    return plan.recipe, timer.noted


def test_what_is_timed_is_what_will_be_computed() -> None:
    recipe = Recipe.named({**TINY, "epochs": 3, "augment": "light", "cache_views": 2, "patch_dropout": 0.25})
    recipe = recipe.replace(train={"batch_size": 700, "accumulation_steps": 100})
    found, noted = timed(recipe, 2000, computes_bf16=True, free_bytes=0)
    # Four blocks are kept. Three epochs of 2,000 images, in parts of seven.
    assert noted == [(4, True), (6000, StepShape(7, DroppedPatches(0.25), plain_attention=False, bf16=True))]
    train = found.train
    assert (train.frozen_runtime, train.compile, train.precision) == ("openvino", "blocks", "bf16")
    assert timed(recipe, 3)[0].train.batch_size == 3


def test_what_a_rule_decides_is_not_timed() -> None:
    recipe = Recipe.named({**TINY, "augment": "light", "cache_views": 2})
    # Converting pays from 2,000 views on: two of each training image, one of each validation image.
    for images, val_images, converts in ((999, 1, False), (999, 2, True), (1000, 0, True)):
        found, noted = timed(recipe, images, val_images=val_images)
        assert (len(noted), found.train.frozen_runtime) == ((2, "openvino") if converts else (1, "torch"))
    found, noted = timed(recipe, 5000, device="cuda")
    assert (noted, found.train.frozen_runtime, found.train.compile) == ([], "torch", "none")
    found, noted = timed(recipe.replace(train={"compile": "none", "frozen_runtime": "torch"}), 5000)
    assert (noted, found.train.frozen_runtime, found.train.compile) == ([], "torch", "none")


def test_a_training_that_is_resumed_computes_attention_as_before() -> None:
    recipe = Recipe.named(TINY)
    for free_bytes in (0, 1 << 60):
        plans = [
            planned(prepare(recipe, 2), recipe, free_bytes=free_bytes, plain_attention=one) for one in (True, False)
        ]
        assert [plan.plain_attention for plan in plans] == [True, False]


def test_training_ends_early_only_if_the_recipe_says_so() -> None:
    for settings, patience in (({"epochs": 3}, "none"), ({"epochs": 30, "patience": 30}, 30)):
        recipe = Recipe.named(TINY | settings)
        assert planned(prepare(recipe, 2), recipe).recipe.train.patience == patience


def test_a_probe_starts_only_a_head_that_reads_one_row_of_features() -> None:
    """VOLO's second classifier reads patches, and only in training."""
    recipe = Recipe.named({**TINY, "name": "volo_d1_224", "image_size": 224, "blocks": "auto"})
    assert planned(prepare(recipe, 2), recipe).recipe.train.head_init == "random"


def test_a_probe_that_does_not_fit_into_memory_is_noted() -> None:
    recipe = Recipe.named({key: value for key, value in TINY.items() if key != "blocks"})
    prepared = prepare(recipe, 2)
    needed = bytes_to_fit(prepared.backbone.module, 1000, 2)
    for free_bytes, head_init, noted in ((4 * needed, "probe", 0), (4 * needed - 4, "random", 1)):
        plan = planned(prepared, recipe, free_bytes=free_bytes)
        assert plan.head_init == head_init
        assert sum(note.startswith("the head starts at random") for note in plan.notes) == noted
    # Of labels as well: 500 of them have more weights, and more logits, than there are features.
    assert planned(prepared, recipe, free_bytes=4 * needed, classes=500).head_init == "random"


def test_a_head_that_is_not_fitted_is_noted() -> None:
    for settings, noted in (
        ({"head_init": "probe", "from_run": "runs/1"}, "the head starts from the run's"),
        ({"head_init": "probe"}, None),
        ({}, None),
    ):
        recipe = Recipe.named({**TINY, **settings})
        prepared = prepare(Recipe.named(TINY), 2)
        notes = planned(prepared, recipe).notes
        assert notes == (() if noted is None else (f"train.head_init=probe is not used: {noted}",))
    prepared.backbone.module.set_submodule("head", torch.nn.Linear(64, 2, bias=False))
    (note,) = planned(prepared, Recipe.named({**TINY, "head_init": "probe"})).notes
    assert note.endswith("the classifier is not a linear layer, and starts at random")


def test_planning_changes_neither_the_model_nor_the_recipe() -> None:
    recipe = Recipe.named({**TINY, "patch_dropout": 0.5, "dropout": 0.1})
    prepared = prepare(recipe, 2)
    module, before = prepared.backbone.module, recipe.model_copy(deep=True)

    def state() -> list[object]:
        attention = [getattr(layer, "fused_attn", None) for layer in module.modules()]
        return [repr(module), attention, [parameter.requires_grad for parameter in module.parameters()]]

    state_before, weights = state(), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.get_rng_state()
    assert planned(prepared, recipe).plain_attention
    timer = MachineTimer(prepared, SILENT)
    module.train()
    modes = [layer.training for layer in module.modules()]
    timer.compiles(1, planned(prepared, recipe).steps)
    timer.frozen_runtime(4, bf16=False)
    assert modes == [layer.training for layer in module.modules()]
    module.eval()
    assert state() == state_before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert recipe == before


def test_nothing_is_left_to_decide() -> None:
    recipe = Recipe.named({key: value for key, value in TINY.items() if key != "blocks"})
    decided = planned(prepare(recipe, 2), recipe).recipe.by_key()
    # `auto` is a value of these two: layers by target, and the format that the folder shows.
    assert {key for key, value in decided.items() if value == "auto"} <= {"adapter.layers", "data.format"}
