"""The recipe: defaults as documented, a lossless round trip, and every error at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ftx.core.errors import RecipeError
from ftx.recipe.adapter_targets import TARGETS, Target
from ftx.recipe.error_lines import dotted_keys
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import AdapterRecipe, DataRecipe, ModelRecipe, TrainRecipe, ValidateRecipe
from ftx.recipe.strict_yaml import MAX_RECIPE_BYTES, parse_yaml

DEFAULTS = """
task: multiclass
seed: 0
data:    {path: data, format: auto, follow_links: false, image_size: auto, val_fraction: 0.2, classes: auto}
model:   {name: dinov2-small, weights: auto, peft: dora, freeze_backbone: false, keep_tokens: all,
  from_run: none}
adapter: {rank: 8, alpha: 16, targets: [q, k, v, proj, fc1, fc2], blocks: auto, layers: auto, init: zero, dropout: 0.0,
  rslora: false}
train:   {epochs: auto, batch_size: 16, accumulation_steps: 1, activation_checkpointing: false,
  lr: auto, lora_plus: 1.0, weight_decay: 0.05, precision: auto, warmup_share: 0.1,
  loss: asymmetric, label_smoothing: 0.1, balance: none, augment: auto, patch_dropout: auto, cache_views: 4,
  cache_gb: 10.0, frozen_runtime: auto, compile: auto, patience: none, head_init: auto, checkpoint_minutes: 5.0,
  tensorboard: false}
validate: {max_drop: 0.02}
"""

BLOCKS = "must be 'all', 'auto', a whole number of 1 or more (the last N), first:N, or a list as in 0,3,6-8"


def complaint(text: str) -> str:
    with pytest.raises(RecipeError) as raised:
        Recipe.loads(text)
    return raised.value.what


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in complaint(text).splitlines()]


def test_the_defaults_are_the_documented_ones() -> None:
    assert Recipe.loads(DEFAULTS) == Recipe() == Recipe.loads("")
    written = {
        f"{section}.{key}" if isinstance(inside, dict) else section
        for section, inside in yaml.safe_load(DEFAULTS).items()
        for key in (inside if isinstance(inside, dict) else [section])
    }
    assert written == set(dotted_keys(Recipe))


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
# The words by which YAML of either version, or Python, might take text for something else.
tricky = st.sampled_from(
    "no yes on off null ~ true 1e-4 1E5 12 012 0x1f 1_000 1:30 .inf nan 2024-01-01 << = #x *a &a !t ' \" é".split()
    + ["- a", "a: b", " x ", "x\ny", "x\u2028y", "x\x85"]
)
words = texts | tricky
shares = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
sides = st.tuples(st.integers(1, 4096), st.integers(1, 4096)).map(lambda size: f"{size[0]}x{size[1]}")
ranks, alphas = st.integers(1, 4096), positive
chosen = st.sets(st.sampled_from(TARGETS), min_size=1).map(lambda names: tuple(sorted(names, key=TARGETS.index)))


def each_of(targets: tuple[Target, ...], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One value for all targets, or one for each."""
    return values | st.fixed_dictionaries(dict.fromkeys(targets, values))


def by_targets(targets: tuple[Target, ...]) -> st.SearchStrategy[AdapterRecipe]:
    blocks = (
        st.just("all")
        | st.integers(1, 99)
        | st.integers(1, 99).map(lambda n: f"first:{n}")
        | st.sets(st.integers(0, 99), min_size=1).map(lambda listed: tuple(sorted(listed)))
    )
    common = {
        "rank": each_of(targets, ranks),
        "alpha": each_of(targets, alphas),
        "targets": st.just(targets),
        "blocks": blocks,
        "rslora": st.booleans(),
    }
    return st.builds(AdapterRecipe, **common, dropout=shares) | st.builds(
        AdapterRecipe, **common, init=st.just("pissa")
    )


