"""Models, ours and brought along: the same answer whatever runs them, and nothing but models."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photos import PHOTOS, jpeg, photo
from torch import nn

from cis_tasks.errors import PermanentError
from cis_tasks.image.classification import classify
from cis_tasks.image.decode import decode
from cis_tasks.image.frame import frame, least_sides
from cis_tasks.image.labels import imagenet
from cis_tasks.image.models import Model, open_model
from cis_tasks.image.onnx_export import exported


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pixels(model: Model) -> list[np.ndarray]:
    preprocess = model.bundle.card.preprocess
    files = [photo(name) for name in PHOTOS]
    pictures = [decode(file.read_bytes(), file.name, least_sides(preprocess)) for file in files]
    return [frame(picture.pixels, preprocess) for picture in pictures]


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
def test_torch_and_onnx_give_the_same_probabilities(name: str, cache: Path) -> None:
    models = [
        open_model(name, runtime=kind, device="cpu", cache=cache) for kind in ("torch", "onnx")
    ]
    one, other = (model.score(pixels(model)) for model in models)
    assert [model.runtime.name for model in models] == ["torch", "onnx"]
    assert np.abs(one - other).max() < 1e-4
    assert (one.argmax(1) == other.argmax(1)).all()
    assert one.sum(1) == pytest.approx(1, abs=1e-4)


def test_an_image_gets_the_same_answer_alone_and_in_any_batch(cache: Path) -> None:
    for kind in ("torch", "onnx"):
        model = open_model(runtime=kind, device="cpu", cache=cache)
        images = pixels(model)
        alone = np.concatenate([model.score([image]) for image in images])
        many = model.score(images * 6)  # more than one batch, and no bucket's size
        assert np.abs(many - np.tile(alone, (6, 1))).max() < 1e-4


def test_photographs_are_what_they_show(cache: Path) -> None:
    model = open_model(device="cpu", cache=cache)
    for name, right in PHOTOS.items():
        found = classify(photo(name), model)
        assert found.best.label in right
        assert imagenet()[found.best.index].name == found.best.label
        assert len(found.guesses) == 5


def test_labels_of_imagenet_are_a_thousand_synsets_of_which_some_share_a_name() -> None:
    labels = imagenet()
    ids = [label.wordnet_id or "" for label in labels]
    assert len(labels) == 1000
    assert ids == sorted(set(ids))
    assert [i for i, label in enumerate(labels) if label.name == "crane"] == [134, 517]


EXPORT = """
import sys
from pathlib import Path
from cis_tasks.image.models import open_model
print(open_model(device="cpu", cache=Path(sys.argv[1])).runtime.name)
"""


def test_processes_that_start_together_export_once_and_a_damaged_file_is_made_anew(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", EXPORT, str(tmp_path)]
    with ThreadPoolExecutor(3) as threads:
        runs = list(threads.map(lambda _: subprocess.run(command, check=True), range(3)))
    assert len(runs) == 3
    [made] = tmp_path.glob("*.onnx")
    whole, first = made.read_bytes(), made.stat().st_mtime_ns
    open_model(device="cpu", cache=tmp_path)
    assert made.stat().st_mtime_ns == first
    made.write_bytes(whole[: len(whole) // 2])
    assert open_model(device="cpu", cache=tmp_path).runtime.name == "onnx"
    assert made.stat().st_size == len(whole)
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".onnx"]


# ---------------------------------------------------------------- models that are brought along


class Brightest(nn.Module):
    """Tells which colour a picture has most of."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) * 10


COLOURS = ["n1\tred", "n2\tgreen", "n3\tblue"]


