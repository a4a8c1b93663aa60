"""The bundled model's module: its proposals, and what each stage learns from photos with boxes."""

import warnings
from io import BytesIO
from typing import Any, cast

import onnxruntime
import pytest
import torch
from skimage import data
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, roi_align

from augu_api.config import Settings
from augu_api.detection.catalogue import find
from augu_api.detection.nano import nano_rcnn
from augu_api.detection.nano.backbone import STRIDES
from augu_api.detection.nano.roi_heads import OriginRoIAlign, ScoredRoIHeads
from augu_api.detection.nano.rpn import ScoredRPN, vote
from augu_api.detection.nano.targets import ANCHOR_IGNORE_IOU, assign_anchors, assign_proposals
from augu_api.detection.nano.transform import Transform
from augu_api.detection.torchvision import build
from augu_api.detection.training.classes import replace_classes

SIDE = 416
BOX = torch.tensor([[40.0, 60.0, 160.0, 150.0]])
FAR = torch.tensor([[250.0, 250.0, 400.0, 380.0]])
NONE = torch.zeros(0, 4)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rpn() -> ScoredRPN:
    torch.manual_seed(0)
    rpn = nano_rcnn(3).rpn.eval()
    assert isinstance(rpn, ScoredRPN)
    return rpn


@pytest.fixture(scope="module")
def heads() -> ScoredRoIHeads:
    heads = nano_rcnn(3).roi_heads.eval()
    assert isinstance(heads, ScoredRoIHeads)
    return heads