named_layers = st.builds(
    AdapterRecipe,
    rank=ranks,
    alpha=alphas,
    layers=st.sampled_from([r"blocks\.\d+\.mlp\.fc1", ".*", "a|b", "é: [x]", "[0-9]{2}"]),
    dropout=shares,
)
recipes = st.builds(
    Recipe,
    task=st.sampled_from(["multiclass", "multilabel", "hierarchical"]),
    seed=st.integers(0, 2**63 - 1),
    data=st.builds(
        DataRecipe,
        path=words.map(Path),
        format=words,
        image_size=st.just("auto") | st.integers(1, 4096) | sides,
        val_fraction=st.floats(0, 0.5, exclude_min=True),
        classes=st.just("auto") | st.integers(1, 10_000),
    ),
    model=st.builds(
        ModelRecipe,
        name=words,
        weights=words,
        peft=st.sampled_from(["lora", "dora", "none"]),
        from_run=words,
        keep_tokens=st.just("all")
        | st.dictionaries(st.integers(1, 99), st.floats(0, 1, exclude_min=True, exclude_max=True), min_size=1),
    )
    | st.builds(ModelRecipe, name=words, weights=words, peft=st.just("none"), freeze_backbone=st.booleans()),
    adapter=chosen.flatmap(by_targets) | named_layers,
    train=st.builds(
        TrainRecipe,
        epochs=st.just("auto") | st.integers(1, 10_000),
        batch_size=st.integers(1, 10_000),
        lr=st.just("auto") | positive,
        lora_plus=positive,
        weight_decay=st.floats(0, allow_infinity=False),
        precision=st.sampled_from(["auto", "f32", "bf16"]),
        warmup_share=shares,
        loss=st.sampled_from(["asymmetric", "bce"]),
        label_smoothing=shares,
        balance=st.sampled_from(["none", "sampling", "loss"]),
        augment=st.sampled_from(["auto", "light", "none"]),
        patch_dropout=st.just("auto") | shares,
        cache_views=st.integers(0, 100),
        cache_gb=st.floats(0, 1e6),
        frozen_runtime=st.sampled_from(["auto", "torch", "openvino"]),
        compile=st.sampled_from(["auto", "blocks", "none"]),
        patience=st.just("none") | st.integers(1, 10_000),
        head_init=st.sampled_from(["auto", "random", "probe"]),
        checkpoint_minutes=st.floats(0, 1e6),
        accumulation_steps=st.integers(1, 8),
        activation_checkpointing=st.booleans(),
        tensorboard=st.booleans(),
    ),
    validate=st.builds(ValidateRecipe, max_drop=st.floats(0, 1, exclude_min=True, exclude_max=True)),
)


@settings(deadline=None)  # a busy machine is no failure
@given(recipes)
def test_loads_undoes_dumps(recipe: Recipe) -> None:
    text = recipe.dumps()
    assert Recipe.loads(text) == recipe
    assert Recipe.loads(text).dumps() == text


@settings(deadline=None)  # a busy machine is no failure
@given(recipes)
def test_a_reader_of_yaml_1_1_reads_the_same_text(recipe: Recipe) -> None:
    read = yaml.safe_load(recipe.dumps())
    assert read["model"]["name"] == recipe.model.name
    assert Path(read["data"]["path"]) == recipe.data.path
    for key in ("lr", "lora_plus", "weight_decay", "label_smoothing"):
        written = read["train"][key]
        assert (written if written == "auto" else float(written)) == getattr(recipe.train, key)


