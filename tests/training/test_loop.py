"""The loop's promises: which epoch is kept, when it ends, what Ctrl-C leaves, and what is no reason to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from tests.conftest import Listener
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import adapter_layers, attach
from ftx.backbones.split_network import set_attention
from ftx.backbones.trained_blocks import JoinedAttention
from ftx.core.errors import InputError, Termination
from ftx.core.progress import SILENT, Progress
from ftx.recipe.sections import TrainRecipe
from ftx.tasks.base import Task
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.thresholds import Thresholds
from ftx.training.class_balance import Balance
from ftx.training.inputs import Batch
from ftx.training.loop import Fit, fit
from ftx.training.ranks import ONE_PROCESS, Ranks
from ftx.training.signals import Stop
from ftx.training.state import EpochEnd
from ftx.training.step import Training, measure

TWO = Multiclass(Labels.multiclass(("low", "high")))
MARKS = Multilabel(Labels(("p", "q"), singles=("p", "q")), Thresholds())
# The label is the sign of the first number; by steps of 0.1 a model that says the opposite learns it in a few epochs.
ROWS = torch.tensor([[-1.0, 0.5], [1.0, 0.5], [-2.0, -0.5], [2.0, -0.5]])
SIDES = torch.eye(2)[torch.tensor([0, 1, 0, 1])]


class Given:
    """Given batches, in their own order; ``before`` is done before each."""

    unit = "rows"
    waited_s = 0.0
    network: nn.Module

    def __init__(self, *batches: tuple[Tensor, Tensor], before: Callable[[], None] = lambda: None) -> None:
        self.given, self.before = batches, before

    def __len__(self) -> int:
        return sum(len(batch) for batch, _ in self.given)

    def batches(
        self, order: NDArray[np.intp], batch_size: int, *, epoch: int, skipped: int = 0, ranks: Ranks = ONE_PROCESS
    ) -> Generator[Batch]:
        for batch, targets in self.given[skipped:]:
            self.before()
            yield Batch(batch, targets, targets)

    def to_prepare(self) -> int:
        return 0


class Wrong(nn.Linear):
    """Says the other side of each row, and how it was asked."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.weight.data = torch.tensor([[0.3, 0.0], [-0.3, 0.0]])
        self.bias.data.zero_()
        self.asked: list[bool] = []

    def forward(self, input: Tensor) -> Tensor:
        self.asked.append(self.training)
        return super().forward(input)


def fitted(
    module: nn.Module,
    feed: Given,
    held_out: Given,
    task: Task = TWO,
    *,
    progress: Progress = SILENT,
    on_epoch: Callable[[EpochEnd], None] = lambda _end: None,
    lr: float = 0.1,
    **settings: object,
) -> Fit:
    settings = {"epochs": 6, "batch_size": 4, "weight_decay": 0.0, "warmup_share": 0.0, "patience": 9} | settings
    feed.network = held_out.network = module
    recipe = TrainRecipe.model_validate(settings)
    training = Training(module, task, feed, held_out, recipe, Balance(len(feed)), lr=lr, bf16=False, seed=0)
    made = fit(training, training.begin(), progress=progress, on_epoch=on_epoch)
    assert made is not None
    return made


def _keep_weight(module: nn.Module, weights: list[Tensor], _end: EpochEnd) -> None:
    weights.append(module.get_parameter("weight").detach().clone())


def test_of_a_model_that_learns_the_last_epoch_is_kept_and_of_one_that_unlearns_the_first() -> None:
    weights: list[Tensor] = []
    truth, lies = Given((ROWS, SIDES)), Given((ROWS, SIDES.flip(1)))
    for held_out, kept in ((truth, 6), (lies, 1)):
        weights.clear()
        module = Wrong()
        made = fitted(
            module, truth, held_out, on_epoch=lambda _end, module=module: weights.append(module.weight.clone())
        )
        assert [epoch.epoch for epoch in made.epochs] == [1, 2, 3, 4, 5, 6]
        lost = [epoch.val_loss for epoch in made.epochs]
        assert lost == sorted(lost, reverse=kept == 6)
        assert made.best is made.epochs[kept - 1]
        assert torch.equal(module.weight, weights[kept - 1])


