import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from augmentations import augmentation
from PIL import Image
from slices import write_data_set, write_persons
from torch.utils.data import DataLoader

from modeling_unet import UNetImageProcessor, read_mask
from train.__main__ import main
from train.data import cache
from train.data.cache import Held, pack, unpack
from train.data.raw import DataError, as_file
from train.data.slices import (
    AugmentedSlices,
    DataArguments,
    find_axes,
    load_slices,
    mask_hash,
    prepare_slices,
    scan_slices,
)
from train.data.synthesis import find_axis


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path / "data")


def load(folder, **options):
    return load_slices(DataArguments(str(folder), **options))


def darken(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), image // 2 + 20)


def problems(folder, **options) -> list[tuple[str, str, str]]:
    return [
        (row["slice"], row["problem_kind"], row["problem"]) for row in scan_slices(folder, **options) if row["problem"]
    ]


# The scan


def test_the_scan_writes_down_what_there_is_to_know(folder):
    mask = read_mask(folder / "masks" / "2.png")
    row = scan_slices(folder)[1]
    assert row["slice"] == "2" and row["image"] == {"path": str(folder / "images" / "2.png"), "bytes": None}
    assert (row["height"], row["width"], row["dtype"], row["mask_area"]) == (64, 64, "uint8", mask.sum())
    assert row["mask_sha256"] == mask_hash(mask)
    np.testing.assert_array_equal(read_mask(as_file(row["mask"])), mask)
    thumbnail = np.frombuffer(row["thumbnail"], np.uint8)
    assert thumbnail.shape == (32 * 32,) and thumbnail.min() == 0 and thumbnail.max() == 255


def test_slices_come_in_natural_order(folder):
    assert scan_slices(folder)["slice"] == [str(number) for number in range(1, 13)]


def test_masks_are_kept_as_bits_of_any_format(folder):
    bits = read_mask(folder / "masks" / "2.png")
    Image.fromarray(bits).save(folder / "masks" / "2.tif")
    (folder / "masks" / "2.png").unlink()
    picture = Image.open(as_file(scan_slices(folder)[1]["mask"]))
    assert picture.format == "PNG" and picture.mode == "1"
    np.testing.assert_array_equal(np.asarray(picture), bits)


def test_image_hashes_see_pixels_and_not_the_format(folder):
    pixels = cv2.imread(str(folder / "images" / "2.png"), cv2.IMREAD_UNCHANGED)
    before = scan_slices(folder)["image_sha256"]
    Image.fromarray(pixels).convert("RGB").save(folder / "images" / "2.png")
    assert scan_slices(folder)["image_sha256"] == before
    pixels[3, 4] += 1
    cv2.imwrite(str(folder / "images" / "2.png"), pixels)
    assert [old == new for old, new in zip(before, scan_slices(folder)["image_sha256"], strict=True)].count(False) == 1


def test_a_file_is_read_once_and_again_when_it_changes(folder):
    first = scan_slices(folder)
    assert scan_slices(folder).cache_files == first.cache_files
    darken(folder / "images" / "2.png")
    assert scan_slices(folder)[1]["image_sha256"] != first[1]["image_sha256"]


def test_mask_hash_sees_pixels_and_size_but_not_the_format(tmp_path):
    mask = np.zeros((16, 24), bool)
    mask[3, 5] = True
    assert mask_hash(mask) != mask_hash(mask.T)
    assert mask_hash(mask) != mask_hash(np.roll(mask, 1))
    assert mask_hash(mask) == "b0a0415ac910d24b"


def test_every_slice_that_cannot_be_used_is_named_and_the_others_are_read(folder):
    (folder / "images" / "3.png").unlink()
    (folder / "images" / "4.png").write_bytes(b"not an image")
    (folder / "images" / "5.png").write_bytes((folder / "images" / "5.png").read_bytes()[:-400])
    cv2.imwrite(str(folder / "masks" / "7.png"), np.zeros((64, 48), np.uint8))
    cv2.imwrite(str(folder / "masks" / "8.png"), np.full((64, 64), 7, np.uint8))
    shutil.copy(folder / "images" / "9.png", folder / "images" / "9.jpg")
    found = problems(folder)
    assert [(name, kind) for name, kind, _ in found] == [
        ("3", "unpaired"),
        ("4", "unreadable"),
        ("5", "unreadable"),
        ("7", "size mismatch"),
        ("8", "not binary"),
        ("9", "repeated stem"),
    ]
    sentences = {name: sentence for name, _, sentence in found}
    assert "3.png" in sentences["3"] and "4.png" in sentences["4"] and "truncated" in sentences["5"]
    assert "48 × 64 pixels and its image 64 × 64" in sentences["7"]
    assert "(7); allowed are 0/1, 0/255" in sentences["8"]
    assert len(scan_slices(folder)) == 12