def test_every_error_is_reported_at_once_with_the_nearest_key() -> None:
    lines = lines_of(
        """
        lr: 1
        trane: {lr: 1}
        validat: {max_drop: 0.1}
        model: {peft: dorra}
        adapter: {rank: 0, targets: [q, qvk], lora_alpha: 3}
        train: {lrate: 1, lr: fast, precision: fp64}
        data: {val_fraction: 0.6, image_size: big}
        """
    )
    assert lines[0] == "12 errors in the recipe:"
    assert sorted(lines[1:]) == sorted(
        [
            "lr: unknown key, did you mean 'train.lr'?",
            "trane: unknown key, did you mean 'train'?",
            "validat: unknown key, did you mean 'validate'?",
            "model.peft: must be one of lora, dora, lokr, none; found 'dorra', did you mean 'dora'?",
            "adapter.rank: must be 1 or more; found 0",
            "adapter.targets: must be one of q, k, v, proj, fc1, fc2; found 'qvk', did you mean 'q, v, k'?",
            "adapter.lora_alpha: unknown key, did you mean 'alpha'?",
            "train.lrate: unknown key, did you mean 'lr'?",
            "train.lr: must be 'auto' or a number above 0; found 'fast'",
            "train.precision: must be 'auto', 'fp32' or 'bf16'; found 'fp64'",
            "data.val_fraction: must be 0.5 or less; found 0.6",
            "data.image_size: must be 'auto', a whole number of 1 or more, or HEIGHTxWIDTH as in 224x160; found 'big'",
        ]
    )


@pytest.mark.parametrize("written", ["1e-4", "'1e-4'", "0.0001", "1.0e-4"])
def test_a_learning_rate_is_a_number_however_it_is_written(written: str) -> None:
    assert Recipe.loads(f"train: {{lr: {written}}}").train.lr == 1e-4


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("train: {lr: 0}", "train.lr: must be 'auto' or a number above 0"),
        ("train: {lr: .inf}", "train.lr: must be 'auto' or a number above 0"),
        ("train: {lr: .nan}", "train.lr: must be 'auto' or a number above 0"),
        ("train: {lr: true}", "train.lr: must be 'auto' or a number above 0; found true"),
        ("train: {lr: }", "train.lr: must be 'auto' or a number above 0; found nothing"),
        ("train: {epochs: 1.5}", "train.epochs: must be 'auto' or a whole number of 1 or more; found 1.5"),
        ("train: {batch_size: 0}", "train.batch_size: must be 1 or more"),
        ("adapter: {rank: yes}", "adapter.rank: must be a whole number; found 'yes'"),
        ("adapter: {rank: true}", "adapter.rank: must be a number; found true"),
        ("adapter: {blocks: 0}", f"adapter.blocks: {BLOCKS}; found 0"),
        ("adapter: {blocks: 'first:0'}", f"adapter.blocks: {BLOCKS}; found 'first:0'"),
        ("adapter: {blocks: '3,x'}", f"adapter.blocks: {BLOCKS}; found '3,x'"),
        ("adapter: {blocks: '3-1'}", "adapter.blocks: must name blocks in order, each below 10000"),
        ("adapter: {blocks: '0-999999999'}", "adapter.blocks: must name blocks in order, each below 10000"),
        ("data: {image_size: 100002x5}", "data.image_size: must be at most 4096 a side"),
        ("data: {image_size: 5x100002}", "data.image_size: must be at most 4096 a side"),
        ("data: {image_size: 4097}", "data.image_size: must be at most 4096 a side"),
        ("data: {classes: 65537}", "data.classes: must be at most 65536"),
        ("data: {classes: 0}", "data.classes: must be 'auto' or a whole number of 1 or more"),
        ("adapter: {init: pissa, dropout: 0.1}", "adapter.dropout: must be 0 with adapter.init pissa"),
        (
            "adapter: {rank: {qvk: 3}}",
            "adapter.rank: must not set qvk: the targets are q, k, v, proj, fc1, fc2, attn, mlp, all",
        ),
        ("adapter: {rank: {q: 2, attn: 3}}", "adapter.rank: must set q only once"),
        ("adapter: {alpha: {q: 0}}", "adapter.alpha: must be above 0"),
        ("adapter: {rank: {q: 2}}", "adapter.targets: must be the same targets as in rank (q)"),
        ("adapter: {alpha: {q: 2}}", "adapter.targets: must be the same targets as in alpha (q)"),
        (
            "adapter: {alpha: {q: 2, k: 2}, targets: [q]}",
            "adapter.targets: must be the same targets as in alpha (q, k)",
        ),
        ("adapter: {alpha: {q: 2}, targets: [v]}", "adapter.targets: must be the same targets as in alpha (q)"),
        (
            "adapter: {layers: a, rank: {all: 2}}",
            "adapter.layers: must be auto if adapter.rank or adapter.alpha differs",
        ),
        (
            "adapter: {layers: a, alpha: {all: 2}}",
            "adapter.layers: must be auto if adapter.rank or adapter.alpha differs",
        ),
        ("adapter: {rank: 1.5}", "adapter.rank: must be a whole number"),
        ("adapter: {rank: 65537}", "adapter.rank: must be at most 65536"),
        ("adapter: {layers: '('}", "adapter.layers: must be a valid regular expression"),
        ("adapter: {layers: 'a', targets: [q]}", "adapter.layers: must be auto with this adapter.targets"),
        ("adapter: {layers: 'a', blocks: 2}", "adapter.layers: must be auto with this adapter.blocks"),
        ("adapter: {targets: []}", "adapter.targets: must name at least one of q, k, v, proj, fc1, fc2"),
        ("adapter: {dropout: 1}", "adapter.dropout: must be below 1"),
        *(
            (f"train: {{patch_dropout: {value}}}", "train.patch_dropout: must be 'auto' or a number from 0 to below 1")
            for value in ("1", "-0.1", ".nan", "half", "true", "[0.5]")
        ),
        ("adapter: {rslora: 2}", "adapter.rslora: must be true or false; found 2"),
        ("model: {peft: no}", "model.peft: must be one of lora, dora, lokr, none; found 'no', did you mean 'none'?"),
        ("model: {peft: false}", "model.peft: must be one of lora, dora, lokr, none; found false"),
        ("model: {name: 12}", "model.name: must be text; found 12"),
        ("model: {weights: }", "model.weights: must be text; found nothing"),
        ("data: {path: ''}", "data.path: must be the path of a folder"),
        ("seed: -1", "seed: must be 0 or more"),
        (
            "task: multilabl",
            "task: must be one of multiclass, multilabel, hierarchical; found 'multilabl', did you mean 'multilabel'?",
        ),
        ("train: 5", "train: must hold keys (epochs, batch_size, accumulation_steps,"),
    ],
)
def test_a_wrong_value_is_named(text: str, start: str) -> None:
    assert complaint(text).startswith(start)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: !!python/object/apply:os.system [ls]", "YAML tags are not supported, found 'tag:yaml.org,2002:python"),
        ("a: !mine x", "YAML tags are not supported, found '!mine'"),
        ("a: &x [1]\nb: [*x, *x]", "anchors and aliases"),
        ("b: *x", "anchors and aliases"),
        ("seed: 1\ndata: {}\nseed: 2", "line 3: the key 'seed' appears twice here"),
        ("train: {lr: 1, lr: 2}", "the key 'lr' appears twice here"),
        ("1.5: 2", "a key must be text, found 1.5"),
        ("? [a]\n: 1", "a key must be text"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("[" * 5000, "at most 32 levels"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("a: \x07", "must be plain YAML"),
    ],
)
def test_yaml_beyond_plain_data_is_refused(text: str, part: str) -> None:
    assert part in complaint(text)