def write_card(folder: Path, file: str, /, **changed: Any) -> Path:
    card = {
        "name": "brightest",
        "file": file,
        "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
        "labels": COLOURS,
        "preprocess": {"size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]},
        **changed,
    }
    path = folder / "card.json"
    path.write_text(json.dumps(card))
    return path


def save_onnx(folder: Path) -> str:
    example = (torch.zeros(1, 3, 32, 32),)
    axes = {"images": {0: "batch"}}
    options = {"dynamo": False, "input_names": ["images"], "dynamic_axes": axes}
    torch.onnx.export(Brightest().eval(), example, str(folder / "m.onnx"), **options)
    return "m.onnx"


def save_pt2(folder: Path, batch: int | None = None) -> str:
    example = (torch.zeros(batch or 2, 3, 32, 32),)
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(Brightest().eval(), example, dynamic_shapes=shapes)
    torch.export.save(program, folder / "m.pt2")
    return "m.pt2"


SAVE: dict[str, Callable[[Path], str]] = {
    "onnx": save_onnx,
    "pt2": save_pt2,
    "pt2 of four": lambda folder: save_pt2(folder, 4),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", SAVE)
def test_a_model_that_is_brought_along_answers_with_its_own_labels(
    kind: str, tmp_path: Path
) -> None:
    model = open_model(write_card(tmp_path, SAVE[kind](tmp_path)), device="cpu")
    for index, colour in enumerate(("red", "green", "blue")):
        image = np.full((32, 32, 3), 20, np.uint8)
        image[:, :, index] = 200
        scores = model.score([image] * 5)
        assert scores.shape == (5, 3)
        assert model.bundle.labels[int(scores[4].argmax())].name == colour
    found = classify(photo("flower.jpg"), model)
    assert len(found.guesses) == 3
    assert found.version == model.bundle.card.sha256[:12]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_card_decides_how_an_image_is_framed_and_normalised(tmp_path: Path) -> None:
    file = save_onnx(tmp_path)
    image = np.full((32, 32, 3), (200, 20, 20), np.uint8)

    def colour(**preprocess: Any) -> str:
        card = write_card(
            tmp_path,
            file,
            preprocess={"size": 32, "mean": [0, 0, 0], "std": [1, 1, 1], **preprocess},
        )
        model = open_model(card, device="cpu")
        return model.bundle.labels[int(model.score([image])[0].argmax())].name

    assert colour() == "red"
    assert colour(channels="BGR") == "blue"
    assert colour(mean=[0.9, 0, 0]) == "green"
    assert colour(std=[100, 0.1, 1]) == "green"


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def replace_record(data: bytes, ending: str, change: Callable[[bytes], bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            body = old.read(name)
            new.writestr(name, change(body) if name.endswith(ending) else body)
    return out.getvalue()


def pickled(_: bytes) -> bytes:
    out = io.BytesIO()
    torch.save(Trap(), out)
    return out.getvalue()


def evaluated(model: bytes) -> bytes:
    text = model.decode()
    assert "Symbol('" in text
    return text.replace(
        "Symbol('", "__import__('pathlib').Path('sprung').touch() or Symbol('", 1
    ).encode()


TRAPS: dict[str, Callable[[bytes], bytes]] = {
    "example inputs": lambda data: replace_record(data, "sample_inputs/model.pt", pickled),
    "size": lambda data: replace_record(data, "models/model.json", evaluated),
    "guards": lambda data: replace_record(
        data,
        "models/model.json",
        lambda model: json.dumps(
            {**json.loads(model), "guards_code": ["__import__('pathlib').Path('sprung').touch()"]}
        ).encode(),
    ),
}


@pytest.mark.parametrize("kind", TRAPS)
def test_nothing_in_a_model_file_is_run_that_is_no_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / save_pt2(tmp_path)
    path.write_bytes(TRAPS[kind](path.read_bytes()))
    card = write_card(tmp_path, path.name)
    if kind == "guards":  # which are not needed
        classify(photo("flower.jpg"), open_model(card, device="cpu"))
    else:
        with pytest.raises(PermanentError, match="model_unsafe"):
            open_model(card, device="cpu")
    assert not (tmp_path / "sprung").exists()


BAD_CARDS: dict[str, tuple[dict[str, Any], str]] = {
    "another file": ({"sha256": "0" * 64}, "model_changed"),
    "no file": ({"file": "gone.onnx"}, "model_missing"),
    "a pickle": ({"file": "m.pth"}, "model_card_invalid"),
    "unknown field": ({"speed": 1}, "model_card_invalid"),
    "std of zero": ({"preprocess": {"size": 32, "std": [0, 1, 1]}}, "model_card_invalid"),
    "too few labels": ({"labels": ["red"]}, "model_output_unfit"),
    "another size": ({"preprocess": {"size": 64, "layout": "NHWC"}}, "model_failed"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", BAD_CARDS)
def test_a_card_that_does_not_fit_its_model_is_refused_with_a_reason(
    kind: str, tmp_path: Path
) -> None:
    changed, code = BAD_CARDS[kind]
    card = write_card(tmp_path, save_onnx(tmp_path), **changed)
    with pytest.raises(PermanentError) as caught:
        classify(photo("flower.jpg"), open_model(card, device="cpu"))
    assert caught.value.code == code


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    for file in ("m.onnx", "m.pt2"):
        for body in (b"", b"not a model", pickle.dumps(Trap())):
            (tmp_path / file).write_bytes(body)
            with pytest.raises(PermanentError, match="model_unreadable"):
                open_model(write_card(tmp_path, file), device="cpu")


def test_a_card_may_be_toml_with_labels_in_a_file(tmp_path: Path) -> None:
    file = save_pt2(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    sha256 = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
    (tmp_path / "card.toml").write_text(
        f'name = "brightest"\nversion = "7"\nfile = "{file}"\nsha256 = "{sha256}"\n'
        'labels = "labels.txt"\n\n[preprocess]\nsize = [32, 32]\nfit = "stretch"\n'
    )
    model = open_model(tmp_path / "card.toml", device="cpu")
    assert (model.bundle.version, model.bundle.labels[2].wordnet_id) == ("7", "n3")
    (tmp_path / "a.jpg").write_bytes(jpeg("coffee.png"))
    assert classify(tmp_path / "a.jpg", model, top=1).best.label == "red"


def test_the_exporter_is_not_asked_where_the_cache_has_it(tmp_path: Path) -> None:
    made = exported(lambda: Brightest().eval(), "brightest 1", 32, tmp_path)

    def never() -> nn.Module:
        raise AssertionError("exported twice")

    assert exported(never, "brightest 1", 32, tmp_path) == made