def test_blocks_that_train_attend_in_one_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []

    def counted(ctx: object, dy: Tensor) -> tuple[Tensor, None, None]:
        passes.append("backward")
        return backward(ctx, dy)

    backward = JoinedAttention.backward
    monkeypatch.setattr(JoinedAttention, "backward", staticmethod(counted))
    module = timm.create_model("test_vit", num_classes=2, img_size=32)
    set_attention(module.modules(), plain=True)
    images = Given((torch.randn(4, 3, 32, 32), SIDES[:4]))
    for settings, blocks in (({}, 6), ({"activation_checkpointing": True}, 6)):
        passes.clear()
        fitted(module, images, images, epochs=2, **settings)
        assert len(passes) == 2 * blocks


def test_training_ends_after_so_many_epochs_without_a_better_one() -> None:
    listener = Listener()
    module = Wrong()
    made = fitted(module, Given((ROWS, SIDES)), Given((ROWS, SIDES)), progress=listener, lr=1e-30, patience=2)
    assert (made.best.epoch, len(made.epochs), made.interrupted) == (1, 3, False)
    assert listener.said[-1] == "stopped early: no better epoch in the last 2"
    # Steps are taken by the network that trains, and epochs measured by the one that answers.
    assert module.asked == [True, False] * 3


def test_a_smaller_loss_alone_does_not_make_a_training_longer() -> None:
    """Though of equally good epochs the one with the smaller loss is kept."""
    module = Wrong()
    module.weight.data.neg_()
    made = fitted(module, Given((ROWS, SIDES)), Given((ROWS, SIDES)), lr=0.01, patience=2)
    assert [epoch.accuracy for epoch in made.epochs] == [1.0, 1.0, 1.0]
    assert made.epochs[0].val_loss > made.epochs[1].val_loss > made.epochs[2].val_loss
    assert made.best.epoch == 3


def test_an_interruption_keeps_the_best_epoch_and_without_one_goes_on() -> None:
    def press(number: int) -> Callable[[], None]:
        countdown = iter(range(number))

        def before() -> None:
            if next(countdown, None) is None:
                raise KeyboardInterrupt

        return before

    truth = Given((ROWS, SIDES))
    with pytest.raises(KeyboardInterrupt):
        fitted(Wrong(), Given((ROWS, SIDES), before=press(0)), truth)
    listener, module = Listener(), Wrong()
    weights: list[Tensor] = []
    made = fitted(
        module,
        Given((ROWS[:2], SIDES[:2]), (ROWS[2:], SIDES[2:]), before=press(5)),  # in the middle of the third epoch
        truth,
        progress=listener,
        on_epoch=lambda _end: weights.append(module.weight.clone()),
    )
    assert (made.interrupted, made.best.epoch, len(made.epochs)) == (True, 2, 2)
    assert listener.said[-1] == "interrupted: epoch 2, the best so far, is kept; resume to look for a better one"
    assert torch.equal(module.weight, weights[1])


@pytest.mark.parametrize("lost", ["in training", "on validation images"])
def test_a_loss_that_is_no_number_ends_a_training_with_advice(lost: str) -> None:
    whole, broken = (ROWS, SIDES), (ROWS * torch.inf, SIDES)
    feeds = (Given(broken), Given(whole)) if lost == "in training" else (Given(whole), Given(broken))
    with pytest.raises(InputError, match="must stay finite") as caught:
        fitted(Wrong(), *feeds)
    assert f"nan {lost}" in str(caught.value.found)
    assert "--lr 0.01" in str(caught.value)


def test_a_signal_that_meets_an_error_does_not_hide_it() -> None:
    """As where another process is lost, and torchrun then ends this one."""

    class Ending(Stop):
        """Asked to end at the moment when an error leaves the training."""

        @contextmanager
        def between_steps(self) -> Iterator[None]:
            try:
                yield
            finally:
                raise Termination

    def lose() -> None:
        if next(read) == 1:  # an epoch was measured, and is the best
            raise RuntimeError("Connection closed by peer")

    read = iter(range(9))
    feed, held_out, module = Given((ROWS, SIDES), before=lose), Given((ROWS, SIDES)), Wrong()
    feed.network = held_out.network = module
    recipe = TrainRecipe.model_validate({"epochs": 6, "batch_size": 4, "patience": 6})
    training = Training(module, TWO, feed, held_out, recipe, Balance(len(feed)), lr=0.1, bf16=False, seed=0)
    with pytest.raises(Termination) as caught:
        fit(training, training.begin(), progress=SILENT, on_epoch=lambda _end: None, stop=Ending())
    assert isinstance(caught.value.__context__, RuntimeError)