def test_a_recipe_is_a_mapping() -> None:
    with pytest.raises(RecipeError) as raised:
        Recipe.loads("- 1")
    assert raised.value.found == "list"


@pytest.mark.parametrize("peft", ["lora", "dora"])
def test_an_adapter_contradicts_a_frozen_backbone_and_both_are_named(peft: str) -> None:
    message = complaint(f"model: {{peft: {peft}, freeze_backbone: true}}")
    assert message.startswith("model.freeze_backbone: must be false with model.peft " + peft)


def test_a_frozen_backbone_alone_means_linear_probing() -> None:
    assert Recipe.build(flags={"model.freeze_backbone": True}).model.peft == "none"
    assert Recipe().with_overrides(["model.freeze_backbone=true"]).model.peft == "none"
    with pytest.raises(RecipeError):
        Recipe.loads(Recipe().dumps()).with_overrides(["model.freeze_backbone=true"])


def test_adapter_flags_contradict_peft_none() -> None:
    with pytest.raises(RecipeError, match=r"adapter\.rank: contradicts method full"):
        Recipe.build(flags={"model.peft": "none", "adapter.rank": "4"})
    assert Recipe.loads("model: {peft: none}\nadapter: {rank: 4}").adapter.rank == 4


@pytest.mark.parametrize("key", ["adapter.alpha", "adapter.blocks", "train.lora_plus"])
def test_whatever_is_asked_of_an_adapter_contradicts_peft_none(key: str) -> None:
    """By a flag and by --set, of a new recipe and over one that says none."""
    full = Recipe.loads("model: {peft: none}")
    for method, ask in (
        ("full", lambda: Recipe.build(flags={"model.peft": "none", key: "4"})),
        ("full", lambda: Recipe.build(overrides=["model.peft=none", f"{key}=4"])),
        ("linear", lambda: Recipe.build(overrides=["model.freeze_backbone=true"], flags={key: "4"})),
        ("full", lambda: full.with_overrides([f"{key}=4"])),
        ("full", lambda: full.with_overrides([], {key: "4"})),
    ):
        with pytest.raises(RecipeError) as raised:
            ask()
        assert raised.value.what == f"{key}: contradicts method {method} (model.peft none), which has no adapter"
    assert Recipe.build(overrides=[f"{key}=4"]).method == "dora"


