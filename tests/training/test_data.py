"""Splits, fingerprints and image folders, good and bad."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdsearch.errors import DataError, SpecError
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Data, Recipe
from kdsearch.training import imagefolder
from kdsearch.training.data import fingerprint, load, stratified
from kdsearch.training.evaluate import evaluate
from kdsearch.training.streamed import Files
from kdsearch.training.train import train
from kdsearch.training.views import Views


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of dark and of bright 12×10 pictures: 20 a class to train on, 6 to test."""
    root, generator = tmp_path / "pictures", np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 6)):
        for name, low in (("dark", 0), ("light", 150)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                array = generator.integers(low, low + 100, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(array).save(root / part / name / f"{index:02d}.png")
    return root


def _data(root: Path, **fields: Any) -> Data:
    return Data(name="imagefolder", root=str(root), validation=0.2, **fields)


def test_digits_split_into_disjoint_stratified_parts_with_at_least_500_for_validation() -> None:
    dataset = load(Data(name="digits", validation=0.4, train_fraction=0.4))
    assert dataset.validation is not None
    assert len(dataset.validation) >= 500 and len(dataset.test()) == 297 and dataset.shape == (1, 8, 8)
    assert not set(dataset.train.numbers.tolist()) & set(dataset.validation.numbers.tolist())
    for split in (dataset.train, dataset.validation, dataset.test()):
        counts = split.labels.bincount(minlength=10)
        assert int(counts.max() - counts.min()) <= 0.06 * len(split)
    whole = load(Data(name="digits", validation=0.4))
    assert set(dataset.train.numbers.tolist()) < set(whole.train.numbers.tolist())
    assert len(whole.train) + len(dataset.validation) == 1500


def test_training_images_are_normalised_to_mean_0_and_deviation_1() -> None:
    dataset = load(Data(name="digits", validation=0, evaluate_on="test"))
    values = dataset.normalise(dataset.train.images)  # type: ignore[arg-type]
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    assert float(values.std()) == pytest.approx(1, abs=1e-4)


def test_the_split_depends_on_its_seed_and_the_image_numbers_alone() -> None:
    labels, numbers = torch.arange(100) % 4, torch.arange(100)
    first = stratified(labels, numbers, 0.2, 1)
    assert int(first.sum()) == 20 and labels[first].bincount().tolist() == [5] * 4
    assert torch.equal(first, stratified(labels, numbers, 0.2, 1))
    assert not torch.equal(first, stratified(labels, numbers, 0.2, 2))
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stratified(labels[shuffled], numbers[shuffled], 0.2, 1), first[shuffled])


def test_recipes_on_the_same_pictures_share_them_in_memory() -> None:
    first, second = load(Data(validation=0.3)), load(Data(validation=0.3, augment="shift"))
    assert first is second


def test_an_image_folder_is_decoded_split_and_trained_on(pictures: Path, store: Store, recipe: Callable[..., Recipe]) -> None:
    dataset = load(_data(pictures))
    assert dataset.validation is not None
    assert (dataset.classes, dataset.shape, len(dataset.train), len(dataset.validation)) == (2, (3, 10, 12), 32, 8)
    first = np.asarray(Image.open(pictures / "train" / "dark" / "00.png")).transpose(2, 0, 1)
    split = next(split for split in (dataset.train, dataset.validation) if 0 in split.numbers)
    assert np.array_equal(split.images[split.numbers.tolist().index(0)].numpy(), first)  # type: ignore[index]
    made = recipe(
        data={"name": "imagefolder", "root": str(pictures), "validation": 0.2, "augment": "crop_flip"},
        optim={"epochs": 6, "batch_size": 8, "learning_rate": 0.05},
    )
    assert train(made, store)["final"]["val_accuracy"] == 100
    assert evaluate(made, store)["count"] == 12


def test_pictures_are_decoded_once_and_then_mapped(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = imagefolder.open_folder(str(pictures), None).train
    monkeypatch.setattr(imagefolder, "_decoded", None)
    again = imagefolder.open_folder(str(pictures), None).train
    assert isinstance(again.images, np.memmap)
    assert np.array_equal(first.images, again.images)


def test_a_val_folder_is_used_as_it_is(pictures: Path) -> None:
    (pictures / "test").rename(pictures / "val")
    dataset = load(_data(pictures))
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation)) == (40, 12)
    with pytest.raises(DataError, match="no test/ folder"):
        dataset.test()


@pytest.mark.parametrize("more", [{}, {"streamed": True, "image_size": 8, "workers": 0}], ids=["in-memory", "streamed"])
def test_a_val_folder_is_trained_on_as_well_where_everything_is(pictures: Path, more: dict[str, Any]) -> None:
    shutil.copytree(pictures / "test", pictures / "val")
    fields = {"name": "imagefolder", "root": str(pictures), "validation": 0, **more}
    apart, together = load(Data(**fields)), load(Data(**fields, evaluate_on="test"))
    assert (len(apart.train), len(apart.validation or []), together.validation) == (40, 12, None)
    assert torch.equal(together.train.labels, torch.cat([apart.train.labels, apart.split("validation").labels]))
    assert torch.equal(together.train.numbers, torch.arange(52))
    assert (together.mean, together.std) == (apart.mean, apart.std)
    shown = [
        torch.cat(list(Views(d, d.split(s), "none", 0, "cpu").batches(0, torch.arange(len(d.split(s))), 9)))
        for d, s in ((together, "train"), (apart, "train"), (apart, "validation"))
    ]
    assert torch.equal(shown[0], torch.cat(shown[1:]))


