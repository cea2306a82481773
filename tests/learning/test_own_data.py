"""Images of one's own: folders of classes, tables of labels, arrays, CIFAR-10 files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxcert.commands.inputs import select_inputs
from jaxcert.errors import InputError
from jaxcert.learning.cifar import CLASSES
from jaxcert.learning.data import load_dataset, training_data
from jaxcert.learning.image_folder import load_images
from jaxcert.learning.inputs import load_inputs
from jaxcert.network import Network

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)


def network(shape=(4, 5, 3), outputs=3) -> Network:
    return Network(lambda p, x: x, {}, shape, outputs, "net", "00")


def write(path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes in training, three in test, one of them unknown to training."""
    names = {
        "train/cat/1.png": 0, "train/dog/1.png": 1,
        "test/cat/9.png": 2, "test/cow/1.png": 3, "test/cow/2.PNG": 4,
    }  # fmt: skip
    for name, row in names.items():
        write(tmp_path / name, PIXELS[row])
    return tmp_path


def test_folders_of_classes_are_a_data_set(folder):
    train, test = (training_data(str(folder), split) for split in ("train", "test"))
    # Classes are those of both splits, so that a number is one class in both.
    assert train.class_names == test.class_names == ("cat", "cow", "dog")
    assert train.labels.tolist() == [0, 2] and test.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(train.images, PIXELS[:2].astype(np.float32) / 255)
    np.testing.assert_array_equal(np.round(255 * test.images), PIXELS[2:5])
    assert test.split == "test" and str(folder / "test") in test.source


def test_a_folder_without_splits_is_certified_and_not_trained_on(folder):
    whole = load_dataset(str(folder / "test"), "test")
    assert whole.split == "all" and len(whole.labels) == 3
    with pytest.raises(InputError, match="is not split: training needs .*/train and"):
        training_data(str(folder / "test"), "test")
    (folder / "train").rename(folder / "other")
    with pytest.raises(InputError, match="has no train split"):
        load_dataset(str(folder), "train")


def test_a_table_states_labels(tmp_path):
    for row in range(3):
        write(tmp_path / f"{row}.png", PIXELS[row])
    with pytest.raises(InputError, match=r"states no classes: .* labels.csv"):
        load_dataset(str(tmp_path), "test")
    (tmp_path / "labels.csv").write_text("file,label\n0.png,7\n2.png,2\n1.png,2\n")
    found = load_images(tmp_path)
    assert found.labels.tolist() == [7, 2, 2] and len(found.class_names) == 8
    (tmp_path / "labels.csv").write_text("0.png,7\n2.png,2\n")
    with pytest.raises(InputError, match="labels.csv states no class of '1.png'"):
        load_images(tmp_path)
    (tmp_path / "labels.csv").write_text("0.png,7\n2.png\n")
    with pytest.raises(InputError, match="labels.csv, line 2: write file,class"):
        load_images(tmp_path)


def test_images_that_do_not_fit_are_named(tmp_path):
    write(tmp_path / "a" / "1.png", PIXELS[0])
    write(tmp_path / "a" / "2.png", PIXELS[1][:3])
    with pytest.raises(InputError, match="2.png has 5 x 3 pixels, 1.png 5 x 4"):
        load_images(tmp_path)
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read the image .*2.png"):
        load_images(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_images(tmp_path / "absent")


def test_grey_and_coloured_images_agree_in_channels(tmp_path):
    write(tmp_path / "0" / "grey.png", PIXELS[0, ..., 0])
    assert load_images(tmp_path).pixels.shape == (1, 4, 5, 1)
    write(tmp_path / "0" / "two.png", PIXELS[1])
    both = load_images(tmp_path).pixels
    assert both.shape == (2, 4, 5, 3) and (both[0] == PIXELS[0, ..., :1]).all()


def test_a_folder_of_images_is_an_input(folder, caplog):
    chosen = select_inputs(str(folder / "test"), network(outputs=3), "-", "-", None)
    assert chosen.names == ("cat/9.png", "cow/1.png", "cow/2.PNG")
    # The classes are those that it was trained on, too: dogs are of number 2.
    assert chosen.labels.tolist() == [0, 1, 1]
    assert chosen.class_names == ("cat", "cow", "dog")
    np.testing.assert_allclose(chosen.x, PIXELS[2:5] / 255, atol=1e-7)
    bytes_ = select_inputs(
        str(folder / "test"), network(outputs=3), "-", "-", None, scale=1.0
    )
    np.testing.assert_array_equal(bytes_.x, PIXELS[2:5])
    with pytest.raises(InputError, match="has 3 classes, the network 5: which is"):
        select_inputs(str(folder / "test"), network(outputs=5), "-", "-", None)


def test_bytes_need_a_stated_scale(tmp_path):
    np.savez(tmp_path / "x.npz", x=PIXELS, labels=np.arange(6) % 3)
    with pytest.raises(InputError, match=r"holds bytes: say with --scale .*255"):
        load_inputs(tmp_path / "x.npz", (4, 5, 3))
    found = load_inputs(tmp_path / "x.npz", (4, 5, 3), scale=255.0)
    np.testing.assert_array_equal(found.x, PIXELS / 255)


def test_arrays_are_a_data_set(tmp_path):
    np.savez(tmp_path / "test.npz", images=PIXELS, labels=np.arange(6) % 3)
    found = load_dataset(str(tmp_path), "test")
    assert found.images.shape == (6, 4, 5, 3) and found.class_names == ("0", "1", "2")
    with pytest.raises(InputError, match="has no train split"):
        load_dataset(str(tmp_path), "train")
    np.savez(tmp_path / "train.npz", images=PIXELS * 1.0, labels=np.arange(6))
    with pytest.raises(InputError, match=r"images of float64 outside \[0, 1\]"):
        load_dataset(str(tmp_path), "train")


def test_cifar10_in_its_binary_form(tmp_path):
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 256, (3, 3, 32, 32), np.uint8)
    labels = np.array([3, 9, 0], np.uint8)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    data = np.concatenate([labels[:, None], planes.reshape(3, -1)], axis=1)
    (folder / "test_batch.bin").write_bytes(data.tobytes())
    found = load_dataset("cifar10", "test", tmp_path)
    assert found.labels.tolist() == [3, 9, 0] and found.class_names == CLASSES
    np.testing.assert_array_equal(
        np.round(found.images * 255), planes.transpose(0, 2, 3, 1)
    )
    with pytest.raises(InputError, match="no cifar10 train split: no data_batch_1.bin"):
        load_dataset("cifar10", "train", tmp_path)
    (folder / "test_batch.bin").write_bytes(data.tobytes()[:-1])
    with pytest.raises(InputError, match="which is no number of CIFAR-10 images"):
        load_dataset("cifar10", "test", tmp_path)
    data[0, 0] = 10
    (folder / "test_batch.bin").write_bytes(data.tobytes())
    with pytest.raises(InputError, match="a label above 9"):
        load_dataset("cifar10", "test", tmp_path)
