"""Heads in screenshots, borders, negatives and photographs: where they are found, and what comes back."""

import cv2
import numpy as np
import pytest
from slices import draw_slice
from tiny import tiny_config

from benchmarks.measuring import EXAMPLES
from benchmarks.perturbations import KINDS, Perturbed, perturb
from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor, read_image, read_mask
from modeling_unet.framing import HEAD_SHARE, SMALLEST_SHARE, Frame, find_frames, paste
from modeling_unet.segmentation import CUT_OUT, INVERTED, SEVERAL_CUT_OUT


IMAGES = {path.stem: read_image(path) for path in EXAMPLES}
MASKS = {path.stem: read_mask(path.parents[1] / "masks" / path.name) for path in EXAMPLES}
# One of each plane.
TRIED = ("glioma-sagittal-842", "meningioma-axial-7", "pituitary-coronal-1156")


def as_people_have_it(kind: str, name: str) -> Perturbed:
    others = [(image, MASKS[other]) for other, image in IMAGES.items() if other != name]
    return perturb(kind, IMAGES[name], MASKS[name], seed=sorted(IMAGES).index(name), others=others)


@pytest.fixture(scope="module")
def segmenter(shipped_weights) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(shipped_weights, device="cpu", optimize="none")


def tiny_segmenter(**options) -> TumorSegmenter:
    processor = UNetImageProcessor(size={"longest_edge": 32})
    return TumorSegmenter(UNetForSemanticSegmentation(tiny_config()), processor, device="cpu", **options)


def in_frame(image: np.ndarray, height: int, width: int, x: int, y: int) -> np.ndarray:
    """A slice at a place in a black picture."""
    picture = np.zeros((height, width), np.uint8)
    picture[y : y + image.shape[0], x : x + image.shape[1]] = image
    return picture


def covers(frame: Frame, perturbed: Perturbed, tolerance: float = 0.12) -> bool:
    """Whether a frame holds the head, and the head fills it as it should; or it is the slice itself."""
    x, y, w, h = cv2.boundingRect(perturbed.heads.astype(np.uint8))
    if frame.head is None:
        left, top, width, height = frame.box(*perturbed.picture.shape[:2])
        inside = left <= x and top <= y and x + w <= left + width and y + h <= top + height
        return inside and max(w, h) > SMALLEST_SHARE * max(width, height)
    middle = np.array([frame.x + frame.width / 2 - x - w / 2, frame.y + frame.width / 2 - y - h / 2])
    share = max(w, h) / frame.width
    return bool((abs(middle) < tolerance * max(w, h)).all() and abs(share - HEAD_SHARE) < tolerance)


class TestFrame:
    FRAME = Frame(x=-3, y=5, width=20, height=20, inverted=False, head=np.ones((1, 1), bool))

    def test_box_is_what_lies_in_the_picture(self):
        assert self.FRAME.box(40, 30) == (0, 5, 17, 20)
        assert self.FRAME.box(12, 10) == (0, 5, 10, 7)

    def test_paste_puts_every_pixel_back_where_it_was_cut(self):
        picture = np.random.default_rng(0).integers(1, 255, (40, 30)).astype(np.float32)
        picture[:, 0] = 0  # so that nothing has to be made black
        cut = self.FRAME.cut(picture)
        assert cut.shape == (20, 20) and not cut[:, :3].any()
        expected = np.zeros((40, 30), np.float32)
        expected[5:25, :17] = cut[:, 3:]
        assert np.array_equal(paste([self.FRAME], [cut], (40, 30)), expected)

    def test_where_frames_meet_the_higher_counts(self):
        other = Frame(x=10, y=0, width=20, height=20, inverted=False, head=self.FRAME.head)
        found = paste([self.FRAME, other], [np.full((20, 20), 0.25), np.full((20, 20), 0.75)], (40, 30))
        assert (found[10, 5], found[10, 12], found[3, 12], found[3, 5]) == (0.25, 0.75, 0.75, 0)

    def test_what_is_not_head_is_black_and_a_negative_is_turned(self):
        picture = np.full((40, 40), 250, np.uint8)
        picture[10:30, 10:30] = 50
        picture[2:4, 2:9] = 0  # a word
        head = np.zeros((40, 40), bool)
        head[8:32, 8:32] = True
        cut = Frame(x=0, y=0, width=40, height=40, inverted=True, head=head).cut(picture)
        assert np.array_equal(cut > 0, picture == 50) and cut[20, 20] == 200

    def test_a_rising_black_is_levelled(self):
        slope = np.linspace(20, 80, 100, dtype=np.float32)[None] + np.zeros((100, 1), np.float32)
        head = np.zeros((100, 100), bool)
        head[30:70, 30:70] = True
        cut = Frame(x=0, y=0, width=100, height=100, inverted=False, head=head).cut(slope + 100 * head)
        assert np.allclose(cut[head], 100, atol=0.1) and not cut[~head].any()


