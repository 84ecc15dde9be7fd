import pytest

from busi_search.data.class_mapping import map_classes, parse_class_map
from busi_search.errors import InputError

TWO, THREE = ("benign", "malignant"), ("benign", "malignant", "normal")


def test_equal_names_need_no_mapping_whatever_their_case() -> None:
    assert map_classes(("Malignant", " Benign"), TWO, {}, where="x") == [1, 0]
    assert map_classes(TWO, THREE, {}, where="x") == [0, 1]


def test_stated_names_are_mapped_or_left_out() -> None:
    stated = parse_class_map(["normal or benign=benign; other = leave out"])
    assert stated == {"normal or benign": "benign", "other": "leave out"}
    theirs = ("malignant", "normal or benign", "other")
    assert map_classes(theirs, THREE, stated, where="x") == [1, 0, None]


@pytest.mark.parametrize(
    ("theirs", "written", "sentence"),
    [
        (THREE, [], '--map "normal=benign", or leave its images out: --map "normal=leave out"'),
        (THREE, ["normal=healthy"], "the model has no class 'healthy'"),
        (THREE, ["norml=benign"], "there is no class 'norml'"),
        (THREE, ["normal"], 'such as --map "normal or benign=benign"'),
        (THREE, ["normal=benign", "normal=malignant"], "mapped twice"),
    ],
)
def test_what_cannot_be_mapped_is_refused(
    theirs: tuple[str, ...], written: list[str], sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        map_classes(theirs, TWO, parse_class_map(written), where="x")
    assert sentence in str(caught.value)