def test_a_recipe_for_other_data_says_nothing_of_its_classes() -> None:
    """And everything else as before; to have no adapter leaves out all that is said of one."""
    recipe = Recipe.loads(
        "data: {path: a, classes: 7, image_size: 64, val_fraction: 0.3}\ntrain: {lora_plus: 4}\nseed: 3"
    )
    other = recipe.with_data(Path("b"))
    changed = {key: value for key, value in other.by_key().items() if value != recipe.by_key()[key]}
    assert changed == {"data.path": "b", "data.classes": "auto"}
    assert (recipe.data.path, recipe.data.classes) == (Path("a"), 7)
    full = recipe.with_overrides(["adapter.rank=3"]).without_adapter()
    assert full == Recipe.loads("data: {path: a, classes: 7, image_size: 64, val_fraction: 0.3}\nseed: 3")


def test_what_is_none_among_names_was_not_given() -> None:
    """By the last part of a key, as from Python."""
    named = Recipe.named({"epochs": 5.0, "rank": None, "lr": 0.5, "path": Path("x"), "max_drop": 0.1, "seed": 4})
    expected = {"train.epochs": 5, "train.lr": 0.5, "data.path": "x", "validate.max_drop": 0.1, "seed": 4}
    assert named.by_key() == Recipe().by_key() | expected
    with pytest.raises(RecipeError, match=r"epoch: unknown key, did you mean 'train\.epochs'"):
        Recipe.named({"epoch": 5})


@pytest.mark.parametrize("section", [*Recipe.SECTIONS])
def test_a_section_that_was_left_empty_has_its_defaults(section: str, tmp_path: Path) -> None:
    assert Recipe.loads(f"{section}:\n") == Recipe()
    (tmp_path / "recipe.yaml").write_text(f"seed: 2\n{section}:\n")
    key = next(key for key in dotted_keys(Recipe) if key.startswith(f"{section}."))
    found = Recipe.build(tmp_path / "recipe.yaml", flags={key: Recipe().by_key()[key]}, preset="auto")
    assert found.seed == 2
    assert found.method == "dora"


def test_every_section_may_be_left_empty() -> None:
    """What is a section is known by its keys."""
    sections = {key.partition(".")[0] for key in dotted_keys(Recipe) if "." in key}
    assert sections == set(Recipe.SECTIONS)
    assert Recipe.loads("".join(f"{name}:\n" for name in sections)) == Recipe()


