"""ONNX files: as small as their bits, and the same function in ONNX Runtime, also where there is neither torch nor kdsearch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kdsearch.errors import ExportError, UsageError
from kdsearch.export.agreement import check, compare
from kdsearch.export.loader import load_exported, save_student
from kdsearch.export.onnx_model import onnx_models, onnx_runner
from kdsearch.export.student import Student
from tests.export.conftest import MakeStudent

ALONE = """
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "kdsearch"):
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, No())
import json
import numpy as np
import onnxruntime
logits = onnxruntime.InferenceSession(sys.argv[1]).run(["logits"], {"images": np.load(sys.argv[2])})[0]
assert "torch" not in sys.modules and "kdsearch" not in sys.modules
np.save(sys.argv[3], logits)
"""


def written(student: Student, path: Path, **options: Any) -> tuple[Path, int]:
    model, float_bytes = onnx_models(student, **options)
    path.write_bytes(model.SerializeToString())
    return path, float_bytes


def test_two_bits_of_resnet20_take_an_eighth_and_answer_alike_without_torch_or_kdsearch(make_student: MakeStudent, tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 2}, architecture="resnet20")
    path, float_bytes = written(student, tmp_path / "model.onnx")
    full, _ = written(make_student(architecture="resnet20"), tmp_path / "full.onnx")
    assert float_bytes == pytest.approx(full.stat().st_size, abs=64)
    assert path.stat().st_size <= full.stat().st_size / 8 + 16 * 1024
    pictures = student.dataset.test().images
    np.save(tmp_path / "images.npy", pictures.numpy())
    arguments = [str(path), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, cwd=tmp_path)
    logits = np.load(tmp_path / "logits.npy")
    expected = student.trained(student.dataset.normalise(pictures)).detach().numpy()
    assert (logits.argmax(1) == expected.argmax(1)).all()
    assert np.abs(logits - expected).max() < 1e-4


def test_one_bit_takes_half_of_two(make_student: MakeStudent, tmp_path: Path) -> None:
    sizes = {}
    for bits in (1, 2):
        student = make_student({"quantizer": "shin", "bits": bits}, architecture="resnet20")
        path, _ = written(student, tmp_path / f"{bits}.onnx")
        check("onnx", onnx_runner(path), student, student.dataset.test().images)
        sizes[bits] = path.stat().st_size
    assert sizes[1] < sizes[2] - 269_000 / 8 + 16 * 1024


@pytest.mark.parametrize(
    ("weights", "kinds"),
    [
        ({"quantizer": "shin", "bits": 3, "granularity": "filter"}, {"INT4"}),
        ({"quantizer": "lsq", "bits": 2}, {"INT2"}),
        ({"quantizer": "shin", "bits": 8}, {"INT8"}),
        ({"quantizer": "dorefa", "bits": 2}, {"UINT2"}),
        ({"quantizer": "dorefa", "bits": 5}, {"UINT8"}),
        ({"quantizer": "xnor"}, {"UINT8", "INT2"}),
        ({"quantizer": "ttq"}, {"UINT2"}),
        ({"quantizer": "points", "bits": 4}, {"UINT4"}),
        ({"quantizer": "qdistill", "bits": 2, "bucket": 100}, {"UINT2"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_each_kind_of_codebook_is_stored_in_its_type_and_gives_the_trained_weights(
    make_student: MakeStudent, weights: dict[str, Any], kinds: set[str], tmp_path: Path
) -> None:
    student = make_student(weights)
    path, float_bytes = written(student, tmp_path / "model.onnx")
    check("onnx", onnx_runner(path), student, student.dataset.test().images)
    stored = {onnx.TensorProto.DataType.Name(t.data_type) for t in onnx.load(path).graph.initializer if t.name.endswith(".weight#codes")}
    assert stored == kinds
    assert path.stat().st_size < 0.35 * float_bytes


@pytest.mark.parametrize("name", ["pact", "lsq", "dorefa"])
def test_quantized_activations_are_in_the_graph(make_student: MakeStudent, name: str, tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 2}, {"quantizer": name, "bits": 3})
    path, _ = written(student, tmp_path / "model.onnx")
    check("onnx", onnx_runner(path), student, student.dataset.test().images)
    assert "Floor" in {node.op_type for node in onnx.load(path).graph.node}


def test_the_batch_is_free_and_the_input_may_be_float(make_student: MakeStudent, tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 2})
    session = onnxruntime.InferenceSession(str(written(student, tmp_path / "float.onnx", float_input=True)[0]))
    for many in (1, 3, 40):
        pictures = student.dataset.test().images[:many]
        found = session.run(["logits"], {"images": pictures.numpy().astype(np.float32)})[0]
        assert np.abs(found - student.trained(student.dataset.normalise(pictures)).detach().numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("architecture", "width"),
    [("resnet18", 0.25), ("resnet50", 0.125), ("tests.export.networks:plain", 1.0)],
    ids=["basic", "bottleneck", "own"],
)
def test_other_networks_too(make_student: MakeStudent, architecture: str, width: float, tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 1}, architecture=architecture, width=width)
    path, _ = written(student, tmp_path / "model.onnx")
    check("onnx", onnx_runner(path), student, student.dataset.test().images)
    save_student(student, tmp_path / "model.safetensors")
    pictures = student.dataset.test().images[:8]
    assert torch.equal(load_exported(tmp_path, allow_code=True)(pictures), student.deployed(pictures))
    if ":" in architecture:
        with pytest.raises(UsageError, match="allow_code"):
            load_exported(tmp_path)


def test_nothing_of_this_machine_is_in_the_file(make_student: MakeStudent, tmp_path: Path) -> None:
    path, _ = written(make_student({"quantizer": "shin", "bits": 2}, width=0.25), tmp_path / "model.onnx")
    content = path.read_bytes()
    assert b".py" not in content
    assert json.dumps(str(Path(torch.__file__).parent)).encode()[1:-1] not in content


def test_a_model_that_disagrees_is_refused(make_student: MakeStudent) -> None:
    student = make_student({"quantizer": "shin", "bits": 2}, width=0.25)
    pictures = student.dataset.test().images
    assert compare(student.deployed, student, pictures).same == len(pictures)
    with pytest.raises(ExportError, match="all must agree, within 0.0001"):
        check("model.onnx", lambda images: student.deployed(images) + 0.001, student, pictures)
    with pytest.raises(ExportError, match="all must agree"):
        check("model.onnx", lambda images: student.deployed(images) * float("nan"), student, pictures)