LABELS = np.array([0, 1, 2, 4])


def test_labels_that_a_threshold_leaves_out_are_named(folder):
    for name, values in (("3", LABELS), ("4", 60 * LABELS)):
        mask = np.zeros((64, 64), np.uint8)
        mask[20:24, 20:24] = np.uint8(values)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
    cv2.imwrite(str(folder / "masks" / "5.png"), (mask > 0).astype(np.uint8))
    rows = {row["slice"]: row["labels_left_out"] for row in scan_slices(folder, mask_threshold=127)}
    assert {name: labels for name, labels in rows.items() if labels} == {"3": "1, 2, 4", "4": "60, 120", "5": "all"}


# Loading


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".bmp", ".PNG"])
def test_images_may_be_of_another_format_than_masks(tmp_path, suffix):
    assert len(load(write_data_set(tmp_path / "data", 6, suffix=suffix))) == 6


def test_what_would_poison_a_training_is_refused_by_name(folder):
    cv2.imwrite(str(folder / "masks" / "7.png"), np.zeros((64, 48), np.uint8))
    with pytest.raises(DataError, match=r"48 × 64 pixels"):
        load(folder)


def test_several_sequences_in_one_picture_are_refused_by_name(folder):
    """T1, T1 with contrast and FLAIR, say: the network would see their average."""
    image = cv2.imread(str(folder / "images" / "7.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(folder / "images" / "7.png"), cv2.merge([image, image // 2, 255 - image]))
    with pytest.raises(DataError, match=r"coloured images: .*: 7\. Save the sequence that you mean in grey"):
        load(folder)
    cv2.imwrite(str(folder / "images" / "7.png"), cv2.merge([image, image, image]))
    assert len(load(folder)) == 12


def test_a_slice_of_two_persons_is_refused(folder, tmp_path):
    shutil.copy(folder / "images" / "1.png", folder / "images" / "2.png")
    shutil.copy(folder / "masks" / "1.png", folder / "masks" / "2.png")
    persons = str(write_persons(tmp_path / "persons.csv", [f"p{number}" for number in range(12)]))
    with pytest.raises(DataError, match=r"1.*2"):
        load(folder, persons=persons)


def test_every_slice_gets_its_person_and_fold(folder, tmp_path):
    persons = str(write_persons(tmp_path / "persons.csv", [f"{number // 2:02}" for number in range(12)]))
    slices = load(folder, persons=persons, num_folds=3)
    assert slices["person_id"][:3] == ["00", "00", "01"]
    assert set(slices["fold"]) == {0, 1, 2} and set(slices["tumor_type"]) == {"unknown"}


# What the Trainer reads


@pytest.fixture
def prepared(folder):
    return prepare_slices(load(folder), UNetImageProcessor(size={"longest_edge": 32}))


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """Prepared slices for the tests that leave files and cache alone."""
    folder = write_data_set(tmp_path_factory.mktemp("read_only") / "data")
    return prepare_slices(load(folder), UNetImageProcessor(size={"longest_edge": 32}))


def test_prepared_slices_are_what_the_processor_gives(folder, prepared):
    expected = UNetImageProcessor(size={"longest_edge": 32})(
        folder / "images" / "2.png", segmentation_maps=folder / "masks" / "2.png", return_tensors="np"
    )
    values = expected["pixel_values"][0]
    half_a_step = (values.max() - values.min()) / 65535 / 2
    np.testing.assert_allclose(prepared[1]["pixel_values"], values, rtol=1e-6, atol=half_a_step)
    np.testing.assert_array_equal(prepared[1]["labels"], expected["labels"][0])
    assert prepared[1]["pixel_values"].dtype == np.float32


def test_every_grey_of_8_bits_is_kept_apart_and_labels_are_kept_as_they_are():
    greys = np.arange(256, dtype=np.float32).reshape(1, 16, 16)
    for values in (greys, (greys - 53.7) / 31.3, greys * 0, np.concatenate([greys, -greys])):
        labels = np.array([[0, 1], [255, 7]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        (kept,), (masks,) = unpack({name: [value] for name, value in pack(values, labels).items()}).values()
        assert kept.dtype == np.float32 and kept.shape == values.shape
        np.testing.assert_allclose(kept, values, rtol=1e-6, atol=np.ptp(values) / 65535 / 2)
        assert len(np.unique(kept)) == len(np.unique(values))
        np.testing.assert_array_equal(masks, labels)


def test_slices_held_in_memory_are_the_same_and_nobody_changes_them(read_only):
    held = Held(read_only)
    assert len(held) == len(read_only)
    for index in range(len(held)):
        for name, values in read_only[index].items():
            np.testing.assert_array_equal(held[index][name], values)
            assert held[index][name].dtype == values.dtype
    held[0]["labels"][:] = 7
    np.testing.assert_array_equal(held[0]["labels"], read_only[0]["labels"])
    found, expected = (AugmentedSlices(slices, augmentation(), seed=5)[1] for slices in (held, read_only))
    np.testing.assert_array_equal(found["pixel_values"], expected["pixel_values"])


def test_processes_prepare_the_same_and_share_the_cache(folder, read_only):
    processor, slices = UNetImageProcessor(size={"longest_edge": 48}), load(folder)
    by_two = prepare_slices(slices, processor, num_proc=2)
    assert len(by_two.cache_files) == 2
    alone = prepare_slices(slices, processor)
    assert alone.cache_files == by_two.cache_files
    expected = UNetImageProcessor(size={"longest_edge": 48})(folder / "images" / "9.png", return_tensors="np")
    np.testing.assert_allclose(alone[8]["pixel_values"], expected["pixel_values"][0], atol=1e-3)


def test_lines_of_symmetry_are_those_of_the_prepared_slices(prepared):
    axes = find_axes(prepared)
    assert axes[3] == pytest.approx(find_axis(prepared[3]["pixel_values"][0], prepared[3]["labels"]))


def test_what_preparing_takes_is_said_before_and_only_once(folder, monkeypatch, caplog):
    monkeypatch.setattr(cache, "WORTH_SAYING", 12)
    processor, slices = UNetImageProcessor(size={"longest_edge": 40}), load(folder)
    with caplog.at_level(logging.INFO, logger="train"):
        prepare_slices(slices, processor)
        prepare_slices(slices, processor)
    (said,) = [message for message in caplog.messages if message.startswith("Preparing")]
    assert re.fullmatch(r"Preparing 12 slices, once: \S+ GB in the cache of Datasets .*, about 1 s, less with .*", said)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["check"], r"Reading 12 slices, once: \S+ GB in the cache of Datasets \(.*\), about 1 s\."),
        (["prepare", "--out", "copy"], r"Writing 12 slices: \S+ GB in \S+, about 1 s\."),
    ],
)
def test_what_a_command_takes_is_said_before(command, said, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "WORTH_SAYING", 12)
    monkeypatch.chdir(tmp_path)
    folder = write_data_set(tmp_path / "data", count=12)
    with caplog.at_level(logging.INFO, logger="train"):
        main([command[0], str(folder), *command[1:]])
    assert any(re.fullmatch(said, message) for message in caplog.messages)


def test_a_disk_that_is_too_small_is_said_before_it_is_full(folder, monkeypatch):
    processor, slices = UNetImageProcessor(size={"longest_edge": 44}), load(folder)
    darken(folder / "images" / "2.png")  # which is not in the cache
    monkeypatch.setattr(cache, "WORTH_SAYING", 12)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(
        OSError, match=r"Preparing 12 slices takes .* GB, and the disk of .* has 1e-07 GB left; set HF_H"
    ):
        prepare_slices(slices, processor)
    with pytest.raises(
        OSError, match=r"^Reading 12 slices takes .* GB, and the disk of .* has 1e-07 GB left; set HF_H"
    ):
        load(folder)


def test_persons_that_are_not_there_are_said_before_anything_is_read(folder, capsys):
    assert main(["check", str(folder), "--persons", "gone.csv"]) == 1
    said = capsys.readouterr()
    assert said.err.endswith("error: --persons gone.csv is not there; give a CSV file.\n") and not said.out


def test_prepared_slices_are_cached_until_a_file_changes(folder, prepared):
    processor = UNetImageProcessor(size={"longest_edge": 32})
    assert prepare_slices(load(folder), processor).cache_files == prepared.cache_files
    darken(folder / "images" / "2.png")
    again = prepare_slices(load(folder), processor)
    assert again.cache_files != prepared.cache_files
    assert not np.array_equal(again[1]["pixel_values"], prepared[1]["pixel_values"])


def replace_file(path: Path, content: bytes) -> None:
    """As another file, or what has mapped the old one into memory would change with it."""
    path.unlink()
    path.write_bytes(content)


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [flip, lambda content: content[:-999], lambda content: b""], ids=["flip", "cut", "0"]
)
def test_a_damaged_cache_is_named_and_made_anew_when_its_folder_is_deleted(damage, folder, prepared):
    def once_more():
        return prepare_slices(load(folder), UNetImageProcessor(size={"longest_edge": 32}))

    for file in (scan_slices(folder).cache_files[0]["filename"], prepared.cache_files[0]["filename"]):
        path, whole = Path(file), Path(file).read_bytes()
        replace_file(path, damage(whole))
        with pytest.raises(DataError) as error:
            once_more()
        assert f"{path} is damaged: it is not what was written there. Delete the folder {path.parent};" in str(
            error.value
        )
        replace_file(path, whole)
        once_more()
    shutil.rmtree(path.parent)
    np.testing.assert_array_equal(once_more()[1]["pixel_values"], prepared[1]["pixel_values"])


