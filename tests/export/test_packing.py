"""Weights at their bits: every quantizer and width comes back bit for bit; a damaged file is told, not read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from kdsearch.errors import ExportError
from kdsearch.export.loader import load_exported, save_student
from kdsearch.export.packing import pack, packing_of, read_packed, stored, unpack, unpacked, write_packed
from kdsearch.spec.precision import WEIGHT_QUANTIZERS, Weights
from kdsearch.training.quantizers.base import make_weight_quantizer
from tests.export.conftest import MakeStudent

EVERY = [(name, bits) for name, row in WEIGHT_QUANTIZERS.items() for bits in row.bits]


@given(st.sampled_from([1, 2, 4, 8]), st.data())
def test_packing_is_undone_by_unpacking_and_takes_its_bits(bits: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=70)), dtype=np.uint8)
    packed = pack(values, bits)
    assert len(packed) == math.ceil(len(values) * bits / 8)
    assert (unpack(packed, bits, len(values)) == values).all()


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=50))
def test_any_codes_of_8_bits_come_back(codes: list[int]) -> None:
    tensor = torch.tensor(codes, dtype=torch.int16).view(1, -1)
    packing = packing_of(tensor)
    assert torch.equal(unpacked(torch.from_numpy(pack(stored(tensor, packing), packing.bits)), packing), tensor)


@pytest.mark.parametrize(("name", "bits"), EVERY, ids=[f"{name}-{bits}" for name, bits in EVERY])
def test_every_quantizer_at_every_width_comes_back_bit_for_bit(name: str, bits: int, tmp_path: Path) -> None:
    weight = torch.randn(19, 7, 3, 3, generator=torch.Generator().manual_seed(bits))
    quantizer = make_weight_quantizer(weight, Weights.model_validate({"quantizer": name, "bits": bits}))
    value = quantizer(weight).detach()
    write_packed(tmp_path / "w", {"conv.weight": value}, {"conv.weight": quantizer.codes(weight)}, {})
    state, header = read_packed(tmp_path / "w")
    assert torch.equal(state["conv.weight"], value)
    assert header["packed"]["conv.weight"]["bits"] <= {1: 1, 2: 2, 3: 4, 4: 4}.get(bits, 8)


def test_one_scale_for_each_filter_comes_back(tmp_path: Path) -> None:
    weight = torch.randn(5, 4, 3, 3)
    quantizer = make_weight_quantizer(weight, Weights.model_validate({"quantizer": "shin", "bits": 3, "granularity": "filter"}))
    write_packed(tmp_path / "w", {"w": weight}, {"w": quantizer.codes(weight)}, {})
    assert torch.equal(read_packed(tmp_path / "w")[0]["w"], quantizer(weight))


def test_two_bits_take_a_sixteenth_of_float32(make_student: MakeStudent, tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 2}, architecture="resnet20")
    save_student(student, tmp_path / "w")
    with safe_open(tmp_path / "w", framework="pt") as file:
        assert file.get_tensor("stage1.0.conv1.weight#codes").numel() == 16 * 16 * 9 / 4
        assert file.get_tensor("bn1.weight").dtype == torch.float32
        assert "stage1.0.conv1.weight" not in list(file.keys())


def test_layers_kept_at_full_precision_stay_float32(make_student: MakeStudent, tmp_path: Path) -> None:
    from kdsearch.export.student import take_apart

    student = make_student({"quantizer": "shin", "bits": 1})
    assert len(student.codes) == 8
    recipe = student.recipe.model_validate(
        {**student.recipe.model_dump(), "precision": {"weights": {"quantizer": "xnor"}, "keep": ["first", "last"]}}
    )
    from kdsearch.training.networks import initial

    kept = take_apart(recipe, initial(recipe, student.dataset, None).eval(), student.deployed.signature, student.dataset)
    assert {"conv1.weight", "fc.weight"}.isdisjoint(kept.codes)
    save_student(kept, tmp_path / "w")
    pictures = kept.dataset.test().images[:9]
    assert torch.equal(load_exported(tmp_path / "w")(pictures), kept.trained(kept.dataset.normalise(pictures)))


@pytest.mark.parametrize("activations", [None, *({"quantizer": name, "bits": 3} for name in ("pact", "lsq", "dorefa", "wrpn"))])
def test_a_loaded_student_is_the_trained_one(make_student: MakeStudent, activations: dict[str, object] | None, tmp_path: Path) -> None:
    student = make_student({"quantizer": "ttq"}, activations)
    save_student(student, tmp_path / "model.safetensors")
    loaded = load_exported(tmp_path)
    pictures = student.dataset.test().images[:50]
    expected = student.trained(student.dataset.normalise(pictures))
    assert torch.equal(loaded(pictures), expected)
    assert torch.equal(loaded(pictures.float()), expected)
    assert torch.equal(loaded.student(student.dataset.normalise(pictures)), expected)


@pytest.fixture(scope="module")
def packed(make_student: MakeStudent, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / "w"
    save_student(make_student({"quantizer": "shin", "bits": 2}, width=0.25), path)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_told(packed: bytes, share: float, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(packed[: int(share * len(packed))])
    with pytest.raises(ExportError, match="cut short"):
        load_exported(tmp_path)


def test_an_altered_byte_is_told_wherever_it_is(packed: bytes, tmp_path: Path) -> None:
    start = 8 + int.from_bytes(packed[:8], "little")
    path = tmp_path / "model.safetensors"
    for position in (start, start + 1000, len(packed) - 1):
        path.write_bytes(packed[:position] + bytes([packed[position] ^ 1]) + packed[position + 1 :])
        with pytest.raises(ExportError, match="checksum"):
            load_exported(tmp_path)
    path.write_bytes(packed.replace(b'\\"bits\\":2', b'\\"bits\\":4', 1))
    with pytest.raises(ExportError, match="checksum"):
        load_exported(tmp_path)


def test_a_newer_version_a_foreign_file_and_a_missing_one_are_told(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(ExportError, match=r"version 2, this kdsearch reads up to 1; install a newer kdsearch"):
        load_exported(tmp_path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(ExportError, match="not one that kdsearch export wrote"):
        load_exported(tmp_path)
    path.unlink()
    with pytest.raises(ExportError, match="no such file"):
        load_exported(path)