def test_a_later_batch_without_a_gradient_does_not_stop_a_training() -> None:
    """The asymmetric loss is flat below a score of 0.05: images without labels, once known, move nothing at all."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    torch.manual_seed(0)
    net = Net()
    attach(net, AdapterSpec("lora", {"layer": 1}, {"layer": 1.0}, layers="body"), generator=torch.Generator())
    net.head.weight.data, net.head.bias.data = torch.eye(2), torch.full((2,), -20.0)
    empty = (ROWS[:2], torch.zeros(2, 2))
    feed = Given((ROWS[2:], torch.ones(2, 2)), empty)
    made = fitted(net, feed, Given(empty), MARKS, epochs=2, loss="asymmetric", lr=1e-3)
    assert len(made.epochs) == 2
    ((_, layer),) = adapter_layers(net)
    assert layer.lora_B.grad is not None
    assert not layer.lora_B.grad.any()


@pytest.mark.parametrize(("balance", "metric"), [("none", "accuracy"), ("loss", "macro_f1")])
def test_where_rare_labels_count_as_much_the_epoch_is_chosen_by_a_metric_in_which_they_do(
    balance: str, metric: str
) -> None:
    made = fitted(Wrong(), Given((ROWS, SIDES)), Given((ROWS, SIDES)), epochs=1, balance=balance)
    assert made.metric == metric
    assert metric in made.best.metrics


def test_an_epoch_tells_the_mean_loss_of_its_images_and_how_many_a_second_took() -> None:
    """Of a model that stands still; batches of 3 and 1 images, each image counted once."""
    feed = Given((ROWS[:3], SIDES[:3]), (ROWS[3:], SIDES[3:]))
    (epoch,) = fitted(Wrong(), feed, Given((ROWS, SIDES)), epochs=1, lr=1e-30, label_smoothing=0.0).epochs
    expected = cross_entropy(Wrong()(ROWS), SIDES).item()
    assert (epoch.loss, epoch.val_loss) == pytest.approx((expected, expected), rel=1e-6)
    assert epoch.images_per_s * epoch.seconds == pytest.approx(4)


def test_what_is_measured_is_the_mean_of_the_loss_that_is_asked_for() -> None:
    truth_NC = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    module = Wrong()
    whole = module(ROWS).detach()
    given = Given((ROWS[:3], truth_NC[:3]), (ROWS[3:], truth_NC[3:]))
    given.network = module
    found = measure(module, MARKS, given, loss="bce", bf16=False)
    assert found[0] == pytest.approx(float(binary_cross_entropy_with_logits(whole, truth_NC)), rel=1e-6)
    np.testing.assert_allclose(found[1], whole, rtol=1e-6)
    np.testing.assert_array_equal(found[2], truth_NC)


def test_an_epoch_tells_the_share_of_its_time_that_it_waited_for_images() -> None:
    class Slow(Given):
        """Reads for 30 ms before each of two batches, of which computing waits for 20."""

        def batches(
            self, order: NDArray[np.intp], batch_size: int, *, epoch: int, skipped: int = 0, ranks: Ranks = ONE_PROCESS
        ) -> Generator[Batch]:
            for batch in super().batches(order, batch_size, epoch=epoch, skipped=skipped):
                time.sleep(0.03)
                self.waited_s += 0.02
                yield batch

    slow = Slow((ROWS[:2], SIDES[:2]), (ROWS[2:], SIDES[2:]))
    first, second = fitted(Wrong(), slow, Given((ROWS, SIDES)), epochs=2, lr=1e-30).epochs
    for epoch in (first, second):
        assert epoch.waiting_share * epoch.seconds == pytest.approx(0.04)
        assert 0.02 < epoch.waiting_share < 0.67


class Shown(Listener):
    """A listener that keeps what is shown beside the bar as well."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[str, str]] = []

    def advance(self, steps: int = 1, **fields: str) -> None:
        super().advance(steps, **fields)
        self.fields += [fields] if fields else []