def test_a_cache_of_an_older_version_is_sealed_when_it_is_read(folder, prepared):
    path = Path(prepared.cache_files[0]["filename"])
    seal = path.with_name(f"{path.name}.sha256")
    known = seal.read_text()
    seal.unlink()
    prepare_slices(load(folder), UNetImageProcessor(size={"longest_edge": 32}))
    assert seal.read_text() == known


@pytest.mark.slow
@pytest.mark.parametrize("workers", [{"num_workers": 0}, {"num_workers": 2}])
def test_augmentation_differs_in_every_epoch_sample_and_worker(read_only, workers):
    """Workers that share one random state have frozen the augmentation of others, at a cost of 0.03 Dice."""
    same_slice = read_only.select([0] * 8)
    slices = AugmentedSlices(same_slice, augmentation(), seed=5)
    seen = []
    for epoch in range(3):
        slices.set_epoch(epoch)
        batches = DataLoader(slices, batch_size=2, **workers)
        seen += [sample.numpy().tobytes() for batch in batches for sample in batch["pixel_values"]]
    assert len(set(seen)) == 3 * 8


@pytest.mark.slow
def test_workers_that_outlive_an_epoch_learn_of_the_next(read_only):
    slices = AugmentedSlices(read_only.select([0]), augmentation(affine_probability=1))
    loader = DataLoader(slices, num_workers=1, persistent_workers=True)
    first, second = (_only_sample(loader, slices, epoch) for epoch in range(2))
    assert not np.array_equal(first, second)


def _only_sample(loader: DataLoader, slices: AugmentedSlices, epoch: int) -> np.ndarray:
    slices.set_epoch(epoch)
    (batch,) = loader
    return batch["pixel_values"].numpy()


def test_labels_stay_small_integers(read_only):
    assert AugmentedSlices(read_only)[0]["labels"].dtype == np.uint8
    assert AugmentedSlices(read_only, augmentation())[0]["labels"].dtype == np.uint8


@pytest.mark.slow
def test_augmentation_is_repeatable_whatever_the_workers(read_only):
    slices = AugmentedSlices(read_only, augmentation(), seed=5)
    slices.set_epoch(2)
    alone = [slices[index]["pixel_values"] for index in range(len(slices))]
    loaded = [batch["pixel_values"][0].numpy() for batch in DataLoader(slices, num_workers=2)]
    np.testing.assert_array_equal(alone, loaded)


def test_validation_slices_are_not_augmented(read_only):
    np.testing.assert_array_equal(AugmentedSlices(read_only)[0]["pixel_values"], read_only[0]["pixel_values"])
