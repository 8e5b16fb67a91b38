import cv2
import numpy as np
import pytest

from modeling_unet import UNetImageProcessor
from train.data import synthesis
from train.data.synthesis import (
    Axis,
    Donors,
    Synthesis,
    Synthesizer,
    darken,
    find_axis,
    head,
    mirror_region,
    paste,
    read_brains,
    read_canvases,
    strip,
)


PROBABILITIES = (
    *("canvas_probability", "mirror_probability", "paste_probability", "cover_probability"),
    *("dark_probability", "strip_probability"),
)
NOTHING = dict.fromkeys(PROBABILITIES, 0.0)
SIDE = 128
BACKGROUND, TISSUE, TUMOR = -1.0, 0.5, 2.0


def head_with_tumor(center: tuple[int, int] = (40, 70), angle: float = 0.0, shift: int = 0):
    """A head with two eyes, symmetric but for a round tumour; turned by `angle` degrees and shifted to the right."""
    image = np.full((SIDE, SIDE), BACKGROUND, np.float32)
    cv2.ellipse(image, (64, 64), (45, 55), 0, 0, 360, TISSUE, -1)
    for x in (46, 82):
        cv2.circle(image, (x, 34), 7, 1.2, -1)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(labels, center, 9, 1, -1)
    image[labels == 1] = TUMOR
    matrix = cv2.getRotationMatrix2D((63.5, 63.5), angle, 1)
    matrix[0, 2] += shift
    turned = cv2.warpAffine(image, matrix, (SIDE, SIDE), borderValue=BACKGROUND)
    return turned, cv2.warpAffine(labels, matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Symmetry


def test_a_reflection_undoes_itself_and_keeps_the_line():
    axis = Axis(angle=12.0, offset=5.0, symmetry=1.0)
    linear, shift = np.split(axis.reflection(SIDE), [2], axis=1)
    np.testing.assert_allclose(linear @ linear, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(linear @ shift + shift, 0, atol=1e-9)
    normal = np.array([np.cos(np.deg2rad(12)), np.sin(np.deg2rad(12))])
    on_the_line = 63.5 + 5 * normal
    np.testing.assert_allclose(linear @ on_the_line + shift[:, 0], on_the_line)


@pytest.mark.parametrize(("angle", "shift"), [(0, 0), (8, 6), (-11, -9)])
def test_the_axis_of_a_turned_head_is_found(angle, shift):
    axis = find_axis(*head_with_tumor(angle=angle, shift=shift))
    assert axis.symmetry > 0.95
    # OpenCV turns counter-clockwise for positive angles, in coordinates whose y points down.
    assert axis.angle == pytest.approx(-angle, abs=2)
    assert axis.offset == pytest.approx(shift * np.cos(np.deg2rad(angle)), abs=2)


def test_a_tumor_is_taken_out():
    image, labels = head_with_tumor()
    healthy, nothing = mirror_region(image, labels, find_axis(image, labels), take_out=True)
    assert not nothing.any()
    assert np.abs(healthy[labels == 1] - TISSUE).max() < 0.05
    assert image[labels == 1].min() == TUMOR  # what came in is left alone


def test_a_tumor_is_copied_to_the_other_side():
    image, labels = head_with_tumor()
    both, two = mirror_region(image, labels, find_axis(image, labels), take_out=False)
    assert two.sum() == pytest.approx(2 * labels.sum(), rel=0.05)
    assert np.median(both[two == 1]) == pytest.approx(TUMOR)
    assert (two[labels == 1] == 1).all()


@pytest.mark.parametrize(
    ("center", "symmetry"), [((64, 70), 1.0), ((40, 70), 0.2)], ids=["in the middle", "no symmetric slice"]
)
def test_where_the_other_half_cannot_stand_in_nothing_happens(center, symmetry):
    image, labels = head_with_tumor(center)
    for take_out in (True, False):
        same, still = mirror_region(image, labels, Axis(0, 0.5, symmetry), take_out)
        assert same is image and still is labels


# Pasting


def test_a_pasted_lesion_lies_inside_the_head_and_is_labelled(rng):
    canvas, _ = head_with_tumor()
    canvas = np.where(canvas == TUMOR, np.float32(TISSUE), canvas)
    source, lesion = head_with_tumor()
    inside = head(canvas)
    for _ in range(20):
        image, labels = paste(canvas, np.zeros_like(lesion), source, lesion, rng)
        assert image.dtype == np.float32 and image.min() >= canvas.min()
        assert labels.any() and not labels[~inside].any()
        np.testing.assert_array_equal(image[~inside], canvas[~inside])
        assert np.median(image[labels == 1]) > TISSUE + 0.3
        far = cv2.dilate(labels, np.ones((21, 21))) == 0
        np.testing.assert_array_equal(image[far], canvas[far])


def test_labels_of_padding_and_of_other_tumors_survive(rng):
    image, labels = head_with_tumor()
    labels[:4] = 255
    for _ in range(20):
        _, pasted = paste(image, labels, image, (labels == 1).astype(np.uint8), rng)
        assert (pasted[:4] == 255).all() and (pasted[labels == 1] == 1).all()


def test_what_healthy_tissue_covers_is_no_tumor_any_more(rng):
    image, tumor = head_with_tumor()
    canvas = np.where(image == TUMOR, np.float32(TISSUE), image)
    covered = 0
    for _ in range(50):
        made, labels = paste(image, tumor, canvas, tumor, rng, label=0)
        gone = (tumor == 1) & (labels == 0)
        assert not (labels[tumor == 0]).any() and made[gone].max(initial=0) < (TISSUE + TUMOR) / 2
        covered += gone.sum()
    assert covered > 0


def test_nothing_is_pasted_into_an_empty_slice(rng):
    image, lesion = head_with_tumor()
    black = np.zeros_like(image)
    same, labels = paste(black, np.zeros_like(lesion), image, lesion, rng)
    assert same is black and not labels.any()


# Together


def synthesizer(**options) -> Synthesizer:
    slices = []
    for center in ((40, 70), (88, 70), (64, 100)):
        image, labels = head_with_tumor(center)
        slices.append({"pixel_values": image[None], "labels": labels})
    axes = [find_axis(sample["pixel_values"][0], sample["labels"]) for sample in slices]
    canvas = np.where(slices[0]["labels"] == 1, np.float32(TISSUE), slices[0]["pixel_values"][0])
    canvases = [canvas] if options.get("canvas_probability") else []
    return Synthesizer(slices, axes, ["a", "b", "c"], Synthesis(**NOTHING | options), canvases)


def drawn(made: Synthesizer, index: int = 0, count: int = 200):
    return [made(index, np.random.default_rng(seed)) for seed in range(count)]


def test_without_any_probability_slices_are_as_they_are():
    made = synthesizer()
    for image, labels in drawn(made, count=5):
        np.testing.assert_array_equal(image, made.slices[0]["pixel_values"])
        np.testing.assert_array_equal(labels, made.slices[0]["labels"])


def test_half_of_the_canvases_get_a_lesion_and_the_others_the_same_seam():
    """Else a network could tell a healthy person by the scanner together with a missing seam."""
    made = synthesizer(canvas_probability=1.0)
    samples = drawn(made)
    assert 0.4 < sum(labels.any() for _, labels in samples) / len(samples) < 0.6
    for has_lesion in (True, False):
        of_kind = [image for image, labels in samples if labels.any() == has_lesion]
        assert np.mean([np.array_equal(image[0], made.canvases[0]) for image in of_kind]) < 0.2


def test_tumors_are_taken_out_as_often_as_copied(monkeypatch):
    made = synthesizer(mirror_probability=1.0)
    monkeypatch.setattr(made, "_paste", lambda image, labels, *_, **__: (image, labels))
    area = int(made.slices[0]["labels"].sum())
    samples = [int(labels.sum()) for _, labels in drawn(made)]
    assert 0.4 < sum(value == 0 for value in samples) / len(samples) < 0.6
    assert all(value == 0 or value == pytest.approx(2 * area, rel=0.05) for value in samples)


@pytest.mark.parametrize("kind", ["canvas_probability", "mirror_probability"])
def test_everything_made_is_pasted_onto_whether_it_has_a_tumor_or_not(kind, monkeypatch):
    """Else the number of seams would tell a slice whose tumour was taken out from one whose tumour was copied."""
    made, pasted = synthesizer(**{kind: 1.0}), []
    monkeypatch.setattr(
        made, "_paste", lambda image, labels, *_, healthy: pasted.append((labels.any(), healthy)) or (image, labels)
    )
    samples = drawn(made)
    assert len(pasted) == len(samples)
    for tumor in {tumor for tumor, _ in pasted}:
        assert 0.35 < np.mean([healthy for has_tumor, healthy in pasted if has_tumor == tumor]) < 0.65


def test_tumors_are_covered_as_often_as_places_beside_them(rng):
    """Else the seam of what covers would tell that there is no tumour."""
    made = synthesizer(cover_probability=1.0)
    for sample in made.slices:
        sample["pixel_values"] += rng.normal(0, 0.01, (SIDE, SIDE)).astype(np.float32)
    original, tumor = made.slices[0]["pixel_values"], made.slices[0]["labels"]
    samples = drawn(made)
    assert 0.4 < sum(not labels.any() for _, labels in samples) / len(samples) < 0.6
    for image, labels in samples:
        if labels.any():
            np.testing.assert_array_equal(labels, tumor)
            assert image[0][tumor == 1].min() > (TISSUE + TUMOR) / 2
        else:
            assert np.abs(image[0][tumor == 1] - TISSUE).max() < 0.1
    kept = [image for image, labels in samples if labels.any()]
    assert np.mean([np.array_equal(image, original) for image in kept]) < 0.3


def test_what_covers_shows_no_tumor_and_is_of_another_person():
    made = synthesizer(cover_probability=1.0)
    assert [set(made.donors.of(index)) for index in range(3)] == [{1, 2}, {0, 2}, {0, 1}]
    alone = Synthesizer(made.slices[:2], [], ["a", "a"], Synthesis(**NOTHING | {"cover_probability": 1.0}))
    assert all(labels.any() for _, labels in drawn(alone, count=10))


def test_of_many_slices_a_part_is_looked_at_and_donors_are_the_most_similar_of_it(monkeypatch):
    slices = [{"pixel_values": head_with_tumor((40 + 9 * n // 2, 70))[0][None]} for n in range(9)]
    person = np.array([*"aabbccdde"])
    monkeypatch.setattr(synthesis, "DONOR_POOL", 3)
    found = Donors(slices, person)
    assert [found.of(index).tolist() for index in range(9)] == [
        *([3, 6], [3, 6], [0, 6], [0, 6], [3, 6, 0], [6, 3, 0], [3, 0], [3, 0], [6, 3, 0])
    ]
    monkeypatch.undo()
    whole = Donors(slices, person)
    assert sorted(whole.of(0)) == [2, 3, 4, 5, 6, 7, 8] and np.array_equal(whole.boxes, found.boxes)


def test_another_person_is_drawn_as_if_from_a_list_of_the_others():
    person_id = [*"cabacbbacdb"]
    made = Synthesizer([{}] * 11, [], person_id, Synthesis(**NOTHING))
    for index, own in enumerate(person_id):
        others = [other for other, person in enumerate(person_id) if person != own]
        for seed in range(30):
            drawn, chosen = (np.random.default_rng(seed) for _ in range(2))
            assert made._of_another_person(index, drawn) == chosen.choice(others)


def test_donors_lie_over_the_head_that_they_cover():
    small, large = head_with_tumor(), head_with_tumor()
    small = [cv2.warpAffine(values, np.array([[0.7, 0, 30], [0, 0.6, 8.0]]), (SIDE, SIDE)) for values in small]
    small[0][small[0] == 0] = BACKGROUND
    slices = [{"pixel_values": image[None], "labels": labels} for image, labels in (small, large)]
    matrix = Donors(slices, np.array(["a", "b"])).overlay(0, 1)
    laid = cv2.warpAffine(head(small[0]).astype(np.uint8), matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    both = laid.astype(bool) & head(large[0])
    assert 2 * both.sum() / (laid.sum() + head(large[0]).sum()) > 0.95


# Darkening


def test_a_dark_tumor_is_darker_and_smoother_within_its_edge(rng):
    image, labels = head_with_tumor()
    image += rng.normal(0, 0.1, image.shape).astype(np.float32)
    region = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(region, (80, 75), 12, 1, -1)
    made, labelled = darken(image, labels, region, rng)
    inner, outer = (cv2.erode(region, np.ones((9, 9))) == 1, cv2.dilate(region, np.ones((17, 17))) == 0)
    assert made[inner].mean() < image[inner].mean() - 0.1
    assert made[inner].std() < image[inner].std()
    np.testing.assert_allclose(made[outer], image[outer], atol=1e-3)
    assert made.min() >= image.min() and made.dtype == np.float32
    np.testing.assert_array_equal(labelled == 1, (labels == 1) | (region == 1))


def test_what_is_not_looked_at_is_not_labelled_as_a_dark_tumor(rng):
    image, labels = head_with_tumor()
    labels[70:90] = 255
    region = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(region, (80, 75), 12, 1, -1)
    _, labelled = darken(image, labels, region, rng)
    np.testing.assert_array_equal(labelled == 255, labels == 255)


def test_dark_tumors_lie_in_the_head_where_others_have_theirs_and_the_first_one_stays():
    made = synthesizer(dark_probability=1.0)
    tumors = [sample["labels"] == 1 for sample in made.slices]
    for image, labels in drawn(made, count=20):
        extra = (labels == 1) & ~tumors[0]
        assert (labels == 1)[tumors[0]].all()
        assert not extra[~head(made.slices[0]["pixel_values"][0])].any()
        assert not extra.any() or image[0][extra].mean() < TISSUE


def brain() -> np.ndarray:
    """The inner part of the head, uint8 [S, S]."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (64, 64), (35, 45), 0, 0, 360, 1, -1)
    return mask


def test_outside_the_brain_all_is_black_and_inside_only_the_scale_of_grey_values_changes(rng):
    image, labels = head_with_tumor()
    image += rng.normal(0, 0.1, image.shape).astype(np.float32)
    inner, outer = cv2.erode(brain(), np.ones((9, 9))) == 1, cv2.dilate(brain(), np.ones((9, 9))) == 0
    stripped, labelled = strip(image, labels, brain(), rng)
    assert (stripped[outer] == stripped.min()).all() and stripped.dtype == np.float32
    assert np.corrcoef(stripped[inner], image[inner])[0, 1] > 0.9999
    assert not labelled[outer].any()
    np.testing.assert_array_equal(labelled[inner], labels[inner])


def test_a_slice_without_brain_keeps_its_skull(rng):
    image, labels = head_with_tumor()
    for mask in (np.zeros_like(labels), cv2.circle(np.zeros_like(labels), (64, 64), 8, 1, -1)):
        np.testing.assert_array_equal(strip(image, labels, mask, rng)[0], image)


def test_slices_and_canvases_are_stripped_by_their_own_masks():
    slices = synthesizer().slices
    canvas = head_with_tumor()[0]
    nothing = np.zeros((SIDE, SIDE), np.uint8)
    options = Synthesis(**NOTHING | {"canvas_probability": 0.5, "strip_probability": 1.0}, brain_masks="masks")
    brains = [nothing] * len(slices) + [brain()]
    made = Synthesizer(slices, [], ["a", "b", "c"], options, [canvas], brains)
    plain = slices[0]["pixel_values"]
    for image, _ in drawn(made, count=20):
        is_slice = np.array_equal(image, plain)
        assert is_slice or (image[0][cv2.dilate(brain(), np.ones((9, 9))) == 0] == image.min()).all()


def test_masks_of_the_brain_are_found_by_name(tmp_path):
    cv2.imwrite(str(tmp_path / "7.png"), 255 * cv2.resize(brain(), (64, 64), interpolation=cv2.INTER_NEAREST))
    (first, second), digest = read_brains(str(tmp_path), ["7", "8"], SIDE)
    assert first.shape == (SIDE, SIDE) and (first == brain()).mean() > 0.95
    assert not second.any()
    cv2.imwrite(str(tmp_path / "8.png"), 255 * brain())
    assert read_brains(str(tmp_path), ["7", "8"], SIDE)[1] != digest


def test_masks_of_other_slices_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "7.png"), brain())
    with pytest.raises(ValueError, match=r"holds no image that is named like a slice, for example 8.png"):
        read_brains(str(tmp_path), ["8"], SIDE)


def test_stripping_needs_masks():
    with pytest.raises(ValueError, match=r"--strip_probability is 0\.5; it needs --brain_masks FOLDER"):
        Synthesis(**NOTHING | {"strip_probability": 0.5})


def test_a_sample_follows_from_its_random_numbers():
    made = synthesizer(canvas_probability=0.3, mirror_probability=0.5, paste_probability=0.5, cover_probability=0.3)
    for first, second in zip(drawn(made, count=30), drawn(made, count=30), strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    assert len({image.tobytes() for image, _ in drawn(made, count=30)}) > 10


def test_nobody_gets_a_lesion_of_their_own(rng):
    made = synthesizer()
    made = Synthesizer(made.slices, made.axes, [*"aac"], made.options)
    assert {made._of_another_person(0, rng) for _ in range(20)} == {2}


def test_one_person_alone_has_to_do(rng):
    made = synthesizer(paste_probability=1.0)
    made = Synthesizer(made.slices, made.axes, [*"aaa"], made.options)
    assert all(labels.any() for _, labels in drawn(made, count=10))


def test_canvases_are_prepared_like_slices(tmp_path):
    cv2.imwrite(str(tmp_path / "healthy.png"), np.random.default_rng(0).integers(0, 255, (50, 40), dtype=np.uint8))
    processor = UNetImageProcessor(size={"longest_edge": 32})
    canvases, digest = read_canvases(str(tmp_path), processor)
    canvas = canvases["healthy.png"]
    assert canvas.shape == (32, 32) and canvas.dtype == np.float32
    np.testing.assert_array_equal(
        canvas, processor(tmp_path / "healthy.png", return_tensors="np")["pixel_values"][0, 0]
    )
    assert read_canvases(str(tmp_path), UNetImageProcessor())[1] == digest  # of the pixels, however they are prepared
    cv2.imwrite(str(tmp_path / "healthy.png"), np.random.default_rng(1).integers(0, 255, (50, 40), dtype=np.uint8))
    assert read_canvases(str(tmp_path), processor)[1] != digest


def test_a_folder_without_canvases_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--canvases .* holds no images"):
        read_canvases(str(tmp_path), UNetImageProcessor())


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_are_checked(name):
    with pytest.raises(ValueError, match=f"--{name} is 1.5; it must be from 0 to 1"):
        Synthesis(**NOTHING | {name: 1.5})
