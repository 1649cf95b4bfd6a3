"""Labels by the names of classes."""

import numpy as np
import pytest
import torch

from saplab.data.cifar10 import CLASSES
from saplab.data.classes import matched
from saplab.data.dataset import Dataset


def data(*classes: str) -> Dataset:
    labels = torch.arange(len(classes))
    return Dataset("pictures", torch.zeros(len(classes), 3, 2, 2), labels, labels, classes)


@pytest.mark.parametrize(
    ("classes", "names", "labels", "words"),
    [
        (("cat", "dog"), CLASSES, [3, 5], "classes are matched by name: cat is 3, dog is 5"),
        (("Dogs", "cats"), CLASSES, [5, 3], "classes are matched by name: Dogs is 5, cats is 3"),
        (("3", "5"), CLASSES, [3, 5], "classes are matched by name: 3 is 3, 5 is 5"),
        (("0", "1"), CLASSES, [0, 1], ""),
        (("1", "2"), ("1", "10", "2"), [0, 2], "classes are matched by name: 1 is 0, 2 is 2"),
        (("1", "2"), ("1", "2", "3"), [0, 1], ""),
        (CLASSES[:2], CLASSES, [0, 1], ""),
        (("truck", "ship", "frog", "cat"), CLASSES, [9, 8, 6, 3],
         "classes are matched by name: truck is 9, ship is 8, frog is 6, …"),
        (("n2", "great_white-shark"), ("tench, n0", "great white shark, white shark, n1", "hen, n2"), [2, 1],
         "classes are matched by name: n2 is 2, great_white-shark is 1"),
        (("cat", "dog"), (), [0, 1], ""),
        (("0", "1", "2"), (), [0, 1, 2], ""),
        (("0", "1", "10", "2"), (), [0, 1, 2, 3],
         "warning: labels follow the order of names as text: 10 is 2, 2 is 3"),
        (("1", "2"), (), [0, 1], "warning: labels follow the order of names as text: 1 is 0, 2 is 1"),
        (("a", "b"), ("x", "y"), [0, 1],
         "warning: the network's classes (x, y) have other names than the data's (a, b), and are taken in order"),
        (("cat", "hund"), ("cat", "dog"), [0, 1],
         "warning: the network's classes (cat, dog) have other names than the data's (hund), and are taken in order"),
    ],
)  # fmt: skip
def test_labels_follow_names(classes: tuple[str, ...], names: tuple[str, ...], labels: list[int], words: str) -> None:
    found, said = matched(data(*classes), names)
    assert found.labels.tolist() == labels
    assert found.labels.dtype == torch.int64
    assert said == words
    if said.startswith("classes"):
        assert found.classes == tuple(name.partition(",")[0] for name in names)


@pytest.mark.parametrize(
    ("classes", "names", "unknown"),
    [
        (("cat", "zebra"), CLASSES, "zebra"),
        (("a", "b", "c", "d"), CLASSES, "a, b, c, …"),
        (("crane", "hen"), ("crane", "hen", "crane"), "crane"),  # a bird and a machine
        (("dog", "katze"), ("cat", "dog"), "katze"),  # dog is not first
        (("10", "3"), CLASSES, "10, 3"),
        (("cat", "cats"), CLASSES, "cat, cats"),
    ],
)
def test_names_that_the_network_does_not_know_are_refused(classes, names, unknown: str) -> None:
    with pytest.raises(ValueError, match=f"does not know by name: {unknown}; its {len(names)} are {names[0]}"):
        matched(data(*classes), names)


def test_the_same_images_get_other_labels_alone() -> None:
    before = data("cat", "dog")
    after, _ = matched(before, CLASSES)
    assert np.array_equal(after.images, before.images)
    assert torch.equal(after.indices, before.indices)
    assert after.digest() != before.digest()


def test_another_spelling_is_taken_over_and_a_comma_may_be_part_of_a_name():
    found, _ = matched(data("Cat", "polar-bear"), ("cat", "polar bear"))
    assert found.classes == ("cat", "polar bear")
    names = ("tench, Tinca", "cat", "polar bear")
    some, _ = matched(data("cat", "tench, Tinca"), names, listed=False)
    assert some.classes == names
    assert some.labels.unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match="does not know by name: tench, Tinca"):
        matched(data("cat", "tench, Tinca"), names)