@pytest.mark.parametrize(
    "name",
    "1e5 1E5 1e-4 5.e3 .5e1 010 0 -0 +1 1_000 0x1F 1:30 .inf -.INF .NaN".split()
    + "true True FALSE no on off ~ null Null 2024-01-01 =".split(),
)
def test_what_looks_like_a_number_or_a_word_of_yaml_stays_text(name: str) -> None:
    recipe = Recipe().replace(data={"path": Path(name)}, model={"name": name})
    for text in (recipe.dumps(), recipe.dumps(defaults=False)):
        found = Recipe.loads(text)
        assert (str(found.data.path), found.model.name) == (name, name)
        assert yaml.safe_load(text)["model"]["name"] == name  # by a reader of YAML 1.1


@pytest.mark.parametrize(
    ("text", "what"),
    [("train: {lr: 1", "must be plain YAML"), ("- 1", "must be keys with values"), ("train: {lr: x}", "train.lr")],
)
def test_an_error_of_a_file_names_it(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=what) as raised:
        Recipe.build(tmp_path / "mine.yaml")
    assert raised.value.where == str(tmp_path / "mine.yaml")
    with pytest.raises(RecipeError, match=what) as raised:
        Recipe.loads(text)
    assert raised.value.where is None


def test_errors_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    """Keys that do not exist, values that are wrong, and what --set says as well."""
    unknown = "".join(f"k{number}: 1\n" for number in range(30))
    (tmp_path / "recipe.yaml").write_text(f"{unknown}train: {{lr: x, epochs: 0}}\n")
    with pytest.raises(RecipeError) as raised:
        Recipe.build(tmp_path / "recipe.yaml", [f"x{number}=1" for number in range(23)])
    lines = raised.value.what.splitlines()
    assert (lines[0], lines[-1]) == ("55 errors in the recipe:", "  and 35 more")
    assert len(lines) == 1 + 20 + 1


@pytest.mark.parametrize("size", [4096, "4096x1", "1x4096", 1])
def test_the_largest_image_size_is_one(size: object) -> None:
    assert Recipe.build(flags={"data.image_size": size}).data.image_size == size
    assert Recipe.build(flags={"data.image_size": "224 x 160"}).data.image_size == "224x160"
    assert Recipe.build(flags={"data.image_size": "96x96"}).data.image_size == 96


def test_overrides_are_yaml_by_dotted_key() -> None:
    changed = Recipe().with_overrides(["train.lr=1e-4", "adapter.targets=[v, q]", "data.path=a=b", "seed=3"])
    assert changed.train.lr == 1e-4
    assert changed.adapter.targets == ("q", "v")
    assert changed.data.path == Path("a=b")
    assert changed.seed == 3
    assert changed.model == Recipe().model


def test_values_that_hold_are_set_without_a_detour_through_text() -> None:
    recipe = Recipe.loads("train: {epochs: 3}")
    path, targets = Path("elsewhere"), ("q", "fc1")
    changed = recipe.replace(data={"path": path, "classes": 7}, adapter={"targets": targets}, train={"lr": 0.5})
    assert changed.data.path is path
    assert changed.adapter.targets is targets
    assert (changed.data.classes, changed.train.lr, changed.train.epochs) == (7, 0.5, 3)
    assert changed == Recipe.loads(changed.dumps())
    assert recipe == Recipe.loads("train: {epochs: 3}")
    # What was set counts as given, and nothing else.
    assert yaml.safe_load(changed.dumps(defaults=False)) == {
        "data": {"path": "elsewhere", "classes": 7},
        "adapter": {"targets": ["q", "fc1"]},
        "train": {"epochs": 3, "lr": 0.5},
    }
    assert changed.with_overrides(["adapter.rank=2"]) == changed.replace(adapter={"rank": 2})
    with pytest.raises(AssertionError, match="lrate"):
        recipe.replace(train={"lrate": 1})


def test_wrong_overrides_are_reported_together() -> None:
    with pytest.raises(RecipeError) as raised:
        Recipe().with_overrides(["trane.lr=1", "rank=3", "adapter.rnk=3", "train.lr", "seed=[", "train.epochs=0"])
    lines = [line.strip() for line in raised.value.what.splitlines()]
    assert sorted(lines[1:]) == sorted(
        [
            "train.lr: an override is written key=value, as train.lr=1e-4",
            "seed: the value is not YAML, line 1: expected the node content, but found '<stream end>'",
            "trane.lr: unknown key, did you mean 'train.lr'?",
            "rank: unknown key, did you mean 'adapter.rank'?",
            "adapter.rnk: unknown key, did you mean 'rank'?",
            "train.epochs: must be 'auto' or a whole number of 1 or more; found 0",
        ]
    )


