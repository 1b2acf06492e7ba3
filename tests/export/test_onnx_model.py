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

OWN = "tests.export.networks:plain"
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


@pytest.fixture(scope="module")
def two_bits(make_student: MakeStudent, tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Path, int]:
    """A 2-bit resnet20, its file, and the size of the float32 file."""
    student = make_student({"quantizer": "shin", "bits": 2}, architecture="resnet20")
    return student, *written(student, tmp_path_factory.mktemp("two") / "model.onnx")


def test_two_bits_of_resnet20_take_an_eighth_and_answer_alike_without_torch_or_kdsearch(
    two_bits: tuple[Student, Path, int], tmp_path: Path
) -> None:
    student, path, float_bytes = two_bits
    assert path.stat().st_size <= float_bytes / 8 + 16 * 1024
    pictures = student.dataset.test().images
    np.save(tmp_path / "images.npy", pictures.numpy())
    arguments = [str(path), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, cwd=tmp_path)
    logits = np.load(tmp_path / "logits.npy")
    expected = student.trained(student.dataset.normalise(pictures)).detach().numpy()
    assert (logits.argmax(1) == expected.argmax(1)).all()
    assert np.abs(logits - expected).max() < 1e-4


def test_one_bit_takes_half_of_two(make_student: MakeStudent, two_bits: tuple[Student, Path, int], tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 1}, architecture="resnet20")
    path, _ = written(student, tmp_path / "model.onnx")
    check("onnx", onnx_runner(path), student, student.dataset.test().images)
    saved = two_bits[1].stat().st_size - path.stat().st_size
    assert saved > 0.65 * 269_000 / 8  # the rest is nodes


def test_the_float32_size_told_is_that_of_the_float32_model(make_student: MakeStudent, tmp_path: Path) -> None:
    _, told = written(make_student({"quantizer": "shin", "bits": 2}, architecture=OWN), tmp_path / "packed.onnx")
    full, same = written(make_student(architecture=OWN), tmp_path / "full.onnx")
    assert told == same == full.stat().st_size


@pytest.mark.parametrize(
    ("weights", "kinds"),
    [
        ({"quantizer": "shin", "bits": 3, "granularity": "filter"}, {"INT4"}),
        ({"quantizer": "lsq", "bits": 2}, {"INT2"}),
        ({"quantizer": "shin", "bits": 8}, {"INT8"}),
        ({"quantizer": "dorefa", "bits": 2}, {"UINT2"}),
        ({"quantizer": "dorefa", "bits": 5}, {"INT8"}),
        ({"quantizer": "xnor"}, {"INT2"}),
        ({"quantizer": "ttq"}, {"UINT2"}),
        ({"quantizer": "points", "bits": 4}, {"UINT4"}),
        ({"quantizer": "qdistill", "bits": 2, "bucket": 100}, {"UINT2"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_each_kind_of_codebook_is_stored_in_its_type_and_gives_the_trained_weights(
    make_student: MakeStudent, weights: dict[str, Any], kinds: set[str], tmp_path: Path
) -> None:
    student = make_student(weights, architecture=OWN, width=4.0)
    path, float_bytes = written(student, tmp_path / "model.onnx")
    check("onnx", onnx_runner(path), student, student.dataset.test().images)
    stored = {onnx.TensorProto.DataType.Name(t.data_type) for t in onnx.load(path).graph.initializer if t.name.endswith(".weight#codes")}
    assert stored == kinds
    assert path.stat().st_size < 0.35 * float_bytes


@pytest.mark.parametrize(("name", "architecture"), [("pact", "resnet8"), ("lsq", OWN), ("dorefa", OWN)])
def test_quantized_activations_are_in_the_graph(make_student: MakeStudent, name: str, architecture: str, tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 2}, {"quantizer": name, "bits": 3}, architecture=architecture)
    path, _ = written(student, tmp_path / "model.onnx")
    check("onnx", onnx_runner(path), student, student.dataset.test().images)
    assert "Floor" in {node.op_type for node in onnx.load(path).graph.node}


def test_the_batch_is_free_and_the_input_may_be_float(make_student: MakeStudent, tmp_path: Path) -> None:
    student = make_student({"quantizer": "shin", "bits": 2}, architecture=OWN)
    session = onnxruntime.InferenceSession(str(written(student, tmp_path / "float.onnx", float_input=True)[0]))
    for many in (1, 3, 40):
        pictures = student.dataset.test().images[:many]
        found = session.run(["logits"], {"images": pictures.numpy().astype(np.float32)})[0]
        assert np.abs(found - student.trained(student.dataset.normalise(pictures)).detach().numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("architecture", "width"),
    [("resnet18", 0.125), pytest.param("resnet50", 0.125, marks=pytest.mark.slow), (OWN, 1.0)],
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
    path, _ = written(make_student({"quantizer": "shin", "bits": 2}, architecture=OWN), tmp_path / "model.onnx")
    content = path.read_bytes()
    assert b".py" not in content
    assert json.dumps(str(Path(torch.__file__).parent)).encode()[1:-1] not in content


def test_a_model_that_disagrees_is_refused(make_student: MakeStudent) -> None:
    student = make_student({"quantizer": "shin", "bits": 2}, width=0.25)
    pictures = student.dataset.test().images
    assert compare(student.deployed, student, pictures).same == len(pictures)
    with pytest.raises(ExportError, match=r"all must agree, logits within 0\.0001"):
        check("model.onnx", lambda images: student.deployed(images) + 0.001, student, pictures)
    with pytest.raises(ExportError, match="all must agree"):
        check("model.onnx", lambda images: student.deployed(images) * float("nan"), student, pictures)