def test_the_fingerprint_follows_content_and_not_place(pictures: Path, tmp_path: Path) -> None:
    before = fingerprint(_data(pictures))
    copy = tmp_path / "elsewhere"
    shutil.copytree(pictures, copy)
    assert fingerprint(_data(copy)) == before
    changed = tmp_path / "changed"
    shutil.copytree(pictures, changed)
    Image.new("RGB", (12, 10)).save(changed / "train" / "dark" / "00.png")
    assert fingerprint(_data(changed)) != before
    renamed = tmp_path / "renamed"
    shutil.copytree(pictures, renamed)
    (renamed / "train" / "dark" / "00.png").rename(renamed / "train" / "dark" / "zz.png")
    assert fingerprint(_data(renamed)) != before


def test_a_picture_that_does_not_decode_is_named(pictures: Path) -> None:
    (pictures / "train" / "light" / "07.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"light/07\.png: is not a picture that decodes"):
        load(_data(pictures))


def test_a_picture_cut_off_in_the_middle_is_named(pictures: Path) -> None:
    path = pictures / "train" / "light" / "07.png"
    path.write_bytes(path.read_bytes()[:-150])
    with pytest.raises(DataError, match=r"light/07\.png"):
        load(_data(pictures))


def test_pictures_of_another_size_are_named_unless_a_size_is_given(pictures: Path) -> None:
    Image.new("RGB", (30, 20)).save(pictures / "train" / "dark" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: is 30×20 pixels, the first picture 12×10; set data.image_size"):
        load(_data(pictures))
    assert load(_data(pictures, image_size=8)).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: shutil.rmtree(root / "train"), r"has no train/ folder \(it holds test\)"),
        (lambda root: shutil.rmtree(root / "train" / "dark"), "1 class folders"),
        (lambda root: [path.unlink() for path in (root / "train" / "dark").iterdir()], "dark: holds no pictures"),
        (lambda root: (root / "test" / "dark").rename(root / "test" / "drak"), "class 'drak' has no folder in train/"),
    ],
)
def test_a_folder_that_is_not_what_it_should_be_is_told(pictures: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(pictures)
    with pytest.raises(DataError, match=message):
        load(_data(pictures))


def test_a_folder_without_a_root_and_cifar_without_a_network_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"data\.root must name"):
        load(Data(name="imagefolder"))
    import urllib.request

    def refused(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    with pytest.raises(DataError, match=r"cifar10: not in .* cannot be downloaded"):
        load(Data(name="cifar10", root=str(tmp_path / "none")))


def test_streamed_pictures_are_the_same_whatever_the_batch_and_number_of_workers(pictures: Path) -> None:
    views = {}
    for workers, size in ((0, 5), (2, 7)):
        dataset = load(_data(pictures, streamed=True, image_size=16, workers=workers))
        assert isinstance(dataset.train.images, Files)
        served = Views(dataset, dataset.train, "crop_flip", 3, "cpu")
        order = torch.arange(len(dataset.train)).flip(0)
        views[workers] = torch.cat(list(served.batches(2, order, size)))
        assert not torch.equal(views[workers], torch.cat(list(served.batches(3, order, size))))
    assert torch.equal(views[0], views[2])
    assert views[0].shape == (32, 3, 16, 16)


def test_a_streamed_folder_trains_with_a_live_teacher(pictures: Path, store: Store, recipe: Callable[..., Recipe]) -> None:
    teacher = {"model": {"architecture": "resnet8", "width": 0.25}, "optim": {"epochs": 1}}
    made = recipe(
        data={"name": "imagefolder", "root": str(pictures), "validation": 0.2, "streamed": True, "image_size": 16, "workers": 0},
        distill={"teachers": [teacher]},
        optim={"epochs": 2, "batch_size": 8, "learning_rate": 0.05},
    )
    metrics = train(made, store)
    assert metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"]
    assert not list(store.root.glob("blobs/teacher-outputs/*-00001"))


USER_MODULE = """
import numpy as np
from torch import nn

def network(num_classes, in_channels, width):
    hidden = int(16 * width)
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 36, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, num_classes))

def data():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (labels[:, None, None, None] * 80 + generator.integers(0, 20, (60, 1, 6, 6))).astype(np.uint8)
    return images[:48], labels[:48], images[48:], labels[48:]

def broken():
    return 1, 2
"""


def test_a_users_own_network_and_data_train_and_resume(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdsearch.training.session import Session

    (tmp_path / "own_code_for_test.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = recipe(
        data={"name": "own_code_for_test:data", "validation": 0.25},
        model={"architecture": "own_code_for_test:network", "width": 2},
        precision={"weights": {"quantizer": "shin", "bits": 2}},
        optim={"epochs": 5, "batch_size": 12, "learning_rate": 0.05},
    )
    metrics = train(made, Store(tmp_path / "a"))
    assert metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"]
    with Session(made, Store(tmp_path / "b")) as session:
        session.step()
    resumed = train(made, Store(tmp_path / "b"))  # with dropout, whose random numbers must come back too
    assert [row["train_loss"] for row in resumed["epochs"]] == [row["train_loss"] for row in metrics["epochs"]]
    with pytest.raises(DataError, match="must return train_images, train_labels, test_images, test_labels"):
        load(Data(name="own_code_for_test:broken"))
    with pytest.raises(SpecError, match="has no function missing"):
        load(Data(name="own_code_for_test:missing"))
