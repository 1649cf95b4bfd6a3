"""The faults that are tried by hand still fit the sources, and their tests are there."""

import re

from mutations import REPOSITORY, rooms

FAULTS = [fault for faults in rooms().values() for fault in faults]


def test_every_fault_changes_one_place_of_its_file():
    for fault in FAULTS:
        source = (REPOSITORY / "src" / "saplab" / fault.file).read_text()
        assert fault.applied(source) != source, fault.name


def test_every_fault_has_a_name_of_its_own():
    names = [fault.name for fault in FAULTS]
    assert sorted(names) == sorted(set(names))


def test_every_fault_names_tests_that_are_there():
    for fault in FAULTS:
        assert fault.ids, fault.name
        for test in fault.ids:
            path, _, function = test.partition("::")
            source = (REPOSITORY / path).read_text()
            name = function.partition("[")[0]
            assert not name or re.search(rf"^def {name}\(", source, re.MULTILINE), f"{fault.name}: {test}"