def location_counts() -> list[int]:
    """The number of locations of each level."""
    return [(SIDE // stride) ** 2 for stride in STRIDES]


@pytest.fixture(scope="module")
def anchors(rpn: ScoredRPN) -> Tensor:
    """The anchors of an input of SIDE x SIDE."""
    maps = [torch.zeros(1, 1, SIDE // stride, SIDE // stride) for stride in STRIDES]
    [found] = rpn.anchor_generator(ImageList(torch.zeros(1, 3, SIDE, SIDE), [(SIDE, SIDE)]), maps)
    assert len(found) == sum(location_counts())
    return cast("Tensor", found)


def random_boxes(number: int, least: float, most: float, generator: torch.Generator) -> Tensor:
    """Boxes (N, 4) within the input, with sides from `least` to `most` pixels."""
    sides = least + (most - least) * torch.rand(number, 2, generator=generator)
    corners = torch.rand(number, 2, generator=generator) * (SIDE - sides)
    return torch.cat([corners, corners + sides], 1)


def target_of(*boxes: Tensor, scores: list[float], ignore: Tensor = NONE) -> dict[str, Tensor]:
    """A target whose boxes are labelled 1, 2, ..."""
    rows = torch.cat([NONE, *boxes])
    return {
        "boxes": rows,
        "labels": torch.arange(1, len(rows) + 1),
        "scores": torch.tensor(scores),
        "ignore": ignore,
    }


# --- proposals


def suppressed(boxes: Tensor, scores: Tensor, classes: Tensor, limit: int) -> list[int]:
    """Which boxes are kept, best first: each unless a better one of its class overlaps it by more than 0.6."""
    kept: list[int] = []
    for at in scores.argsort(descending=True).tolist():
        rivals = [other for other in kept if classes[other] == classes[at]]
        if scores[at] >= 0.005 and not (box_iou(boxes[[at]], boxes[rivals]) > 0.6).any():
            kept.append(at)
    return kept[:limit]


@pytest.mark.parametrize(("number", "logit"), [(90, 2.0), (900, 2.0), (300, -9.0)], ids=["few", "many", "unsure"])
def test_proposals_are_suppressed_by_class_and_placed_by_vote(rpn: ScoredRPN, number: int, logit: float) -> None:
    """Each proposal is the weighted mean of the candidates that overlap it by 0.7, with their support of each class."""
    generator = torch.Generator().manual_seed(number)
    boxes = random_boxes(number, 40, 90, generator) * 0.7
    features = 3 * torch.randn(number, 128, generator=generator)
    objectness = (3 * torch.randn(number, generator=generator) + logit).sigmoid()
    levels = torch.randint(3, (number,), generator=generator).float()
    with torch.inference_mode():
        proposals = rpn._select((boxes, objectness, levels, features), (SIDE, SIDE))
        class_scores = objectness[:, None] * rpn.head.names(features).sigmoid()
    scores, classes = class_scores.max(1)
    kept = suppressed(boxes, scores, classes, 100)
    assert len(set(classes[kept].tolist())) == 2
    assert 10 < len(proposals) == len(kept) <= 100
    assert (len(kept) == 100) == (number == 900)
    overlap = box_iou(boxes[kept], boxes)
    for proposal, at, row in zip(proposals, kept, overlap, strict=True):
        voters = row > 0.7
        weights = (row * scores)[voters]
        expected = (weights[:, None] * boxes[voters]).sum(0) / weights.sum()
        torch.testing.assert_close(proposal[:4], expected)
        assert proposal[4] == levels[at]
        support = (row[voters][:, None] * class_scores[voters]).sum(0) / 8
        torch.testing.assert_close(proposal[5:7], support.clamp(max=1))
        assert torch.equal(proposal[7:], features[at])
    assert (box_iou(proposals[:, :4], boxes[kept]).diagonal() < 1 - 1e-4).any(), "no vote moved a box"


@pytest.mark.parametrize(("locations", "support"), [(2, 0.25), (8, 1.0), (20, 1.0)])
def test_support_is_at_most_one(locations: int, support: float) -> None:
    """Eight locations that agree with a score of 1 are full support of a class, and more add nothing."""
    voted, supported = vote(torch.ones(1, locations), BOX.repeat(locations, 1), torch.ones(locations, 1))
    torch.testing.assert_close(voted, BOX)
    assert supported.tolist() == [[support]]


def test_proposals_lie_within_the_photo(rpn: ScoredRPN) -> None:
    """Boxes are clipped, and a box outside the photo makes no proposal."""
    boxes = torch.tensor([[-50.0, -20.0, 60.0, 80.0], [500.0, 20.0, 560.0, 80.0]])
    proposals = rpn._select((boxes, torch.ones(2), torch.zeros(2), torch.zeros(2, 128)), (SIDE, SIDE))
    assert proposals[:, :4].tolist() == [[0, 0, 60, 80]]
    outside = boxes[1:], torch.ones(1), torch.zeros(1), torch.zeros(1, 128)
    assert not len(rpn._select(outside, (SIDE, SIDE)))


def test_proposals_come_from_the_likeliest_locations() -> None:
    """Each proposal lies at the anchor of a location with high objectness, and has its level and its features."""
    rpn = nano_rcnn(3).rpn.eval()
    maps = {str(i): torch.zeros(2, 128, SIDE // s, SIDE // s) for i, s in enumerate(STRIDES)}
    [row] = rpn.head.cls_logits.weight.detach()[:, :, 0, 0]
    chosen = [(0, 1, 10, 20), (1, 2, 3, 4)]  # image, level, row, column
    for image, level, y, x in chosen:
        maps[str(level)][image, :, y, x] = row * 18 / row.square().sum()
    images = ImageList(torch.zeros(2, 3, SIDE, SIDE), [(SIDE, SIDE)] * 2)
    with torch.inference_mode():
        rpn.head.cls_logits.bias.fill_(-9)
        for parameter in (*rpn.head.bbox_pred.parameters(), *rpn.head.names.parameters()):
            parameter.zero_()
        found, losses = rpn(images, maps)
    assert losses == {}
    for (image, level, y, x), [proposal] in zip(chosen, found, strict=True):
        corner = STRIDES[level] * torch.tensor([x, y, x, y])
        expected = (corner + rpn.anchor_generator.cell_anchors[level][0]).clamp(0, SIDE)
        torch.testing.assert_close(proposal[:4], expected)
        assert proposal[4] == level
        assert torch.equal(proposal[7:], maps[str(level)][image, :, y, x])


def test_features_come_from_the_level_of_the_proposal() -> None:
    """A proposal's features are its location's, then torchvision's roi_align on the map of the level in column 4."""
    generator = torch.Generator().manual_seed(0)
    maps = {str(i): torch.randn(2, 8, SIDE // s, SIDE // s, generator=generator) for i, s in enumerate(STRIDES)}
    proposals = [random_boxes(number, 10, 300, generator) for number in (7, 4)]
    levels = [torch.randint(3, (len(boxes), 1), generator=generator) for boxes in proposals]
    whole = [torch.cat([b, level, torch.rand(len(b), 2 + 8)], 1) for b, level in zip(proposals, levels, strict=True)]
    pooled = OriginRoIAlign(3)(maps, whole, [(SIDE, SIDE)] * 2)
    rows = [(image, row) for image, boxes in enumerate(whole) for row in boxes]
    for (image, row), features in zip(rows, pooled, strict=True):
        level = int(row[4])
        of_image = maps[str(level)][image : image + 1]
        [expected] = roi_align(of_image, [row[None, :4]], 3, 1 / STRIDES[level], 1, aligned=True)
        torch.testing.assert_close(features, torch.cat([row[7:], expected.flatten()]))


def test_scores_combine_both_stages_and_the_support(heads: ScoredRoIHeads) -> None:
    """The score is sqrt(P(object) P(class) support); overlapping boxes of a class are suppressed; boxes are clipped."""
    logits = torch.tensor([[2.0, 1.0, -1.0], [2.0, 0.5, -9.0], [-1.0, -2.0, 3.0]])
    deltas = torch.zeros(3, 3, 4)
    deltas[2, 2] = torch.tensor([2.0, 0.0, 0.0, 0.0])  # a fifth of the side to the right
    support = torch.tensor([[0.5, 0.25], [1.0, 1.0], [0.0, 1.0]])
    boxes = torch.cat([BOX, BOX + 2, FAR])
    proposals = torch.cat([boxes, torch.zeros(3, 1), support, torch.zeros(3, 128)], 1)
    [found], [scores], [labels] = heads.postprocess_detections(logits, deltas.flatten(1), [proposals], [(SIDE, SIDE)])
    likely = logits.sigmoid()
    expected = (likely[:, :1] * likely[:, 1:] * support).sqrt()
    best = expected[[1, 2, 0], [0, 1, 1]]  # the other of its class is the same box with a lower score
    torch.testing.assert_close(scores, best)
    assert labels.tolist() == [1, 2, 2]
    moved = (FAR + torch.tensor([30.0, 0.0, 30.0, 0.0])).clamp(max=SIDE)
    torch.testing.assert_close(found, torch.cat([BOX + 2, moved, BOX]))


# --- training


@pytest.mark.parametrize("side", [24, 60, 150, 400])
def test_every_object_has_anchors(anchors: Tensor, side: int) -> None:
    """A box gets at least one anchor, which overlaps it and has its score as the label."""
    for box in random_boxes(50, side / 2, side, torch.Generator().manual_seed(0)):
        labels, boxes = assign_anchors(anchors, target_of(box[None], scores=[0.6]))
        positive = labels > 0
        assert positive.any()
        torch.testing.assert_close(labels, 0.6 * positive)
        assert (boxes[positive] == box).all()
        assert (box_iou(anchors[positive], box[None]) > 0).all()


def test_each_object_has_its_own_anchors(anchors: Tensor) -> None:
    """Each of two boxes has its own anchors, labelled with its score."""
    target = target_of(BOX, FAR, scores=[0.4, 0.9])
    labels, boxes = assign_anchors(anchors, target)
    for box, score in ((BOX, 0.4), (FAR, 0.9)):
        own = (labels > 0) & (boxes == box).all(1)
        assert own.any()
        torch.testing.assert_close(labels[own], torch.full((int(own.sum()),), score))


def test_anchors_on_a_box_to_ignore_do_not_count(anchors: Tensor) -> None:
    """Anchors that overlap only a box to ignore are -1; those of an object count, even where both lie."""
    on_far = box_iou(anchors, FAR)[:, 0] > ANCHOR_IGNORE_IOU
    labels, _ = assign_anchors(anchors, target_of(BOX, scores=[1.0], ignore=FAR))
    assert on_far.any()
    assert (labels[on_far] == -1).all()
    assert (labels[~on_far] >= 0).all()
    assert (labels == 1).any()
    labels, _ = assign_anchors(anchors, target_of(BOX, scores=[1.0], ignore=BOX))
    assert (labels == 1).any()
    assert (labels == -1).any()


@pytest.mark.parametrize("ignore", [NONE, BOX], ids=["nothing", "something to ignore"])
def test_anchors_of_an_empty_photo_are_background(anchors: Tensor, ignore: Tensor) -> None:
    """Without boxes all anchors are background, except those on a box to ignore."""
    labels, boxes = assign_anchors(anchors, target_of(scores=[], ignore=ignore))
    assert boxes.shape == anchors.shape
    assert ((labels == -1).any(), set(labels.tolist()) - {-1.0}) == (len(ignore) > 0, {0.0})


def test_proposals_learn_the_score_of_their_box() -> None:
    """On a box with the score 0.7 the targets are 0.7 for its class and 0.3 for background; elsewhere background."""
    proposals = torch.cat([BOX, BOX + 10, FAR])
    classes, boxes, labels, counted = assign_proposals(proposals, target_of(BOX, scores=[0.7]), 3)
    torch.testing.assert_close(classes, torch.tensor([[0.3, 0.7, 0.0], [0.3, 0.7, 0.0], [1.0, 0.0, 0.0]]))
    assert (boxes[:2] == BOX).all()
    assert labels.tolist() == [1, 1, 0]
    assert counted.all()


def test_proposals_are_shared_among_classes() -> None:
    """On boxes of two classes the target is shared in proportion to their scores; two boxes of one class count once."""
    classes, _, labels, _ = assign_proposals(BOX, target_of(BOX, BOX, scores=[0.7, 0.6]), 3)
    torch.testing.assert_close(classes, torch.tensor([[0.0, 0.7 / 1.3, 0.6 / 1.3]]))
    assert int(labels) in (1, 2)
    same = target_of(BOX, BOX, scores=[0.5, 0.4]) | {"labels": torch.tensor([2, 2])}
    classes, _, labels, _ = assign_proposals(BOX, same, 3)
    torch.testing.assert_close(classes, torch.tensor([[0.5, 0.0, 0.5]]))
    assert labels.tolist() == [2]


def test_proposals_on_a_box_to_ignore_do_not_count() -> None:
    """A proposal that a box to ignore overlaps by half does not count, unless it is an object's."""
    proposals = torch.cat([BOX, FAR, FAR + 500])
    classes, _, labels, counted = assign_proposals(
        proposals, target_of(BOX, scores=[1.0], ignore=torch.cat([BOX, FAR])), 3
    )
    assert counted.tolist() == [True, False, True]
    assert labels.tolist() == [1, 0, 0]
    assert classes[:, 0].tolist() == [0, 1, 1]


def test_proposals_of_an_empty_photo_are_background() -> None:
    """Without boxes every proposal is background and counts."""
    classes, _, labels, counted = assign_proposals(torch.cat([BOX, FAR]), target_of(scores=[]), 3)
    assert classes.tolist() == [[1.0, 0.0, 0.0]] * 2
    assert labels.tolist() == [0, 0]
    assert counted.all()


def test_boxes_to_ignore_are_fitted_with_the_photo() -> None:
    """The transform scales boxes to ignore like the other boxes; a target may have none."""
    transform = nano_rcnn(3, SIDE).transform
    assert isinstance(transform, Transform)
    image, scale = torch.rand(3, 104, 208), torch.tensor([2.0, 2.0, 2.0, 2.0])
    ignored = torch.tensor([[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 207.0, 100.0]])
    fitted, target = transform.resize(image, target_of(BOX, scores=[1.0], ignore=ignored))
    assert target is not None
    assert fitted.shape == (3, 208, 416)
    torch.testing.assert_close(target["boxes"], BOX * scale)
    torch.testing.assert_close(target["ignore"], ignored * scale)
    _, target = transform.resize(image, {"boxes": BOX})
    assert target is not None
    torch.testing.assert_close(target["boxes"], BOX * scale)


@pytest.mark.parametrize(
    ("part", "names"),
    [("rpn", ["loss_objectness", "loss_rpn_box_reg"]), ("roi_heads", ["loss_classifier", "loss_box_reg"])],
)
def test_a_photo_is_learnt(settings: Settings, part: str, names: list[str]) -> None:
    """All losses are finite, and training a stage on one photo reduces its losses."""
    module = build(find("bundled", settings)).train()
    image = torch.tensor(data.astronaut()).permute(2, 0, 1) / 255
    target = {"boxes": torch.tensor([[90.0, 10.0, 330.0, 500.0]]), "labels": torch.tensor([5])}
    optimizer = torch.optim.AdamW(module.get_submodule(part).parameters(), 3e-4)
    seen = []
    for _ in range(20):
        losses = module([image], [target])
        assert list(losses) == ["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
        assert all(loss.isfinite() for loss in losses.values())
        seen.append([float(losses[name].detach()) for name in names])
        optimizer.zero_grad()
        sum(losses[name] for name in names).backward()
        optimizer.step()
    assert all(0 <= last < 0.8 * first for first, last in zip(seen[0], seen[-1], strict=True)), seen


@pytest.mark.parametrize("ignore", [NONE, BOX, torch.tensor([[0.0, 0.0, 208.0, 208.0]])])
def test_a_photo_without_objects_is_learnt_from(settings: Settings, ignore: Tensor) -> None:
    """Without boxes, losses and gradients are finite, and no box has a loss."""
    module = build(find("bundled", settings)).train()
    losses = module([torch.rand(3, 208, 208)], [target_of(scores=[], ignore=ignore)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_rpn_box_reg"] == losses["loss_box_reg"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_new_classes_keep_the_objectness(settings: Settings) -> None:
    """New classes are equally likely in the first stage; the second stage keeps its objectness and its boxes."""
    known = build(find("bundled", settings))
    features = torch.rand(5, known.roi_heads.box_predictor.cls_score.in_features)
    image = torch.tensor(data.chelsea()).permute(2, 0, 1) / 255
    with torch.inference_mode():
        [before] = known([image])
        logits, deltas = known.roi_heads.box_predictor(features)
        replace_classes(known, 2)
        renamed, moved = known.roi_heads.box_predictor(features)
        [after] = known([image])
        likely = known.rpn.head.names(torch.randn(5, 128)).sigmoid()
    assert renamed.shape == (5, 3)
    torch.testing.assert_close(renamed[:, 0], logits[:, 0])
    torch.testing.assert_close(moved, deltas[:, :4].repeat(1, 3))
    torch.testing.assert_close(likely, torch.ones(5, 2), atol=1e-3, rtol=0)
    assert set(after["labels"].tolist()) == {1, 2}
    cat = before["boxes"][:1]
    assert (box_iou(cat, after["boxes"][after["labels"] == 1][:3]) > 0.8).any()


def test_torch_exports_the_module_by_itself(settings: Settings) -> None:
    """Torch's own ONNX export of the module detects the same as the module."""
    module, file = build(find("bundled", settings)), BytesIO()
    photo = torch.tensor(data.coffee()).permute(2, 0, 1) / 255
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        [expected] = module([photo])
        torch.onnx.export(module, ([photo],), cast("Any", file), opset_version=17, dynamo=False, input_names=["photo"])
    boxes, labels, scores = onnxruntime.InferenceSession(file.getvalue()).run(None, {"photo": photo.numpy()})
    assert len(scores) > 10
    assert labels.tolist() == expected["labels"].tolist()
    assert scores == pytest.approx(expected["scores"].numpy(), abs=1e-3)
    assert boxes == pytest.approx(expected["boxes"].numpy(), abs=0.5)