def test_beside_the_bar_stand_the_mean_loss_of_the_epoch_and_the_best_one_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a model that unlearns: the best epoch is the first, and its last batch is the hardest."""
    monkeypatch.setattr("ftx.training.loop._SHOWN_EVERY_S", 0.0)
    listener, module = Shown(), Wrong()
    module.weight.data = torch.tensor([[-0.8, 0.0], [0.8, 0.0]])  # right, and so after the first epoch
    parts = [(ROWS[:3], SIDES[:3].flip(1)), (ROWS[3:], SIDES[3:].flip(1))]
    losses: list[float] = []

    def noted(*given: object, **named: object) -> Tensor:
        found = loss(*given, **named)  # pyright: ignore[reportArgumentType]
        losses.append(float(found.detach()))
        return found

    loss = Multiclass.loss
    with monkeypatch.context() as patch:
        patch.setattr(Multiclass, "loss", noted)
        made = fitted(module, Given(*parts), Given((ROWS, SIDES)), progress=listener, epochs=4, lr=0.3)
    reached = [epoch.metrics["accuracy"] for epoch in made.epochs]
    assert reached == sorted(set(reached), reverse=True)  # each less than the one before
    assert made.best.epoch == 1
    best = f"{made.epochs[0].metrics['accuracy']:.3f}"
    expected: list[dict[str, str]] = []
    for epoch in range(4):
        first, second, _validation = losses[3 * epoch : 3 * epoch + 3]
        for mean in (first, (3 * first + second) / 4):
            known = {"accuracy": best} if epoch else {}
            expected.append({"epoch": f"{epoch + 1}/4", "loss": f"{mean:.3f}", **known})
    assert listener.fields == expected
    assert (listener.total, listener.steps) == (16, 16)


def test_a_training_that_goes_on_shows_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the second of three epochs of four images, in two batches each."""
    stop, listener, module = Stop(), Listener(), Wrong()
    batches = iter(range(100))

    def ask() -> None:
        if next(batches) == 2:
            stop.requested = "interrupt"

    feed = Given((ROWS[:3], SIDES[:3]), (ROWS[3:], SIDES[3:]), before=ask)
    held_out = Given((ROWS, SIDES))
    feed.network = held_out.network = module
    recipe = TrainRecipe.model_validate({"epochs": 3, "batch_size": 3, "weight_decay": 0.0, "patience": 3})
    training = Training(module, TWO, feed, held_out, recipe, Balance(4), lr=0.1, bf16=False, seed=0)
    state, ends = training.begin(), list[EpochEnd]()
    made = fit(training, state, progress=listener, on_epoch=ends.append, stop=stop)
    assert made is not None
    assert (made.interrupted, state.position.epoch, state.position.images) == (True, 2, 3)
    assert (listener.total, listener.steps) == (12, 7)
    later = Listener()
    made = fit(training, state, progress=later, on_epoch=ends.append)
    assert made is not None
    assert (made.interrupted, [end.epoch.epoch for end in ends]) == (False, [1, 2, 3])
    assert (later.total, later.steps) == (12, 12)
    assert training.steps == 6  # 4 images in batches of 3 are two steps


def test_an_epoch_tells_the_rate_of_its_end_and_the_best_of_all() -> None:
    """Half a cosine over two steps an epoch; of a model that unlearns the first epoch stays the best."""
    ends: list[EpochEnd] = []
    feed = Given((ROWS[:3], SIDES[:3].flip(1)), (ROWS[3:], SIDES[3:].flip(1)))
    made = fitted(Wrong(), feed, Given((ROWS, SIDES)), on_epoch=ends.append, epochs=4, batch_size=3, lr=0.2)
    assert [epoch.lr for epoch in made.epochs] == pytest.approx(
        [0.2 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in (1, 2, 3, 4)], abs=1e-12
    )
    assert [end.best.epoch for end in ends] == [1, 1, 1, 1]
    assert [end.epochs for end in ends] == [4] * 4