class TestFinding:
    @pytest.mark.parametrize("name", IMAGES)
    def test_a_slice_as_in_the_training_data_stays_as_it_is(self, name):
        assert find_frames(IMAGES[name]) == []
        assert find_frames(IMAGES[name].astype(np.uint16) * 200) == []
        assert find_frames(np.dstack([IMAGES[name]] * 3)) == []

    @pytest.mark.parametrize("place", [(0, 0), (700, 30), (512, 301)])
    def test_place_and_size(self, place):
        image = IMAGES["meningioma-axial-7"]
        (frame,) = find_frames(in_frame(image, 1100, 1300, *place))
        x, y, w, h = cv2.boundingRect((image > 20).astype(np.uint8))
        assert abs(frame.x + frame.width / 2 - place[0] - x - w / 2) < 12
        assert abs(frame.y + frame.width / 2 - place[1] - y - h / 2) < 12
        assert abs(frame.width - max(w, h) / HEAD_SHARE) < 24 and not frame.inverted

    @pytest.mark.parametrize("page", [20, 128, 255])
    @pytest.mark.parametrize(("height", "place"), [(512, (0, 0)), (390, (411, 77)), (390, (588, 710))])
    def test_a_slice_on_a_page_keeps_its_own_rectangle(self, page, height, place):
        image = IMAGES["meningioma-axial-7"][:height]
        picture = np.full((1100, 1100), page, np.uint8)
        picture[place[1] : place[1] + height, place[0] : place[0] + 512] = image
        (frame,) = find_frames(picture)
        assert frame.box(1100, 1100) == (*place, 512, height) and not frame.inverted
        assert np.array_equal(frame.cut(picture), image)

    @pytest.mark.parametrize("place", [(300, 100), (700, 560)])
    def test_a_negative_on_a_page_keeps_its_own_rectangle(self, place):
        image, (x, y) = IMAGES["meningioma-axial-7"], place
        picture = np.full((1100, 1300), 90, np.uint8)
        picture[y : y + 512, x : x + 512] = 255 - image
        (frame,) = find_frames(picture)
        assert frame.inverted and frame.box(1100, 1300) == (*place, 512, 512)
        assert np.array_equal(frame.cut(picture) > 200, image > 200)

    def test_among_buttons_a_rectangle_is_no_slice(self):
        picture = np.full((1000, 1200), 90, np.uint8)
        picture[200:712, 400:912] = IMAGES["meningioma-axial-7"]
        assert [frame.head for frame in find_frames(picture)] == [None]
        for top in range(20, 980, 60):
            picture[top : top + 40, 20:120] = 180
        assert not [frame for frame in find_frames(picture) if frame.head is None]

    def test_the_rectangle_on_a_page_as_jpeg(self):
        picture = np.full((900, 1000, 3), 255, np.uint8)
        picture[100:612, 300:812] = IMAGES["meningioma-axial-7"][..., None]
        _, content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
        (frame,) = find_frames(cv2.imdecode(content, cv2.IMREAD_COLOR))
        assert np.abs(np.subtract(frame.box(900, 1000), (300, 100, 512, 512))).max() <= 1

    def test_slices_side_by_side_keep_their_rectangles(self):
        picture = np.full((420, 1300), 60, np.uint8)
        for left, name in zip((20, 440, 860), sorted(IMAGES), strict=False):
            picture[10:410, left : left + 400] = cv2.resize(IMAGES[name], (400, 400), interpolation=cv2.INTER_AREA)
        boxes = sorted(frame.box(*picture.shape) for frame in find_frames(picture))
        assert boxes == [(20, 10, 400, 400), (440, 10, 400, 400), (860, 10, 400, 400)]

    def test_a_slice_without_black_is_made_one(self):
        """Signed values that were saved as unsigned ones, such as those of a raw export."""
        image = IMAGES["meningioma-axial-7"]
        raised = image.astype(np.uint16) * 3 + 32768
        (frame,) = find_frames(raised)
        assert frame.box(512, 512) == (0, 0, 512, 512) and not frame.inverted
        assert np.array_equal(frame.cut(raised), 3.0 * np.maximum(image - np.percentile(image, 2), 0))

    @pytest.mark.parametrize(
        "kind", sorted({*KINDS} - {"plain", "text", "montage", "inverted", "uneven black", "film"})
    )
    @pytest.mark.parametrize("name", TRIED)
    def test_the_head_is_found_in_every_kind_of_picture(self, kind, name):
        perturbed = as_people_have_it(kind, name)
        (frame,) = find_frames(perturbed.picture)
        assert frame.inverted == (kind == "inverted page") and covers(frame, perturbed)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["glioma-axial-726", "glioma-coronal-2248", "meningioma-axial-7"])
    def test_the_head_is_found_on_a_photograph_of_a_film(self, name):
        perturbed = as_people_have_it("film", name)
        (frame,) = find_frames(perturbed.picture)
        assert not frame.inverted and covers(frame, perturbed, tolerance=0.15)

    def test_each_head_of_a_montage(self):
        tiles = [cv2.resize(IMAGES[name], (256, 256), interpolation=cv2.INTER_AREA) for name in sorted(IMAGES)[:4]]
        frames = find_frames(np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])]))
        middles = {((frame.x + frame.width // 2) // 256, (frame.y + frame.width // 2) // 256) for frame in frames}
        assert len(frames) == 4 and middles == {(0, 0), (1, 0), (0, 1), (1, 1)}

    def test_nothing_is_cut_out_where_there_is_no_head(self):
        noise = np.random.default_rng(0).integers(0, 255, (300, 400), dtype=np.uint8)
        page = np.full((600, 800, 3), 240, np.uint8)
        cv2.putText(page, "no slice at all", (60, 300), cv2.FONT_HERSHEY_SIMPLEX, 2, (0, 0, 0), 3)
        pictures = [noise, page, np.zeros((512, 512), np.uint8), np.full((512, 512), 255, np.uint8), np.eye(512)]
        assert [find_frames(picture) for picture in pictures] == [[]] * len(pictures)

    @pytest.mark.parametrize("shape", [(1, 1), (16, 16), (1, 900), (17, 4000), (37, 37), (301, 299, 3)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
    def test_any_size_and_type(self, shape, dtype):
        picture = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
        for frame in find_frames(picture):
            assert frame.cut(picture).shape == (frame.height, frame.width)


class TestSegmenter:
    def test_without_framing_nothing_is_cut(self):
        image, _ = draw_slice(np.random.default_rng(0), 128)
        picture = in_frame(image, 400, 500, 40, 200)
        auto, none = tiny_segmenter(), tiny_segmenter(framing="none")
        assert none(picture).frames == () and none(picture).warnings == ()
        (whole,) = auto.batch([picture], framing="none")
        assert whole.frames == ()
        segmentation = auto(picture)
        ((x, y, w, h),) = segmentation.frames
        assert segmentation.warnings == (CUT_OUT,) and segmentation.probability.shape == picture.shape
        outside = segmentation.probability.copy()
        outside[y : y + h, x : x + w] = 0
        assert not outside.any() and 40 <= x < 80 and 200 <= y < 240

    def test_another_framing_is_refused(self):
        with pytest.raises(ValueError, match="framing is 'cut'; allowed are auto, none"):
            tiny_segmenter(framing="cut")

    def test_a_batch_of_all_kinds_is_what_each_is_alone(self):
        image, _ = draw_slice(np.random.default_rng(0), 128)
        montage = np.hstack([image, image[::-1], image[:, ::-1]])
        pictures = [image, in_frame(image, 300, 500, 0, 0), 255 - image, montage]
        segmenter = tiny_segmenter()
        together, alone = list(segmenter.batch(pictures)), [segmenter(picture) for picture in pictures]
        for one, other in zip(together, alone, strict=True):
            assert one.frames == other.frames and np.allclose(one.probability, other.probability, atol=1e-5)
        assert [one.warnings for one in together] == [(), (CUT_OUT,), (INVERTED,), (SEVERAL_CUT_OUT.format(count=3),)]

    def test_colours_outside_the_frame_are_no_colours_of_the_slice(self):
        image, _ = draw_slice(np.random.default_rng(0), 128)
        picture = np.dstack([in_frame(image, 400, 500, 40, 200)] * 3)
        picture[:60, :, 0] = 200
        assert tiny_segmenter()(picture).warnings == (CUT_OUT,)

    def test_a_slice_on_a_page_gives_what_it_gives_alone(self):
        image, _ = draw_slice(np.random.default_rng(0), 128)
        picture = np.full((300, 400), 77, np.uint8)
        picture[90:218, 33:161] = image
        segmenter = tiny_segmenter()
        plain, framed = segmenter(image), segmenter(picture)
        assert plain.frames == () and framed.frames == ((33, 90, 128, 128),)
        assert np.array_equal(plain.probability, framed.probability[90:218, 33:161])

    @pytest.mark.parametrize("name", TRIED)
    def test_a_negative_gives_the_mask_of_the_slice(self, name, segmenter):
        plain, inverted = segmenter(IMAGES[name]), segmenter(255 - IMAGES[name])
        assert inverted.inverted and plain.dice(inverted.mask) > 0.98

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "least"),
        [("border", 0.8), ("wide", 0.8), ("third", 0.8), ("screenshot", 0.8), ("uneven black", 0.8)],
    )
    def test_the_mask_is_kept(self, kind, least, segmenter):
        pictures = [as_people_have_it(kind, name) for name in TRIED]
        found = segmenter.batch([perturbed.picture for perturbed in pictures])
        assert [one.dice(perturbed.mask) > least for one, perturbed in zip(found, pictures, strict=True)] == [True] * 3