def test_file_then_overrides_then_flags(tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("train: {lr: 1, epochs: 2, batch_size: 3}\nmodel:\n")
    built = Recipe.build(config, ["train.epochs=4"], {"train.batch_size": "5", "seed": None})
    assert (built.train.lr, built.train.epochs, built.train.batch_size, built.seed) == (1, 4, 5, 0)
    with pytest.raises(RecipeError, match="given both as a flag and with --set"):
        Recipe.build(config, ["train.epochs=4"], {"train.epochs": "4"})


def test_errors_of_file_overrides_and_flags_come_together(tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("train: {lrate: 1}")
    with pytest.raises(RecipeError) as raised:
        Recipe.build(config, ["adapter.rnk=4"], {"train.lr": "fast"})
    assert raised.value.where == str(config)
    assert raised.value.what.startswith("3 errors")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("attn", ("q", "k", "v", "proj")),
        ("mlp,q", ("q", "fc1", "fc2")),
        (["all"], TARGETS),
    ],
)
def test_words_for_several_targets(given: object, read: tuple[str, ...]) -> None:
    assert Recipe.build(flags={"adapter.targets": given}).adapter.targets == read


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("3", 3),
        ("last:3", 3),
        ("first:3", "first:3"),
        ("3-3", (3,)),
        ([3], (3,)),
        ("7, 0,2-4", (0, 2, 3, 4, 7)),
    ],
)
def test_blocks_as_they_are_written(given: object, read: object) -> None:
    recipe = Recipe.build(flags={"adapter.blocks": given})
    assert recipe.adapter.blocks == read
    assert Recipe.loads(recipe.dumps()) == recipe


def test_a_rank_and_an_alpha_for_each_target() -> None:
    flags = {"adapter.targets": "attn,fc1", "adapter.rank": "attn=4, fc1=16", "adapter.alpha": {"attn": 8, "fc1": 2.5}}
    adapter = Recipe.build(flags=flags).adapter
    assert adapter.rank == {"q": 4, "k": 4, "v": 4, "proj": 4, "fc1": 16}
    assert adapter.alpha == {"q": 8, "k": 8, "v": 8, "proj": 8, "fc1": 2.5}
    assert Recipe.loads(Recipe(adapter=adapter).dumps()).adapter == adapter


def test_targets_come_in_one_order_and_once() -> None:
    assert Recipe.build(flags={"adapter.targets": "fc1, v,q,v"}).adapter.targets == ("q", "v", "fc1")


@pytest.mark.parametrize("make", ["missing", "folder", "binary", "huge"])
def test_a_file_that_cannot_be_a_recipe(tmp_path: Path, make: str) -> None:
    path = tmp_path / "recipe.yaml"
    if make == "folder":
        path.mkdir()
    elif make == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    elif make == "huge":
        path.write_bytes(b"#" * (MAX_RECIPE_BYTES + 1))
    with pytest.raises(RecipeError) as raised:
        Recipe.load(path)
    assert raised.value.where == str(path)
    assert raised.value.fix


def test_numbers_survive_exactly() -> None:
    for lr in (5e-324, 1e-300, math.pi, 1e22, 1.7976931348623157e308):
        assert Recipe.loads(Recipe.build(flags={"train.lr": lr}).dumps()).train.lr == lr


@pytest.mark.parametrize("text", ["010", "-010", "00", "+07", "09"])
def test_a_number_with_a_leading_zero_is_text(text: str) -> None:
    """YAML 1.1 reads 010 as 8, people as 10."""
    assert parse_yaml(f"a: {text}") == {"a": text}
    assert parse_yaml(f"a: {text.replace('0', '1')}") == {"a": int(text.replace("0", "1"))}
