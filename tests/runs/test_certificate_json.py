"""What a certificate states for n images, and how certificates are kept next to a model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.conftest import Listener

from ftx.runs.card_json import CERTIFICATE_FILE
from ftx.runs.certificate import Certificate
from ftx.runs.certificate_json import Certificates, keep_certificates, read_certificates
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.machine import Machine

BF16 = ComputePrecision("bf16", chosen_by_runtime=True)


def certificate(**changed: object) -> Certificate:
    known = Certificate(
        machine=Machine(cpu="x", instructions=(), openvino="2026.4.1"),
        isa="avx512_vnni",
        compute=BF16,
        kernels="batch",
        source="val",
        images=299,
        bound=0.5,
        changed=6,
        twice=30,
        time_vs_fp32=0.5,
    )
    return known.model_copy(update=changed)


@pytest.mark.parametrize(("images", "fraction"), [(59, 0.05), (299, 0.01), (2995, 0.001)])
def test_so_many_images_bound_how_many_labels_can_differ(images: int, fraction: float) -> None:
    differ = certificate(images=images).differ_at_most
    assert differ == pytest.approx(1 - 0.05 ** (1 / images))
    assert differ <= fraction
    assert certificate(images=images - 1).differ_at_most > fraction


def test_a_certificate_that_bounds_less_than_int8_changed_is_proved() -> None:
    assert certificate().verdict == "proved"  # 1 % of 299, and int8 changed 2 %
    assert certificate().summary == "at most 1 % of labels differ from fp32's (95 % confidence, 299 images)"
    assert certificate().cost == "10.0 % of images also run in fp32; one image takes 0.50 of fp32's time"
    assert certificate(time_vs_fp32=0.8).cost.endswith("0.80 of fp32's time")
    assert certificate(time_vs_fp32=0.81).cost.endswith("0.81 of fp32's time, so fp32 is the better choice here")


@pytest.mark.parametrize(
    ("images", "printed"),
    [(59, "5"), (148, "2.1"), (149, "2"), (200, "1.5"), (299, "1"), (2995, "0.1"), (3100, "0.097")],
)
def test_what_is_at_most_is_rounded_up(images: int, printed: str) -> None:
    assert certificate(images=images).at_most.startswith(f"at most {printed} % of labels differ")


def test_one_that_bounds_no_less_names_the_images_that_would() -> None:
    two = certificate(images=200, changed=2)
    assert two.verdict == "unproved"
    assert two.needed_images == 299
    assert two.summary == f"not certified: needs 299 images to differ less than int8; {two.at_most}"
    assert two.at_most == "at most 1.5 % of labels differ from fp32's (95 % confidence, 200 images)"
    assert certificate(images=299, changed=2.99).verdict == "proved"
    assert certificate(images=298, changed=2.98).verdict == "unproved"
    assert certificate(images=1, changed=1).needed_images == 1


def test_where_int8_changed_no_label_it_needs_no_second_model() -> None:
    none = certificate(changed=0)
    assert (none.verdict, none.needed_images) == ("unproved", None)
    assert none.summary.startswith("int8 has the same bound without the second model: at most 1 % of labels differ")


def test_it_covers_only_how_it_was_measured() -> None:
    known = Certificates(ir="0", certificates=[certificate()])
    assert known.measured("avx512_vnni", "bf16", "2026.4.1") == [certificate()]
    assert not known.measured("avx2", "bf16", "2026.4.1")
    assert not known.measured("avx512_vnni", "f32", "2026.4.1")
    assert not known.measured("avx512_vnni", "bf16", "2025.4.0")
    pinned = certificate(compute=ComputePrecision("bf16"))
    assert Certificates(ir="0", certificates=[pinned]).measured("avx512_vnni", "bf16", "2026.4.1") == [pinned]


def test_the_model_that_takes_least_time_runs_first_where_it_was_measured(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    bf16 = certificate(quick="bf16", bound=2.0, time_vs_fp32=0.4)
    keep_certificates(tmp_path, [certificate(), bf16])
    known = read_certificates(tmp_path)
    assert len(known.certificates) == 2
    assert known.quick_model("avx512_vnni", "bf16", "2026.4.1", "batch") == "bf16"
    assert known.quick_model("avx2", "bf16", "2026.4.1", "batch") == "int8"
    assert known.quick_model("avx512_vnni", "f32", "2026.4.1", "batch") == "int8"
    assert known.quick_model("avx512_vnni", "bf16", "2025.4.0", "batch") == "int8"
    assert known.largest_bound == 0.5  # of int8
    # Of int8, only the kernels count by which it would run.
    keep_certificates(tmp_path, [certificate(kernels="single", time_vs_fp32=0.3)])
    known = read_certificates(tmp_path)
    assert known.quick_model("avx512_vnni", "bf16", "2026.4.1", "single") == "int8"
    assert known.quick_model("avx512_vnni", "bf16", "2026.4.1", "batch") == "bf16"
    keep_certificates(tmp_path, [bf16.model_copy(update={"time_vs_fp32": 0.6})])
    assert read_certificates(tmp_path).quick_model("avx512_vnni", "bf16", "2026.4.1", "batch") == "int8"
    assert bf16.model_copy(update={"changed": 0}).summary.startswith("bf16 has the same bound without")


def test_each_way_to_run_keeps_its_newest_certificate(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    assert read_certificates(tmp_path).largest_bound == math.inf
    keep_certificates(tmp_path, [certificate(), certificate(kernels="single", bound=0.75)])
    keep_certificates(tmp_path, [certificate(bound=0.25), certificate(isa="avx2", bound=0.5)])
    known = read_certificates(tmp_path)
    assert sorted((one.isa, one.kernels, one.bound) for one in known.certificates) == [
        ("avx2", "batch", 0.5),
        ("avx512_vnni", "batch", 0.25),
        ("avx512_vnni", "single", 0.75),
    ]
    assert known.largest_bound == 0.75


def test_one_that_proves_less_replaces_it_only_if_it_exceeds_the_bound(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    listener = Listener()
    few = certificate(images=20, changed=0)
    keep_certificates(tmp_path, [certificate()])
    keep_certificates(tmp_path, [few, certificate(isa="avx2", images=20, changed=0)], listener)
    assert [one.images for one in read_certificates(tmp_path).certificates] == [299, 20]
    assert listener.said == [f"avx512_vnni, int8, batch: the certificate of 299 images stays. New: {few.summary}"]
    larger = few.model_copy(update={"bound": 0.75})
    keep_certificates(tmp_path, [larger])
    assert read_certificates(tmp_path).certificates[0] == larger
    keep_certificates(tmp_path, [certificate()])
    assert read_certificates(tmp_path).certificates[0] == certificate()


@pytest.mark.parametrize("spoil", ["other model", "newer", "infinite", "negative", "no JSON", "missing"])
def test_what_is_no_certificate_of_this_model_counts_as_none(tmp_path: Path, spoil: str) -> None:
    (tmp_path / "card.json").write_text("{}")
    keep_certificates(tmp_path, [certificate()])
    path = tmp_path / CERTIFICATE_FILE
    known = json.loads(path.read_text())
    if spoil == "other model":
        (tmp_path / "card.json").write_text("[]")
    elif spoil == "newer":
        path.write_text(json.dumps(known | {"schema_version": 2}))
    elif spoil in ("infinite", "negative"):
        known["certificates"][0]["bound"] = math.inf if spoil == "infinite" else -1
        path.write_text(json.dumps(known))
    elif spoil == "no JSON":
        path.write_text("{")
    else:
        path.unlink()
    assert read_certificates(tmp_path).certificates == []
